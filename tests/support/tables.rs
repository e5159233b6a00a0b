//! Tables of requests, their responses, and the end of the connection.

use super::{Client, End, Fixture, How};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Serves a further request.
    Kept,
    /// Announced by the last response and by no other, then FIN.
    Closed,
    /// FIN without an announcement: the response was sent before the cause occurred.
    Cut,
}
use Then::*;

/// Name; sent bytes; responses as `STATUS`, `STATUS BODY` or `HEAD STATUS`; the end.
pub(crate) type Case<'a> = (&'a str, &'a [&'a [u8]], &'a [&'a str], Then);

/// Each case in one write, and byte by byte.
#[track_caller]
pub(crate) fn run(fixture: &Fixture, cases: &[Case<'_>]) {
    for (name, parts, expected, then) in cases {
        let bytes = parts.concat();
        for bytewise in [false, true] {
            let mut client = fixture.client();
            let sent = if bytewise {
                bytes.iter().try_for_each(|byte| client.try_send([*byte]))
            } else {
                client.try_send(&bytes)
            };
            assert!(sent.is_ok() || *then != Kept, "{name}: {sent:?}");
            expect(&mut client, &format!("{name}, bytewise {bytewise}"), expected, *then);
        }
    }
}

#[track_caller]
pub(crate) fn expect(client: &mut Client, name: &str, wanted: &[&str], then: Then) {
    for (at, wanted_here) in wanted.iter().enumerate() {
        let (method, text) = wanted_here.strip_prefix("HEAD ").map_or(("GET", *wanted_here), |t| ("HEAD", t));
        let reply = client.try_reply_to(method);
        let reply = reply.unwrap_or_else(|end| panic!("{name}: {end:?} instead of response {at}"));
        let said = if text.len() == 3 { reply.status.to_string() } else { reply.said() };
        assert_eq!(said, text, "{name}: response {at}");
        assert!(!matches!(reply.trailing, How::Cut(_)), "{name}: {reply:?}");
        let announced = then == Closed && at + 1 == wanted.len();
        assert_eq!(reply.closes(), announced, "{name}: {reply:?}");
    }
    match then {
        Kept => client.expect_kept(),
        Closed | Cut => assert_eq!(client.end(), End::Fin, "{name}"),
    }
}

pub(crate) const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
pub(crate) const HELLO: &str = "200 Hello, World!";
