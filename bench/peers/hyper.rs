//! The yardstick: hyper 1 on tokio, as many worker threads as cores, a plain accept loop.

use heirloom_bench::work::{self, HELLO, KIB, KIB64, MIB};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

async fn handle(req: Request<Incoming>) -> Result<Response<Full<Bytes>>, heirloom_bench::Error> {
    let text = match (req.method(), req.uri().path()) {
        (&Method::GET, "/") => HELLO,
        (&Method::GET, "/1k") => KIB,
        (&Method::GET, "/64k") => KIB64,
        (&Method::GET, "/1m") => MIB,
        (&Method::GET, "/block") => spawn_blocking(work::block).await?,
        (&Method::GET, "/slow") => spawn_blocking(work::slow).await?,
        (&Method::GET, "/burn") => work::burn(),
        (&Method::POST, "/echo") => {
            return Ok(Response::new(Full::new(req.into_body().collect().await?.to_bytes())));
        }
        _ => return Ok(Response::builder().status(StatusCode::NOT_FOUND).body(Full::default())?),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind(work::listen()).await?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(handle)).await;
        });
    }
}
