//! Rate limits: of all requests by client, and of one route more strictly.
//!
//! ```text
//! $ cargo run --example rate_limit -- 127.0.0.1:8001
//! $ curl -d '' http://127.0.0.1:8001/login
//! welcome
//! $ curl -d '' http://127.0.0.1:8001/login
//! welcome
//! $ curl -i -d '' http://127.0.0.1:8001/login
//! HTTP/1.1 429 Too Many Requests
//! ...
//! Retry-After: ...
//! ...
//! 429 Too Many Requests
//! $ curl http://127.0.0.1:8001/
//! hello
//! ```

use std::time::Duration;

use heirloom::prelude::*;
use heirloom::wrap::RateLimit;

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    // Two at once, and then one each minute.
    let login = (|_: Request| "welcome\n").wrap(RateLimit::new(60, Duration::from_secs(3600)).burst(2));
    let router = Router::new()
        .get("/", |_: Request| "hello\n")
        .post("/login", login)
        .wrap(RateLimit::new(1_000, Duration::from_secs(60)));
    log::info!("pid {}", std::process::id());
    Server::new(router).listen(listen).serve()
}
