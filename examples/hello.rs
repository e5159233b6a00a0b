//! The smallest server.
//!
//! ```text
//! $ cargo run --example hello -- 127.0.0.1:8001
//! $ curl http://127.0.0.1:8001/
//! Hello, World!
//! ```
//!
//! The log has the address: with port 0 that is one that is free.

use heirloom::prelude::*;

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    Server::new(|_: Request| "Hello, World!").listen(listen).serve()
}
