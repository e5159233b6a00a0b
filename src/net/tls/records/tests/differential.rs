//! The same conversations over `rustls` and over our records, which are carried now and then.

use arbtest::arbitrary::{Result, Unstructured};

use super::*;
use crate::base::property::{CASES, check, list};

#[derive(Clone, Debug)]
enum Step {
    /// The client sends so many bytes, as one record or more.
    Say(usize),
    /// The client changes its keys, and asks for new ones.
    UpdateKeys,
    /// So many bytes arrive.
    Arrive(usize),
    Read(usize),
    Write(usize),
    Carry,
    ClientEnds,
    ServerEnds,
    /// A byte that has not arrived is changed.
    Damage(usize),
}

fn step(u: &mut Unstructured<'_>) -> Result<Step> {
    Ok(match u.int_in_range(0..=40)? {
        0..=7 => Step::Say(u.int_in_range(0..=300)?),
        8 => Step::Say(u.int_in_range(0..=40_000)?),
        9..=12 => Step::UpdateKeys,
        13..=20 => Step::Arrive(u.int_in_range(0..=60)?),
        21 | 22 => Step::Arrive(usize::MAX),
        23..=28 => Step::Read(u.int_in_range(1..=400)?),
        29 => Step::Read(64 << 10),
        30..=34 => Step::Write(u.int_in_range(1..=300)?),
        35 => Step::Write(u.int_in_range(1..=40_000)?),
        36..=38 => Step::Carry,
        39 if u.ratio(1, 4)? => Step::ClientEnds,
        40 if u.ratio(1, 4)? => Step::ServerEnds,
        39 | 40 if u.ratio(1, 4)? => Step::Damage(u.int_in_range(0..=100)?),
        _ => Step::Read(1),
    })
}

/// What can be seen of a conversation.
#[derive(Default, PartialEq, Eq)]
struct Seen {
    read: Vec<u8>,
    error: Option<String>,
    alert: Option<String>,
    heard: Vec<u8>,
    wrote: usize,
    ended: bool,
}

/// The bytes of a text without end.
fn text(from: usize, n: usize) -> Vec<u8> {
    (from..from + n).map(|n| (n % 251) as u8).collect()
}

/// Over `rustls`, or over our records, which then change their key after half of so many.
fn converse(suite: SupportedCipherSuite, records_max: Option<u64>, steps: &[Step]) -> Seen {
    let carried = records_max.is_some();
    let mut pair = Pair::new(suite, carried);
    let lower = |pair: &mut Pair| {
        if let Some(records_max) = records_max.filter(|_| is_tls13(suite)) {
            pair.server.set_records_max(records_max);
        }
    };
    lower(&mut pair);
    let (mut seen, mut on_the_way, mut said) = (Seen::default(), VecDeque::new(), 0);
    // A debug build of `rustls` panics at a damaged record after its close_notify.
    let (mut damaged, mut said_end) = (false, false);
    let blocked = io::Error::from(ErrorKind::WouldBlock).to_string();
    // After the steps everything arrives, and is read.
    let last = [Step::Arrive(usize::MAX), Step::Read(64 << 10), Step::Read(64 << 10), Step::Read(64 << 10)];
    for step in steps.iter().chain(&last) {
        match *step {
            // A client that has got an alert sends nothing more.
            Step::Say(_) | Step::UpdateKeys | Step::ClientEnds if seen.alert.is_some() => {}
            Step::Say(n) => {
                on_the_way.extend(pair.say(&text(said, n)));
                said += n;
            }
            Step::UpdateKeys if is_tls13(suite) => {
                let _ = pair.client.refresh_traffic_keys();
                on_the_way.extend(pair.sent());
            }
            Step::UpdateKeys => {}
            Step::Arrive(n) => {
                let n = n.min(on_the_way.len());
                pair.wire.to_server.extend(on_the_way.drain(..n));
            }
            Step::Read(room) => match pair.read(room) {
                Ok(bytes) if bytes.is_empty() => seen.ended = true,
                Ok(bytes) => seen.read.extend(bytes),
                Err(e) if e == blocked => {}
                Err(e) => seen.error = seen.error.or(Some(e)),
            },
            Step::Write(n) => {
                // What has arrived is processed first, as before a response.
                match pair.read(64 << 10) {
                    Ok(bytes) => seen.read.extend(bytes),
                    Err(e) if e == blocked => {}
                    Err(e) => seen.error = seen.error.or(Some(e)),
                }
                seen.wrote += pair.server.write(&mut pair.wire, &[&text(seen.wrote, n)]).unwrap_or(0);
            }
            Step::Carry if carried => match pair.carry() {
                Ok(()) => lower(&mut pair),
                Err(Stays::Ended) => {}
                Err(other) => panic!("{other:?}"),
            },
            Step::Carry => {}
            Step::ClientEnds => {
                pair.client.send_close_notify();
                on_the_way.extend(pair.sent());
            }
            Step::ServerEnds if damaged => {}
            Step::ServerEnds => {
                said_end = true;
                let _ = pair.server.say_end(&mut pair.wire);
            }
            Step::Damage(at) => {
                // Not in a header, whose version `rustls` accepts changed: the last byte of all is one of a tag.
                if let Some(byte) = on_the_way.back_mut().filter(|_| !damaged && !said_end) {
                    *byte ^= 1 << (at % 8);
                    damaged = true;
                }
            }
        }
        if seen.alert.is_none() {
            seen.alert = pair.try_hear(&mut seen.heard).err().map(|e| e.to_string());
        }
    }
    seen
}

/// The bytes of all records, and where they are cut, must not matter, nor must the place where a session is carried.
#[test]
fn conversations_are_the_same_as_over_rustls() {
    let suites: Vec<_> = suites().collect();
    check(CASES, 4 << 10, |u| {
        let suite = *u.choose(&suites)?;
        let steps = list(u, 0..=60, step)?;
        let records_max = u.int_in_range(34..=200)?;
        let (ours, theirs) = (converse(suite, Some(records_max), &steps), converse(suite, None, &steps));
        assert!(
            ours == theirs,
            "{suite:?} {records_max} {steps:?}\nread {} of {}, heard {} of {}, wrote {} of {}, {:?} {:?}, ended {} {}",
            ours.read.len(),
            theirs.read.len(),
            ours.heard.len(),
            theirs.heard.len(),
            ours.wrote,
            theirs.wrote,
            ours.error,
            theirs.error,
            ours.ended,
            theirs.ended
        );
        Ok(())
    });
}

/// Each byte alone, with a move after each.
#[test]
fn a_session_is_carried_at_every_byte() {
    for suite in suites() {
        let mut pair = Pair::new(suite, true);
        let mut sent = pair.say(b"first");
        if is_tls13(suite) {
            pair.client.refresh_traffic_keys().unwrap();
        }
        sent.extend(pair.say(b"second"));
        let mut read = Vec::new();
        for byte in sent {
            pair.wire.to_server.push_back(byte);
            read.extend(pair.read(3).unwrap_or_default());
            pair.carry().unwrap();
        }
        while let Ok(more) = pair.read(3) {
            read.extend(more);
            pair.carry().unwrap();
        }
        assert_eq!(read, b"firstsecond");
        let info = pair.server.info().unwrap();
        assert_eq!(
            (info.version(), info.server_name()),
            (if is_tls13(suite) { "TLSv1.3" } else { "TLSv1.2" }, Some("localhost"))
        );
        pair.converse();
    }
}

/// What a session says of itself is the same over both.
#[test]
fn its_parameters_are_those_of_the_handshake() {
    for suite in suites() {
        let [ours, theirs] = [true, false].map(|carried| Pair::new(suite, carried).server.info().unwrap());
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }
}

/// A session on `rustls` that owes a KeyUpdate sends it before it leaves, and stays while the socket does not take it.
#[test]
fn an_owed_key_update_is_sent_before_a_session_leaves() {
    for suite in suites().filter(|suite| is_tls13(*suite)) {
        let mut pair = Pair::movable(suite);
        pair.client.refresh_traffic_keys().unwrap();
        let sent = pair.say(b"request");
        pair.wire.to_server.extend(sent);
        assert_eq!(pair.read(100).unwrap(), b"request");
        pair.wire.full = true;
        assert_eq!(pair.carry(), Err(Stays::Unsent));
        assert_eq!(pair.carry(), Err(Stays::Unsent));
        assert!(!pair.server.is_on_records());
        pair.wire.full = false;
        pair.carry().unwrap();
        assert_eq!(pair.hear(), b"");
        pair.converse();
        pair.client.refresh_traffic_keys().unwrap();
        pair.converse();
        pair.carry().unwrap();
        pair.converse();
    }
}

/// Who has given a session away can neither read nor write.
#[test]
fn a_session_has_one_owner() {
    for suite in suites() {
        let mut pair = Pair::movable(suite);
        pair.converse();
        let carried = pair.server.release(&mut pair.wire).unwrap();
        let sent = pair.say(b"request");
        pair.wire.to_server.extend(sent);
        assert!(pair.read(10).is_err() && pair.server.write(&mut pair.wire, &[b"response"]).is_err());
        assert!(pair.server.say_end(&mut pair.wire).unwrap() && pair.wire.to_client.is_empty());
        assert!(pair.server.release(&mut pair.wire).is_err());
        assert!(!pair.wire.to_server.is_empty(), "the socket was not read");
        // It is taken back.
        pair.server = TlsSession::resume(Tls::from_files("not", "read"), None, carried).unwrap();
        assert_eq!(pair.read(100).unwrap(), b"request");
        pair.converse();
    }
}
