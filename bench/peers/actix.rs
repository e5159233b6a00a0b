//! actix-web 4 with its router; its default is a worker for each core.

use actix_web::web::{self, Bytes, Path, ServiceConfig};
use actix_web::{App, HttpServer};
use heirloom_bench::work::{self, HELLO, KIB, KIB64, MIB, ROUTES};

fn routes(config: &mut ServiceConfig) {
    config
        .route("/", web::get().to(async || HELLO))
        .route("/1k", web::get().to(async || KIB))
        .route("/64k", web::get().to(async || KIB64))
        .route("/1m", web::get().to(async || MIB))
        .route("/echo", web::post().to(async |body: Bytes| body))
        .route("/block", web::get().to(async || web::block(work::block).await.unwrap_or_default()))
        .route("/slow", web::get().to(async || web::block(work::slow).await.unwrap_or_default()))
        .route("/burn", web::get().to(async || work::burn()));
    for n in 0..ROUTES {
        config.route(&format!("/api/r{n}/{{account}}/items/{{item}}/lines/{{line}}"), web::get().to(line));
    }
}

async fn line(path: Path<(String, String, String)>) -> String {
    let (account, item, line) = path.into_inner();
    format!("{account} {item} {line}")
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    HttpServer::new(|| App::new().configure(routes)).bind(work::listen())?.run().await
}
