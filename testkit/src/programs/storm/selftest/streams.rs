//! A server that misbehaves on streams, and the demand that each fault is counted where it belongs.

use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::bad::{Bad, Fault, end, reset};
use super::{Case, TIMES};
use crate::programs::storm::asking::Mode;
use crate::programs::storm::streams::{ACCEPTED, GOING_AWAY};
use crate::programs::storm::tally::{End, Outcome};

/// An end by a code that is not the one of a process that goes away.
const NORMAL: u16 = 1000;
/// Between two events.
const TICK: Duration = Duration::from_millis(2);

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in [Mode::WebSocket, Mode::Events] {
        let case = |fault, at| {
            let mut case = Case::new(mode, fault, at);
            (case.requests, case.pauses.think) = (24, Duration::from_millis(4));
            case
        };
        let lost = |fault, at, outcome| case(fault, at).outcome(outcome, TIMES).end(End::Lost, TIMES);
        cases.push(case(Fault::None, 0));
        cases.push(case(Fault::Refuse, 0).outcome(Outcome::Refused, 24));
        // The handshake is the first request of a connection.
        for at in [0, 3] {
            cases.push(lost(Fault::Reset, at, Outcome::Reset));
            cases.push(lost(Fault::Cut, at, Outcome::Cut));
            cases.push(lost(Fault::CutWithin, at, Outcome::Cut));
            cases.push(case(Fault::Never, at).outcome(Outcome::Timeout, 1).end(End::Lost, 1));
        }
        cases.push(case(Fault::Status, 0).outcome(Outcome::Wrong, TIMES));
        cases.push(case(Fault::Former, 3).outcome(Outcome::Wrong, TIMES));
        cases.push(case(Fault::Announce, 3).end(End::Announced, TIMES));
        cases.push(case(Fault::OtherEnd, 3).outcome(Outcome::Wrong, TIMES));
    }
    let websocket = |fault| {
        let mut case = Case::new(Mode::WebSocket, fault, 3);
        (case.requests, case.pauses.think) = (14, Duration::from_millis(40));
        case
    };
    cases.push(websocket(Fault::Crossing).outcome(Outcome::Crossed, TIMES).end(End::Announced, TIMES));
    cases.push(websocket(Fault::SilentClose).end(End::Silent, TIMES));
    cases.push(websocket(Fault::Twice).end(End::Stray, TIMES));
    cases
}

/// Speaks on a connection whose first request was for a stream.
pub(super) fn talk(
    bad: &Bad,
    mut stream: TcpStream,
    input: &mut impl BufRead,
    path: &str,
) -> std::io::Result<()> {
    let is_websocket = path == "/ws";
    let head = if is_websocket {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{ACCEPTED}\r\n\r\n"
        )
    } else {
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()
    };
    let mut former = head.clone().into_bytes();
    for n in 0.. {
        let message = match (n, is_websocket) {
            (0, _) => head.clone().into_bytes(),
            (_, true) => match message(input)? {
                Some(text) => frame(0x81, &text),
                None => return Ok(()),
            },
            (_, false) => {
                bad.pause(TICK);
                chunk(&format!("id: {n}\ndata: {n}\n\n"))
            }
        };
        if !(bad.fault() != Fault::None && n == bad.at() && bad.commits()) {
            stream.write_all(&message)?;
            former = message;
            continue;
        }
        let close = |code: u16| frame(0x88, &code.to_be_bytes());
        match bad.fault() {
            Fault::Reset => return reset(&stream),
            Fault::CutWithin => {
                stream.write_all(&message[..message.len() / 2])?;
                return end(&stream, input);
            }
            Fault::Never => return input.read_to_end(&mut Vec::new()).map(drop),
            Fault::Status => stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")?,
            Fault::Former => stream.write_all(&former)?,
            Fault::SilentClose => stream.write_all(&message)?,
            Fault::Twice => stream.write_all(&message.repeat(2))?,
            Fault::Crossing => stream.write_all(&close(GOING_AWAY))?,
            Fault::OtherEnd if is_websocket => stream.write_all(&close(NORMAL))?,
            Fault::OtherEnd => stream.write_all(b"0\r\n\r\n")?,
            Fault::Announce if is_websocket => stream.write_all(&[message, close(GOING_AWAY)].concat())?,
            Fault::Announce => {
                stream.write_all(
                    &[message, chunk("event: end\ndata: draining\n\n"), b"0\r\n\r\n".to_vec()].concat(),
                )?;
            }
            _ => {}
        }
        return end(&stream, input);
    }
    Ok(())
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, u8::try_from(payload.len()).unwrap_or(0)], payload].concat()
}

/// The client's next message; None: its Close, or its end.
fn message(input: &mut impl Read) -> std::io::Result<Option<Vec<u8>>> {
    let mut head = [0; 6];
    if input.read_exact(&mut head).is_err() || head[0] != 0x81 {
        return Ok(None);
    }
    let mut payload = vec![0; usize::from(head[1] & 0x7f)];
    input.read_exact(&mut payload)?;
    // Masked by zeros.
    Ok(Some(payload))
}
