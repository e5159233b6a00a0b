//! What protects the users of a site with pages and forms: redirects to https, refusal of forms that other sites send, and
//! header fields that make browsers strict.
//!
//! ```text
//! $ cargo run --example protection -- 127.0.0.1:8001
//! $ curl -i http://127.0.0.1:8001/?page=2
//! HTTP/1.1 308 Permanent Redirect
//! Location: https://shop.example/?page=2
//! ...
//! $ curl -o /dev/null -w '%{redirect_url}' -H 'Host: evil.example' http://127.0.0.1:8001/
//! https://shop.example/
//! $ curl http://127.0.0.1:8001/healthz
//! ok
//! $ curl -i http://127.0.0.1:8001/inside/
//! HTTP/1.1 200 OK
//! ...
//! X-Content-Type-Options: nosniff
//! X-Frame-Options: SAMEORIGIN
//! Content-Security-Policy: default-src 'self'; frame-ancestors 'self'
//! Referrer-Policy: strict-origin-when-cross-origin
//! Cross-Origin-Opener-Policy: same-origin
//! ...
//! $ curl -H 'Sec-Fetch-Site: same-origin' -d amount=5 http://127.0.0.1:8001/inside/transfer
//! sent
//! $ curl -H 'Sec-Fetch-Site: cross-site' -d amount=5 http://127.0.0.1:8001/inside/transfer
//! cross-origin request, by its Sec-Fetch-Site
//! $ curl -H 'Origin: https://evil.example' -d amount=5 http://127.0.0.1:8001/inside/transfer
//! cross-origin request: its Origin is not this host
//! ```
//!
//! `/inside` is excepted from the redirect only so that this session needs no certificate.

use heirloom::prelude::*;
use heirloom::wrap::{Csrf, HttpsRedirect, SecurityHeaders};

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let policy = "default-src 'self'; frame-ancestors 'self'";
    let inside = Router::new()
        .get("/", |_: Request| {
            Html("<form method=\"post\" action=\"transfer\"><button>Send</button></form>\n")
        })
        .post("/transfer", |_: Request| "sent\n");
    let handler = Router::new()
        .get("/", |_: Request| "hello\n")
        .get("/healthz", |_: Request| "ok\n")
        .nest("/inside", inside)
        .wrap(Csrf::new())
        .wrap(HttpsRedirect::to(["shop.example"]).except("/healthz").except("/inside/{*rest}"))
        // Outermost, so that redirects and refusals have the fields too.
        .wrap(SecurityHeaders::new().set(header::CONTENT_SECURITY_POLICY, policy));
    log::info!("pid {}", std::process::id());
    Server::new(handler).listen(listen).serve()
}
