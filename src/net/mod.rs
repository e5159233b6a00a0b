//! Sockets: the acceptor, parked connections, the workers and their queue, TLS. Nothing here knows HTTP.

#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
pub(crate) mod acceptor;
pub(crate) mod conn_info;
pub(crate) mod connection;
pub(crate) mod listener;
#[cfg(feature = "proxy")]
pub(crate) mod proxies;
#[cfg(feature = "proxy")]
pub(crate) mod proxy_header;
pub(crate) mod scheduler;
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
pub(crate) mod slots;
pub(crate) mod sockets;
pub(crate) mod stream;
#[cfg(feature = "tls")]
pub mod tls;
#[allow(clippy::arithmetic_side_effects)]
pub(crate) mod transfer;
