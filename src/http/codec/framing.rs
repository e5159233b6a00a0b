//! How a request's body is delimited, and the other fields of its head that bear on the connection.
//!
//! A `Content-Length` beside a `Transfer-Encoding`, and each coding that this server does not decode, is refused: where
//! two recipients see different ends of a request, the second one is smuggled (RFC 9112 §11.2).

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderName, StatusCode, Version};

use super::head::Refusal;
use super::target::is_host;
use crate::web::fields::elements;

const BAD_LENGTH: Refusal = Refusal::bad("malformed Content-Length");
const BAD_CODING: Refusal = Refusal::bad("chunked must be the last transfer coding and occur once");
const UNKNOWN_CODING: Refusal =
    Refusal { status: StatusCode::NOT_IMPLEMENTED, reason: "unknown transfer coding" };
const BAD_HOST: Refusal = Refusal::bad("malformed Host");
const UNKNOWN_EXPECTATION: Refusal =
    Refusal { status: StatusCode::EXPECTATION_FAILED, reason: "unknown expectation" };

/// How a request's body is delimited (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    #[default]
    None,
    Length(u64),
    Chunked,
}

/// The fields that bear on the connection, gathered in the single pass over all fields.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ConnectionFields {
    length: Option<u64>,
    coding: Option<Coding>,
    pub(super) host: bool,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    pub(super) expect_continue: bool,
}

/// The transfer codings so far, of all field lines.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Coding {
    Nothing,
    Chunked,
    /// Only others than chunked.
    Others,
    /// Chunked after others, which are not decoded here.
    Layered,
    /// Chunked twice, or not last.
    Misplaced,
}

impl ConnectionFields {
    /// Notes a field of the head.
    pub(super) fn note(&mut self, name: &HeaderName, value: &[u8]) -> Result<(), Refusal> {
        if *name == HOST {
            // An empty one is well-formed.
            if !(value.is_empty() || is_host(value)) {
                return Err(BAD_HOST);
            }
            // There is exactly one (RFC 9112 §3.2).
            if std::mem::replace(&mut self.host, true) {
                return Err(BAD_HOST);
            }
        } else if *name == CONTENT_LENGTH {
            // RFC 9112 §6.3 would allow equal repetitions; no honest client sends them.
            if self.length.is_some() {
                return Err(Refusal::bad("repeated Content-Length"));
            }
            self.length = Some(content_length(value).ok_or(BAD_LENGTH)?);
        } else if *name == TRANSFER_ENCODING {
            let before = self.coding.unwrap_or(Coding::Nothing);
            self.coding = Some(elements(value).fold(before, Coding::and));
        } else if *name == CONNECTION {
            for option in elements(value) {
                self.close |= option.eq_ignore_ascii_case(b"close");
                self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                self.upgrade |= option.eq_ignore_ascii_case(b"upgrade");
            }
        } else if *name == EXPECT {
            for expectation in elements(value) {
                if !expectation.eq_ignore_ascii_case(b"100-continue") {
                    return Err(UNKNOWN_EXPECTATION);
                }
                self.expect_continue = true;
            }
        }
        Ok(())
    }

    /// RFC 9112 §6.1 and §6.3, without the lenient choices that they allow.
    pub(super) fn framing(&self, version: Version) -> Result<Framing, Refusal> {
        match (self.coding, self.length) {
            (Some(_), Some(_)) => Err(Refusal::bad("Transfer-Encoding with Content-Length")),
            (Some(_), None) if version == Version::HTTP_10 => {
                Err(Refusal::bad("Transfer-Encoding in HTTP/1.0"))
            }
            (Some(Coding::Chunked), None) => Ok(Framing::Chunked),
            (Some(Coding::Layered), None) => Err(UNKNOWN_CODING),
            (Some(Coding::Nothing | Coding::Others | Coding::Misplaced), None) => Err(BAD_CODING),
            (None, Some(length)) => Ok(Framing::Length(length)),
            (None, None) => Ok(Framing::None),
        }
    }
}

impl Coding {
    fn and(self, coding: &[u8]) -> Coding {
        let is_chunked = coding.eq_ignore_ascii_case(b"chunked");
        match self {
            Coding::Nothing if is_chunked => Coding::Chunked,
            Coding::Others if is_chunked => Coding::Layered,
            Coding::Nothing | Coding::Others => Coding::Others,
            Coding::Chunked | Coding::Layered | Coding::Misplaced => Coding::Misplaced,
        }
    }
}

/// `1*DIGIT` (RFC 9110 §8.6), if it can be counted.
pub(crate) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    value.iter().try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit & 0x0f)))
}
