//! The crate `tracing` behind `log`: heirloom's records become events with their fields, and a span covers each handler, so
//! that all that is logged in it has method, route and id of the request.
//!
//! ```text
//! $ cargo run -p traced -- 127.0.0.1:8001
//! {"timestamp":"...","level":"INFO","fields":{"message":"serving as generation 1","generation":1,"pid":...,"phase":"serving"},"target":"heirloom::process"}
//! {"timestamp":"...","level":"INFO","fields":{"message":"order looked up","order":"7"},"target":"traced","span":{"id":"a-1","method":"GET","route":"/orders/{id}","name":"request"}}
//! {"timestamp":"...","level":"ERROR","fields":{"message":"500: no such order",...},"target":"heirloom::http","span":{"id":"a-2","method":"GET","route":"/orders/{id}","name":"request"}}
//! {"timestamp":"...","level":"INFO","fields":{"message":"time=...",..."status":500,..."id":"a-2",...},"target":"heirloom::access"}
//! $ curl -H 'X-Request-Id: a-1' http://127.0.0.1:8001/orders/7
//! tea
//! $ curl -H 'X-Request-Id: a-2' http://127.0.0.1:8001/orders/8
//! 500 Internal Server Error
//! $ kill -HUP PID
//! {...,"fields":{"message":"SIGHUP from pid ...","generation":1,"pid":...,"signal":"SIGHUP","action":"handover",...
//! ```
//!
//! The span ends with the handler. A body that is written later, on a thread of its own, is inside if it enters the span again:
//! `let span = Span::current();` in the handler, and `span.in_scope(...)` there. The line of the access log comes at the end of
//! the response, and has the id itself.

mod bridge;

use std::io;

use heirloom::prelude::*;
use heirloom::wrap::{AccessLog, RequestId, RequestIds};
use tracing::info_span;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::layer;
use tracing_subscriber::prelude::*;

fn main() -> Result<(), heirloom::Error> {
    // Levels by target. `EnvFilter` has those of spans as well, by regular expressions. An empty list would be one of errors only.
    let levels = std::env::var("RUST_LOG").ok().filter(|levels| !levels.trim().is_empty());
    let levels = levels.and_then(|levels| levels.parse().ok());
    let levels = levels.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = layer().json().with_span_list(false).with_writer(io::stderr).with_filter(levels);
    tracing_subscriber::registry().with(lines).init();
    bridge::start();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    // Requests come to the last one first: the span knows their ids.
    let handler =
        Router::new().get("/orders/{id}", order).wrap(in_span).wrap(RequestIds::new()).wrap(AccessLog::new());
    tracing::info!("pid {}", std::process::id());
    Server::new(handler).listen(listen).serve()
}

/// The span of a request, around its handler and all wrappers that are further inside.
fn in_span(request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().map(|id| &**id);
    let (method, route) = (request.method().as_str(), request.pattern());
    let span = info_span!("request", id, method, route = route.as_deref());
    span.in_scope(|| next.call(request))
}

fn order(req: Request) -> io::Result<&'static str> {
    let order = req.param("id");
    tracing::info!(order, "order looked up");
    if order == Some("7") { Ok("tea\n") } else { Err(io::Error::other("no such order")) }
}
