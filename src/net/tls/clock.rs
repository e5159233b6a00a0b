//! The wall clock for `rustls`, whose own clock panics before 1970.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::ring;
use rustls::pki_types::UnixTime;
use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;

fn since_1970() -> Option<Duration> {
    SystemTime::now().duration_since(UNIX_EPOCH).ok()
}

/// The clock by which certificates of clients are checked. Before 1970 none of them is valid yet.
#[derive(Debug)]
pub(super) struct WallClock;

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(since_1970().unwrap_or_default()))
    }
}

/// Issues session tickets, except while the clock is before 1970: then each handshake is a full one.
#[derive(Debug)]
pub(super) struct Tickets(Option<Arc<dyn ProducesTickets>>);

impl Tickets {
    pub(super) fn new() -> Result<Tickets, rustls::Error> {
        Ok(Tickets(since_1970().map(|_| ring::Ticketer::new()).transpose()?))
    }

    fn usable(&self) -> Option<&dyn ProducesTickets> {
        since_1970().and(self.0.as_deref())
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.0.is_some()
    }

    fn lifetime(&self) -> u32 {
        self.0.as_ref().map_or(0, |tickets| tickets.lifetime())
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.usable()?.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.usable()?.decrypt(cipher)
    }
}
