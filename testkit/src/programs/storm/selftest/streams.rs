//! A server that misbehaves on streams, and the demand that each fault is counted where it belongs.

use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::bad::{Bad, Fault, end, reset};
use super::{Case, Excuse, TIMES};
use crate::programs::storm::asking::Mode;
use crate::programs::storm::messages::{CLOSE, LAST, PING, PONG, TEXT};
use crate::programs::storm::streams::{ACCEPTED, GOING_AWAY};
use crate::programs::storm::tally::{End, Outcome};

/// An end by a code that is not the one of a process that goes away.
const NORMAL: u16 = 1000;
/// The last of the messages that a client sends at once; an event.
const AT: u64 = 4;
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
        for at in [0, AT] {
            cases.push(lost(Fault::Reset, at, Outcome::Reset));
            cases.push(lost(Fault::Cut, at, Outcome::Cut));
            cases.push(lost(Fault::CutWithin, at, Outcome::Cut));
            cases.push(case(Fault::Never, at).outcome(Outcome::Timeout, 1).end(End::Lost, 1));
        }
        cases.push(case(Fault::Status, 0).outcome(Outcome::Wrong, TIMES));
        for fault in [Fault::Former, Fault::Skip, Fault::OtherEnd] {
            cases.push(case(fault, AT).outcome(Outcome::Wrong, TIMES));
        }
        let mut announced = case(Fault::Announce, AT).end(End::Announced, TIMES);
        announced.excuse = Excuse::Signal;
        cases.push(announced);
    }
    let websocket = |fault| {
        let mut case = Case::new(Mode::WebSocket, fault, AT);
        (case.requests, case.pauses.think) = (24, Duration::from_millis(40));
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
    let is_websocket = path == "/ws/count";
    let head = if is_websocket {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{ACCEPTED}\r\n\r\n"
        )
    } else {
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()
    };
    let answer = |n: u64| match is_websocket {
        true => frame(LAST | TEXT, n.to_string().as_bytes()),
        false => chunk(&format!("id: {n}\ndata: 1\n\n")),
    };
    let mut former = head.clone().into_bytes();
    for n in 0.. {
        let message = match (n, is_websocket) {
            (0, _) => head.clone().into_bytes(),
            (_, true) if !receive(input, &mut stream)? => return Ok(()),
            (_, true) => answer(n),
            (_, false) => {
                bad.pause(TICK);
                answer(n)
            }
        };
        if !(bad.fault() != Fault::None && n == bad.at() && bad.commits()) {
            stream.write_all(&message)?;
            former = message;
            continue;
        }
        let close = |code: u16| frame(LAST | CLOSE, &code.to_be_bytes());
        match bad.fault() {
            Fault::Reset => return reset(&stream),
            Fault::CutWithin => {
                stream.write_all(&message[..message.len() / 2])?;
                return end(&stream, input);
            }
            Fault::Never => return input.read_to_end(&mut Vec::new()).map(drop),
            Fault::Status => stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")?,
            Fault::Former => stream.write_all(&former)?,
            Fault::Skip => stream.write_all(&answer(n + 1))?,
            Fault::SilentClose => stream.write_all(&message)?,
            Fault::Twice => stream.write_all(&message.repeat(2))?,
            Fault::Crossing => stream.write_all(&close(GOING_AWAY))?,
            Fault::OtherEnd if is_websocket => stream.write_all(&close(NORMAL))?,
            Fault::OtherEnd => stream.write_all(b"0\r\n\r\n")?,
            Fault::Announce if is_websocket => stream.write_all(&[message, close(GOING_AWAY)].concat())?,
            Fault::Announce => stream.write_all(&[message, b"0\r\n\r\n".to_vec()].concat())?,
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

/// Receives the client's next message, and answers Pings; false: its Close, or its end.
fn receive(input: &mut impl Read, stream: &mut TcpStream) -> std::io::Result<bool> {
    loop {
        let mut head = [0; 2];
        if input.read_exact(&mut head).is_err() || head[0] == LAST | CLOSE {
            return Ok(false);
        }
        let mut more = vec![0; [0, 2, 8][usize::from(head[1].saturating_sub(0x80 | 125))]];
        input.read_exact(&mut more)?;
        let short = usize::from(head[1] & 0x7f);
        let length = more.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        let mut masked = vec![0; 4 + if more.is_empty() { short } else { length }];
        input.read_exact(&mut masked)?;
        let (mask, payload) = masked.split_at(4);
        if head[0] == LAST | PING {
            let number: Vec<u8> =
                payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            stream.write_all(&frame(LAST | PONG, &number))?;
        } else if head[0] & LAST != 0 {
            return Ok(true);
        }
    }
}
