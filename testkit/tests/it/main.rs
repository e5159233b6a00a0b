//! Real processes and real signals; and what needs more crates than the library's examples do. In one binary.

#[cfg(feature = "tls")]
mod secure;
#[cfg(feature = "tls")]
#[path = "../../../tests/support/mod.rs"]
mod support;

mod accept;
mod bad_binary;
mod bad_start;
#[cfg(feature = "websocket")]
mod browser;
mod change;
#[cfg(feature = "websocket")]
mod chat;
mod children;
mod compat;
#[cfg(feature = "files")]
mod descriptors;
mod disk;
mod empty_root;
mod environment;
mod examples;
mod fairness;
mod faults;
mod handover;
mod hooks;
mod leaks;
mod lines;
mod listeners;
mod manual;
mod masks;
mod namespaces;
mod overlaps;
mod pid_file;
mod presets;
mod probation;
mod scarce;
mod sessions;
mod signals;
mod start;
mod stop;
mod stuck;
mod terminal;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod tls_handover;
#[cfg(all(feature = "tls", feature = "websocket"))]
mod tls_streams;
mod travel;
mod unix_paths;
mod wrapper;
