//! The `Host` of most requests, which is checked once.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use http::header::HOST;

use super::framing::ConnectionFields;
use super::head::{HEAD_TOO_LONG, Refusal};

/// A `Host` that was checked before and has memory of its own: most requests to a server name the same one.
#[derive(Debug)]
pub(super) struct KnownHost {
    value: HeaderValue,
    /// How many requests in a row named others.
    misses: u8,
}

impl Default for KnownHost {
    /// The empty host, which is well-formed. The first other host that is not too long replaces it.
    fn default() -> KnownHost {
        KnownHost { value: HeaderValue::from_static(""), misses: KnownHost::MISSES }
    }
}

impl KnownHost {
    /// Longer ones are rare, and not kept.
    pub(super) const MOST: usize = 128;
    /// After more misses in a row another host replaces it. If one miss were enough, each request would copy a host where hosts
    /// alternate.
    pub(super) const MISSES: u8 = 16;

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
            self.misses = 0;
            fields.note_host()?;
            return Ok(self.value.clone());
        }
        fields.note(&HOST, value)?;
        self.misses = self.misses.saturating_add(1);
        if self.misses > KnownHost::MISSES && value.len() <= KnownHost::MOST {
            // Split, it counts its handles from the start.
            let copy = BytesMut::from(value).split_off(0).freeze();
            self.value = HeaderValue::from_maybe_shared(copy).map_err(|_| HEAD_TOO_LONG)?;
            self.misses = 0;
        }
        HeaderValue::from_maybe_shared(text.slice(place.clone())).map_err(|_| HEAD_TOO_LONG)
    }
}
