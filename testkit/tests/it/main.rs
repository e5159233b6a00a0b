//! Real processes and real signals; and what needs more crates than the library's examples do. In one binary.

/// The program with the servers that are no examples, each as a subcommand.
const TESTKIT: &str = env!("CARGO_BIN_EXE_testkit");

#[cfg(feature = "tls")]
mod secure;
#[cfg(feature = "tls")]
#[path = "../../../tests/support/mod.rs"]
mod support;

mod a_long_life;
mod accept_errors;
mod bad_binary;
mod bad_start;
mod balancers;
mod blocked_threads;
#[cfg(feature = "websocket")]
mod browser;
mod changed_listeners;
#[cfg(feature = "websocket")]
mod chat_example;
mod children;
#[cfg(all(feature = "tls", feature = "websocket"))]
mod close_spread;
mod compat;
mod compiler_messages;
mod connection_transfer;
mod control_socket;
#[cfg(feature = "files")]
mod descriptors;
mod docker;
mod empty_root;
mod environment;
mod examples;
mod fairness;
mod faults;
mod full_disk;
mod handover;
mod heirloomctl;
mod hooks;
mod kubelet;
mod line_server;
mod listeners;
mod log_fields;
mod masks;
mod namespaces;
#[cfg(feature = "tls")]
mod outside;
mod overlaps;
mod parents;
mod pid_file;
mod probation;
mod prometheus;
#[cfg(feature = "proxy")]
mod proxies;
#[cfg(all(feature = "proxy", feature = "tls"))]
mod real_proxies;
mod scarce;
mod sessions;
mod signal_actions;
mod signals;
mod slow_ok;
mod start;
mod startup_output;
mod status;
mod stop;
#[cfg(all(feature = "tls", feature = "websocket"))]
mod stream_clients;
#[cfg(feature = "websocket")]
mod streams;
#[cfg(all(feature = "tls", feature = "websocket"))]
mod streams_faults;
mod supervise;
#[cfg(feature = "systemd")]
mod systemd;
mod terminal;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod tls_clients;
#[cfg(feature = "tls")]
mod tls_handover;
#[cfg(feature = "tls")]
mod tls_moves;
#[cfg(feature = "tls")]
mod tls_moves_faults;
#[cfg(feature = "tls")]
mod tls_secrets;
#[cfg(all(feature = "tls", feature = "websocket"))]
mod tls_streams;
#[cfg(feature = "tls")]
mod tls_tickets;
mod unix_paths;
mod user_tests;
mod websocket_client;
mod wrapper;

// The same tests of TLS, over the record layer on which a connection continues that has moved.
#[cfg(feature = "tls")]
#[allow(clippy::duplicate_mod, reason = "each test runs over both")]
#[path = "tls_handover.rs"]
mod tls_handover_on_own_records;
#[cfg(feature = "tls")]
#[allow(clippy::duplicate_mod, reason = "each test runs over both")]
#[path = "tls.rs"]
mod tls_on_own_records;
#[cfg(all(feature = "tls", feature = "websocket"))]
#[allow(clippy::duplicate_mod, reason = "each test runs over both")]
#[path = "tls_streams.rs"]
mod tls_streams_on_own_records;
