//! The frames of a client, followed before `tungstenite` reads them, for two reasons.
//!
//! - That crate refuses some codes that a Close may have, and reports a code of its own for a forbidden one (RFC 6455 §7.4).
//!   So a client's Close is taken from its bytes.
//! - It does not give its state away. So it gets the bytes of one frame at a time, and where a WebSocket may move to another
//!   process, those of an unfinished message are kept, which the other process reads again. Control frames between its
//!   fragments were answered and are not kept.

use std::mem;

/// The longest payload of a control frame (RFC 6455 §5.5).
const MOST_BYTES: u8 = 125;

/// Whether a Close may bear this code on the wire: those that are registered at IANA, except the ones that stand for a
/// Close without a code (1005) and for none at all (1006, 1015), and those of libraries and programs.
pub(super) fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The content of a client's Close.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ClientClose {
    /// No code, and so no reason.
    Nothing,
    Reason(u16, String),
    /// A code that must not be sent, with the error text.
    Invalid(String),
    /// A reason that is not UTF-8.
    NoText,
}

impl ClientClose {
    fn of(payload: &[u8]) -> ClientClose {
        match payload {
            [] => ClientClose::Nothing,
            [_] => ClientClose::Invalid("a Close with an incomplete code".to_owned()),
            [high, low, reason @ ..] => {
                match (u16::from_be_bytes([*high, *low]), std::str::from_utf8(reason)) {
                    (code, _) if !may_be_sent(code) => {
                        ClientClose::Invalid(format!("a Close with the code {code}, which must not be sent"))
                    }
                    (code, Ok(reason)) => ClientClose::Reason(code, reason.to_owned()),
                    (_, Err(_)) => ClientClose::NoText,
                }
            }
        }
    }
}

/// Follows the frames of a client, however they are cut into pieces, up to its Close.
#[derive(Default)]
pub(super) struct FrameScanner {
    /// The received bytes of the current frame's header.
    head: Vec<u8>,
    /// The missing bytes of the current frame, its mask included.
    left: u64,
    /// The first byte of the current frame.
    first: u8,
    /// The current frame has no payload.
    is_empty: bool,
    /// None where no bytes are kept.
    unfinished: Option<Unfinished>,
    /// A Close, from its first byte on.
    close: Option<Vec<u8>>,
    /// The Close is malformed: `tungstenite` gets its bytes, and refuses them.
    gave_up: bool,
}

/// The bytes of a message that is not complete.
#[derive(Default)]
struct Unfinished {
    bytes: Vec<u8>,
    /// Where the current frame starts.
    frame: usize,
}

/// What becomes of the first bytes of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// So many belong to one frame, and are for `tungstenite`.
    Frame(usize),
    /// All belong to a Close, or come after it: they were kept.
    Close,
}

impl FrameScanner {
    /// Keeps the bytes of an unfinished message from now on.
    pub(super) fn keep_unfinished(&mut self) {
        self.unfinished = Some(Unfinished::default());
    }

    /// Looks at the first bytes of `came`, at most to the end of a frame.
    pub(super) fn pass(&mut self, came: &[u8]) -> Passed {
        if let Some(close) = &mut self.close {
            close.extend_from_slice(came);
            return Passed::Close;
        }
        if self.gave_up {
            return Passed::Frame(came.len());
        }
        let mut at = 0;
        while let Some((byte, after)) = came.get(at..).and_then(<[u8]>::split_first) {
            if self.left == 0 {
                if self.head.is_empty() {
                    if byte & 0x0f == 0x08 {
                        self.close = Some(came.to_vec());
                        return Passed::Close;
                    }
                    self.first = *byte;
                }
                self.head.push(*byte);
                at = at.saturating_add(1);
                let Some(left) = following(&self.head) else { continue };
                self.left = left;
                self.is_empty = left <= MASK_BYTES;
                self.head.clear();
            } else {
                let passed =
                    after.len().saturating_add(1).min(usize::try_from(self.left).unwrap_or(usize::MAX));
                at = at.saturating_add(passed);
                self.left = self.left.saturating_sub(passed as u64);
            }
            if self.left == 0 {
                self.keep(came.get(..at).unwrap_or_default());
                self.end_frame();
                return Passed::Frame(at);
            }
        }
        self.keep(came);
        Passed::Frame(came.len())
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(unfinished) = &mut self.unfinished {
            unfinished.bytes.extend_from_slice(bytes);
        }
    }

    fn end_frame(&mut self) {
        let Some(unfinished) = &mut self.unfinished else { return };
        let (is_control, is_last) = (self.first & 0x08 != 0, self.first & 0x80 != 0);
        // A fragment without payload adds nothing to its message, and any number of them may come.
        let is_nothing = self.first == 0 && self.is_empty;
        if is_control || is_nothing {
            unfinished.bytes.truncate(unfinished.frame);
        } else if is_last {
            // A long message leaves no memory behind.
            unfinished.bytes = Vec::new();
        }
        unfinished.frame = unfinished.bytes.len();
    }

    /// Whether another process can continue from the bytes that are kept.
    pub(super) fn can_leave(&self) -> bool {
        !self.gave_up
    }

    /// The bytes from which another process reads an unfinished message again, and the start of a Close behind them.
    pub(super) fn take_unfinished(&mut self) -> Vec<u8> {
        let mut bytes = self.unfinished.take().unwrap_or_default().bytes;
        bytes.append(&mut self.close.take().unwrap_or_default());
        bytes
    }

    /// The content of the Close, once it is complete.
    pub(super) fn said(&self) -> Option<ClientClose> {
        let (head, rest) = self.close.as_ref()?.split_at_checked(2)?;
        let len = head.last()? & 0x7f;
        let (mask, rest) = rest.split_at_checked(4)?;
        let masked = rest.get(..usize::from(len))?;
        let payload: Vec<u8> =
            masked.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        Some(ClientClose::of(&payload))
    }

    /// The bytes of a Close that is not a whole, masked control frame: `tungstenite` refuses them.
    pub(super) fn odd(&mut self) -> Option<Vec<u8>> {
        let [first, second, ..] = self.close.as_deref()? else { return None };
        let is_even = *first == 0x88 && second & 0x80 != 0 && second & 0x7f <= MOST_BYTES;
        if is_even {
            return None;
        }
        self.gave_up = true;
        mem::take(&mut self.close)
    }
}

/// The mask of a client's frame, which precedes its payload.
const MASK_BYTES: u64 = 4;

/// How many bytes follow the head of a frame. None if the head is incomplete.
fn following(head: &[u8]) -> Option<u64> {
    let (_, [second, length @ ..]) = head.split_first()? else { return None };
    let mask = if second & 0x80 == 0 { 0 } else { MASK_BYTES };
    let length = match second & 0x7f {
        126 => u64::from(u16::from_be_bytes(length.try_into().ok()?)),
        127 => u64::from_be_bytes(length.try_into().ok()?),
        short => u64::from(short),
    };
    Some(length.saturating_add(mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_without_payload_are_not_kept() {
        let mut frames = FrameScanner::default();
        frames.keep_unfinished();
        let mut pass = |bytes: &[u8]| assert_eq!(frames.pass(bytes), Passed::Frame(bytes.len()));
        pass(&frame(0x01, b""));
        for _ in 0..1000 {
            pass(&frame(0x00, b""));
            pass(&frame(0x89, b"ping"));
        }
        pass(&frame(0x00, b"x"));
        assert_eq!(frames.take_unfinished(), [frame(0x01, b""), frame(0x00, b"x")].concat());
    }

    /// A frame as a client masks it.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0xa1, 0x02, 0xff, 0x88];
        let len = payload.len();
        let mut bytes = vec![first];
        match len {
            0..126 => bytes.push(0x80 | len as u8),
            126..0x10000 => bytes.extend([&[0xfe][..], &(len as u16).to_be_bytes()].concat()),
            _ => bytes.extend([&[0xff][..], &(len as u64).to_be_bytes()].concat()),
        }
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    /// What passes of a piece, a frame at a time.
    fn pass_all(frames: &mut FrameScanner, piece: &[u8]) -> Vec<u8> {
        let mut at = 0;
        while at < piece.len() {
            match frames.pass(&piece[at..]) {
                Passed::Frame(n) => at += n,
                Passed::Close => return piece[..at].to_vec(),
            }
        }
        piece.to_vec()
    }

    #[test]
    fn codes_are_as_registered() {
        let may: Vec<u16> = (0..=u16::MAX).filter(|code| may_be_sent(*code)).collect();
        let expected: Vec<u16> = (1000..=1003).chain(1007..=1014).chain(3000..=4999).collect();
        assert_eq!(may, expected);
    }

    #[test]
    fn contents_of_a_close() {
        let with = |code: u16, reason: &[u8]| [&code.to_be_bytes(), reason].concat();
        let reason = |code, text: &str| ClientClose::Reason(code, text.to_owned());
        let cases = [
            (vec![], ClientClose::Nothing),
            (with(1000, b""), reason(1000, "")),
            (with(1014, b"bad gateway"), reason(1014, "bad gateway")),
            (with(4999, "ü".as_bytes()), reason(4999, "ü")),
            (with(1000, b"\xff"), ClientClose::NoText),
        ];
        for (payload, said) in cases {
            assert_eq!(ClientClose::of(&payload), said, "{payload:?}");
        }
        let wrong = |payload: &[u8], text: &str| {
            assert!(
                matches!(ClientClose::of(payload), ClientClose::Invalid(said) if said.contains(text)),
                "{payload:?}"
            );
        };
        wrong(&[3], "an incomplete code");
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
            wrong(&with(code, b"\xff"), &format!("the code {code},"));
        }
    }

    #[test]
    fn a_close_is_found_behind_all_else_however_it_comes() {
        // The payload contains bytes that look like a Close.
        let before = [
            frame(0x01, b"\x88\x80\x88\x80text"),
            frame(0x89, &[0x88; 125]),
            frame(0x00, &[0x88; 126]),
            frame(0x80, &[0x88; 70_000]),
            frame(0x82, b""),
            // An unmasked frame, which `tungstenite` refuses.
            vec![0x82, 3, 0x88, 0x88, 0x88],
        ]
        .concat();
        let close = frame(0x88, &[&1001u16.to_be_bytes()[..], b"bye"].concat());
        let all = [&before[..], &close, b"and more"].concat();
        let pieces = [1, 2, 3, 5, 7, 126, 8_192, all.len()];
        for size in pieces {
            let (mut frames, mut passed) = (FrameScanner::default(), Vec::new());
            for piece in all.chunks(size) {
                passed.extend(pass_all(&mut frames, piece));
                assert!(frames.odd().is_none());
            }
            assert_eq!(passed, before, "{size}");
            assert_eq!(frames.said(), Some(ClientClose::Reason(1001, "bye".to_owned())), "{size}");
        }
        // The Close is reported only when it is complete.
        let mut frames = FrameScanner::default();
        for byte in &close[..close.len() - 1] {
            assert_eq!(frames.pass(&[*byte]), Passed::Close);
            assert_eq!((frames.close.is_some(), frames.said()), (true, None));
        }
    }

    #[test]
    fn of_an_unfinished_message_all_is_kept_and_of_others_nothing() {
        let (start, middle, end) = (frame(0x01, b"a"), frame(0x00, &[b'b'; 300]), frame(0x80, b"c"));
        let (whole, ping, close) = (frame(0x81, b"whole"), frame(0x89, b"ping"), frame(0x88, b""));
        let cases = [
            (vec![&whole, &ping], vec![]),
            (vec![&whole, &start], vec![&start]),
            (vec![&start, &ping, &middle], vec![&start, &middle]),
            (vec![&start, &ping, &middle, &ping, &end, &ping], vec![]),
        ];
        for (came, kept) in cases {
            let (came, kept): (Vec<u8>, Vec<u8>) = (
                came.into_iter().flatten().copied().collect(),
                kept.into_iter().flatten().copied().collect(),
            );
            for size in [1, 2, 7, came.len()] {
                let mut frames = FrameScanner::default();
                frames.keep_unfinished();
                came.chunks(size).for_each(|piece| drop(pass_all(&mut frames, piece)));
                assert_eq!(frames.take_unfinished(), kept, "{size}");
            }
        }
        // Half a frame, and half a Close, behind the fragments.
        for half in [&whole, &ping, &close] {
            let mut frames = FrameScanner::default();
            frames.keep_unfinished();
            pass_all(&mut frames, &start);
            pass_all(&mut frames, &half[..3]);
            assert_eq!(frames.take_unfinished(), [&start[..], &half[..3]].concat());
        }
        let mut frames = FrameScanner::default();
        pass_all(&mut frames, &start);
        assert!(frames.take_unfinished().is_empty(), "not kept");
    }

    #[test]
    fn what_is_no_close_is_left_to_its_reader() {
        for odd in [vec![0x88, 0x00], vec![0x08, 0x80], vec![0xc8, 0x80], vec![0x88, 0xfe]] {
            let mut frames = FrameScanner::default();
            assert_eq!(frames.pass(&odd[..1]), Passed::Close);
            assert_eq!((frames.odd(), frames.pass(&odd[1..])), (None, Passed::Close));
            assert_eq!(frames.odd(), Some(odd.clone()));
            assert_eq!(frames.pass(b"\x88\x80"), Passed::Frame(2), "it is not looked at any more");
        }
    }
}
