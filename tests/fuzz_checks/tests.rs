//! The properties that `fuzz/` tests, for a short time.

use arbtest::arbitrary::{Result, Unstructured};

use super::{body, exchange, head};
#[cfg(feature = "tls")]
use super::{tls_records, tls_session};
use crate::base::property::{BYTES, bytes, check, list};

const CASES: u32 = 1_500;

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

fn change(u: &mut Unstructured<'_>) -> Result<Change> {
    const INSERTED: &[&[u8]] =
        &[b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"\r\n\r\n", b"\xff"];
    Ok(match u.int_in_range(0..=3)? {
        0 => Change::Flip(1 << u.int_in_range(0..=7)?),
        1 => Change::Insert(u.choose(INSERTED)?),
        2 => Change::Delete(u.int_in_range(1..=19)?),
        _ => Change::Double(u.int_in_range(1..=39)?),
    })
}

/// `bytes` with up to three changes.
fn changed(u: &mut Unstructured<'_>, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
    for change in list(u, 0..=3, change)? {
        let at = u.int_in_range(0..=bytes.len())?;
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
    Ok(bytes)
}

/// Requests, some of them broken, with instructions where to split them.
fn conversations(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let cuts = match u.ratio(1, 5)? {
        true => vec![240],
        false => {
            let cuts = bytes(u, 0..=14)?;
            [vec![cuts.len() as u8], cuts].concat()
        }
    };
    let requests = list(u, 1..=6, |u| u.choose(REQUESTS).copied())?.concat();
    Ok([cuts, changed(u, requests.into_bytes())?].concat())
}

#[test]
fn exchanges_do_not_depend_on_splits() {
    check(CASES, BYTES, |u| {
        exchange(&conversations(u)?);
        Ok(())
    });
}

#[test]
fn heads_do_not_depend_on_splits() {
    check(CASES, BYTES, |u| {
        head(&conversations(u)?);
        Ok(())
    });
}

#[test]
fn bodies_do_not_depend_on_splits() {
    check(CASES, BYTES, |u| {
        let input = conversations(u)?;
        // Bytes after a request's head.
        let ends = input.windows(4).enumerate().filter(|(_, four)| four == b"\r\n\r\n");
        let bodies: Vec<usize> = ends.map(|(at, _)| at + 4).collect();
        let at = bodies.get(u.int_in_range(0..=bodies.len())?).copied().unwrap_or(1);
        body(&[&[9, 1, 2, 3, 50, 60, 99, 120, 150, 255][..], &input[at..]].concat());
        Ok(())
    });
}

#[test]
fn no_bytes_are_too_odd() {
    check(CASES, BYTES, |u| {
        let input = bytes(u, 0..=299)?;
        exchange(&input);
        head(&input);
        body(&input);
        Ok(())
    });
}

/// Types of records that mean something, and lengths that leave room for several records.
#[cfg(feature = "tls")]
#[test]
fn tls_records_do_not_depend_on_splits() {
    const CONTENTS: &[(u8, &[u8])] = &[
        (23, b"data"),
        (23, b""),
        (22, &[24, 0, 0, 1, 0]),
        (22, &[24, 0, 0, 1, 1]),
        (22, &[24, 0]),
        (22, &[0, 1, 1]),
        (22, &[1, 0, 0, 1, 0]),
        (22, &[1, 0, 0, 0]),
        (21, &[1, 90]),
        (21, &[1, 0]),
        (0, &[b'x', 23, 0, 0]),
    ];
    check(CASES / 5, BYTES, |u| {
        let mut bytes = vec![u.arbitrary()?];
        for _ in 0..u.int_in_range(0..=40)? {
            let (kind, content) = match u.ratio(7, 8)? {
                true => {
                    let (kind, content) = *u.choose(CONTENTS)?;
                    (kind, content.to_vec())
                }
                false => (u.arbitrary()?, crate::base::property::bytes(u, 0..=60)?),
            };
            bytes.extend([kind, content.len() as u8]);
            bytes.extend(content);
        }
        tls_records(&bytes);
        tls_session(&bytes);
        Ok(())
    });
}
