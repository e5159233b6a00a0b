//! Where the parts of a request head are (RFC 9112 §2 to §5), found in one pass over its bytes.
//!
//! The first byte that can't stand where it stands refuses the head, whatever follows it, so a head in pieces is refused
//! with the same words as in one piece. What the parts mean is not decided here.

use std::ops::Range;

use http::{StatusCode, Version};

use super::head::Refusal;
use super::known_fields::KnownFields;
use crate::base::limits::Limits;

// References: a result with one is returned in registers.
const TARGET_TOO_LONG: &Refusal =
    &Refusal { status: StatusCode::URI_TOO_LONG, reason: "request target too long" };
const UNKNOWN_VERSION: &Refusal = &Refusal {
    status: StatusCode::HTTP_VERSION_NOT_SUPPORTED,
    reason: "only HTTP/1.0 and HTTP/1.1 are supported",
};
const BAD_LINE: &Refusal = &Refusal::bad("malformed request line");
const BAD_VERSION: &Refusal = &Refusal::bad("malformed HTTP version");
const BAD_LINE_END: &Refusal = &Refusal::bad("malformed line end");
const MIXED_LINE_ENDS: &Refusal = &Refusal::bad("mixed CRLF and LF line endings");
const BAD_NAME: &Refusal = &Refusal::bad("malformed field name");
const BAD_VALUE: &Refusal = &Refusal::bad("malformed field value");
pub(super) const TOO_MANY_FIELDS: &Refusal = &Refusal::too_large("too many header fields");

/// The longest target that [`http::Uri`] can hold.
const URI_BYTES: usize = u16::MAX as usize - 1;

/// The parts of a head, as ranges of its text. One value serves one head after the other, to keep its memory.
#[derive(Default)]
pub(super) struct Tokens {
    pub(super) method: Range<usize>,
    pub(super) is_get: bool,
    pub(super) target: Range<usize>,
    /// The target is `/`.
    pub(super) is_root: bool,
    pub(super) version: Version,
    /// Where the lines of the fields start.
    pub(super) fields_start: usize,
    /// All of them are the known ones.
    pub(super) are_known: bool,
    /// Otherwise: how many of them are the first of the known ones.
    pub(super) known: usize,
    /// The fields of the other lines.
    pub(super) fields: Vec<Field>,
    pub(super) len: usize,
}

pub(super) struct Field {
    pub(super) name: Range<usize>,
    pub(super) value: Range<usize>,
}

/// Why there is no complete head.
enum Stop {
    Incomplete,
    Refused(&'static Refusal),
}

impl From<&'static Refusal> for Stop {
    fn from(refusal: &'static Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

impl Tokens {
    /// Finds the parts of the head that `text` starts with. False if it is not complete yet. Known fields
    /// are only compared.
    pub(super) fn find(
        &mut self,
        text: &[u8],
        limits: &Limits,
        known: &KnownFields,
    ) -> Result<bool, Refusal> {
        match self.walk(Cursor { text, at: 0 }, limits, known) {
            Ok(()) => Ok(true),
            Err(Stop::Incomplete) => Ok(false),
            Err(Stop::Refused(refusal)) => Err(*refusal),
        }
    }

    fn walk(&mut self, mut cursor: Cursor<'_>, limits: &Limits, known: &KnownFields) -> Result<(), Stop> {
        if cursor.text == b"\r" {
            return Err(Stop::Incomplete);
        }
        self.is_get = cursor.rest().starts_with(b"GET ");
        self.method = if self.is_get { cursor.skip(3) } else { cursor.token() };
        if self.method.is_empty() && !cursor.text.is_empty() {
            return Err(BAD_LINE.into());
        }
        cursor.expect(b' ', BAD_LINE)?;
        self.target = cursor.printable(b'!');
        // This is checked first, so that the answer does not depend on how much of the head has arrived.
        if self.target.len() > limits.target_bytes.min(URI_BYTES) {
            return Err(TARGET_TOO_LONG.into());
        }
        cursor.expect(b' ', BAD_LINE)?;
        let target = cursor.text.get(self.target.clone()).unwrap_or_default();
        self.is_root = target == b"/";
        if !self.is_root && (target.is_empty() || !is_utf8(target)) {
            return Err(BAD_LINE.into());
        }
        self.version = cursor.version()?;
        let ends_crlf = cursor.line_end(BAD_LINE_END)?;
        self.fields_start = cursor.at;
        self.are_known = ends_crlf && known.are_in(cursor.rest(), limits.head_fields);
        if self.are_known {
            cursor.skip(known.len());
        } else {
            self.known = if ends_crlf { known.count_in(cursor.rest(), limits.head_fields) } else { 0 };
            cursor.skip(known.len_of(self.known));
            self.walk_fields(&mut cursor, ends_crlf, limits.head_fields.saturating_sub(self.known))?;
        }
        self.len = cursor.at;
        Ok(())
    }

    /// Finds `most` fields at most, and the empty line behind them.
    #[inline(always)]
    fn walk_fields(&mut self, cursor: &mut Cursor<'_>, ends_crlf: bool, most: usize) -> Result<(), Stop> {
        let same = |crlf| if crlf == ends_crlf { Ok(()) } else { Err(Stop::from(MIXED_LINE_ENDS)) };
        self.fields.clear();
        loop {
            if matches!(cursor.peek()?, b'\r' | b'\n') {
                return same(cursor.line_end(BAD_LINE_END)?);
            }
            let name = cursor.token();
            cursor.expect(b':', BAD_NAME)?;
            if name.is_empty() {
                return Err(BAD_NAME.into());
            }
            let value = cursor.value();
            same(cursor.line_end(BAD_VALUE)?)?;
            if self.fields.len() >= most {
                return Err(TOO_MANY_FIELDS.into());
            }
            self.fields.push(Field { name, value });
        }
    }

    /// The fields in well-formed lines, of which each ends in CRLF.
    pub(super) fn of_fields(text: &[u8]) -> Vec<Field> {
        let mut tokens = Tokens::default();
        let _ = tokens.walk_fields(&mut Cursor { text, at: 0 }, true, usize::MAX);
        tokens.fields
    }
}

/// A position in the text, never beyond its end, so no sum overflows.
struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    #[inline(always)]
    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Goes over `len` bytes.
    #[inline(always)]
    fn skip(&mut self, len: usize) -> Range<usize> {
        let start = self.at;
        self.at = start.wrapping_add(len);
        start..self.at
    }

    #[inline(always)]
    fn peek(&self) -> Result<u8, Stop> {
        self.text.get(self.at).copied().ok_or(Stop::Incomplete)
    }

    #[inline(always)]
    fn next(&mut self) -> Result<u8, Stop> {
        let byte = self.peek()?;
        self.skip(1);
        Ok(byte)
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8, otherwise: &'static Refusal) -> Result<(), Stop> {
        if self.next()? == byte { Ok(()) } else { Err(otherwise.into()) }
    }

    #[inline(always)]
    fn token(&mut self) -> Range<usize> {
        let rest = self.rest();
        self.skip(rest.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(rest.len()))
    }

    #[inline(always)]
    fn printable(&mut self, least: u8) -> Range<usize> {
        self.skip(printable_len(self.rest(), least))
    }

    /// A field's value, without the white space around it.
    #[inline(always)]
    fn value(&mut self) -> Range<usize> {
        while let Some(b' ' | b'\t') = self.text.get(self.at) {
            self.skip(1);
        }
        let start = self.at;
        self.printable(b' ');
        while self.text.get(self.at) == Some(&b'\t') {
            self.skip(1);
            self.printable(b' ');
        }
        let mut end = self.at;
        while end > start && matches!(self.text.get(end.wrapping_sub(1)), Some(b' ' | b'\t')) {
            end = end.wrapping_sub(1);
        }
        start..end
    }

    /// Whether the line ends in CRLF.
    #[inline(always)]
    fn line_end(&mut self, otherwise: &'static Refusal) -> Result<bool, Stop> {
        if self.rest().starts_with(b"\r\n") {
            self.skip(2);
            return Ok(true);
        }
        match self.next()? {
            b'\n' => Ok(false),
            b'\r' => self.expect(b'\n', otherwise).map(|()| true),
            _ => Err(otherwise.into()),
        }
    }

    /// A later minor of major 1 is read as 1.1 (RFC 9110 §2.5), another major is answered 505 (RFC 9110 §15.6.6).
    #[inline(always)]
    fn version(&mut self) -> Result<Version, Stop> {
        let rest = self.rest();
        let version = match rest.first_chunk() {
            // As one number: a pattern is compared byte by byte.
            Some(eight) if *eight == *b"HTTP/1.1" => Version::HTTP_11,
            Some(eight) if *eight == *b"HTTP/1.0" => Version::HTTP_10,
            _ => {
                let version = rest.get(..8).unwrap_or(rest);
                let shape = |(at, byte): (usize, &u8)| match at {
                    5 | 7 => byte.is_ascii_digit(),
                    _ => b"HTTP/1.1".get(at) == Some(byte),
                };
                if !version.iter().enumerate().all(shape) {
                    return Err(BAD_VERSION.into());
                }
                match version {
                    [_, _, _, _, _, b'1', _, _] => Version::HTTP_11,
                    [_, _, _, _, _, _, _, _] => return Err(UNKNOWN_VERSION.into()),
                    _ => return Err(Stop::Incomplete),
                }
            }
        };
        self.skip(8);
        Ok(version)
    }
}

#[inline(always)]
fn is_utf8(text: &[u8]) -> bool {
    text.is_ascii() || std::str::from_utf8(text).is_ok()
}

/// How many bytes at the start of `text` are at least `least` and not DEL. Values may be long: eight bytes are looked at
/// at once, and the lowest high bit of `stops` is that of the first byte that is not one of these.
#[inline(always)]
fn printable_len(text: &[u8], least: u8) -> usize {
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    let mut rest = text;
    while let Some((eight, behind)) = rest.split_first_chunk() {
        let bytes = u64::from_le_bytes(*eight);
        let not_del = bytes ^ each(0x7f);
        let below = bytes.wrapping_sub(each(least)) & !bytes;
        let del = not_del.wrapping_sub(each(1)) & !not_del;
        let stops = (below | del) & each(0x80);
        if stops != 0 {
            return text.len().wrapping_sub(rest.len()).wrapping_add((stops.trailing_zeros() / 8) as usize);
        }
        rest = behind;
    }
    let last = rest.iter().take_while(|&&byte| byte >= least && byte != 0x7f).count();
    text.len().wrapping_sub(rest.len()).wrapping_add(last)
}

/// `tchar` (RFC 9110 §5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    TOKEN_BYTES.get(usize::from(byte)).is_some_and(|is_one| *is_one)
}

#[expect(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "up to 256")]
const TOKEN_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+'
            | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use arbtest::arbitrary::{Result, Unstructured};
    use httparse::{EMPTY_HEADER, Status};

    use super::*;
    use crate::base::property::{BYTES, CASES, bytes, check, list};

    #[test]
    fn each_byte_is_where_it_may_be() {
        for byte in 0..=255_u8 {
            for least in *b" !" {
                for at in 0..20 {
                    let mut text = [b'a'; 20];
                    text[at] = byte;
                    let stops = byte < least || byte == 0x7f;
                    assert_eq!(printable_len(&text, least), if stops { at } else { 20 }, "{byte:#x} at {at}");
                }
            }
            assert_eq!(is_token_byte(byte), http::Method::from_bytes(&[byte]).is_ok(), "{byte:#x}");
        }
    }

    const PIECES: &[&[u8]] = &[
        b"GET ",
        b"X-Y ",
        b"/ ",
        b"/a?b ",
        b"/\xc3\xa4 ",
        b"/\xff ",
        b"*",
        b" ",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"Host: a",
        b"a:\t b \tc\t ",
        b"a:",
        b"A-very-long-name: and a value that is longer than eight bytes",
        b":",
        b"\0",
        b"\x7f",
        b"\xff",
    ];

    /// Heads, right and wrong, that random bytes would seldom make.
    fn heads(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        let starts: [&[u8]; 4] =
            [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.1\nHost: a\r\n"];
        let start = *u.choose(&starts)?;
        let pieces = list(u, 0..=12, |u| u.choose(PIECES).copied())?.concat();
        let end: &[u8] = if u.arbitrary()? { b"\r\n\r\n" } else { b"" };
        Ok([start, &pieces, end, &bytes(u, 0..=2)?].concat())
    }

    /// What httparse makes of a head: its parts, or whether more bytes may make it one.
    fn by_httparse(text: &[u8]) -> std::result::Result<Option<Vec<Vec<u8>>>, httparse::Error> {
        let mut room = [EMPTY_HEADER; 20];
        let mut request = httparse::Request::new(&mut room);
        let Status::Complete(len) = request.parse(text)? else { return Ok(None) };
        let mut parts = vec![len.to_string().into_bytes()];
        parts.extend([request.method.unwrap().into(), request.path.unwrap().into()]);
        parts.push(vec![b'0' + request.version.unwrap()]);
        for field in request.headers {
            parts.extend([field.name.as_bytes().to_vec(), field.value.to_vec()]);
        }
        Ok(Some(parts))
    }

    fn by_tokens(text: &[u8]) -> std::result::Result<Option<Vec<Vec<u8>>>, Refusal> {
        let mut tokens = Tokens::default();
        if !tokens.find(text, &Limits::default(), &KnownFields::default())? {
            return Ok(None);
        }
        let part = |range: &Range<usize>| text[range.clone()].to_vec();
        let mut parts = vec![tokens.len.to_string().into_bytes(), part(&tokens.method), part(&tokens.target)];
        parts.push(vec![b'0' + u8::from(tokens.version == Version::HTTP_11)]);
        for field in &tokens.fields {
            parts.extend([part(&field.name), part(&field.value)]);
        }
        Ok(Some(parts))
    }

    #[test]
    fn httparse_finds_the_same_parts() {
        check(CASES, BYTES, |u| {
            let text = heads(u)?;
            // httparse skips empty lines, which the caller does here.
            if matches!(text.first(), Some(b'\r' | b'\n')) {
                return Ok(());
            }
            match (by_tokens(&text), by_httparse(&text)) {
                (Ok(ours), Ok(theirs)) => assert_eq!(ours, theirs, "{}", text.escape_ascii()),
                // It lets both line ends stand in one head.
                (Err(refusal), _) if refusal == *MIXED_LINE_ENDS => {}
                (Err(_), Err(_)) => {}
                (ours, theirs) => panic!("{ours:?}, {theirs:?}: {}", text.escape_ascii()),
            }
            Ok(())
        });
    }
}
