//! touche with its default of at most 512 threads, each of which holds one connection.

use heirloom_bench::work::{self, HELLO, KIB, KIB64, MIB};
use touche::{Body, HttpBody, Request, Response, Server, StatusCode};

fn handle(req: Request<Body>) -> Result<Response<Body>, heirloom_bench::Error> {
    let text = match req.uri().path() {
        "/" => HELLO,
        "/1k" => KIB,
        "/64k" => KIB64,
        "/1m" => MIB,
        "/block" => work::block(),
        "/slow" => work::slow(),
        "/burn" => work::burn(),
        "/echo" => return Ok(Response::new(req.into_body().into_bytes()?.into())),
        _ => return Ok(Response::builder().status(StatusCode::NOT_FOUND).body(Body::empty())?),
    };
    Ok(Response::builder().header("Content-Type", "text/plain; charset=utf-8").body(text.into())?)
}

fn main() -> std::io::Result<()> {
    // Without it, answers would wait for the client's delayed acknowledgement.
    Server::builder().nodelay(true).bind(work::listen()).serve(handle)
}
