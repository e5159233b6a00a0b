//! The keys of a server's tickets: one encrypts, the one before it still decrypts.
//!
//! - **Only a generation that has the service to itself makes a new key.** From GO on predecessor and successor have the same
//!   keys, and each resumes what the other has issued: on probation, after a rollback, and in the drain. So a ring that was
//!   passed on rotates no more, unless the handover fails; and a ring that was received rotates from COMMIT on. Except that a
//!   process that has no valid key left makes one with its next handshake: one that drains for more than twelve hours, say.
//!   Only that process resumes what it issues then.
//! - **A key's age goes with it.** Otherwise handovers at short intervals would keep a key alive, and with it what its tickets
//!   reveal to someone who obtains it. A key that is too old is dropped, also by a process that must not rotate.
//! - **A ring is filled once.** A process that has keys adopts no others, whichever channel they come by.
//! - **A key that is too old is overwritten** within a quarter of a second while connections are open, and otherwise with the
//!   next handshake, connection or handover.
//! - **The lock is held for as long as it takes to find a key**, and not while tickets are encrypted.
//! - Without a predecessor (a start, a restart after a crash), or with one of a version that has no ring, a new key is made by
//!   the first handshake.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{NAME_BYTES, SECRET_BYTES, Scope, TicketKey};
use crate::base::sync::lock;
use crate::base::words::value_of;

/// How long a key encrypts. It decrypts for as long again.
const PERIOD: Duration = Duration::from_secs(6 * 60 * 60);
const LIFE: Duration = PERIOD.saturating_mul(2);

/// How many keys there are at a time.
const KEYS: usize = 2;

/// The keys of all TLS listeners of a server. A clone is the same ring.
#[derive(Clone, Default)]
pub(crate) struct KeyRing(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    current: Option<DatedKey>,
    previous: Option<DatedKey>,
    /// This generation has the service to itself.
    rotates: bool,
    /// A listener takes its keys from here.
    is_used: bool,
}

struct DatedKey {
    key: TicketKey,
    since: Instant,
}

/// A key on its way to the successor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PassedKey {
    pub(crate) key: TicketKey,
    pub(crate) age: Duration,
}

/// As the connection channel's packet has it: the ages in its line, the names and secrets behind it. So no secret is ever text.
impl PassedKey {
    pub(crate) fn encode_ages(keys: &[PassedKey], text: &mut String) {
        let ages: Vec<String> = keys.iter().map(|passed| passed.age.as_millis().to_string()).collect();
        let _ = writeln!(text, "TICKETS ages_ms={}", ages.join(","));
    }

    pub(crate) fn encode_secrets(keys: &[PassedKey], packet: &mut Vec<u8>) {
        // At once, since a `Vec` that grows leaves copies behind.
        packet.reserve_exact(keys.len().saturating_mul(NAME_BYTES + SECRET_BYTES));
        for PassedKey { key, .. } in keys {
            packet.extend_from_slice(&key.name);
            packet.extend_from_slice(&**key.secret);
        }
    }

    /// None for a packet that no version writes.
    pub(crate) fn decode_all(fields: &[(&str, &str)], secrets: &[u8]) -> Option<Vec<PassedKey>> {
        let ages = value_of(fields, "ages_ms")?;
        let mut rest = secrets;
        let mut keys = Vec::new();
        for age in ages.split(',') {
            let (name, after) = rest.split_first_chunk::<NAME_BYTES>()?;
            let (secret, after) = after.split_first_chunk::<SECRET_BYTES>()?;
            let key = TicketKey::filled(*name, |place| {
                place.copy_from_slice(secret);
                Some(())
            })?;
            keys.push(PassedKey { key, age: Duration::from_millis(age.parse().ok()?) });
            rest = after;
        }
        (rest.is_empty() && keys.len() <= KEYS).then_some(keys)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").finish_non_exhaustive()
    }
}

impl KeyRing {
    /// A listener takes its keys from here, so that they are worth passing on.
    pub(crate) fn is_used(&self) {
        lock(&self.0).is_used = true;
    }

    /// This generation has the service to itself.
    pub(crate) fn rotate(&self) {
        lock(&self.0).rotates = true;
    }

    /// The keys for the successor, the current one first; empty if no listener needs them. They change no more here, unless
    /// `rotate` is called again.
    pub(crate) fn pass_on(&self, now: Instant) -> Vec<PassedKey> {
        let mut state = lock(&self.0);
        if !state.is_used {
            return Vec::new();
        }
        state.turn(now);
        state.rotates = false;
        let keys = state.keys();
        keys.map(|dated| PassedKey { key: dated.key.clone(), age: dated.age(now) }).collect()
    }

    /// Takes over a predecessor's keys, the current one first, if this ring has none.
    pub(crate) fn adopt(&self, keys: Vec<PassedKey>, now: Instant) {
        let mut state = lock(&self.0);
        if state.current.is_some() {
            return;
        }
        // The clock is older than a key of this host, except in a virtual machine that was moved to another.
        let date =
            |passed: PassedKey| Some(DatedKey { key: passed.key, since: now.checked_sub(passed.age)? });
        let mut keys = keys.into_iter().filter(|passed| passed.age < LIFE).filter_map(date);
        (state.current, state.previous) = (keys.next(), keys.next());
    }

    /// Drops the keys that are too old.
    pub(crate) fn expire(&self, now: Instant) {
        lock(&self.0).expire(now);
    }

    pub(super) fn seal(&self, session: &[u8], scope: &Scope, now: Instant) -> Option<Vec<u8>> {
        self.find(now, |_| true)?.seal(session, scope)
    }

    pub(super) fn open(&self, ticket: &[u8], scope: &Scope, now: Instant) -> Option<Vec<u8>> {
        self.find(now, |key| key.has_issued(ticket))?.open(ticket, scope)
    }

    /// The first of these keys, the current one first.
    fn find(&self, now: Instant, is_wanted: impl Fn(&TicketKey) -> bool) -> Option<TicketKey> {
        let mut state = lock(&self.0);
        state.turn(now);
        state.keys().map(|dated| &dated.key).find(|key| is_wanted(key)).cloned()
    }
}

impl State {
    fn keys(&self) -> impl Iterator<Item = &DatedKey> {
        self.current.iter().chain(&self.previous)
    }

    fn expire(&mut self, now: Instant) {
        for key in [&mut self.current, &mut self.previous] {
            key.take_if(|key| key.age(now) >= LIFE);
        }
    }

    /// Makes the keys those of this moment.
    fn turn(&mut self, now: Instant) {
        self.expire(now);
        let is_due = self.current.as_ref().is_none_or(|key| self.rotates && key.age(now) >= PERIOD);
        if is_due {
            // Without random bytes the old key stays.
            if let Some(key) = TicketKey::generate() {
                self.previous = self.current.replace(DatedKey { key, since: now });
            }
        }
    }
}

impl DatedKey {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock, and the rings of two generations.
    struct Rings {
        now: Instant,
        old: KeyRing,
        new: KeyRing,
    }

    impl Rings {
        fn new() -> Rings {
            let rings =
                Rings { now: Instant::now() + LIFE, old: KeyRing::default(), new: KeyRing::default() };
            rings.old.is_used();
            rings.new.is_used();
            rings.old.rotate();
            rings
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
        }

        fn hand_over(&self) {
            self.new.adopt(self.old.pass_on(self.now), self.now);
        }

        fn issue(&self, ring: &KeyRing) -> Vec<u8> {
            ring.seal(b"session", &Scope::default(), self.now).unwrap()
        }

        fn takes(&self, ring: &KeyRing, ticket: &[u8]) -> bool {
            ring.open(ticket, &Scope::default(), self.now).is_some_and(|session| session == b"session")
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_key_encrypts_for_six_hours_and_decrypts_for_twelve() {
        let mut rings = Rings::new();
        let first = rings.issue(&rings.old);
        let key = |ticket: &[u8]| ticket[..16].to_vec();
        rings.pass(PERIOD - MINUTE);
        assert_eq!(key(&rings.issue(&rings.old)), key(&first));
        rings.pass(MINUTE);
        let second = rings.issue(&rings.old);
        assert_ne!(key(&second), key(&first));
        rings.pass(PERIOD - MINUTE);
        assert!(rings.takes(&rings.old, &first) && rings.takes(&rings.old, &second));
        rings.pass(MINUTE);
        assert!(!rings.takes(&rings.old, &first) && rings.takes(&rings.old, &second));
    }

    #[test]
    fn after_a_quiet_day_no_old_key_is_left() {
        let mut rings = Rings::new();
        let first = rings.issue(&rings.old);
        rings.pass(LIFE);
        assert!(!rings.takes(&rings.old, &first));
        assert_eq!(rings.old.pass_on(rings.now).len(), 1);
    }

    /// Without a handshake, as the acceptor asks for it.
    #[test]
    fn a_key_that_is_too_old_is_dropped_in_time() {
        let mut rings = Rings::new();
        let first = rings.issue(&rings.old);
        let secret = {
            let state = lock(&rings.old.0);
            Arc::downgrade(&state.current.as_ref().unwrap().key.secret)
        };
        rings.pass(LIFE - MINUTE);
        rings.old.expire(rings.now);
        assert!(secret.upgrade().is_some() && rings.takes(&rings.old, &first));
        rings.pass(MINUTE);
        rings.old.expire(rings.now);
        assert!(secret.upgrade().is_none(), "a copy is left");
    }

    /// It may not rotate, but serves: it issues tickets that it resumes itself.
    #[test]
    fn a_process_whose_keys_are_all_too_old_makes_one() {
        let mut rings = Rings::new();
        rings.issue(&rings.old);
        rings.hand_over();
        rings.new.rotate();
        rings.pass(LIFE);
        let late = rings.issue(&rings.old);
        assert!(rings.takes(&rings.old, &late) && !rings.takes(&rings.new, &late));
    }

    #[test]
    fn both_generations_resume_what_the_other_has_issued() {
        let mut rings = Rings::new();
        let before = rings.issue(&rings.old);
        rings.pass(PERIOD);
        let current = rings.issue(&rings.old);
        rings.hand_over();
        // Neither makes a key meanwhile.
        rings.pass(PERIOD - MINUTE);
        let on_probation = rings.issue(&rings.new);
        for ring in [&rings.old, &rings.new] {
            for ticket in [&before, &current, &on_probation] {
                assert!(rings.takes(ring, ticket));
            }
        }
        rings.pass(MINUTE);
        let (old, new) = (rings.issue(&rings.old), rings.issue(&rings.new));
        assert_eq!((&old[..16], &new[..16]), (&current[..16], &current[..16]));
    }

    #[test]
    fn who_has_the_service_to_itself_rotates() {
        for has_failed in [false, true] {
            let mut rings = Rings::new();
            let first = rings.issue(&rings.old);
            rings.hand_over();
            let (serving, other) =
                if has_failed { (&rings.old, &rings.new) } else { (&rings.new, &rings.old) };
            serving.rotate();
            rings.now += PERIOD;
            assert_ne!(rings.issue(serving)[..16], first[..16]);
            assert_eq!(rings.issue(other)[..16], first[..16]);
            assert!(rings.takes(serving, &first), "its key is the previous one");
        }
    }

    #[test]
    fn a_key_grows_old_over_handovers() {
        let mut rings = Rings::new();
        let first = rings.issue(&rings.old);
        for _ in 0..11 {
            rings.hand_over();
            rings.new.rotate();
            rings.old = std::mem::take(&mut rings.new);
            rings.new.is_used();
            rings.pass(60 * MINUTE);
            assert!(rings.takes(&rings.old, &first));
        }
        rings.pass(60 * MINUTE);
        assert!(!rings.takes(&rings.old, &first));
    }

    #[test]
    fn a_ring_is_filled_once() {
        let rings = Rings::new();
        let own = rings.issue(&rings.new);
        rings.hand_over();
        assert!(rings.takes(&rings.new, &own));
        assert!(!rings.takes(&rings.new, &rings.issue(&rings.old)));
    }

    #[test]
    fn keys_that_are_too_old_are_not_adopted() {
        let mut rings = Rings::new();
        rings.issue(&rings.old);
        let mut keys = rings.old.pass_on(rings.now);
        keys[0].age = LIFE;
        rings.new.adopt(keys, rings.now);
        rings.pass(MINUTE);
        assert_ne!(rings.issue(&rings.new)[..16], rings.issue(&rings.old)[..16]);
    }

    #[test]
    fn a_ring_that_no_listener_uses_is_not_passed_on() {
        let ring = KeyRing::default();
        assert_eq!(ring.pass_on(Instant::now()), []);
        ring.is_used();
        assert_eq!(ring.pass_on(Instant::now()).len(), 1, "before the first handshake, too");
    }
}
