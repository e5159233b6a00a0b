//! HTTP/1.0 and 1.1: `codec` reads and writes its bytes, `exchange` serves one request after the other.

pub(crate) mod codec;
pub(crate) mod exchange;

pub use ::http::*;
