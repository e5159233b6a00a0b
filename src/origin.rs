//! Where a request comes from: what its connection and its process tell a handler.

use std::net::SocketAddr;

use crate::phase::PhaseWatch;

/// Made once per connection and shared by its requests.
#[derive(Debug)]
pub(crate) struct Origin {
    /// None for a unix socket.
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) phase: PhaseWatch,
    pub(crate) generation: u32,
}
