//! Wrappers around handlers: one written here, and those of the crate.
//!
//! ```text
//! $ cargo run --example middleware --features gzip -- 127.0.0.1:8001
//! [... INFO  heirloom::access] time=... client=... method=GET ... target=/ pattern=/ status=200 bytes=6 ms=... end=complete id=a-1 referer=- agent=curl...
//! [... INFO  heirloom::access] time=... client=... method=GET ... target=/nowhere pattern=- status=404 bytes=14 ms=... end=complete id=a-2 referer=- agent=curl...
//! $ curl -i -H 'X-Request-Id: a-1' http://127.0.0.1:8001/
//! HTTP/1.1 200 OK
//! ...
//! X-Served-By: heirloom
//! Server-Timing: handler;dur=...
//! Vary: origin
//! X-Request-Id: a-1
//! ...
//! hello
//! $ curl -o /dev/null -w '%{http_code}' http://127.0.0.1:8001/admin/report
//! 401
//! $ curl -u admin:secret http://127.0.0.1:8001/admin/report
//! all is well
//! $ curl -H 'Accept-Encoding: gzip' http://127.0.0.1:8001/long | gunzip | wc -c
//! 60000
//! $ curl -i -X OPTIONS -H 'Origin: https://app.example' -H 'Access-Control-Request-Method: GET' \
//!     http://127.0.0.1:8001/
//! HTTP/1.1 204 No Content
//! ...
//! Access-Control-Allow-Origin: https://app.example
//! ...
//! $ curl -d a=b http://127.0.0.1:8001/notes
//! text only, please
//! $ curl -H 'X-Request-Id: a-2' http://127.0.0.1:8001/nowhere
//! 404 Not Found
//! ```

use heirloom::prelude::*;
use heirloom::wrap::{AccessLog, BasicAuth, Cors, Gzip, RequestIds, ServerTiming};

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let admin = Router::new().get("/report", |_: Request| "all is well\n");
    let router = Router::new()
        .get("/", |_: Request| "hello\n")
        .get("/long", |_: Request| "hello ".repeat(10_000))
        .nest("/admin", admin.wrap(BasicAuth::user("admin", "admin", "secret")))
        .post("/notes", (|mut req: Request| req.text()).guard(text_only));
    // The last one is outermost: it sees requests first and responses last. Guards decide before all of them.
    let handler = router
        .wrap(served_by)
        .wrap(ServerTiming::new("handler"))
        .wrap(Gzip::new())
        .wrap(Cors::origins(["https://app.example"]))
        .wrap(RequestIds::new())
        .wrap(AccessLog::new());
    log::info!("pid {}", std::process::id());
    Server::new(handler).listen(listen).serve()
}

/// A guard of our own: it sees the head, and what it refuses costs no body.
fn text_only(request: &mut Request) -> Result<(), EarlyResponse> {
    match request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes) {
        Some(kind) if kind.starts_with(b"text/") => Ok(()),
        _ => Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "text only, please\n").into()),
    }
}

/// A wrapper of our own: it calls the wrapped handler, and adds to its response.
fn served_by(request: Request, next: Next) -> Response {
    next.call(request).with_header("x-served-by", "heirloom")
}
