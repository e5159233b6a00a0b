//! Wrappers that protect the users of browsers, over the wire: what they refuse costs no body, and `https` is what a trusted
//! proxy says.

use heirloom::CloseReason;
use heirloom::prelude::*;
use heirloom::wrap::{Csrf, SecurityHeaders};

use crate::support::*;

fn router() -> Router {
    let upload =
        max_body(10 << 20, |mut req: Request| req.bytes().map(|bytes| format!("{} bytes", bytes.len())));
    Router::new().get("/", |_: Request| "Hello, World!").post("/", upload)
}

#[test]
fn a_cross_site_upload_is_refused_before_a_byte_of_it_is_sent() {
    let wrapped = || router().wrap(Csrf::new()).wrap(SecurityHeaders::new());
    let fixture = Fixture::with(|_| Server::new(wrapped()).listen("127.0.0.1:0").timeouts(quick()));
    let post = |fields: &str| {
        format!("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 9437184\r\n{fields}\r\n")
    };
    for fields in [
        "Sec-Fetch-Site: cross-site\r\n",
        "Origin: https://evil.example\r\nExpect: 100-continue\r\n",
        "Origin: https://a.example\r\nSec-Fetch-Site: same-site\r\n",
    ] {
        let mut client = fixture.client();
        client.send(post(fields));
        let reply = client.reply();
        assert_eq!((reply.status, reply.closes()), (403, true), "{fields}");
        assert_eq!(reply.field("x-content-type-options"), Some("nosniff"));
        drop(client);
    }
    fixture.expect_closes(CloseReason::BodyUnread, 3);
    let mut client = fixture.client();
    client.send(
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\nOrigin: http://a.example\r\n\r\nhi",
    );
    assert_eq!(client.reply().said(), "200 2 bytes");
    client.expect_kept();
}

#[cfg(feature = "proxy")]
#[test]
fn https_is_what_a_trusted_proxy_says() {
    use heirloom::Proxies;
    use heirloom::wrap::HttpsRedirect;

    let serve = |trusted: &'static str| {
        let redirect = HttpsRedirect::to(["a.example"]).except("/healthz");
        let wrapped = router().get("/healthz", |_: Request| "ok").wrap(redirect).wrap(SecurityHeaders::new());
        let handler = std::sync::Arc::new(wrapped);
        let proxies = Proxies::new([trusted]).x_forwarded();
        Fixture::with(move |_| {
            let listen = Listen::new("127.0.0.1:0").trust_proxies(proxies.clone());
            Server::new(std::sync::Arc::clone(&handler)).listen(listen).timeouts(quick())
        })
    };
    let secure =
        "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a.example\r\n";
    let plain = "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.example\r\n";
    let ask = |fixture: &Fixture, line: &str, fields: &str| {
        let mut client = fixture.client();
        client.send(format!("{line} HTTP/1.1\r\nHost: backend\r\nContent-Length: 2\r\n{fields}\r\nhi"));
        client.reply()
    };
    let trusting = serve("127.0.0.1");
    let reply = ask(&trusting, "GET /?a=b", secure);
    assert_eq!(
        (&*reply.said(), reply.field("strict-transport-security")),
        ("200 Hello, World!", Some("max-age=31536000"))
    );
    let reply = ask(&trusting, "POST /?a=b", plain);
    assert_eq!((reply.status, reply.field("location")), (308, Some("https://a.example/?a=b")));
    assert_eq!(
        (reply.field("strict-transport-security"), reply.field("x-frame-options")),
        (None, Some("SAMEORIGIN"))
    );
    assert_eq!(ask(&trusting, "GET /healthz", plain).said(), "200 ok");
    // Who is not trusted can't claim it.
    let reply = ask(&serve("192.0.2.1"), "GET /", secure);
    assert_eq!((reply.status, reply.field("strict-transport-security")), (308, None));
}
