//! Wire tests and tests of features, in one binary: linking one for each file costs minutes. What changes its whole process
//! (a global logger, a signal handler) has a binary of its own beside this folder.

#[path = "../support/mod.rs"]
mod support;

mod bare;
mod bounds;
mod clients;
mod faults;
#[cfg(feature = "files")]
mod files;
#[cfg(all(feature = "files", feature = "gzip"))]
mod gzip;
mod listeners;
mod peers;
mod per_worker;
mod pressure;
#[cfg(all(feature = "json", feature = "form", feature = "cookies", feature = "gzip"))]
mod requests;
mod rfc9110;
mod rfc9112;
mod sending;
mod spawn;
mod streams;
mod tiny;
mod upgraded;
#[cfg(feature = "websocket")]
mod websocket;
mod wire;
mod wrapping;
