//! A unix socket, as for a proxy on the same host. A stop removes its path; a handover keeps it, and the socket stays the
//! same.
//!
//! ```text
//! $ cargo run --example unix_socket -- unix:app.sock
//! $ curl --unix-socket app.sock http://localhost/
//! hello from generation 1 to None
//! $ kill -HUP PID
//! $ curl --unix-socket app.sock http://localhost/
//! hello from generation 2 to None
//! $ kill PID
//! $ curl --unix-socket app.sock http://localhost/
//! curl: (7) ...
//! ```

use heirloom::prelude::*;

fn main() -> Result<(), heirloom::Error> {
    heirloom::handover::init()?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "unix:app.sock".to_owned());
    log::info!("pid {}", std::process::id());
    Server::new(hello).listen(listen).serve()
}

/// A client of a unix socket has no address.
fn hello(req: Request) -> String {
    format!("hello from generation {} to {:?}\n", req.generation(), req.peer_addr())
}
