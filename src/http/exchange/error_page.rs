//! Gives an error response the page of the service, where no handler has written a body: see `web/error_pages.rs`.

use bytes::Bytes;
use http::header::ACCEPT;
use http::response::Parts;
use http::{HeaderValue, Version};

use super::progress::ExchangeStage;
use super::worker::method_and_path;
use super::{Exchange, drop_contained};
use crate::Response;
use crate::base::contain_panic::panic_text;
use crate::base::limits::Limits;
use crate::base::log::error;
use crate::base::status::Counters;
use crate::http::codec::encode::{BodyFraming, ResponseHead};
use crate::http::codec::{DateLine, HeadMemory, Refusal, RequestSummary, parse_head};
use crate::web::body::Author;
use crate::web::error_pages::{ErrorPages, NoPage, add_fields, error_of};
use crate::web::response::IntoResponse;

impl Exchange<'_> {
    /// Replaces the body of an error response by the service's page. A page that can't be made changes nothing.
    #[inline]
    pub(super) fn add_error_page(&self, request: &RequestSummary, response: &mut Response) {
        if let Some(pages) = &self.common.error_pages {
            add_page(pages, response, &request.text, &self.common.limits, &self.worker.counters);
        }
    }

    /// Refuses bytes that are no request with the service's page. False without one.
    pub(super) fn refuse_with_page(&mut self, refusal: &Refusal, to_head: bool) -> bool {
        let Some(pages) = &self.common.error_pages else { return false };
        let received = match &self.client.progress.stage {
            ExchangeStage::Body(collecting) => collecting.request.head.summary.text.clone(),
            ExchangeStage::Upload(pending) => pending.request.head.summary.text.clone(),
            _ if self.worker.input.is_empty() => Bytes::copy_from_slice(&self.client.buffered),
            _ => Bytes::copy_from_slice(self.worker.input.unused()),
        };
        let mut response =
            (refusal.status, refusal.reason).into_response().map(|body| body.by(Author::Detail));
        add_page(pages, &mut response, &received, &self.common.limits, &self.worker.counters);
        let (parts, mut body) = response.into_parts();
        let content = body.read_bytes().unwrap_or_default();
        let date = self.worker.date.get(self.turn.now);
        write_closing(&mut self.worker.out, (Version::HTTP_11, &parts), &content, to_head, date);
        true
    }
}

/// Replaces the body of an error response by a page. `received` is the head, as far as it has arrived.
#[cold]
pub(super) fn add_page(
    pages: &ErrorPages,
    response: &mut Response,
    received: &Bytes,
    limits: &Limits,
    counters: &Counters,
) {
    let Some(mut error) = error_of(response) else { return };
    // The head is parsed once more, because its parts went to the handler.
    let mut place = None;
    let head = parse_head(received, limits, &mut HeadMemory::default(), &mut place);
    error = match head.ok().flatten().and_then(|head| head.request.take()) {
        Some(request) => error.with_request(request.into_parts().0),
        None => error.with_accept(accept_within(received)),
    };
    match pages.make(&error) {
        Ok((fields, content)) => {
            add_fields(response.headers_mut(), &fields);
            *response.body_mut() = content.into();
        }
        Err(NoPage::Unreadable(e)) => {
            error!("an error page can't be read: {e}: {}", method_and_path(received));
        }
        Err(NoPage::Panicked(panic)) => {
            error!("an error page panicked ({}): {}", panic_text(&*panic), method_and_path(received));
            counters.panicked();
            drop_contained(panic, || method_and_path(received));
        }
    }
}

/// Writes the last response of a connection.
pub(super) fn write_closing(
    out: &mut Vec<u8>,
    (version, parts): (Version, &Parts),
    content: &[u8],
    to_head: bool,
    date: &DateLine,
) {
    let length = content.len() as u64;
    let framing = if to_head { BodyFraming::Announced(length) } else { BodyFraming::Length(length) };
    let head = ResponseHead {
        version,
        status: parts.status,
        headers: &parts.headers,
        framing,
        keep_alive: false,
        date,
    };
    head.write(out);
    if !to_head {
        out.extend_from_slice(content);
    }
}

/// The `Accept` of a head that is malformed, too long or incomplete.
fn accept_within(received: &[u8]) -> Option<HeaderValue> {
    let value = |line: &[u8]| {
        let (name, value) = line.split_at_checked(ACCEPT.as_str().len())?;
        let value =
            value.strip_prefix(b":").filter(|_| name.eq_ignore_ascii_case(ACCEPT.as_str().as_bytes()))?;
        HeaderValue::from_bytes(value.trim_ascii()).ok()
    };
    received.split(|&byte| byte == b'\n').find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_of_a_head_that_is_none() {
        let cases: [(&[u8], Option<&str>); 5] = [
            (b"GET / HTTP/1.1\r\nbad field\r\nACCEPT:  text/html \r\n", Some("text/html")),
            (b"GET / HTTP/1.1\r\nAccept: text/html", Some("text/html")),
            (b"GET / HTTP/1.1\r\nAccept-Encoding: gzip\r\nX: accept: a\r\n", None),
            (b"Accept", None),
            (b"\xff\xff", None),
        ];
        for (received, want) in cases {
            let got = accept_within(received);
            assert_eq!(
                got.as_ref().map(|value| value.to_str().unwrap()),
                want,
                "{}",
                received.escape_ascii()
            );
        }
    }
}
