//! A client's messages of WebSockets, as frames: masked, of every length, in fragments, with Pings between these.

use super::asking::mix;

pub(crate) const TEXT: u8 = 0x1;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xa;
/// The last frame of a message.
pub(crate) const LAST: u8 = 0x80;
const CONTINUATION: u8 = 0;

/// The messages with these identities. Each Ping has its number, which `pings` counts.
pub(crate) fn batch(ids: &[u64], pings: &mut u64) -> Vec<u8> {
    ids.iter().flat_map(|id| message(*id, pings)).collect()
}

fn message(id: u64, pings: &mut u64) -> Vec<u8> {
    let shape = mix(id);
    // Each of the three ways to write a length, the long ones rarely.
    let length = match shape % 32 {
        0 => 70_000,
        1..5 => 1_000,
        _ => 10,
    };
    let text = format!("{id:x}").repeat(length / 10);
    let fragments = 1 + usize::from(shape >> 8 & 1 == 1) + usize::from(shape >> 9 & 1 == 1);
    let mut pieces = text.as_bytes().chunks(text.len().div_ceil(fragments)).peekable();
    let (mut bytes, mut kind) = (Vec::new(), TEXT);
    while let Some(piece) = pieces.next() {
        let is_last = pieces.peek().is_none();
        bytes.extend(frame(kind | if is_last { LAST } else { 0 }, piece, shape));
        kind = CONTINUATION;
        if !is_last && shape >> 10 & 1 == 1 {
            *pings += 1;
            bytes.extend(frame(LAST | PING, &pings.to_be_bytes(), shape));
        }
    }
    bytes
}

/// A frame with a mask made of `seed`.
pub(crate) fn frame(first: u8, payload: &[u8], seed: u64) -> Vec<u8> {
    let mut frame = vec![first];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ ..126), _) => frame.push(0x80 | short),
        (_, Ok(length)) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    let [_, _, _, _, mask @ ..] = mix(seed).to_be_bytes();
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}
