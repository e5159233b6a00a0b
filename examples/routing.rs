//! Paths and methods: parameters, wildcards, nested routers, responses without a route, and limits of single routes.
//!
//! ```text
//! $ cargo run --example routing -- 127.0.0.1:8001
//! $ curl http://127.0.0.1:8001/users/J%C3%B8rn
//! user Jørn, by /users/{id}
//! $ curl http://127.0.0.1:8001/users/me
//! you, whoever you are
//! $ curl http://127.0.0.1:8001/v2/files/a/b.txt
//! version 2 of a/b.txt, by /v{version}/files/{*path}
//! $ curl http://127.0.0.1:8001/users
//! all users
//! ```
//!
//! The handler of GET also answers HEAD, and the router answers OPTIONS. The response to a method without a route lists the
//! allowed ones:
//!
//! ```text
//! $ curl -s -o /dev/null -w '%{http_code} %header{allow}\n' -X DELETE http://127.0.0.1:8001/users/7
//! 405 GET, HEAD, OPTIONS, PUT
//! $ curl -s -o /dev/null -w '%{http_code} %header{allow}\n' -X OPTIONS http://127.0.0.1:8001/users/7
//! 204 GET, HEAD, OPTIONS, PUT
//! $ curl -I http://127.0.0.1:8001/users/7
//! HTTP/1.1 200 OK
//! Content-Type: text/plain; charset=utf-8
//! Date: ...
//! Content-Length: 23
//!
//! ```
//!
//! This route accepts at most 16 bytes. Paths without a route go to the fallback; under `/users` to that router's own:
//!
//! ```text
//! $ curl -X PUT -d Jonna http://127.0.0.1:8001/users/7
//! user 7 is now called Jonna
//! $ curl -X PUT -d 'Jonna, and a long story of why' http://127.0.0.1:8001/users/7
//! 413 Payload Too Large
//! $ curl http://127.0.0.1:8001/users/7/cats
//! users have no such thing
//! $ curl http://127.0.0.1:8001/nowhere
//! there is nothing at /nowhere
//! ```
//!
//! Two routes for the same requests are a mistake of the program: `serve` returns an error that names both, before any
//! listener is bound.

use heirloom::prelude::*;

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());

    let users = Router::new()
        .get("/", |_: Request| "all users\n")
        // Literal text has precedence over parameters, in any order of registration.
        .get("/{id}", user)
        .get("/me", |_: Request| "you, whoever you are\n")
        .put("/{id}", max_body(16, rename))
        .fallback(|_: Request| (StatusCode::NOT_FOUND, "users have no such thing\n"));
    let router = Router::new()
        .nest("/users", users)
        .get("/v{version}/files/{*path}", file)
        .fallback(|req: Request| (StatusCode::NOT_FOUND, format!("there is nothing at {}\n", req.path())));
    log::info!("pid {}", std::process::id());
    Server::new(router).listen(listen).serve()
}

/// Parameters are decoded; the pattern is what to count requests under.
fn user(req: Request) -> String {
    let (id, pattern) = (req.param("id").unwrap_or_default(), req.pattern().unwrap_or_default());
    format!("user {id}, by {pattern}\n")
}

fn rename(mut req: Request) -> std::io::Result<String> {
    let name = req.text()?;
    Ok(format!("user {} is now called {name}\n", req.param("id").unwrap_or_default()))
}

fn file(req: Request) -> String {
    let param = |name| req.param(name).unwrap_or_default();
    format!("version {} of {}, by {}\n", param("version"), param("path"), req.pattern().unwrap_or_default())
}
