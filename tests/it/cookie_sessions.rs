//! Sessions over the wire: cookies come and go, a guard reads one before the body, and `Secure` is what the connection or a
//! trusted proxy says.

use heirloom::CloseReason;
use heirloom::prelude::*;
use heirloom::session::{CookieKey, Sessions};

use crate::support::*;

fn key() -> CookieKey {
    CookieKey::from_bytes(b"as in a test: not random, and known to everyone").unwrap()
}

fn members_only(req: &mut Request) -> Result<(), EarlyResponse> {
    req.session().get::<String>("user").map(drop).ok_or(StatusCode::UNAUTHORIZED.into())
}

fn routes() -> Router {
    let login = |mut req: Request| -> Result<&'static str, AnyError> {
        let user = req.text()?;
        req.session().clear();
        req.session().insert("user", user)?;
        Ok("welcome")
    };
    let home = |req: Request| req.session().get::<String>("user").unwrap_or("nobody".to_owned());
    let logout = |req: Request| req.session().clear();
    let upload = |mut req: Request| req.bytes().map(|bytes| format!("{} bytes", bytes.len()));
    let inside = Router::new().post("/upload", max_body(10 << 20, upload)).guard(members_only);
    Router::new()
        .get("/", |_: Request| "Hello, World!")
        .get("/who", home)
        .post("/login", login)
        .post("/logout", logout)
        .nest("/inside", inside)
}

fn with_cookie(line: &str, cookie: &str, len: usize) -> String {
    format!("{line} HTTP/1.1\r\nHost: h\r\nCookie: theme=dark; {cookie}\r\nContent-Length: {len}\r\n\r\n")
}

#[test]
fn a_login_lasts_until_the_logout() {
    let sessions = Sessions::new(key());
    let fixture =
        Fixture::with(|_| Server::new(routes().wrap(sessions)).listen("127.0.0.1:0").timeouts(quick()));
    let mut client = fixture.client();
    client.send(post("/login", "Zo\u{eb}".as_bytes()));
    let reply = client.reply();
    assert_eq!((reply.status, reply.field("cache-control")), (200, Some("private")));
    let (cookie, attributes) = reply.field("set-cookie").unwrap().split_once("; ").unwrap();
    assert_eq!(attributes, "HttpOnly; SameSite=Lax; Path=/; Max-Age=1209600");
    client.send(with_cookie("GET /who", cookie, 0));
    let reply = client.reply();
    assert_eq!((&*reply.said(), reply.field("set-cookie")), ("200 Zo\u{eb}", None));
    client.send(with_cookie("POST /logout", cookie, 0));
    let reply = client.reply();
    let removal = reply.field("set-cookie").unwrap();
    assert!(
        removal.starts_with("session=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0; Expires="),
        "{removal}"
    );
    client.send(get("/who"));
    assert_eq!(client.reply().said(), "200 nobody");
    client.expect_kept();
}

#[test]
fn a_guard_reads_the_session_before_the_body() {
    let sessions = Sessions::new(key());
    let fixture =
        Fixture::with(|_| Server::new(routes().wrap(sessions)).listen("127.0.0.1:0").timeouts(quick()));
    let mut client = fixture.client();
    client.send(with_cookie("POST /inside/upload", "session=x", 9 << 20));
    let reply = client.reply();
    assert_eq!((reply.status, reply.closes()), (401, true));
    drop(client);
    fixture.expect_closes(CloseReason::BodyUnread, 1);
    let mut client = fixture.client();
    client.send(post("/login", b"ada"));
    let cookie = client.reply().field("set-cookie").unwrap().split_once(';').unwrap().0.to_owned();
    client.send(with_cookie("POST /inside/upload", &cookie, 3) + "abc");
    assert_eq!(client.reply().said(), "200 3 bytes");
}

#[cfg(feature = "proxy")]
#[test]
fn a_cookie_is_secure_if_the_client_is() {
    let sessions = Sessions::new(key());
    let proxies = heirloom::Proxies::new(["127.0.0.1"]).x_forwarded();
    let listen = Listen::new("127.0.0.1:0").trust_proxies(proxies);
    let fixture = Fixture::with(|_| Server::new(routes().wrap(sessions)).listen(listen).timeouts(quick()));
    for (scheme, secure) in [("https", true), ("http", false)] {
        let mut client = fixture.client();
        client.send(format!(
            "POST /login HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: {scheme}\r\n\
             Content-Length: 3\r\n\r\nada"
        ));
        assert_eq!(client.reply().field("set-cookie").unwrap().contains("; Secure;"), secure, "{scheme}");
    }
}
