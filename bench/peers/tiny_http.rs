//! tiny_http as its documentation has it: four threads in `recv`.

use heirloom_bench::work::{self, HELLO, KIB, KIB64, MIB};
use std::sync::Arc;
use std::thread;
use tiny_http::{Method, Request, Response, Server};

const THREADS: usize = 4;

fn handle(mut request: Request) -> std::io::Result<()> {
    let text = match (request.method(), request.url()) {
        (Method::Get, "/") => HELLO,
        (Method::Get, "/1k") => KIB,
        (Method::Get, "/64k") => KIB64,
        (Method::Get, "/1m") => MIB,
        (Method::Get, "/block") => work::block(),
        (Method::Get, "/slow") => work::slow(),
        (Method::Get, "/burn") => work::burn(),
        (Method::Post, "/echo") => {
            let mut body = Vec::new();
            request.as_reader().read_to_end(&mut body)?;
            return request.respond(Response::from_data(body));
        }
        _ => return request.respond(Response::empty(404)),
    };
    request.respond(Response::from_string(text))
}

fn main() -> Result<(), heirloom_bench::Error> {
    let server = Server::http(work::listen()).map_err(|error| error.to_string())?;
    let server = Arc::new(server);
    let work = |server: Arc<Server>| {
        for request in server.incoming_requests() {
            let _ = handle(request);
        }
    };
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let server = Arc::clone(&server);
            thread::spawn(move || work(server))
        })
        .collect();
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}
