//! Behind a proxy: whom a request is from, by the fields of a proxy or by the PROXY protocol.
//!
//! ```text
//! $ cargo run --features proxy --example behind_proxy -- 127.0.0.1:8001 127.0.0.1:8002
//! $ curl http://127.0.0.1:8001/
//! 127.0.0.1:... by http, past no proxy
//! $ curl -H 'X-Forwarded-For: 6.6.6.6, 203.0.113.7' -H 'X-Forwarded-Proto: https' http://127.0.0.1:8001/
//! 203.0.113.7 by https, past 127.0.0.1
//! $ curl --haproxy-protocol http://127.0.0.1:8002/
//! 127.0.0.1:... by http, past 127.0.0.1
//! $ curl http://127.0.0.1:8002/
//! curl: ...
//! ```
//!
//! The second listener takes connections with a PROXY header alone. curl's has its own address.

use heirloom::Proxies;
use heirloom::prelude::*;

fn main() -> Result<(), heirloom::Error> {
    heirloom::handover::init()?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let mut args = std::env::args().skip(1);
    let by_field = args.next().unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let by_header = args.next().unwrap_or_else(|| "127.0.0.1:8002".to_owned());
    let local = Proxies::new(["127.0.0.0/8", "::1", "unix"]);
    log::info!("pid {}", std::process::id());
    Server::new(Router::new().get("/", who).get("/pid", |_: Request| std::process::id().to_string()))
        .listen(Listen::new(by_field).trust_proxies(local.clone().x_forwarded()))
        .listen(Listen::new(by_header).trust_proxies(local.proxy_protocol()))
        .timeouts(Timeouts::new().probation(std::time::Duration::ZERO))
        .serve()
}

fn who(req: Request) -> String {
    let client = req.client();
    let via: Vec<String> = client.via().iter().map(ToString::to_string).collect();
    let via = if via.is_empty() { "no proxy".to_owned() } else { via.join(", ") };
    format!("{client} by {}, past {via}\n", client.scheme())
}
