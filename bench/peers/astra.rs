//! astra with its default of 15 workers for each core, each of which holds one connection;
//! `--workers N` for more.

use astra::{Body, Request, Response, ResponseBuilder, Server};
use heirloom_bench::work::{self, HELLO, KIB, KIB64, MIB};
use std::io::Read;

fn handle(mut req: Request, _: astra::ConnectionInfo) -> Response {
    let text = match req.uri().path() {
        "/" => HELLO,
        "/1k" => KIB,
        "/64k" => KIB64,
        "/1m" => MIB,
        "/block" => work::block(),
        "/slow" => work::slow(),
        "/burn" => work::burn(),
        "/echo" => {
            let mut body = Vec::new();
            return match req.body_mut().reader().read_to_end(&mut body) {
                Ok(_) => Response::new(Body::new(body)),
                Err(_) => status(400),
            };
        }
        _ => return status(404),
    };
    let response = ResponseBuilder::new().header("Content-Type", "text/plain; charset=utf-8");
    // Otherwise it would send chunks without a length.
    let response = response.header("Content-Length", text.len());
    response.body(Body::new(text)).unwrap_or_default()
}

fn status(code: u16) -> Response {
    ResponseBuilder::new().status(code).body(Body::empty()).unwrap_or_default()
}

fn main() -> std::io::Result<()> {
    let server = Server::bind(work::listen());
    match work::argument("workers") {
        Some(workers) => server.max_workers(workers.parse().expect("--workers N")).serve(handle),
        None => server.serve(handle),
    }
}
