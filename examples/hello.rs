//! The smallest server.
//!
//! Run with `cargo run --release --example hello`, then `curl localhost:8001/`.

use heirloom::prelude::*;

fn main() -> Result<(), heirloom::Error> {
    Server::new(|_: Request| "Hello, World!").listen("localhost:8001").serve()
}
