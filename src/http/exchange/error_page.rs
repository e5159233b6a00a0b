//! Gives an error response the page of the service, where no handler has written a body: see `web/error_pages.rs`.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Version};

use super::progress::ExchangeStage;
use super::worker::method_and_path;
use super::{Exchange, drop_contained};
use crate::Response;
use crate::base::contain_panic::panic_text;
use crate::base::log::error;
use crate::http::codec::encode::{BodyFraming, ResponseHead};
use crate::http::codec::{Refusal, RequestSummary, Scan};
use crate::web::error_pages::{ErrorPages, HttpError, NoPage, add_fields, error_of};

impl Exchange<'_> {
    /// Replaces the body of an error response by the service's page. A page that can't be made changes nothing.
    #[inline]
    pub(super) fn add_error_page(&self, request: &RequestSummary, response: &mut Response) {
        if let Some(pages) = &self.common.error_pages {
            self.add_page(pages, request, response);
        }
    }

    #[cold]
    fn add_page(&self, pages: &ErrorPages, request: &RequestSummary, response: &mut Response) {
        let Some(error) = error_of(response) else { return };
        if let Some((fields, content)) = self.page(pages, error, &request.text) {
            add_fields(response.headers_mut(), &fields);
            *response.body_mut() = content.into();
        }
    }

    /// Refuses bytes that are no request with the service's page. False without one.
    pub(super) fn refuse_with_page(&mut self, refusal: &Refusal, to_head: bool) -> bool {
        let Some(pages) = &self.common.error_pages else { return false };
        let received = match &self.client.progress.stage {
            ExchangeStage::Body(collecting) => collecting.request.head.text.clone(),
            ExchangeStage::Upload(pending) => pending.request.head.text.clone(),
            _ if self.worker.input.is_empty() => Bytes::copy_from_slice(&self.client.buffered),
            _ => Bytes::copy_from_slice(self.worker.input.unused()),
        };
        let error = HttpError::new(refusal.status).with_detail(refusal.reason);
        let Some((fields, content)) = self.page(pages, error, &received) else { return false };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        add_fields(&mut headers, &fields);
        let length = content.len() as u64;
        let head = ResponseHead {
            version: Version::HTTP_11,
            status: refusal.status,
            headers: &headers,
            framing: if to_head { BodyFraming::Announced(length) } else { BodyFraming::Length(length) },
            keep_alive: false,
            date: self.worker.date.get(self.now),
        };
        head.write(&mut self.worker.out);
        if !to_head {
            self.worker.out.extend_from_slice(&content);
        }
        true
    }

    /// The header fields and the content of a page. `received` is the head, as far as it has arrived.
    fn page(&self, pages: &ErrorPages, mut error: HttpError, received: &Bytes) -> Option<(HeaderMap, Bytes)> {
        // The head is parsed once more, because its parts went to the handler.
        let head = Scan::default().parse(received, &self.common.limits);
        error = match head.ok().flatten() {
            Some(head) => error.with_request(head.parts),
            None => error.with_accept(accept_within(received)),
        };
        match pages.make(&error) {
            Ok(page) => Some(page),
            Err(NoPage::Unreadable(e)) => {
                error!("an error page can't be read: {e}: {}", method_and_path(received));
                None
            }
            Err(NoPage::Panicked(panic)) => {
                error!("an error page panicked ({}): {}", panic_text(&*panic), method_and_path(received));
                self.worker.counters.panicked();
                drop_contained(panic, || method_and_path(received));
                None
            }
        }
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
