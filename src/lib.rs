#![doc = include_str!("../README.md")]
#![cfg_attr(not(any(test, fuzzing)), warn(clippy::unwrap_used, clippy::expect_used))]

mod acceptor;
mod admin;
mod assembly;
mod bare;
mod body;
mod budget;
mod close_reason;
mod conditional;
mod connection;
mod control;
mod error;
mod exchange;
#[cfg(feature = "files")]
mod files;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod handler;
mod handover;
mod hooks;
mod http1;
#[cfg(any(feature = "json", feature = "form"))]
mod input;
#[cfg(feature = "json")]
mod json;
mod launch;
mod lifecycle;
mod limits;
mod listener;
mod origin;
mod pace;
mod phase;
mod pool;
pub mod prelude;
mod queue;
mod request;
mod response;
mod router;
mod server;
mod signals;
mod slots;
mod sse;
mod status;
mod sync;
mod sys;
#[cfg(feature = "tiny_http")]
mod tiny;
#[cfg(feature = "tls")]
mod tls;
mod upgraded;
mod wait_group;
#[cfg(feature = "websocket")]
mod websocket;
pub mod wrap;

// What the pages show compiles.
#[cfg(doctest)]
#[doc = include_str!("../docs/lifecycle.md")]
struct PageOnTheLifecycle;
#[cfg(all(doctest, feature = "tiny_http"))]
#[doc = include_str!("../docs/tiny_http.md")]
struct PageOnTinyHttp;

#[cfg(feature = "cookies")]
pub use cookie;
pub use http;

pub use admin::admin_routes;
pub use bare::{Connection, Incoming, Lifecycle, Wake};
pub use body::Body;
pub use close_reason::CloseReason;
pub use conditional::Validators;
pub use error::Error;
#[cfg(feature = "files")]
pub use files::{ServeDir, ServeFile};
pub use handle::Handle;
pub use handler::{
    Handler, Next, Resolved, RouteLimits, Wrapped, Wrapper, limited, max_body, streaming, with_state,
};
pub use hooks::UserState;
#[cfg(any(feature = "json", feature = "form"))]
pub use input::InputError;
#[cfg(feature = "json")]
pub use json::{Json, Problem};
pub use launch::{Running, inherited_fd, init};
pub use limits::{Limits, Timeouts};
pub use phase::{Drain, Phase};
pub use request::RequestExt;
pub use response::{Ended, Html, IntoResponse, Redirect, ResponseExt};
pub use router::Router;
pub use server::Server;
pub use signals::{Meaning, Signal, Signals};
pub use sse::{Event, EventWriter, sse};
pub use status::Stats;
#[cfg(feature = "tiny_http")]
pub use tiny::TinyHttp;
#[cfg(feature = "tls")]
pub use tls::{Tls, TlsInfo};
pub use upgraded::{Upgraded, UpgradedReader, UpgradedWriter, Waited};
#[cfg(feature = "websocket")]
pub use websocket::{Message, WebSocket, WebSocketOptions, WebSocketSender, WebSocketUpgrade};

/// A request: the head as `http` has it, and a [`Body`].
pub type Request = http::Request<Body>;
/// A response: the head as `http` has it, and a [`Body`].
pub type Response = http::Response<Body>;
