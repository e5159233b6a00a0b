//! Wire tests and tests of features, in one binary: linking one for each file costs minutes. What changes its whole process
//! (a global logger, a signal handler) has a separate binary beside this directory.

#[allow(dead_code, reason = "the unit tests use the rest")]
#[path = "../../src/base/property.rs"]
mod property;
#[path = "../support/mod.rs"]
mod support;

mod broadcast;
mod client_info;
mod close_spread;
#[cfg(feature = "sessions")]
mod cookie_sessions;
mod deadlines;
mod error_pages;
mod event_streams;
mod faults;
mod file_bodies;
#[cfg(feature = "files")]
mod files;
mod guards;
#[cfg(all(feature = "files", feature = "gzip"))]
mod gzip;
mod limits;
mod listeners;
mod middleware;
#[cfg(feature = "multipart")]
mod multipart;
mod per_worker;
mod protection;
#[cfg(feature = "proxy")]
mod proxies;
mod rate_limit;
mod real_clients;
mod rfc9110;
mod rfc9112;
mod spawn;
mod stream_server;
mod tiny_http;
mod total_limits;
#[cfg(all(feature = "json", feature = "form", feature = "cookies", feature = "gzip"))]
mod typed_input;
mod upgrade;
#[cfg(feature = "websocket")]
mod websocket;
mod wire;
