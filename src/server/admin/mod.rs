//! Health, readiness, metrics and status, for operators and load balancers. The admin listener has its own worker, so it
//! answers while every other worker is in a handler.

mod json;
pub(super) mod metrics;
mod page;
pub(super) mod program;
mod report;
#[cfg(test)]
mod tests;

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};

use crate::server::handle::Handle;
use crate::web::response::{Html, IntoResponse, ResponseExt};
use crate::web::router::Router;
use crate::web::sse::{self, Event};
use crate::{Request, Response};
use report::Report;

/// How often a page that is open is renewed.
const RENEWED: Duration = Duration::from_secs(1);

/// The routes that [`Server::admin`](crate::Server::admin) serves, for use in another router: `/healthz`, `/readyz` (503
/// while the process is about to stop, or by [`Server::readiness`](crate::Server::readiness)), `/metrics` in the text format of Prometheus, `/status` for people, and
/// `/status.json` with the same for programs.
///
/// ```
/// use heirloom::prelude::*;
/// let handle = Handle::new();
/// let router = Router::new().get("/", |_: Request| "hello\n").merge(heirloom::admin::routes(&handle));
/// let server = Server::new(router).with_handle(handle);
/// # let _ = server;
/// ```
pub fn routes(handle: &Handle) -> Router {
    handle.shared.records.counters.want();
    let [ready, metrics, status, json, events] = [(); 5].map(|()| handle.clone());
    Router::new()
        .get("/healthz", |_: Request| "ok\n")
        .get("/readyz", move |_: Request| match ready.check_ready() {
            Ok(()) => (StatusCode::OK, format!("{}\n", ready.phase())),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        })
        .get("/metrics", move |_: Request| metrics_text(&metrics))
        .get("/status", move |_: Request| status_page(&status))
        .get("/status.json", move |_: Request| status_json(&json))
        .get("/status/events", move |req: Request| status_events(&req, events.clone()))
}

fn metrics_text(handle: &Handle) -> Response {
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    handle.metrics().into_response().with_header(header::CONTENT_TYPE, content_type)
}

fn status_page(handle: &Handle) -> Response {
    // The page has everything in itself, and shows text that clients have sent.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                  base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    Html(page::html(&Report::of(handle)))
        .into_response()
        .with_header(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy))
        .with_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
}

fn status_json(handle: &Handle) -> Response {
    json::text(&Report::of(handle))
        .into_response()
        .with_header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .with_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
}

/// The parts of the page, each second. The browser connects again when the process has handed over.
fn status_events(req: &Request, handle: Handle) -> Response {
    sse::response(req, move |events| {
        events.send(&Event::retry(RENEWED))?;
        loop {
            events.send(&Event::data(page::body(&Report::of(&handle))))?;
            if events.wait(RENEWED)?.is_draining() {
                return Ok(());
            }
        }
    })
}
