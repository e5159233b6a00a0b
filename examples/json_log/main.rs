//! A log of JSON lines: heirloom's, with their fields, the access log, and a handler's own with the id of its request.
//!
//! ```text
//! $ cargo run --example json_log --features json -- 127.0.0.1:8001
//! {"timestamp":"...","level":"INFO","target":"heirloom::net","message":"listening on ...","fields":{"generation":1,"listener":"...","pid":...}}
//! {"timestamp":"...","level":"INFO","target":"heirloom::process","message":"serving as generation 1","fields":{"generation":1,"phase":"serving","pid":...}}
//! {"timestamp":"...","level":"INFO","target":"json_log","message":"order looked up","fields":{"id":"a-1","order":"7"}}
//! {"timestamp":"...","level":"INFO","target":"heirloom::access","message":"time=...","fields":{..."id":"a-1",..."pattern":"/orders/{id}",..."status":200,...}}
//! $ curl -H 'X-Request-Id: a-1' http://127.0.0.1:8001/orders/7
//! tea
//! $ kill -HUP PID
//! {...,"message":"SIGHUP from pid ...","fields":{"action":"handover","generation":1,"pid":...,"sender":...,"signal":"SIGHUP","uid":...}}
//! {...,"message":"draining (handed over to ...): ...","fields":{"connections":...,"duration_ms":...,"generation":1,"phase":"draining",...}}
//! ```
//!
//! docs/log.md lists the fields. A program under a supervisor of heirloom's gets the lines of that in the same form with
//! `HEIRLOOM_SUPERVISOR_LOG=json`.

mod json;

use heirloom::prelude::*;
use heirloom::wrap::{AccessLog, RequestId, RequestIds};

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format(json::write)
        .init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let handler = Router::new().get("/orders/{id}", order).wrap(RequestIds::new()).wrap(AccessLog::new());
    log::info!("pid {}", std::process::id());
    Server::new(handler).listen(listen).serve()
}

fn order(req: Request) -> &'static str {
    let id = req.extensions().get::<RequestId>().map(|id| &**id);
    log::info!(id = id, order = req.param("id"); "order looked up");
    "tea\n"
}
