//! What the clients of each mode ask, and what they must get.

use std::time::Duration;

use super::link::{Answer, Pace};
use super::streams;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// One request after the other on a connection that is kept.
    Keepalive,
    /// A connection per request.
    Close,
    /// Several requests in one piece on a connection that is kept.
    Pipelined,
    /// Requests whose handler takes its time.
    Slow,
    /// Bodies sent in pieces, with pauses.
    Upload,
    /// Large answers, received slowly.
    Reader,
    /// Answers that the handler gives slowly, of a length unknown.
    Stream,
    /// Seconds between two requests on a connection that is kept, and a request that is on its way for
    /// a while: the keep-alive race.
    Idle,
    /// Connections opened long before their first request, and left after a few.
    Preconnect,
    /// Each request in two parts, of which the second follows a handover: by TLS also in the middle of a record.
    Halves,
    /// KeyUpdates of TLS 1.3 before, at and after handovers, and between the parts of a request.
    Rekey,
    /// A WebSocket whose messages are counted, in fragments, in pieces and several at once, over handovers.
    WebSocket,
    /// A stream of numbered events, over handovers.
    Events,
}

impl Mode {
    pub(crate) const ALL: [Mode; 13] = [
        Mode::Keepalive,
        Mode::Close,
        Mode::Pipelined,
        Mode::Slow,
        Mode::Upload,
        Mode::Reader,
        Mode::Stream,
        Mode::Idle,
        Mode::Preconnect,
        Mode::Halves,
        Mode::Rekey,
        Mode::WebSocket,
        Mode::Events,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::Keepalive => "keepalive",
            Mode::Close => "close",
            Mode::Pipelined => "pipelined",
            Mode::Slow => "slow",
            Mode::Upload => "upload",
            Mode::Reader => "reader",
            Mode::Stream => "stream",
            Mode::Idle => "idle",
            Mode::Preconnect => "preconnect",
            Mode::Halves => "halves",
            Mode::Rekey => "rekey",
            Mode::WebSocket => "websocket",
            Mode::Events => "events",
        }
    }

    /// Whether it closes and connects again by itself.
    pub(crate) fn leaves(self) -> bool {
        matches!(self, Mode::Close | Mode::Preconnect)
    }

    /// Whether each connection is one stream, which moves to each successor.
    pub(crate) fn streams(self) -> bool {
        matches!(self, Mode::WebSocket | Mode::Events)
    }

    /// Requests sent at once.
    pub(crate) fn depth(self) -> usize {
        match self {
            Mode::Pipelined => 8,
            Mode::WebSocket => 4,
            _ => 1,
        }
    }

    pub(crate) fn pace(self) -> Option<Pace> {
        (self == Mode::Reader).then_some(Pace { bytes: 64 << 10, pause: Duration::from_millis(8) })
    }

    /// A body that fits into the client's receive buffer.
    pub(crate) fn room(self) -> Option<usize> {
        // Small, so that an answer does not wait in the kernel alone, but in the server, too.
        (self == Mode::Reader).then_some(64 << 10)
    }

    /// The size of the pieces in which a request is sent.
    pub(crate) fn pieces(self) -> usize {
        if self == Mode::Upload { 12_000 } else { usize::MAX }
    }
}

/// Sizes that can be chosen.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    /// How long the handler of a slow request takes.
    pub(crate) sleep_ms: u64,
    /// A large answer, at least.
    pub(crate) big: u64,
    /// An uploaded body, at most; at least a sixteenth of it.
    pub(crate) upload: u64,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { sleep_ms: 300, big: 6 << 20, upload: 256 << 10 }
    }
}

/// Pauses that can be chosen.
#[derive(Clone, Debug)]
pub(crate) struct Pauses {
    /// Between an answer and the next request: half of this to one and a half.
    pub(crate) think: Duration,
    /// Between the end of a connection and the next one of a client that leaves it by itself: the same.
    pub(crate) away: Duration,
    /// Between two requests of idle clients: from, to.
    pub(crate) idle: [Duration; 2],
    /// Before the first request of a connection that is opened early, at most.
    pub(crate) before_first: Duration,
    /// The time between the check of a connection and the next request on it: the distance of the client.
    pub(crate) one_way: Duration,
    /// Between the parts of a request that a handover divides, for its signal: at most.
    pub(crate) signal: Duration,
}

impl Default for Pauses {
    fn default() -> Pauses {
        Pauses {
            think: Duration::ZERO,
            away: Duration::ZERO,
            idle: [Duration::from_millis(200), Duration::from_secs(5)],
            before_first: Duration::from_secs(5),
            one_way: Duration::from_millis(10),
            signal: Duration::from_secs(2),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) id: u64,
    pub(crate) bytes: Vec<u8>,
    expected: Expected,
}

#[derive(Debug)]
enum Expected {
    Bytes(Vec<u8>),
    /// A body of so many times the letter.
    Xs(u64),
}

/// The request with this identity: its answer shows it, where the route has a way to (`/sleep` and
/// `/stream` answer all alike).
pub(crate) fn ask(mode: Mode, id: u64, sizes: &Sizes) -> Asked {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: storm\r\n\r\n").into_bytes();
    let (bytes, expected) = match mode {
        Mode::Keepalive
        | Mode::Close
        | Mode::Pipelined
        | Mode::Idle
        | Mode::Preconnect
        | Mode::Halves
        | Mode::Rekey => plain(id, mode == Mode::Close),
        Mode::Slow => (get(&format!("/sleep/{}", sizes.sleep_ms)), Expected::Bytes(b"ok\n".to_vec())),
        Mode::Upload => upload(id, sizes.upload),
        Mode::Reader => {
            let length = sizes.big + mix(id) % 4096;
            (get(&format!("/big/{length}")), Expected::Xs(length))
        }
        Mode::Stream => (get("/stream"), Expected::Xs(1 << 20)),
        // Their answers have no end of their own.
        Mode::WebSocket => (streams::HANDSHAKE.as_bytes().to_vec(), Expected::Bytes(Vec::new())),
        Mode::Events => {
            (get(&format!("/events/travel?ms={}", 10 << ((id >> 32) % 5))), Expected::Bytes(Vec::new()))
        }
    };
    Asked { id, bytes, expected }
}

/// Alternates between a POST whose body and a GET whose head is echoed.
fn plain(id: u64, close: bool) -> (Vec<u8>, Expected) {
    let fields = if close { "Host: storm\r\nConnection: close\r\n" } else { "Host: storm\r\n" };
    if id & 1 == 0 {
        let fields = format!("{fields}X-Storm: {id}\r\n");
        let request = format!("GET /headers HTTP/1.1\r\n{fields}\r\n");
        (request.into_bytes(), Expected::Bytes(fields.replace("\r\n", "\n").into_bytes()))
    } else {
        let body = format!("storm {id}\n");
        let request = format!("POST /echo HTTP/1.1\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len());
        (request.into_bytes(), Expected::Bytes(body.into_bytes()))
    }
}

/// Alternates between known length and chunked.
fn upload(id: u64, most: u64) -> (Vec<u8>, Expected) {
    let length = usize::try_from(most / 16 + mix(id) % (most - most / 16 + 1)).unwrap_or(usize::MAX);
    let body: Vec<u8> = (id..).flat_map(|n| mix(n).to_le_bytes()).take(length).collect();
    let head =
        |framing: &str| format!("POST /echo HTTP/1.1\r\nHost: storm\r\n{framing}\r\n\r\n").into_bytes();
    let mut bytes;
    if id & 1 == 0 {
        bytes = head(&format!("Content-Length: {length}"));
        bytes.extend_from_slice(&body);
    } else {
        bytes = head("Transfer-Encoding: chunked");
        for chunk in body.chunks(10_000) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
    }
    (bytes, Expected::Bytes(body))
}

/// A pause from `from` to `to`, the same each time for the same `n`.
pub(crate) fn between([from, to]: [Duration; 2], n: u64) -> Duration {
    let share = u32::try_from(mix(n) % 1024).unwrap_or(0);
    from + to.saturating_sub(from) * share / 1024
}

/// Numbers that look random and are the same each time (splitmix64).
pub(crate) fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

impl Asked {
    /// The fault of the response, if there is one.
    pub(crate) fn fault(&self, answer: &Answer) -> Option<String> {
        let as_expected = match &self.expected {
            Expected::Bytes(bytes) => answer.body == *bytes,
            Expected::Xs(length) => {
                answer.body.len() as u64 == *length && answer.body.iter().all(|byte| *byte == b'x')
            }
        };
        if answer.status == 200 && as_expected {
            return None;
        }
        let start = String::from_utf8_lossy(&answer.body[..answer.body.len().min(60)]);
        Some(format!(
            "request {:x} was answered {} with {} bytes: {start:?}",
            self.id,
            answer.status,
            answer.body.len()
        ))
    }
}
