//! The parts that a program uses: requests, responses, handlers, routes, and features on top of them that many programs need.

pub(crate) mod body;
pub mod broadcast;
pub(crate) mod client;
pub(crate) mod coding;
pub(crate) mod conditional;
pub mod error_pages;
pub(crate) mod extract;
pub(crate) mod fields;
#[cfg(feature = "files")]
pub(crate) mod files;
#[cfg(feature = "proxy")]
mod forwarded;
pub(crate) mod handler;
#[cfg(not(all(
    feature = "admin",
    feature = "json",
    feature = "form",
    feature = "multipart",
    feature = "cookies",
    feature = "proxy",
    feature = "sessions",
    feature = "tls"
)))]
pub(crate) mod missing;
pub(crate) mod per_worker;
pub(crate) mod request;
pub(crate) mod response;
pub mod resume;
pub(crate) mod router;
#[cfg(feature = "sessions")]
pub mod session;
pub(crate) mod spare;
pub mod sse;
pub mod upgrade;
#[cfg(feature = "websocket")]
pub mod websocket;
pub mod wrap;
