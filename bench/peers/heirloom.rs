//! The crate itself, with as many routes as a real program has; those that are measured mean the same as in the other peers.

use heirloom::Proxies;
use heirloom::prelude::*;
use heirloom::wrap::{AccessFormat, AccessLog};
use heirloom_bench::work::{self, HELLO, KIB, KIB64, MIB, ROUTES};
use std::cell::RefCell;
use std::fmt::Write;
use std::hint::black_box;
use std::thread;
use std::time::Duration;

/// No logger is installed unless `--with` asks for one: hyper logs nothing either.
fn main() -> Result<(), heirloom::Error> {
    let with = work::argument("with").unwrap_or_default();
    let log = AccessLog::new();
    match &*with {
        "" | "proxies" => serve(router(), &with),
        "logger" => {
            install(|_| {});
            serve(router(), &with)
        }
        "guard" => serve(router().guard(|_: &mut Request| Ok(())), &with),
        "wrapper" => serve(router().wrap(|req: Request, next: Next| next.call(req)), &with),
        "access" => serve(router().wrap(log), &with),
        "access-discarded" => {
            install(|_| {});
            serve(router().wrap(log), &with)
        }
        "access-logged" => {
            install(|record| with_line(|line| write!(line, "{}", record.args())));
            serve(router().wrap(log), &with)
        }
        "access-none" => serve(router().wrap(log.to(|_| {})), &with),
        "access-fields" => serve(router().wrap(formatted(AccessFormat::Fields)), &with),
        "access-common" => serve(router().wrap(formatted(AccessFormat::Common)), &with),
        "access-combined" => serve(router().wrap(formatted(AccessFormat::Combined)), &with),
        "access-json" => serve(router().wrap(formatted(AccessFormat::Json)), &with),
        // What `write!` costs for a line with the same fields, which are all at hand as texts and numbers.
        "bare-fields" => serve(router().wrap(log.to(|_| with_line(bare_fields))), &with),
        "bare-combined" => serve(router().wrap(log.to(|_| with_line(bare_combined))), &with),
        _ => panic!("--with {with}"),
    }
}

fn serve(handler: impl Handler, with: &str) -> Result<(), heirloom::Error> {
    let mut listen = Listen::new(work::listen());
    if with == "proxies" {
        listen = listen.trust_proxies(Proxies::new(["127.0.0.1", "10.0.0.0/8"]).x_forwarded());
    }
    let mut server = Server::new(handler).listen(listen);
    // With it, requests are recorded in histograms.
    if let Some(admin) = work::argument("admin") {
        server = server.admin(admin);
    }
    match work::argument("workers") {
        Some(workers) => server.workers(workers.parse().expect("--workers N")).serve(),
        None => server.serve(),
    }
}

/// Every record goes to `write`.
fn install(write: fn(&log::Record<'_>)) {
    struct Logger(fn(&log::Record<'_>));
    impl log::Log for Logger {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            self.0(record);
        }
        fn flush(&self) {}
    }
    log::set_logger(Box::leak(Box::new(Logger(write)))).expect("the first logger");
    log::set_max_level(log::LevelFilter::Info);
}

fn formatted(format: AccessFormat) -> AccessLog {
    AccessLog::new().to(move |access| with_line(|line| write!(line, "{}", access.display(format))))
}

/// Calls `write` with this thread's buffer. The line goes nowhere: where it goes costs the same whatever has written it.
fn with_line(write: impl FnOnce(&mut String) -> std::fmt::Result) {
    thread_local!(static LINE: RefCell<String> = const { RefCell::new(String::new()) });
    LINE.with_borrow_mut(|line| {
        line.clear();
        write(line).expect("a string takes all");
        black_box(line);
    });
}

fn bare_fields(line: &mut String) -> std::fmt::Result {
    let [time, client, host] = black_box(["2026-11-29T09:31:06.123Z", "127.0.0.1:50412", "localhost"]);
    let [listener, method, target] = black_box(["127.0.0.1:8080", "GET", "/"]);
    let [end, agent, none] = black_box(["complete", "curl/8.5.0", "-"]);
    let (status, bytes, millis, micros) = black_box((200u16, 13u64, 0u64, 131u64));
    write!(
        line,
        "time={time} client={client} via={none} listener={listener} method={method} scheme=http host={host} \
         target={target} pattern={target} status={status} bytes={bytes} ms={millis}.{micros:03} end={end} id={none} \
         referer={none} agent={agent}"
    )
}

fn bare_combined(line: &mut String) -> std::fmt::Result {
    let [time, client, agent] = black_box(["29/Nov/2026:09:31:06 +0000", "127.0.0.1", "curl/8.5.0"]);
    let [method, target, none] = black_box(["GET", "/", "-"]);
    let (status, bytes) = black_box((200u16, 13u64));
    write!(
        line,
        "{client} - - [{time}] \"{method} {target} HTTP/1.1\" {status} {bytes} \"{none}\" \"{agent}\""
    )
}

fn router() -> Router {
    let router = Router::new()
        .get("/", |_: Request| HELLO)
        .get("/client", |req: Request| if req.client().ip().is_some() { HELLO } else { "" })
        .get("/1k", |_: Request| KIB)
        .get("/64k", |_: Request| KIB64)
        .get("/1m", |_: Request| MIB)
        .post("/echo", |req: Request| req.into_body())
        .get("/block", |_: Request| work::block())
        .get("/burn", |_: Request| work::burn())
        .get("/slow", |_: Request| work::slow())
        // Fast, but with the query it sleeps 100 ms: a route's first surprise.
        .get("/turn", |req: Request| if req.query_str() == Some("slow") { surprise() } else { HELLO })
        .get("/flat/about", |_: Request| HELLO)
        .nest("/nest", Router::new().get("/about", |_: Request| HELLO))
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
