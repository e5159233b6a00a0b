//! W3C Trace Context: the place of a request in a trace that spans several services.

use std::sync::Arc;

/// A request's place in a trace (W3C Trace Context), in its extensions and those of its response, with
/// [`RequestIds::traceparent`](super::RequestIds::traceparent). Send [`traceparent`](TraceContext::traceparent) along with each
/// request that a handler makes of other services, and the request's own `tracestate`, unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// `00-TRACE-SPAN-FLAGS`.
    text: Arc<str>,
    parent: Option<Arc<str>>,
}

const VERSION: &str = "00";
/// Of version 00.
const BYTES: usize = 55;

impl TraceContext {
    /// The field of a request that is part of this one.
    pub fn traceparent(&self) -> &str {
        &self.text
    }

    /// 32 hexadecimal digits, the same in all services.
    pub fn trace_id(&self) -> &str {
        self.text.get(3..35).unwrap_or_default()
    }

    /// This request in this service: 16 hexadecimal digits.
    pub fn span_id(&self) -> &str {
        self.text.get(36..52).unwrap_or_default()
    }

    /// The span of the caller. None where the trace begins here.
    pub fn parent_id(&self) -> Option<&str> {
        self.parent.as_deref()
    }

    /// Whether the caller may have recorded the trace.
    pub fn is_sampled(&self) -> bool {
        self.text
            .get(53..)
            .and_then(|flags| u8::from_str_radix(flags, 16).ok())
            .is_some_and(|flags| flags & 1 == 1)
    }

    /// A new trace.
    pub(super) fn new(trace: [u64; 2], span: u64) -> TraceContext {
        let [high, low] = trace;
        let text = format!("{VERSION}-{high:016x}{low:016x}-{:016x}-00", span.max(1));
        TraceContext { text: text.into(), parent: None }
    }

    /// A new span of the trace that this field names; None if it is malformed. Of later versions the parts of this one are
    /// read.
    pub(super) fn continued(field: &str, span: u64) -> Option<TraceContext> {
        let (parts, rest) = field.split_at_checked(BYTES)?;
        let [version, trace, parent, flags] = parts.split('-').collect::<Vec<_>>().try_into().ok()?;
        let is_hex = |text: &str, len: usize| {
            text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_id = |text: &str, len: usize| is_hex(text, len) && text.bytes().any(|b| b != b'0');
        let is_whole =
            if version == VERSION { rest.is_empty() } else { rest.is_empty() || rest.starts_with('-') };
        let is_valid = is_hex(version, 2)
            && version != "ff"
            && is_id(trace, 32)
            && is_id(parent, 16)
            && is_hex(flags, 2)
            && is_whole;
        is_valid.then(|| TraceContext {
            text: format!("{VERSION}-{trace}-{:016x}-{flags}", span.max(1)).into(),
            parent: Some(parent.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_specification() {
        const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        let valid = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let context = TraceContext::continued(&valid, 0xabc).unwrap();
        assert_eq!(context.traceparent(), format!("00-{TRACE}-0000000000000abc-01"));
        assert_eq!((context.trace_id(), context.span_id()), (TRACE, "0000000000000abc"));
        assert_eq!((context.parent_id(), context.is_sampled()), (Some("00f067aa0ba902b7"), true));
        let later =
            TraceContext::continued(&format!("cc-{TRACE}-00f067aa0ba902b7-00-what.comes"), 1).unwrap();
        assert_eq!(later.traceparent(), format!("00-{TRACE}-0000000000000001-00"));
        assert!(!later.is_sampled());
        let new = TraceContext::new([1, 2], 0);
        assert_eq!(new.traceparent(), "00-00000000000000010000000000000002-0000000000000001-00");
        assert_eq!(new.parent_id(), None);
        for invalid in [
            String::new(),
            "é".repeat(28),
            valid.to_uppercase(),
            format!("{valid}-x"),
            format!("{valid} "),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("cc-{TRACE}-00f067aa0ba902b7-01.x"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-0g"),
            format!("00-{TRACE}-00f067aa0ba902b-011"),
            format!("00_{TRACE}_00f067aa0ba902b7_01"),
        ] {
            assert_eq!(TraceContext::continued(&invalid, 1), None, "{invalid}");
        }
    }
}
