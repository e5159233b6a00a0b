//! Health, readiness, metrics and status, for operators and load balancers. The admin listener has its own worker, so it
//! answers while every other worker is in a handler.

use std::fmt::Write;

use http::{HeaderValue, StatusCode, header};

use crate::base::status::Stats;
use crate::server::handle::Handle;
use crate::web::response::{Html, IntoResponse, ResponseExt};
use crate::web::router::Router;
use crate::{Request, Response};

/// The routes that [`Server::admin`](crate::Server::admin) serves, for use in another router: `/healthz`, `/readyz` (503
/// while the process is about to stop), `/metrics` in the text format of Prometheus, and `/status` for people.
///
/// ```
/// use heirloom::prelude::*;
/// let handle = Handle::new();
/// let router = Router::new().get("/", |_: Request| "hello\n").merge(heirloom::admin::routes(&handle));
/// let server = Server::new(router).with_handle(handle);
/// # let _ = server;
/// ```
pub fn routes(handle: &Handle) -> Router {
    let (ready, metrics, status) = (handle.clone(), handle.clone(), handle.clone());
    Router::new()
        .get("/healthz", |_: Request| "ok\n")
        .get("/readyz", move |_: Request| match ready.phase() {
            phase if phase.is_ready() => (StatusCode::OK, format!("{phase}\n")),
            phase => (StatusCode::SERVICE_UNAVAILABLE, format!("{phase}\n")),
        })
        .get("/metrics", move |_: Request| metrics_text(&metrics.stats()))
        .get("/status", move |_: Request| Html(status_page(&status.stats())))
}

fn metrics_text(stats: &Stats) -> Response {
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    stats.to_prometheus().into_response().with_header(header::CONTENT_TYPE, content_type)
}

fn status_page(stats: &Stats) -> String {
    let mut rows = String::new();
    let mut row = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(rows, "<tr><th>{name}</th><td>{value}</td></tr>");
    };
    row("pid", &std::process::id());
    row("generation", &stats.generation);
    row("phase", &stats.phase);
    row("requests answered", &stats.requests);
    row("requests in flight", &stats.in_flight);
    row("connections open", &stats.open);
    row("connections accepted", &stats.accepted);
    row("connections waiting for a worker", &stats.queued);
    row("workers", &stats.workers);
    row("detached threads", &stats.detached);
    for (class, n) in (1..).zip(stats.responses).filter(|(_, n)| *n > 0) {
        row(&format!("responses {class}xx"), &n);
    }
    for (reason, n) in stats.closes.iter().filter(|(_, n)| *n > 0) {
        row(&format!("closed: {reason}"), n);
    }
    format!(
        "<!doctype html><meta charset=utf-8><title>heirloom</title>\
         <style>body{{font:16px sans-serif;margin:2em}}th{{text-align:left;font-weight:normal;padding-right:2em}}\
         td{{text-align:right}}</style><h1>heirloom</h1>\n<table>\n{rows}</table>\n"
    )
}
