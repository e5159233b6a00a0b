//! Where a request comes from: what its connection and its process tell a handler.

use std::net::SocketAddr;

use crate::phase::PhaseWatch;
#[cfg(feature = "tls")]
use crate::tls::TlsInfo;

/// Made once per connection, with TLS once more after the handshake, and shared by its requests.
#[derive(Debug)]
pub(crate) struct Origin {
    /// None for a unix socket.
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) phase: PhaseWatch,
    pub(crate) generation: u32,
    /// None without TLS.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsInfo>,
}

impl Origin {
    pub(crate) fn new(peer: Option<SocketAddr>, phase: PhaseWatch, generation: u32) -> Origin {
        Origin {
            peer,
            phase,
            generation,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}
