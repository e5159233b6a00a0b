//! The crate with TLS or without. `--carried` puts each connection on the record layer on which moved ones continue.

use heirloom::prelude::*;
use heirloom::tls::Tls;
use heirloom_bench::work::{self, HELLO, KIB, MIB};
use std::time::Duration;

fn main() -> Result<(), heirloom::Error> {
    let router = Router::new()
        .get("/", |_: Request| HELLO)
        .get("/1k", |_: Request| KIB)
        .get("/1m", |_: Request| MIB)
        .get("/pid", |_: Request| std::process::id().to_string())
        .post("/echo", |req: Request| req.into_body());
    let listen = Listen::new(work::listen());
    let listen = match (work::argument("cert"), work::argument("key")) {
        (Some(cert), Some(key)) => {
            let tls = Tls::from_files(cert, key);
            let is_carried = std::env::args().any(|arg| arg == "--carried");
            listen.tls(if is_carried { tls.carried_at_once() } else { tls })
        }
        _ => listen,
    };
    // A handover is measured to its end.
    let timeouts = Timeouts::new().probation(Duration::ZERO);
    Server::new(router).timeouts(timeouts).listen(listen).serve()
}
