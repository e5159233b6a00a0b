//! A synchronous HTTP/1.1 server framework on a fixed pool of threads, without an async runtime: handlers are functions
//! that may block. **An upgrade drops no connection:** on `kill -HUP` the new binary inherits the listening sockets and the
//! idle connections, and the old process completes its requests and exits; on `kill -TERM` it completes them and exits.
//!
//! `README.md` lists what is promised, with proofs. This page teaches in small steps:
//! [hello](#hello), [routes](#routes), [state](#state), [JSON](#json), [errors](#errors),
//! [wrapping](#wrapping), [files and streams](#files-and-streams), [the lifecycle](#the-lifecycle),
//! [testing](#testing), [deployment](#deployment). Then there is a table of [features](#features).
//!
//! # Hello
//!
//! ```no_run
//! use heirloom::prelude::*;
//!
//! fn main() -> Result<(), heirloom::Error> {
//!     Server::new(|_| "hello\n").listen("127.0.0.1:8001").serve()
//! }
//! ```
//!
//! A handler takes a [`Request`] (that of the crate [`http`], which the prelude exports, with a [`Body`]) and returns any type
//! that implements [`IntoResponse`]: a string, bytes, a status, a status with fields and a body, a [`Response`]. It runs on one
//! of the [workers](Server::workers), 32 by default, and may block there. It runs once the whole request has arrived, and no
//! thread is held while a slow client reads the response. [`Server::serve`] returns when the process should exit.
//!
//! # Routes
//!
//! ```
//! use heirloom::prelude::*;
//!
//! fn user(req: Request) -> Result<String, InputError> {
//!     let id: u32 = req.param_as("id")?; // 404 if it is not a number
//!     Ok(format!("user {id}\n"))
//! }
//!
//! fn note(mut req: Request) -> std::io::Result<impl IntoResponse> {
//!     let text = req.text()?;
//!     Ok((StatusCode::CREATED, [(header::LOCATION, "/notes/1")], text))
//! }
//!
//! let router = Router::new()
//!     .get("/users/{id}", user)
//!     .post("/notes", max_body(1_000, note))
//!     .nest("/api", Router::new().get("/version", |_: Request| "1\n")) // any handler, also a wrapped one
//!     .fallback(|_: Request| (StatusCode::NOT_FOUND, "nothing here\n"));
//!
//! let mut response = router.call(http::Request::get("/users/7").body(Body::empty()).unwrap());
//! assert_eq!(response.body_mut().read_text().unwrap(), "user 7\n");
//! let response = router.call(http::Request::delete("/notes").body(Body::empty()).unwrap());
//! assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
//! ```
//!
//! A [`Router`] is a handler itself. It answers other methods with 405, OPTIONS with the list of methods, and HEAD with the
//! handler of GET. Two ambiguous routes are an error of [`Server::serve`] that names both. [`RequestExt`] has the other
//! methods of a request, such as [`param`](RequestExt::param) for a parameter as text and
//! [`params_as`](RequestExt::params_as) for several as a tuple; [`limited`] sets limits for one route.
//!
//! A closure that uses its parameter names the type: `|req: Request|`. Rust infers it only from bounds that are `Fn`, and a
//! handler may also be a router or a wrapped handler; `|_|` needs no type. A closure that is a wrapper is
//! `|req: Request, next: Next|`, one for `with_state` is `|app: &App, req: Request|`.
//!
//! # State
//!
//! ```
//! use heirloom::prelude::*;
//! use std::sync::{Arc, Mutex};
//!
//! #[derive(Default)]
//! struct App {
//!     names: Mutex<Vec<String>>,
//! }
//!
//! fn add(app: &App, mut req: Request) -> std::io::Result<String> {
//!     let name = req.text()?;
//!     let mut names = app.names.lock().unwrap();
//!     names.push(name);
//!     Ok(format!("{}\n", names.len()))
//! }
//!
//! let app = Arc::new(App::default());
//! let router = Router::new().post("/names", with_state(&app, add));
//! let mut response = router.call(http::Request::post("/names").body("Ada".into()).unwrap());
//! assert_eq!(response.body_mut().read_text().unwrap(), "1\n");
//! ```
//!
//! Handlers capture their state in an [`Arc`](std::sync::Arc), and all workers use it at once. The response of a function
//! given to [`with_state`] may be `impl IntoResponse`, and may borrow from the state. A value that each worker
//! needs for itself, such as a database connection, is a [`PerWorker`]. A stream goes on when its handler has returned:
//! [`with_arc`] gives it the state to keep. At a handover
//! memory is not shared: see [the lifecycle](#the-lifecycle).
//!
//! # JSON
//!
//! ```
//! # #[cfg(feature = "json")]
//! # fn main() {
//! use heirloom::prelude::*;
//! # // needs the crate serde: it derives what is read and written
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize)]
//! struct Order {
//!     item: String,
//!     pieces: u32,
//! }
//!
//! #[derive(Serialize)]
//! struct Receipt {
//!     text: String,
//! }
//!
//! fn order(mut req: Request) -> Result<Json<Receipt>, InputError> {
//!     let order: Order = req.json()?;
//!     Ok(Json(Receipt { text: format!("{} of {}", order.pieces, order.item) }))
//! }
//!
//! let router = Router::new().post("/orders", order);
//! let asked = |body: &'static str| {
//!     let request = http::Request::post("/orders").header("content-type", "application/json");
//!     router.call(request.body(body.into()).unwrap()).body_mut().read_text().unwrap()
//! };
//! assert_eq!(asked(r#"{"item": "tea", "pieces": 2}"#), r#"{"text":"2 of tea"}"#);
//! assert!(asked(r#"{"item": "tea", "pieces": -2}"#).starts_with("line 1, column 28: pieces: invalid value"));
//! # }
//! # #[cfg(not(feature = "json"))]
//! # fn main() {}
//! ```
//!
//! This needs the feature `json`. Queries and forms are read in the same way, `req.query()?` and `req.form()?` (feature `form`),
//! cookies by `req.cookie(name)` (feature `cookies`), forms with files by `req.multipart()?` (feature `multipart`). `Sessions`
//! (feature `sessions`) keep a user's login in an encrypted cookie.
//!
//! # Errors
//!
//! A handler may return a [`Result`] of two types that implement [`IntoResponse`], so `?` works with every error type that
//! does. [`std::io::Error`] and boxed errors become a bare 500, and are logged; an error that the request's body can't be
//! read becomes a 400, 408 or 413, and an [`InputError`] has its own status, also one that the program makes. [`AnyError`] takes
//! errors of every type:
//!
//! ```
//! use heirloom::prelude::*;
//!
//! fn load(req: Request) -> Result<String, AnyError> {
//!     let (id,) = req.params_as::<(u32,)>()?;
//!     let text = String::from_utf8(std::fs::read("/dev/null")?)?;
//!     let line = text.lines().nth(usize::try_from(id)?).ok_or_else(InputError::not_found)?;
//!     Ok(line.to_uppercase())
//! }
//! # Router::new().get("/lines/{id}", load).check().unwrap();
//! ```
//!
//! Your own type decides what its response is:
//!
//! ```
//! use heirloom::prelude::*;
//!
//! enum Trouble {
//!     NoSuchUser,
//!     Storage(std::io::Error),
//! }
//!
//! impl From<std::io::Error> for Trouble {
//!     fn from(e: std::io::Error) -> Trouble {
//!         Trouble::Storage(e)
//!     }
//! }
//!
//! impl IntoResponse for Trouble {
//!     fn into_response(self) -> Response {
//!         match self {
//!             Trouble::NoSuchUser => (StatusCode::NOT_FOUND, "no such user\n").into_response(),
//!             Trouble::Storage(e) => e.into_response(),
//!         }
//!     }
//! }
//!
//! fn picture(req: Request) -> Result<Vec<u8>, Trouble> {
//!     let id: u64 = req.param("id").and_then(|id| id.parse().ok()).ok_or(Trouble::NoSuchUser)?;
//!     Ok(std::fs::read(format!("/nonexistent/{id}.png"))?)
//! }
//!
//! let router = Router::new().get("/pictures/{id}", picture);
//! let status = |path| router.call(http::Request::get(path).body(Body::empty()).unwrap()).status();
//! assert_eq!(status("/pictures/ada"), StatusCode::NOT_FOUND);
//! assert_eq!(status("/pictures/7"), StatusCode::INTERNAL_SERVER_ERROR);
//! ```
//!
//! For clients that are programs there is `Problem` (feature `json`), an `application/problem+json` response (RFC 9457); write
//! a `From` to convert your own error type to it. If a handler panics, the client gets a 500 and the worker continues.
//! [`Server::error_pages`] makes all error responses without a body of their own look like the service's.
//!
//! # Wrapping
//!
//! ```
//! use heirloom::prelude::*;
//! use heirloom::wrap::{AccessLog, RequestIds};
//!
//! /// Lets in clients that know the password, before their bodies are received.
//! fn members_only(req: &mut Request) -> Result<(), EarlyResponse> {
//!     let word = req.headers().get("x-word").ok_or(StatusCode::UNAUTHORIZED)?;
//!     if word == "friend" { Ok(()) } else { Err(StatusCode::FORBIDDEN.into()) }
//! }
//!
//! /// Sees each request and each response.
//! fn unstored(req: Request, next: Next) -> Response {
//!     next.call(req).with_header("cache-control", "no-store")
//! }
//!
//! let handler = Router::new()
//!     .get("/", |_: Request| "hello\n")
//!     .guard(members_only)
//!     .wrap(unstored)
//!     .wrap(RequestIds::new())
//!     .wrap(AccessLog::new());
//! let response = handler.call(http::Request::get("/").body(Body::empty()).unwrap());
//! assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
//! assert_eq!(response.headers()["cache-control"], "no-store");
//! ```
//!
//! [`Handler::wrap`] puts a wrapper (middleware) around a handler; the last one is outermost. [`Handler::guard`] puts a guard
//! around it. For each request this happens, in this order:
//!
//! | | who | sees |
//! | --- | --- | --- |
//! | 1 | the router | method and path: the route, or a 404, 405 or 413, which goes on in place of the handler's response |
//! | 2 | all guards on the route, from the outermost to the innermost | the head, with parameters and pattern, and no body. One that answers ends this, without a `100 Continue` |
//! | 3 | the server | the body: it is received, or 413 and 408; on a [`streaming`] route the handler reads it |
//! | 4 | all wrappers on the route, from the outermost to the innermost | the request with its body, what guards have put into its extensions; with an empty body, if there is a response already |
//! | 5 | the handler | the same, unless there is a response already |
//! | 6 | all wrappers, from the innermost to the outermost | the response: the handler's, that of a refusal, the 500 of a panic. A guard's answer is seen by the wrappers around the guard, not by those within |
//!
//! [`Router::nest`] gives a wrapped router all paths below a prefix. [`mod@wrap`] has an access log, request ids, passwords, CORS, CSRF checks, redirects
//! to https, security headers, timing and gzip. Logs are written
//! through the crate `log`: the program chooses a logger.
//!
//! # Files and streams
//!
//! ```
//! use heirloom::prelude::*;
//! use std::io::Read;
//!
//! /// A long response, sent in pieces; each is read when the client has received the last one.
//! fn noise(_: Request) -> std::io::Result<Body> {
//!     Ok(Body::from_sized_reader(std::fs::File::open("/dev/zero")?.take(1 << 20), 1 << 20))
//! }
//!
//! /// Written on a dedicated thread, until the process drains or the client has disconnected.
//! fn ticks(req: Request) -> Body {
//!     let (drain, client) = (req.drain(), req.client_watch());
//!     Body::writer(move |out| {
//!         while !drain.wait(std::time::Duration::from_secs(1)).is_draining() && !client.is_gone() {
//!             out.write_all(b"tick\n")?;
//!         }
//!         Ok(())
//!     })
//! }
//!
//! let router = Router::new().get("/noise", noise).get("/ticks", ticks);
//! let mut response = router.call(http::Request::get("/noise").body(Body::empty()).unwrap());
//! assert_eq!(response.body_mut().read_bytes().unwrap().len(), 1 << 20);
//! ```
//!
//! `ServeDir` and `ServeFile` (feature `files`) serve directories and files, [`sse::response`] sends events to browsers,
//! `WebSocket` (feature `websocket`) speaks RFC 6455, [`Body::upgrade`] other protocols, and a
//! [`broadcast::Broadcast`] sends to many clients. A handler that reads the request
//! body while it arrives is wrapped in [`streaming`].
//!
//! # The lifecycle
//!
//! `kill -HUP` starts a handover: the process starts its binary again, which inherits the listeners, reports that it is
//! prepared, serves, and is on probation for two seconds; then the old process completes its requests and exits. A binary
//! that fails costs nothing. `kill -TERM` completes the requests in flight and exits; a second one aborts them. None of
//! this needs code, except that a resource that may exist only once must be handed from one process to the other:
//!
//! ```no_run
//! use heirloom::prelude::*;
//! use heirloom::handover::HandoverState;
//! use std::time::Duration;
//!
//! # fn warm_up() -> std::io::Result<()> { Ok(()) }
//! # fn close_store() -> std::io::Result<()> { Ok(()) }
//! # fn open_store() -> std::io::Result<()> { Ok(()) }
//! fn main() -> Result<(), heirloom::Error> {
//!     let handle = Handle::new();
//!     let asked = handle.clone();
//!     let router = Router::new().post("/restart", move |_: Request| {
//!         asked.handover();
//!         StatusCode::ACCEPTED
//!     });
//!     Server::new(router)
//!         .listen("127.0.0.1:8001")
//!         .timeouts(Timeouts::new().drain(Duration::from_secs(20)))
//!         .process(
//!             ProcessConfig::new()
//!                 .before_ready(warm_up) // an error, and the old process continues to serve
//!                 // The first in the old process, then the second in the new one.
//!                 .exclusive(close_store, |_: HandoverState| open_store()),
//!         )
//!         .with_handle(handle)
//!         .serve()
//! }
//! ```
//!
//! A long handler checks [`RequestExt::is_draining`] and [`RequestExt::is_client_gone`]. `StreamServer` (feature `stream_server`)
//! has the same lifecycle for other protocols.
//!
//! # Testing
//!
//! A handler is called with a constructed request, as above, without a socket or a server. To test the bytes on the
//! wire, start a server on a free port, in the same process and without signals; each test may have its own:
//!
//! ```
//! use heirloom::prelude::*;
//! use std::io::{Read, Write};
//!
//! let limits = Limits::new().body_bytes(10);
//! let server = Server::new(|mut req: Request| req.text()).limits(limits).listen("127.0.0.1:0").spawn().unwrap();
//! let mut client = std::net::TcpStream::connect(server.addresses()[0]).unwrap();
//! client.write_all(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 11\r\n\r\nhello world").unwrap();
//! let mut answer = String::new();
//! client.read_to_string(&mut answer).unwrap();
//! assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
//! server.stop().unwrap();
//! ```
//!
//! The package `heirloom-testkit` upgrades your whole program under load in a test, and counts what its clients lose.
//!
//! # Deployment
//!
//! ```no_run
//! use heirloom::prelude::*;
//!
//! # fn routes() -> Router { Router::new() }
//! fn main() -> Result<(), heirloom::Error> {
//!     Server::new(routes())
//!         .listen("0.0.0.0:8001")
//!         .listen("unix:/run/app/app.sock")
//!         .admin("127.0.0.1:9001")
//!         .workers(64)
//!         .process(ProcessConfig::new().pid_file("/run/app/app.pid"))
//!         .serve()
//! }
//! ```
//!
//! Replace the file of the program (by a rename, not by writing into it), then `kill -HUP $(cat /run/app/app.pid)`:
//! the log shows each step, and the pid file names the serving process. The admin listener (feature `admin`) has `/healthz`, `/readyz`,
//! `/metrics` and `/status`, on a dedicated worker. [`Limits`] and [`Timeouts`] have defaults for the open Internet.
//! The [`guide`] has the pages for operators, such as [`guide::signals`], [`guide::handover`], [`guide::log`] (every line of the log)
//! and [`guide::configuration`]; [`guide::migration`] is for users of tiny_http, rouille, net/http, endless, grace and
//! tableflip.
//!
//! # Features
//!
//! No feature is enabled by default.
//!
//! | feature | adds | by |
//! | --- | --- | --- |
//! | `admin` | `Server::admin`, `Server::metrics`, `Server::readiness`, `admin::routes`, `Handle::metrics`: health, metrics and the status page | |
//! | `json` | `RequestExt::json`, `Json`, `Problem` | `serde_json`, `serde_path_to_error` |
//! | `form` | `RequestExt::query`, `RequestExt::form` | `serde_html_form`, `form_urlencoded`, `serde_path_to_error` |
//! | `multipart` | `RequestExt::multipart`: forms with files | `multer`, without a runtime |
//! | `cookies` | `RequestExt::cookie`, `ResponseExt::with_cookie` | `cookie` |
//! | `sessions` | `Sessions`, `RequestExt::session`, signed and private cookies; includes `cookies` | `cookie`, `serde_json` |
//! | `files` | `ServeDir`, `ServeFile` | `mime_guess` |
//! | `gzip` | `wrap::Gzip` | `flate2`, in Rust |
//! | `websocket` | `WebSocket` | `tungstenite` |
//! | `proxy` | `Proxies`, `Listen::trust_proxies`: clients behind trusted proxies, the PROXY protocol | `ipnet` |
//! | `stream_server` | `StreamServer`: connections as blocking streams, for other protocols than HTTP | |
//! | `systemd` | notifications, sockets from systemd, `ProcessConfig::store_listeners` | |
//! | `tls` | `Listen::tls`, `Tls`, `RequestExt::tls` | `rustls` with `ring` |
//! | `tiny_http` | `TinyHttp`, for handlers written for it | `tiny_http` |
//!
//! [`guide::versions`] lists the public dependencies, and what may change in which version.
#![cfg_attr(not(any(test, fuzzing)), warn(clippy::unwrap_used, clippy::expect_used, clippy::too_many_lines))]
// External input must not make any of these panic or wrap. See docs/security.md.
#![cfg_attr(
    not(any(test, fuzzing)),
    warn(
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::panic,
        clippy::unreachable,
    )
)]

mod base;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
#[path = "../tests/fuzz_checks/mod.rs"]
pub mod fuzzing;
// Their examples are compiled by doc-examples.
#[cfg(all(doc, not(doctest)))]
#[path = "../docs/guide.rs"]
pub mod guide;
pub mod http;
mod net;
pub mod prelude;
mod process;
mod server;
mod web;

// What the pages show compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
#[cfg(doctest)]
#[doc = include_str!("../docs/lifecycle.md")]
struct PageOnTheLifecycle;
#[cfg(all(doctest, feature = "tiny_http"))]
#[doc = include_str!("../docs/tiny_http.md")]
struct PageOnTinyHttp;

#[cfg(feature = "cookies")]
pub use cookie;

pub use base::close_reason::CloseReason;
pub use base::error::{Error, ErrorKind};
pub use base::limits::{Limits, Timeouts};
pub use base::log_file::LogFile;
pub use base::phase::{Drain, Phase, Waited};
pub use base::status::Stats;
pub use net::conn_info::{ClientWatch, PeerCredentials};
#[cfg(feature = "proxy")]
pub use net::proxies::Proxies;
#[cfg(feature = "tls")]
pub use net::tls;
pub use process::config::ProcessConfig;
pub use server::Server;
pub use server::handle::Handle;
pub use server::launch::RunningServer;
pub use server::listen_config::Listen;
#[cfg(feature = "tiny_http")]
pub use server::tiny_http::TinyHttp;
pub use web::body::Body;
pub use web::client::{Client, Hop};
pub use web::conditional::Validators;
pub use web::extract::InputError;
#[cfg(feature = "json")]
pub use web::extract::json::{Json, Problem};
#[cfg(feature = "multipart")]
pub use web::extract::multipart;
pub use web::extract::path::FromParams;
#[cfg(feature = "files")]
pub use web::files::{ServeDir, ServeFile};
pub use web::handler::{
    EarlyResponse, Guard, Handler, Next, RouteLimits, Wrapped, Wrapper, deadline, limited, max_body,
    streaming, with_arc, with_state,
};
pub use web::per_worker::PerWorker;
pub use web::request::RequestExt;
pub use web::response::{AnyError, Html, IntoResponse, Redirect, ResponseEnd, ResponseExt};
pub use web::router::Router;
#[cfg(feature = "sessions")]
pub use web::session;
#[cfg(feature = "websocket")]
pub use web::websocket;
pub use web::{broadcast, error_pages, resume, sse, upgrade, wrap};

/// The routes of the admin listener, for use in another router.
#[cfg(feature = "admin")]
pub mod admin {
    pub use crate::server::admin::routes;
}

/// For programs that pass files or state from one generation to the next.
pub mod handover {
    pub use crate::process::handover::inherit::{fail, inherited_fd, init};
    pub use crate::process::hooks::HandoverState;
}

/// Signals and their actions, for [`ProcessConfig::signals`] and [`ProcessConfig::on_signal`].
pub mod signals {
    pub use crate::process::signals::{Signal, SignalAction, Signals};
}

/// The lifecycle without HTTP: connections as blocking streams, for other protocols.
#[cfg(feature = "stream_server")]
pub mod stream {
    pub use crate::server::stream_server::{Connection, Incoming, StreamServer, Wake};
}

/// A request: the head as `http` has it, and a [`Body`].
pub type Request = ::http::Request<Body>;
/// A response: the head as `http` has it, and a [`Body`].
pub type Response = ::http::Response<Body>;
