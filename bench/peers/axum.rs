//! axum 0.8 on tokio, as many worker threads as cores, with its router.

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use heirloom_bench::work::{self, HELLO, KIB, KIB64, MIB, ROUTES};
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

fn router() -> Router {
    let router = Router::new()
        .route("/", get(async || HELLO))
        .route("/1k", get(async || KIB))
        .route("/64k", get(async || KIB64))
        .route("/1m", get(async || MIB))
        .route("/echo", post(async |body: Bytes| body))
        .route("/block", get(async || spawn_blocking(work::block).await.unwrap_or_default()))
        .route("/slow", get(async || spawn_blocking(work::slow).await.unwrap_or_default()))
        .route("/burn", get(async || work::burn()));
    (0..ROUTES).fold(router, |router, n| {
        router.route(
            &format!("/api/r{n}/{{account}}/items/{{item}}/lines/{{line}}"),
            get(async |Path((account, item, line)): Path<(String, String, String)>| {
                format!("{account} {item} {line}")
            }),
        )
    })
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind(work::listen()).await?;
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router()).await
}
