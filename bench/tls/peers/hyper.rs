//! hyper 1 on tokio with `tokio-rustls`, as many worker threads as cores; or without TLS.

use heirloom_bench::Error;
use heirloom_bench::work::{self, HELLO, KIB, MIB};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

async fn handle(req: Request<Incoming>) -> Result<Response<Full<Bytes>>, Error> {
    let text = match (req.method(), req.uri().path()) {
        (&Method::GET, "/") => HELLO,
        (&Method::GET, "/1k") => KIB,
        (&Method::GET, "/1m") => MIB,
        (&Method::POST, "/echo") => {
            return Ok(Response::new(Full::new(req.into_body().collect().await?.to_bytes())));
        }
        _ => return Ok(Response::builder().status(StatusCode::NOT_FOUND).body(Full::default())?),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

/// None without a certificate.
fn acceptor() -> Result<Option<TlsAcceptor>, Error> {
    let (Some(cert), Some(key)) = (work::argument("cert"), work::argument("key")) else { return Ok(None) };
    let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Its default is a cache of 256 sessions; the others use tickets, too.
    config.ticketer = ring::Ticketer::new()?;
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(handle)).await;
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let (listener, acceptor) = (TcpListener::bind(work::listen()).await?, acceptor()?);
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            match acceptor {
                None => serve(stream).await,
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream).await;
                    }
                }
            }
        });
    }
}
