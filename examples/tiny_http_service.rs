//! A service written for tiny_http, with the whole lifecycle: its handler takes an ordinary `tiny_http::Request`, unchanged.
//!
//! ```text
//! $ cargo run --features tiny_http --example tiny_http_service -- --listen 127.0.0.1:8001
//! $ curl http://127.0.0.1:8001/hello
//! hello from GET /hello
//! $ curl -d 'some text' http://127.0.0.1:8001/echo
//! some text
//! $ curl -i http://127.0.0.1:8001/panic
//! HTTP/1.1 500 Internal Server Error
//! ...
//! $ kill -HUP PID
//! $ curl http://127.0.0.1:8001/generation
//! 2
//! ```
//!
//! docs/tiny_http.md lists what works. `testkit storm --server target/release/examples/tiny_http_service
//! --keepalive 16 --preconnect 8 --slow 4 --upload 4 --reader 2` counts what its clients lose.

use std::io::{self, Cursor, Read};
use std::time::Duration;

use heirloom::TinyHttp;
use heirloom::prelude::*;
use tiny_http::Response as TinyResponse;

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let mut args = std::env::args().skip(1);
    let (mut listen, mut timeouts) = ("127.0.0.1:8001".to_owned(), Timeouts::default());
    while let (Some(flag), Some(value)) = (args.next(), args.next()) {
        match &*flag {
            "--listen" => listen = value,
            "--probation-ms" => {
                if let Ok(ms) = value.parse() {
                    timeouts = timeouts.probation(Duration::from_millis(ms));
                }
            }
            _ => log::warn!("{flag} is not understood"),
        }
    }
    // Information that only heirloom has is served by a route beside it, or added as a header by a wrapper.
    let router = Router::new().get("/generation", |req: Request| req.generation().to_string()).fallback(
        TinyHttp::new(|request| {
            if let Err(e) = handle(request) {
                log::debug!("no answer: {e}");
            }
        }),
    );
    let limits = Limits::new().body_bytes(64 << 20);
    Server::new(router).listen(listen).limits(limits).timeouts(timeouts).serve()
}

#[expect(clippy::disallowed_methods, reason = "it sleeps for the client's sake")]
fn sleep(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// As it was with `for request in server.incoming_requests()`.
fn handle(mut request: tiny_http::Request) -> io::Result<()> {
    let url = request.url().to_owned();
    let (route, rest) = url[1..].split_once('/').unwrap_or((&url[1..], ""));
    match route {
        "pid" => request.respond(TinyResponse::from_string(std::process::id().to_string())),
        "echo" => {
            let mut body = Vec::new();
            request.as_reader().read_to_end(&mut body)?;
            request.respond(TinyResponse::from_data(body))
        }
        "headers" => {
            let ours = |h: &&tiny_http::Header| !h.field.as_str().as_str().starts_with("Heirloom-");
            let lines = request.headers().iter().filter(ours).map(|h| format!("{}: {}\n", h.field, h.value));
            let text: String = lines.collect();
            request.respond(TinyResponse::from_string(text))
        }
        "sleep" => {
            sleep(rest.parse().unwrap_or(0));
            request.respond(TinyResponse::from_string("ok\n"))
        }
        "big" => {
            let len = rest.parse().unwrap_or(0);
            let source = io::repeat(b'x').take(len);
            request.respond(TinyResponse::new(200.into(), vec![], source, usize::try_from(len).ok(), None))
        }
        "stream" => {
            let source = Cursor::new(vec![b'x'; 1 << 20]);
            request.respond(TinyResponse::new(200.into(), vec![], source, None, None))
        }
        "panic" => panic!("as was asked for"),
        _ => {
            let text = format!("hello from {} {url}\n", request.method());
            request.respond(TinyResponse::from_string(text))
        }
    }
}
