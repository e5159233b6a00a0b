//! Error pages of the service's own: HTML for browsers, problem JSON (RFC 9457) for programs, text for everyone else, also
//! where no handler has seen the request.
//!
//! ```text
//! $ cargo run --example error_pages -- 127.0.0.1:8001
//! $ curl -H 'Accept: text/html' http://127.0.0.1:8001/nowhere
//! <!doctype html><title>The tea shop</title><h1>404 Not Found</h1><p>Ask at the counter.</p>
//! $ curl -i -X PUT -H 'Accept: application/json' http://127.0.0.1:8001/teas/1
//! HTTP/1.1 405 Method Not Allowed
//! Allow: GET, HEAD, OPTIONS
//! Content-Type: application/problem+json
//! ...
//! {"title":"Method Not Allowed","status":405}
//! $ curl -H 'Accept: application/json' http://127.0.0.1:8001/teas/oolong
//! {"title":"Not Found","status":404,"detail":"id: invalid digit found in string"}
//! $ curl -H 'Accept: application/json' http://127.0.0.1:8001/teas/7
//! {"title":"Not Found","status":404}
//! $ curl -H 'Accept: application/json' http://127.0.0.1:8001/%zz
//! {"title":"Bad Request","status":400,"detail":"malformed request target"}
//! $ curl http://127.0.0.1:8001/nowhere
//! 404 Not Found
//! ```

use heirloom::error_pages::{self, HttpError};
use heirloom::prelude::*;

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let router = Router::new().get("/teas/{id}", tea);
    log::info!("pid {}", std::process::id());
    Server::new(router).listen(listen).error_pages(page).serve()
}

fn tea(req: Request) -> Result<Option<&'static str>, InputError> {
    let id: usize = req.param_as("id")?;
    Ok(["assam\n", "sencha\n"].get(id).copied())
}

/// A page for browsers; `error_pages::by_accept` has the other forms, and a page of its own.
fn page(error: &HttpError) -> Response {
    let title = error.title();
    match error.preferred(&["text/plain", "text/html", "application/json"]) {
        Some("text/html") => {
            let text = format!(
                "<!doctype html><title>The tea shop</title><h1>{title}</h1><p>Ask at the counter.</p>\n"
            );
            Html(text).into_response().with_header(header::VARY, "accept")
        }
        _ => error_pages::by_accept(error),
    }
}
