//! HTTP/1.0 and 1.1 as bytes and values (RFC 9110, RFC 9112): no sockets, no threads, no clock.
//!
//! One exchange, as its bytes go through these files:
//!
//! ```text
//!             ┌──────────────────────── kept: the next request ◄───────────────────────┐
//!             ▼                                                                        │
//!  bytes ─► HEAD ────────────────► BODY ─────────────► HANDLER ─────► HEAD ─────► BODY ┤
//!           head::Scan │           body::Decoder       (not ours)     encode::    chunk,
//!             │        │             ▲     │             ▲            framing,    LAST_CHUNK
//!             │        │             │     │             │            ResponseHead     │
//!             │        ├─ expects ───┤     │             │              │           │
//!             │        │  CONTINUE   │     │             │              │           │
//!             │        └─ no body ───┼─────┼─────────────┘              │           │
//!             ▼                      │     ▼                            ▼           ▼
//!          Refusal                  more  Refusal                    Upgrade     not kept
//!             └── encode::refusal ─► CLOSED ◄─┘                   (hijacked)   ─► CLOSED
//! ```
//!
//! Request framing (RFC 9112 §6.3): `Transfer-Encoding: chunked`, alone and only in 1.1, or one
//! `Content-Length` of digits, or no body. Everything else is refused, and a refusal closes the connection,
//! because where the next request starts is unknown.
//!
//! Response framing: nothing for HEAD, 1xx, 204, 304 and 2xx to CONNECT; else `Content-Length` where
//! the length is known; else chunked to a 1.1 client, until close to a 1.0 client. Whether the
//! connection is kept is decided by `exchange::respond`.

pub(crate) mod body;
pub(crate) mod date;
pub(crate) mod encode;
pub(crate) mod framing;
pub(crate) mod head;
mod head_memory;
mod known_fields;
mod target;
mod tokens;

pub(crate) use body::Decoder;
pub(crate) use date::{DateCache, DateLine};
pub(crate) use framing::Framing;
pub(crate) use head::{Refusal, RequestHead, RequestSummary, Scan, is_to_head, parse_head};
pub(crate) use head_memory::HeadMemory;
