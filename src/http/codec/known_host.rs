//! The `Host` of most requests, which is checked once.

use std::ops::Range;

use bytes::Bytes;
use http::HeaderValue;
use http::header::HOST;

use super::framing::ConnectionFields;
use super::head::{HEAD_TOO_LONG, Refusal};

const NAME: &[u8] = b"Host";
const BEFORE: &[u8] = b"Host: ";
const BEHIND: &[u8] = b"\r\n";

/// A `Host` that was checked before and has memory of its own: most requests to a server name the same one.
pub(super) struct KnownHost {
    /// The line of the field, as most clients write it.
    line: Bytes,
    /// A part of the line.
    value: HeaderValue,
    /// How many requests in a row named others.
    misses: u8,
}

impl Default for KnownHost {
    /// The empty host, which is well-formed. The first other host that is not too long replaces it.
    fn default() -> KnownHost {
        let line = Bytes::from_static(b"Host: \r\n");
        KnownHost { line, value: HeaderValue::from_static(""), misses: KnownHost::MISSES }
    }
}

impl KnownHost {
    /// Longer ones are rare, and not kept.
    pub(super) const MOST: usize = 128;
    /// After more misses in a row another host replaces it. If one miss were enough, each request would copy a host where hosts
    /// alternate.
    pub(super) const MISSES: u8 = 16;

    /// The whole line of the field, with the end of the line.
    #[inline]
    pub(super) fn line(&self) -> &[u8] {
        &self.line
    }

    /// Name and value in a line of this field.
    #[inline]
    pub(super) fn parts(line: &Range<usize>) -> (Range<usize>, Range<usize>) {
        // No line is at the end of the address space.
        let name = line.start..line.start.wrapping_add(NAME.len());
        (name, line.start.wrapping_add(BEFORE.len())..line.end.wrapping_sub(BEHIND.len()))
    }

    /// The value of the field whose line is the known one.
    #[inline]
    pub(super) fn known(&mut self) -> HeaderValue {
        self.misses = 0;
        self.value.clone()
    }

    /// The field's value, checked and noted in `fields`.
    pub(super) fn value(
        &mut self,
        text: &Bytes,
        place: &Range<usize>,
        fields: &mut ConnectionFields,
    ) -> Result<HeaderValue, Refusal> {
        // It is a part of the text.
        let value = text.get(place.clone()).unwrap_or_default();
        if self.value == *value {
            fields.note_host()?;
            return Ok(self.known());
        }
        fields.note(&HOST, value)?;
        self.misses = self.misses.saturating_add(1);
        if self.misses > KnownHost::MISSES && value.len() <= KnownHost::MOST {
            self.keep(value)?;
        }
        HeaderValue::from_maybe_shared(text.slice(place.clone())).map_err(|_| HEAD_TOO_LONG)
    }

    /// From now on this checked host is the known one.
    pub(super) fn keep(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let line = Bytes::from([BEFORE, value, BEHIND].concat());
        let (_, place) = KnownHost::parts(&(0..line.len()));
        self.value = HeaderValue::from_maybe_shared(line.slice(place)).map_err(|_| HEAD_TOO_LONG)?;
        (self.line, self.misses) = (line, 0);
        Ok(())
    }
}
