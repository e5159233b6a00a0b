//! The properties that `fuzz/` tests, for a short time.

use proptest::prelude::*;

use super::{body, exchange, head};

const REQUESTS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /pieces?a=b HTTP/1.1\r\nHost: h\r\nCookie: c\r\n\r\n",
    "HEAD /big HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /big HTTP/1.1\nHost: h\n\n",
    "GET /pieces HTTP/1.0\r\n\r\n",
    "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "GET /close HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /status/304 HTTP/1.1\r\nHost: h\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    "POST /small HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    "POST /left HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    "POST /left HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n0\r\nX: y\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n50\r\n01234567890123456789012345678901234567890123456789012345678901234567890123456789\r\n0\r\n\r\n",
    "PUT /small HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
    "POST /nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
];

/// A change to bytes, at a place.
#[derive(Clone, Debug)]
enum Change {
    Flip(u8),
    Insert(&'static [u8]),
    Delete(usize),
    Double(usize),
}

fn change() -> impl Strategy<Value = Change> {
    const INSERTED: &[&[u8]] =
        &[b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"\r\n\r\n", b"\xff"];
    prop_oneof![
        (0..8u32).prop_map(|bit| Change::Flip(1 << bit)),
        prop::sample::select(INSERTED).prop_map(Change::Insert),
        (1..20usize).prop_map(Change::Delete),
        (1..40usize).prop_map(Change::Double),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: Vec<(prop::sample::Index, Change)>) -> Vec<u8> {
    for (place, change) in changes {
        let at = place.index(bytes.len() + 1);
        match change {
            Change::Flip(bits) => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bits),
            Change::Insert(inserted) => drop(bytes.splice(at..at, inserted.iter().copied())),
            Change::Delete(n) => drop(bytes.drain(at..bytes.len().min(at + n))),
            Change::Double(n) => {
                let piece = bytes[at..bytes.len().min(at + n)].to_vec();
                drop(bytes.splice(at..at, piece));
            }
        }
    }
    bytes
}

/// Requests, some of them broken, with instructions where to split them.
fn conversations() -> impl Strategy<Value = Vec<u8>> {
    let requests = prop::collection::vec(prop::sample::select(REQUESTS), 1..7);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), change()), 0..4);
    let cuts = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..15).prop_map(|cuts| [vec![cuts.len() as u8], cuts].concat()),
        1 => Just(vec![240]),
    ];
    (cuts, requests, changes).prop_map(|(cuts, requests, changes)| {
        [cuts, changed(requests.concat().into_bytes(), changes)].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn exchanges_do_not_depend_on_splits(input in conversations()) {
        exchange(&input);
    }

    #[test]
    fn heads_do_not_depend_on_splits(input in conversations()) {
        head(&input);
    }

    #[test]
    fn bodies_do_not_depend_on_splits(input in conversations(), from in any::<prop::sample::Index>()) {
        // Bytes after a request's head.
        let ends = input.windows(4).enumerate().filter(|(_, four)| four == b"\r\n\r\n");
        let bodies: Vec<usize> = ends.map(|(at, _)| at + 4).collect();
        let at = bodies.get(from.index(bodies.len() + 1)).copied().unwrap_or(1);
        body(&[&[9, 1, 2, 3, 50, 60, 99, 120, 150, 255][..], &input[at..]].concat());
    }

    #[test]
    fn no_bytes_are_too_odd(input in prop::collection::vec(any::<u8>(), 0..300)) {
        exchange(&input);
        head(&input);
        body(&input);
    }
}
