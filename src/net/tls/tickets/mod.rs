//! Session tickets: a client that comes back with one needs no full handshake, in any generation.
//!
//! - **The keys are the service's, not the process's.** The tickets of `rustls` itself have keys that can't be taken out of
//!   it, so they would be lost at each handover, and at each `Tls::reload`. Here all listeners of a server have one
//!   [`KeyRing`], which its successor receives before it accepts.
//! - **A ticket is valid only where a full handshake would have had the same result.** `rustls` checks suite, SNI and
//!   extended master secret, and leaves the rest to its user. So the scope of a listener, the names of its certificates, is
//!   authenticated with each ticket: a client that was redirected to another virtual host has to see that host's certificate
//!   (the class of CVE-2025-23419). And where client certificates are requested there are neither tickets nor a cache, so that each
//!   connection proves its certificate, against the authorities of today (the class of CVE-2025-68121).
//! - **The AEAD is AES-256-GCM with random nonces.** A key that encrypts for six hours stays below 2^32 tickets, its bound, up
//!   to 100,000 handshakes a second with two tickets each.
//! - **A ticket has a bounded length, which is a constant.** `rustls` passes whatever a client offers. Its own ticketer learns
//!   the bound from the tickets that it makes, which a process that has made none yet could not.

mod key_files;
mod key_ring;
mod scope;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

pub(super) use key_files::TicketKeyFiles;
pub(crate) use key_ring::{KeyRing, PassedKey};
pub(super) use scope::Scope;

/// How long clients keep a ticket, in seconds: as long as its key decrypts at most.
const LIFETIME: u32 = 12 * 60 * 60;

/// The name by which a ticket finds its key.
const NAME_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;

/// Slightly more than the longest: a session without a client's certificates, with the longest SNI, has 330 bytes.
const MOST_BYTES: usize = 512;

/// A key of tickets. It is in one place, however often it is moved and cloned, and wiped there with the last of its clones.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct TicketKey {
    name: [u8; NAME_BYTES],
    secret: Arc<Zeroizing<[u8; SECRET_BYTES]>>,
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").finish_non_exhaustive()
    }
}

impl TicketKey {
    /// None where the system has no random bytes.
    fn generate() -> Option<TicketKey> {
        let (mut name, random) = ([0; NAME_BYTES], SystemRandom::new());
        random.fill(&mut name).ok()?;
        TicketKey::filled(name, |secret| random.fill(secret).ok())
    }

    /// A key whose secret is written by `fill`.
    fn filled(
        name: [u8; NAME_BYTES],
        fill: impl FnOnce(&mut [u8; SECRET_BYTES]) -> Option<()>,
    ) -> Option<TicketKey> {
        let mut secret = Arc::<Zeroizing<[u8; SECRET_BYTES]>>::default();
        fill(Arc::get_mut(&mut secret)?)?;
        Some(TicketKey { name, secret })
    }

    /// The key for one call: `ring` does not wipe what it derives, and this leaves it on the stack, where it is overwritten
    /// soon, and not in memory that is freed when the key is too old.
    fn cipher(&self) -> Option<LessSafeKey> {
        UnboundKey::new(&AES_256_GCM, &**self.secret).ok().map(LessSafeKey::new)
    }

    fn authenticated(&self, scope: &Scope) -> Aad<Vec<u8>> {
        Aad::from([&self.name[..], scope.as_bytes()].concat())
    }

    /// A ticket: the key's name, the nonce, the encrypted session, the tag.
    fn seal(&self, session: &[u8], scope: &Scope) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let head = [&self.name[..], &nonce[..]].concat();
        let length = head.len().checked_add(session.len())?.checked_add(AES_256_GCM.tag_len())?;
        if length > MOST_BYTES {
            return None;
        }
        let mut ticket = Vec::with_capacity(length);
        ticket.extend_from_slice(&head);
        ticket.extend_from_slice(session);
        let (nonce, authenticated) = (Nonce::assume_unique_for_key(nonce), self.authenticated(scope));
        let session = ticket.get_mut(head.len()..)?;
        let tag = self.cipher()?.seal_in_place_separate_tag(nonce, authenticated, session).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn has_issued(&self, ticket: &[u8]) -> bool {
        ticket.starts_with(&self.name)
    }

    /// The session of a ticket of this key and this scope.
    fn open(&self, ticket: &[u8], scope: &Scope) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        if ticket.len() > MOST_BYTES || *name != self.name {
            return None;
        }
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let session = self.cipher()?.open_in_place(nonce, self.authenticated(scope), &mut sealed).ok()?.len();
        sealed.truncate(session);
        Some(sealed)
    }
}

/// Where the keys of a listener are: in the ring of its server, which a `Tls` is given when that starts.
pub(super) type RingPlace = Arc<OnceLock<KeyRing>>;

/// The tickets of a listener.
pub(super) struct Tickets {
    pub(super) keys: TicketKeys,
    pub(super) scope: Scope,
}

pub(super) enum TicketKeys {
    Generated(RingPlace),
    /// Of the operator's files.
    Files(TicketKeyFiles),
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        match &self.keys {
            TicketKeys::Generated(place) => {
                place.get_or_init(KeyRing::default).seal(plain, &self.scope, Instant::now())
            }
            TicketKeys::Files(files) => files.seal(plain, &self.scope),
        }
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        match &self.keys {
            TicketKeys::Generated(place) => {
                place.get_or_init(KeyRing::default).open(cipher, &self.scope, Instant::now())
            }
            TicketKeys::Files(files) => files.open(cipher, &self.scope),
        }
    }
}

/// No tickets, for listeners that request client certificates.
#[derive(Debug)]
pub(super) struct NoTickets;

impl ProducesTickets for NoTickets {
    fn enabled(&self) -> bool {
        false
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

#[cfg(test)]
mod tests;
