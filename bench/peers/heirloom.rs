//! The crate itself, with as many routes as a real program has; those that are measured mean the same as in the other peers.

use heirloom::prelude::*;
use heirloom_bench::work::{self, HELLO, KIB, KIB64, MIB, ROUTES};
use std::thread;
use std::time::Duration;

fn main() -> Result<(), heirloom::Error> {
    // No logger is installed: hyper logs nothing either.
    let mut server = Server::new(router()).listen(work::listen());
    // With it, requests are recorded in histograms.
    if let Some(admin) = work::argument("admin") {
        server = server.admin(admin);
    }
    if work::argument("policy").as_deref() == Some("keep") {
        server = server.process(ProcessConfig::new().keep_scheduling_policy());
    }
    match work::argument("workers") {
        Some(workers) => server.workers(workers.parse().expect("--workers N")).serve(),
        None => server.serve(),
    }
}

fn router() -> Router {
    let router = Router::new()
        .get("/", |_: Request| HELLO)
        .get("/1k", |_: Request| KIB)
        .get("/64k", |_: Request| KIB64)
        .get("/1m", |_: Request| MIB)
        .post("/echo", |req: Request| req.into_body())
        .get("/block", |_: Request| work::block())
        .get("/burn", |_: Request| work::burn())
        .get("/slow", |_: Request| work::slow())
        // Fast, but with the query it sleeps 100 ms: a route's first surprise.
        .get("/turn", |req: Request| if req.query_str() == Some("slow") { surprise() } else { HELLO })
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
        .put("/files/{*path}", streaming(|_: Request| StatusCode::CREATED));
    (0..ROUTES).fold(router, |router, n| {
        router.get(&format!("/api/r{n}/{{account}}/items/{{item}}/lines/{{line}}"), |req: Request| {
            let param = |name| req.param(name).unwrap_or_default();
            format!("{} {} {}", param("account"), param("item"), param("line"))
        })
    })
}

fn surprise() -> &'static str {
    thread::sleep(Duration::from_millis(100));
    HELLO
}

fn named(req: &Request, name: &str) -> String {
    format!("{name} {}\n", req.param(name).unwrap_or("?"))
}
