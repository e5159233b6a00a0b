//! Behind a proxy: whom a request is from, by the fields of a proxy or by the PROXY protocol: in the handler, in the access log
//! and for limits.
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
//! The second listener takes connections with a PROXY header alone. curl's has its own address. Further arguments are the addresses
//! of trusted proxies; `contrib/` has configurations for nginx and HAProxy.

use std::time::Duration;

use heirloom::prelude::*;
use heirloom::wrap::{AccessLog, RateLimit};
use heirloom::{Handle, Proxies};

fn main() -> Result<(), heirloom::Error> {
    heirloom::handover::init()?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let mut args = std::env::args().skip(1);
    let by_field = args.next().unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let by_header = args.next().unwrap_or_else(|| "127.0.0.1:8002".to_owned());
    let mut trusted: Vec<String> = args.collect();
    if trusted.is_empty() {
        trusted.extend(["127.0.0.0/8", "::1", "unix"].map(str::to_owned));
    }
    let proxies = Proxies::new(trusted);
    let handle = Handle::new();
    let checked = handle.clone();
    // Two at once of each client, and then one each minute.
    let limited = who.wrap(RateLimit::new(60, Duration::from_secs(3600)).burst(2));
    let router = Router::new()
        .get("/", who)
        .get("/limited", limited)
        .get("/pid", |_: Request| std::process::id().to_string())
        .get("/readyz", move |_: Request| match checked.phase().is_ready() {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        });
    log::info!("pid {}", std::process::id());
    Server::new(router.wrap(AccessLog::new()))
        .listen(Listen::new(by_field).trust_proxies(proxies.clone().x_forwarded()))
        .listen(Listen::new(by_header).trust_proxies(proxies.proxy_protocol()))
        .limits(Limits::new().connections_per_peer(20))
        .timeouts(Timeouts::new().probation(Duration::ZERO))
        .with_handle(handle)
        .serve()
}

fn who(req: Request) -> String {
    let client = req.client();
    let via: Vec<String> = client.via().iter().map(ToString::to_string).collect();
    let via = if via.is_empty() { "no proxy".to_owned() } else { via.join(", ") };
    format!("{client} by {}, past {via}\n", client.scheme())
}
