//! The request body: bytes in, ranges of content out.
//!
//! Chunked coding is read byte by byte by its grammar (RFC 9112 §7.1), so it does not matter where the input is
//! split. Where a recipient may be lenient (bare LF, spaces around a size) this one is not: a lenient and a strict
//! recipient on one path would see different requests.

use std::ops::Range;

use http::{HeaderMap, HeaderName, HeaderValue};
use httparse::Status::Complete;

use super::framing::Framing;
use super::head::Refusal;
use super::tokens::is_token_byte;
use crate::base::limits::Limits;

/// Bytes of chunk extensions in a body. They are hardly used; without a limit a client could send them indefinitely
/// and never reach the limit of the body.
const EXTENSION_BYTES: usize = 4 << 10;

/// Digits of a chunk size: as many as a `u64` has.
const SIZE_DIGITS: u8 = 16;

const BAD_SIZE: Refusal = Refusal::bad("malformed chunk size");
const BAD_EXTENSION: Refusal = Refusal::bad("malformed chunk extension");
const BAD_CHUNK_END: Refusal = Refusal::bad("chunk not ended by CRLF");
const BAD_TRAILER: Refusal = Refusal::bad("malformed trailer section");

/// Takes a body's content out of the bytes of a connection.
pub(crate) struct Decoder {
    state: DecoderState,
    /// The size of the current chunk.
    size: u64,
    extension_left: usize,
    section: Vec<u8>,
    section_bytes: usize,
    fields_left: usize,
    trailers: HeaderMap,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DecoderState {
    /// Content of known length, and how much is left.
    Length(u64),
    /// Content of a chunk, and how much is left.
    Data(u64),
    /// A chunk size, and how many digits it has so far.
    Size(u8),
    Extension(Extension),
    SizeLf,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

/// Inside `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )` (RFC 9112 §7.1.1).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extension {
    BeforeSemicolon,
    BeforeName,
    Name,
    AfterName,
    BeforeValue,
    Token,
    Quoted,
    Escaped,
    AfterQuoted,
}

/// One step of decoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// Bytes of the input that are decoded, including `data`. 0: more input is needed, or the body is done.
    pub(crate) consumed: usize,
    /// The part of the input that is content; may be empty.
    pub(crate) data: Range<usize>,
}

impl Decoder {
    pub(crate) fn new(framing: Framing, limits: &Limits) -> Decoder {
        Decoder {
            state: match framing {
                Framing::None | Framing::Length(0) => DecoderState::Done,
                Framing::Length(length) => DecoderState::Length(length),
                Framing::Chunked => DecoderState::Size(0),
            },
            size: 0,
            extension_left: EXTENSION_BYTES,
            section: Vec::new(),
            section_bytes: limits.head_bytes,
            fields_left: limits.head_fields,
            trailers: HeaderMap::new(),
        }
    }

    /// Decodes the start of `input`, up to the end of the next content in it.
    pub(crate) fn decode(&mut self, input: &[u8]) -> Result<Decoded, Refusal> {
        let mut at = 0usize;
        while let Some((&byte, behind)) = input.get(at..).and_then(<[u8]>::split_first) {
            match self.state {
                DecoderState::Length(left) | DecoderState::Data(left) => {
                    let rest = input.len().saturating_sub(at);
                    let taken = usize::try_from(left).map_or(rest, |left| left.min(rest));
                    let (left, end) = (left.saturating_sub(taken as u64), at.saturating_add(taken));
                    self.state = match self.state {
                        DecoderState::Data(_) if left == 0 => DecoderState::DataCr,
                        DecoderState::Data(_) => DecoderState::Data(left),
                        _ if left == 0 => DecoderState::Done,
                        _ => DecoderState::Length(left),
                    };
                    return Ok(Decoded { consumed: end, data: at..end });
                }
                DecoderState::Done => return Ok(Decoded { consumed: at, data: at..at }),
                // The usual line ends and sizes are not read byte by byte.
                DecoderState::DataCr if byte == b'\r' && behind.first() == Some(&b'\n') => {
                    self.state = DecoderState::Size(0);
                    at = at.saturating_add(2);
                }
                state => {
                    let plain = if state == DecoderState::Size(0) { plain_size(byte, behind) } else { None };
                    let (state, len) = match plain {
                        Some((size, len)) => (DecoderState::Data(size), len),
                        None => (self.after(state, byte)?, 1),
                    };
                    self.state = state;
                    at = at.saturating_add(len);
                }
            }
        }
        Ok(Decoded { consumed: input.len(), data: input.len()..input.len() })
    }

    /// As `decode`, for a run of chunks: all that `input` has, up to the one that makes the content longer than
    /// `most`, including the part of it that is only announced. Their content is moved together within `input`,
    /// so that the caller's cost depends on bytes and not on chunks.
    pub(crate) fn decode_run(&mut self, input: &mut [u8], most: u64) -> Result<Decoded, Refusal> {
        let mut run = self.decode(input)?;
        while run.consumed < input.len() && !self.is_done() {
            let content = (run.data.len() as u64).saturating_add(self.announced());
            if content > most {
                break;
            }
            let from = run.consumed;
            let next = self.decode(input.get(from..).unwrap_or_default())?;
            let data = from.saturating_add(next.data.start)..from.saturating_add(next.data.end);
            if run.data.is_empty() {
                run.data = data;
            } else if !data.is_empty() {
                let (end, len) = (run.data.end, data.len());
                input.copy_within(data, end);
                run.data.end = end.saturating_add(len);
            }
            run.consumed = from.saturating_add(next.consumed);
        }
        Ok(run)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == DecoderState::Done
    }

    /// Bytes of memory: those of a trailer section.
    pub(crate) fn held(&self) -> usize {
        self.section.len()
    }

    /// How much content is left, if that is known.
    pub(crate) fn remaining_hint(&self) -> Option<u64> {
        match self.state {
            DecoderState::Done => Some(0),
            DecoderState::Length(left) => Some(left),
            _ => None,
        }
    }

    /// How much content is announced and has not come: the rest of the body's length, or of a chunk.
    pub(crate) fn announced(&self) -> u64 {
        match self.state {
            DecoderState::Length(left) | DecoderState::Data(left) => left,
            _ => 0,
        }
    }

    /// The trailer fields of a body that is done.
    pub(crate) fn take_trailers(&mut self) -> HeaderMap {
        std::mem::take(&mut self.trailers)
    }

    /// The state after a byte that is not content.
    fn after(&mut self, state: DecoderState, byte: u8) -> Result<DecoderState, Refusal> {
        match (state, byte) {
            (DecoderState::Size(digits), _) if byte.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS {
                    return Err(BAD_SIZE);
                }
                let digit = char::from(byte).to_digit(16).ok_or(BAD_SIZE)?;
                self.size = (self.size << 4) | u64::from(digit);
                Ok(DecoderState::Size(digits.saturating_add(1)))
            }
            (DecoderState::Size(1..), b'\r') => Ok(DecoderState::SizeLf),
            (DecoderState::Size(1..), b';' | b' ' | b'\t') => {
                self.after_extension(Extension::BeforeSemicolon, byte)
            }
            (DecoderState::Size(_), _) => Err(BAD_SIZE),
            (DecoderState::Extension(part), _) => self.after_extension(part, byte),
            (DecoderState::SizeLf, b'\n') if self.size == 0 => Ok(DecoderState::TrailerStart),
            (DecoderState::SizeLf, b'\n') => Ok(DecoderState::Data(std::mem::take(&mut self.size))),
            (DecoderState::SizeLf, _) => Err(BAD_SIZE),
            (DecoderState::DataCr, b'\r') => Ok(DecoderState::DataLf),
            (DecoderState::DataLf, b'\n') => Ok(DecoderState::Size(0)),
            (DecoderState::DataCr | DecoderState::DataLf, _) => Err(BAD_CHUNK_END),
            (DecoderState::TrailerStart, b'\r') => Ok(DecoderState::EndLf),
            (DecoderState::EndLf, b'\n') => self.finish(),
            (DecoderState::TrailerStart | DecoderState::Trailer | DecoderState::TrailerLf, _) => {
                self.after_trailer(state, byte)
            }
            (DecoderState::EndLf, _) => Err(BAD_TRAILER),
            // `decode` handles these.
            (DecoderState::Length(_) | DecoderState::Data(_) | DecoderState::Done, _) => Ok(state),
        }
    }

    fn after_extension(&mut self, part: Extension, byte: u8) -> Result<DecoderState, Refusal> {
        use Extension::*;
        self.extension_left =
            self.extension_left.checked_sub(1).ok_or(Refusal::bad("chunk extensions too long"))?;
        let part = match (part, byte) {
            (Name | Token | AfterQuoted, b'\r') => return Ok(DecoderState::SizeLf),
            (BeforeSemicolon | Name | AfterName | Token | AfterQuoted, b';') => BeforeName,
            (Name | AfterName, b'=') => BeforeValue,
            (BeforeValue, b'"') => Quoted,
            (Quoted, b'"') => AfterQuoted,
            (Quoted, b'\\') => Escaped,
            (Quoted | Escaped, b'\t' | b' '..=b'~' | 0x80..) => Quoted,
            (BeforeName | Name, _) if is_token_byte(byte) => Name,
            (BeforeValue | Token, _) if is_token_byte(byte) => Token,
            (Name | AfterName, b' ' | b'\t') => AfterName,
            (BeforeName | BeforeValue | BeforeSemicolon, b' ' | b'\t') => part,
            (Token | AfterQuoted, b' ' | b'\t') => BeforeSemicolon,
            _ => return Err(BAD_EXTENSION),
        };
        Ok(DecoderState::Extension(part))
    }

    fn after_trailer(&mut self, state: DecoderState, byte: u8) -> Result<DecoderState, Refusal> {
        if self.section.len() >= self.section_bytes {
            return Err(Refusal::too_large("trailer section too long"));
        }
        let next = match (state, byte) {
            (DecoderState::TrailerLf, b'\n') => DecoderState::TrailerStart,
            (DecoderState::Trailer, b'\r') => DecoderState::TrailerLf,
            (DecoderState::TrailerLf, _) | (_, b'\n') => return Err(BAD_TRAILER),
            (DecoderState::TrailerStart, _) => {
                self.fields_left =
                    self.fields_left.checked_sub(1).ok_or(Refusal::too_large("too many trailer fields"))?;
                DecoderState::Trailer
            }
            _ => DecoderState::Trailer,
        };
        self.section.push(byte);
        Ok(next)
    }

    fn finish(&mut self) -> Result<DecoderState, Refusal> {
        if !self.section.is_empty() {
            let mut section = std::mem::take(&mut self.section);
            section.extend_from_slice(b"\r\n");
            self.trailers = parse_trailers(&section)?;
        }
        Ok(DecoderState::Done)
    }
}

/// The size of a chunk that has content and no extension, and the length of the line with the size.
fn plain_size(first: u8, behind: &[u8]) -> Option<(u64, usize)> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(u64::from);
    let mut size = digit(first)?;
    for (at, &byte) in behind.iter().enumerate().take(usize::from(SIZE_DIGITS / 2)) {
        match digit(byte) {
            Some(digit) => size = (size << 4) | digit,
            None if byte == b'\r' && size > 0 => {
                let lf = at.saturating_add(1);
                return (behind.get(lf) == Some(&b'\n')).then(|| (size, lf.saturating_add(2)));
            }
            None => return None,
        }
    }
    None
}

fn parse_trailers(section: &[u8]) -> Result<HeaderMap, Refusal> {
    let lines = section.iter().filter(|&&b| b == b'\n').count();
    let mut room = vec![httparse::EMPTY_HEADER; lines];
    let Ok(Complete((_, fields))) = httparse::parse_headers(section, &mut room) else {
        return Err(BAD_TRAILER);
    };
    let mut trailers = HeaderMap::new();
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BAD_TRAILER)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| BAD_TRAILER)?;
        if may_trail(&name) {
            trailers.try_append(name, value).map_err(|_| Refusal::too_large("too many trailer fields"))?;
        }
    }
    Ok(trailers)
}

/// Not what frames, routes, modifies or authenticates a request, or says how to read its content:
/// that was decided before the trailers came (RFC 9110 §6.5.1).
fn may_trail(name: &HeaderName) -> bool {
    const NEVER: [&str; 31] = [
        "authorization",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "keep-alive",
        "max-forwards",
        "pragma",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
    ];
    !NEVER.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use arbtest::arbitrary::{Result, Unstructured};

    use super::*;
    use crate::base::property::{BYTES, CASES, bytes, check, cuts, list};

    /// Content, trailers and what is left of the input; or the status.
    fn decode_all(decoder: &mut Decoder, pieces: &[&[u8]]) -> std::result::Result<(Vec<u8>, Vec<u8>), u16> {
        let (mut content, mut kept) = (Vec::new(), Vec::new());
        for piece in pieces {
            kept.extend_from_slice(piece);
            loop {
                let step = decoder.decode(&kept).map_err(|refusal| refusal.status.as_u16())?;
                assert!(step.data.is_empty() || step.data.end == step.consumed);
                content.extend_from_slice(&kept[step.data]);
                kept.drain(..step.consumed);
                if step.consumed == 0 {
                    break;
                }
            }
            assert!(decoder.is_done() || kept.is_empty());
        }
        Ok((content, kept))
    }

    /// One line that says what became of `input` read as `framing`.
    fn outcome(framing: Framing, limits: &Limits, pieces: &[&[u8]]) -> String {
        let mut decoder = Decoder::new(framing, limits);
        match decode_all(&mut decoder, pieces) {
            Err(status) => status.to_string(),
            Ok((content, rest)) => {
                let end = if decoder.is_done() { "done" } else { "more" };
                let mut said =
                    format!("{} {end} {}", content.escape_ascii(), rest.escape_ascii()).trim().to_owned();
                for (name, value) in &decoder.take_trailers() {
                    said += &format!(" {name}={}", value.as_bytes().escape_ascii());
                }
                said
            }
        }
    }

    fn tight() -> Limits {
        Limits { head_bytes: 40, head_fields: 2, ..Limits::default() }
    }

    #[test]
    fn known_length() {
        let cases: &[(Framing, &[u8], &str, Option<u64>)] = &[
            (Framing::None, b"GET", "done GET", Some(0)),
            (Framing::Length(0), b"GET", "done GET", Some(0)),
            (Framing::Length(5), b"helloGET", "hello done GET", Some(5)),
            (Framing::Length(5), b"hel", "hel more", Some(5)),
            (Framing::Length(u64::MAX), b"hel", "hel more", Some(u64::MAX)),
            (Framing::Chunked, b"", "more", None),
        ];
        for &(framing, input, expected, hint) in cases {
            assert_eq!(Decoder::new(framing, &tight()).remaining_hint(), hint);
            assert_eq!(outcome(framing, &tight(), &[input]), expected, "{framing:?}");
        }
    }

    #[test]
    fn the_hint_counts_down() {
        let mut decoder = Decoder::new(Framing::Length(5), &tight());
        assert_eq!(decoder.decode(b"hel"), Ok(Decoded { consumed: 3, data: 0..3 }));
        assert_eq!(decoder.remaining_hint(), Some(2));
        assert_eq!(decoder.decode(b"loGET"), Ok(Decoded { consumed: 2, data: 0..2 }));
        assert_eq!(decoder.remaining_hint(), Some(0));
        assert_eq!(decoder.decode(b"GET"), Ok(Decoded { consumed: 0, data: 0..0 }));
    }

    const CHUNKED: &[(&[u8], &str)] = &[
        (b"0\r\n\r\nGET", "done GET"),
        (b"000\r\n\r\n", "done"),
        (b"5\r\nhello\r\n0\r\n\r\n", "hello done"),
        (b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\nGET", "hello done GET"),
        (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789 done"),
        (b"5\r\nhel", "hel more"),
        (b"5\r\nhello\r", "hello more"),
        (b"ffffffffffffffff\r\nhel", "hel more"),
        // Sizes.
        (b"00000000000000005\r\nhello\r\n", "400"),
        (b"10000000000000000\r\n", "400"),
        (b"\r\n", "400"),
        (b";a\r\n", "400"),
        (b"+5\r\nhello", "400"),
        (b"-5\r\nhello", "400"),
        (b"0x5\r\nhello", "400"),
        (b"5_\r\nhello", "400"),
        (b" 5\r\nhello", "400"),
        (b"5 \r\nhello", "400"),
        (b"5\nhello", "400"),
        (b"5\rhello", "400"),
        (b"g\r\n", "400"),
        // Ends of chunks.
        (b"5\r\nhello0\r\n", "400"),
        (b"5\r\nhello\n0\r\n\r\n", "400"),
        (b"5\r\nhello\r0", "400"),
        (b"5\r\nhellooo\r\n", "400"),
        // Extensions.
        (b"5;bad\r\nhello\r\n0;a=1\r\n\r\n", "hello done"),
        (b"5 ; a = b ;c=\"d;\\\"e\" ;f\r\nhello\r\n0\r\n\r\n", "hello done"),
        (b"5;a=\"\xff\"\r\nhello", "hello more"),
        (b"5;\r\nhello", "400"),
        (b"5;a=\r\nhello", "400"),
        (b"5;a b\r\nhello", "400"),
        (b"5;a=b c\r\nhello", "400"),
        (b"5;a \r\nhello", "400"),
        (b"5;a=\"b\r\nhello", "400"),
        (b"5;a=\"b\"c\r\nhello", "400"),
        (b"5;a\nhello", "400"),
        (b"5;a\0\r\nhello", "400"),
        (b"5;a=\"\x01\"\r\nhello", "400"),
        (b"5;a=\"\\\n\"\r\nhello", "400"),
        (b"5;a=\"\x7f\"\r\nhello", "400"),
        // Trailers.
        (b"0\r\nX-Sum: 1\r\nx-sum:2 \r\n\r\nGET", "done GET x-sum=1 x-sum=2"),
        (b"0\r\nHost: a\r\nContent-Length: 9\r\n\r\n", "done"),
        (b"0\r\ntransfer-encoding: gzip\r\nETag: x\r\n\r\n", "done etag=x"),
        (b"0\r\na:1\r\n", "more"),
        (b"0\r\na:1\r\nb:2\r\nc:3\r\n\r\n", "431"),
        (b"0\r\na:1234567890123456789012345678901234567890\r\n\r\n", "431"),
        (b"0\r\na:1\n\r\n", "400"),
        (b"0\r\na:1\r\n\n", "400"),
        (b"0\r\n\n", "400"),
        (b"0\r\n\rG", "400"),
        (b"0\r\na:1\rb:2\r\n\r\n", "400"),
        (b"0\r\na:1\r\n b\r\n\r\n", "400"),
        (b"0\r\na :1\r\n\r\n", "400"),
        (b"0\r\na\r\n\r\n", "400"),
        (b"0\r\na:\0\r\n\r\n", "400"),
        (b"0\r\nGET / HTTP/1.1\r\n\r\n", "400"),
    ];

    #[test]
    fn chunked() {
        for &(input, expected) in CHUNKED {
            let shown = input.escape_ascii();
            assert_eq!(outcome(Framing::Chunked, &tight(), &[input]), expected, "{shown}");
            let bytes: Vec<&[u8]> = input.chunks(1).collect();
            assert_eq!(outcome(Framing::Chunked, &tight(), &bytes), expected, "{shown}, byte by byte");
        }
    }

    #[test]
    fn extensions_are_counted_over_the_body() {
        let chunk = [b"1;", &[b'x'; 1022][..], b"\r\na\r\n"].concat();
        let body = |chunks| [&chunk.repeat(chunks), &b"0\r\n\r\n"[..]].concat();
        // A chunk's extension is counted with the CR that ends it: 1024 bytes.
        assert_eq!(outcome(Framing::Chunked, &tight(), &[&body(4)]), "aaaa done");
        assert_eq!(outcome(Framing::Chunked, &tight(), &[&body(5)]), "400");
    }

    #[test]
    fn a_run_of_chunks_is_moved_together() {
        // Input, most, what is consumed, the content.
        let cases: &[(&[u8], u64, usize, &[u8])] = &[
            (b"1\r\na\r\n1;x\r\nb\r\n2\r\ncd\r\n0\r\n\r\nGET", 9, 26, b"abcd"),
            (b"3\r\nabc\r\n", 9, 8, b"abc"),
            (b"3\r\nabc\r\n4\r\nde", 9, 13, b"abcde"),
            // Up to the chunk that exceeds the limit: the next one is not decoded.
            (b"3\r\nabc\r\n2\r\nde\r\nx", 4, 13, b"abcde"),
            (b"3\r\nabc\r\n9\r\n", 9, 11, b"abc"),
            (b"1\r\na\r\n", 0, 4, b"a"),
            (b"", 9, 0, b""),
        ];
        for &(input, most, consumed, content) in cases {
            let (mut decoder, mut run) = (Decoder::new(Framing::Chunked, &tight()), input.to_vec());
            let decoded = decoder.decode_run(&mut run, most).unwrap();
            let shown = input.escape_ascii();
            assert_eq!((decoded.consumed, &run[decoded.data]), (consumed, content), "{shown}, {most}");
            assert_eq!(run[consumed..], input[consumed..], "{shown}: what is left is as it was");
        }
        let mut decoder = Decoder::new(Framing::Length(3), &tight());
        assert_eq!(decoder.decode_run(&mut b"abcdef".to_vec(), 9), Ok(Decoded { consumed: 3, data: 0..3 }));
        let mut decoder = Decoder::new(Framing::Chunked, &tight());
        assert_eq!(decoder.decode_run(&mut b"1\r\na\r\nx".to_vec(), 9), Err(BAD_SIZE));
    }

    const PIECES: &[&[u8]] =
        &[b"5\r\nhello\r\n", b"1;a=b\r\nx\r\n", b"0\r\n", b"a:b\r\n", b"\r\n", b"\r", b"\n", b"0", b";"];

    /// Pieces of bodies, right and wrong, that random bytes would seldom make.
    fn fragments(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        let part = |u: &mut Unstructured<'_>| match u.int_in_range(0..=8)? {
            0..=3 => Ok(u.choose(CHUNKED)?.0.to_vec()),
            4..=7 => Ok(u.choose(PIECES)?.to_vec()),
            _ => bytes(u, 0..=7),
        };
        Ok(list(u, 0..=4, part)?.concat())
    }

    #[test]
    fn splits_do_not_matter() {
        check(CASES, BYTES, |u| {
            let (length, input) = (u.int_in_range(0..=39)?, fragments(u)?);
            let mut from = 0;
            let mut pieces: Vec<&[u8]> = Vec::new();
            for to in cuts(u, input.len(), 8)? {
                pieces.push(&input[from..to]);
                from = to;
            }
            for framing in [Framing::Chunked, Framing::Length(length), Framing::None] {
                assert_eq!(
                    outcome(framing, &tight(), &pieces),
                    outcome(framing, &tight(), &[&input]),
                    "{framing:?}, {}",
                    input.escape_ascii()
                );
            }
            Ok(())
        });
    }

    #[test]
    fn runs_are_what_their_chunks_are() {
        check(CASES, BYTES, |u| {
            let (most, input) = (u.int_in_range(0..=11)?, fragments(u)?);
            let one_by_one = {
                let (mut decoder, mut at, mut content) =
                    (Decoder::new(Framing::Chunked, &tight()), 0, Vec::new());
                loop {
                    match decoder.decode(&input[at..]) {
                        Ok(step) => {
                            content.extend_from_slice(&input[at..][step.data]);
                            at += step.consumed;
                            let beyond = (content.len() as u64).saturating_add(decoder.announced()) > most;
                            if at == input.len() || decoder.is_done() || beyond {
                                break Ok((at, content));
                            }
                        }
                        Err(refusal) => break Err(refusal),
                    }
                }
            };
            let (mut decoder, mut run) = (Decoder::new(Framing::Chunked, &tight()), input.clone());
            let in_a_run = decoder
                .decode_run(&mut run, most)
                .map(|decoded| (decoded.consumed, run[decoded.data].to_vec()));
            assert_eq!(in_a_run, one_by_one, "{}", input.escape_ascii());
            Ok(())
        });
    }

    #[test]
    fn reads_what_is_written() {
        check(CASES, BYTES, |u| {
            let pieces = list(u, 0..=8, |u| bytes(u, 0..=98))?;
            let mut written = Vec::new();
            for piece in &pieces {
                super::super::encode::chunk(&mut written, piece);
            }
            written.extend_from_slice(super::super::encode::LAST_CHUNK);
            let mut decoder = Decoder::new(Framing::Chunked, &tight());
            assert_eq!(decode_all(&mut decoder, &[&written]), Ok((pieces.concat(), Vec::new())));
            assert!(decoder.is_done());
            Ok(())
        });
    }
}
