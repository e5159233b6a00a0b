//! The crate itself, with as many routes as a real program has; those that are measured mean the
//! same as in `engine`.

use heirloom::prelude::*;
use std::thread;
use std::time::Duration;

const HELLO: &str = "Hello, World!";

fn main() -> Result<(), heirloom::Error> {
    let mut address = "127.0.0.1:8080".to_string();
    let mut workers = 32;
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().unwrap_or_default();
        match flag.as_str() {
            "--listen" => address = value,
            "--workers" => workers = value.parse().expect("--workers N"),
            _ => panic!("unknown: {flag} {value}"),
        }
    }
    // No logger is installed: hyper logs nothing either.
    Server::new(router()).listen(address).workers(workers).serve()
}

fn router() -> Router {
    Router::new()
        .get("/", |_: Request| HELLO)
        .get("/block", |_: Request| after(1))
        .get("/slow", |_: Request| after(500))
        // Fast, but with the query it sleeps 100 ms: a route's first surprise.
        .get("/turn", |req: Request| if req.query_str() == Some("slow") { after(100) } else { HELLO })
        .get("/about", |_: Request| "about\n")
        .get("/healthz", |_: Request| "ok\n")
        .get("/login", |_: Request| Html("<form method=post>...</form>\n"))
        .post("/login", |_: Request| Redirect::see_other("/"))
        .get("/users", |_: Request| "users\n")
        .post("/users", |_: Request| (StatusCode::CREATED, "created\n"))
        .get("/users/me", |_: Request| "me\n")
        .get("/users/{id}", |req: Request| named(&req, "id"))
        .put("/users/{id}", |mut req: Request| req.text())
        .delete("/users/{id}", |_: Request| StatusCode::NO_CONTENT)
        .get("/users/{id}/posts", |req: Request| named(&req, "id"))
        .get("/users/{id}/posts/{post}", |req: Request| named(&req, "post"))
        .get("/search", |req: Request| req.query_str().unwrap_or_default().to_string())
        .get("/articles/{year}/{month}", |req: Request| named(&req, "month"))
        .get("/images/{name}.png", |req: Request| named(&req, "name"))
        .get("/static/{*path}", |req: Request| named(&req, "path"))
        .put("/files/{*path}", streaming(|_: Request| StatusCode::CREATED))
}

fn after(millis: u64) -> &'static str {
    thread::sleep(Duration::from_millis(millis));
    HELLO
}

fn named(req: &Request, name: &str) -> String {
    format!("{name} {}\n", req.param(name).unwrap_or("?"))
}
