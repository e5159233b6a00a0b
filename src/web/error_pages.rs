//! The bodies of error responses that no handler has written.
//!
//! **One rule decides which responses get a page**: the status is 4xx or 5xx, and the body is empty, or is the text that the
//! crate itself writes (404, 405, 413, the 500 of a panic, an `InputError`, ...). Such a body carries a mark, which a copy
//! made by a wrapper loses. What a handler has written stays. ASP.NET's status code pages have the same rule.
//!
//! **The page is made last, where the exchange sends the response**: only there do all of them pass, also those for bytes
//! that are no request. So wrappers see the built-in text, and don't depend on whether there is a page.

use std::any::Any;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::Response;
use crate::web::body::{Author, BodyKind};
use crate::web::coding::{vary, weight};
use crate::web::fields::{ascii, elements};
use crate::web::response::{Html, IntoResponse, ResponseExt};

/// What is known about an error response whose body is to be made, for [`Server::error_pages`](crate::Server::error_pages).
#[derive(Clone, Debug)]
pub struct HttpError {
    status: StatusCode,
    detail: Option<String>,
    request: Option<Parts>,
    /// Of a head that can't be read.
    accept: Option<HeaderValue>,
    headers: HeaderMap,
}

impl HttpError {
    /// An error without a request, as a test of a page needs it.
    pub fn new(status: StatusCode) -> HttpError {
        HttpError { status, detail: None, request: None, accept: None, headers: HeaderMap::new() }
    }

    /// The same error with a text that says more than the status.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> HttpError {
        self.detail = Some(detail.into());
        self
    }

    /// The same error as the response to this request.
    #[must_use]
    pub fn with_request(mut self, head: Parts) -> HttpError {
        self.request = Some(head);
        self
    }

    pub(crate) fn with_accept(mut self, accept: Option<HeaderValue>) -> HttpError {
        self.accept = accept;
        self
    }

    /// The status of the response, which a page can't change.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Number and name of the status: `404 Not Found`.
    pub fn title(&self) -> String {
        format!("{} {}", self.status.as_u16(), reason(self.status))
    }

    /// What is wrong, where more is known than the status: for an [`InputError`](crate::InputError) the field and the place,
    /// for a malformed request the reason. It is written for the client, and may repeat what the client has sent: escape it.
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// The head of the request, without extensions. None if the bytes that were received are no complete head: 400, 408, 414,
    /// 431, 505.
    pub fn request(&self) -> Option<&Parts> {
        self.request.as_ref()
    }

    /// The header fields that the response has so far, such as `Allow`, or `X-Request-Id` of
    /// [`RequestIds`](crate::wrap::RequestIds).
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Which of these media types the client prefers by its `Accept`. Among several it is the one that `Accept` names first;
    /// without a preference, the first offer. None without an offer.
    ///
    /// ```
    /// use heirloom::error_pages::HttpError;
    /// use heirloom::prelude::*;
    ///
    /// let (head, _) = http::Request::get("/").header("accept", "text/html, */*;q=0.5").body(()).unwrap().into_parts();
    /// let error = HttpError::new(StatusCode::NOT_FOUND).with_request(head);
    /// assert_eq!(error.preferred(&["application/json", "text/html"]), Some("text/html"));
    /// ```
    pub fn preferred<'o>(&self, offers: &[&'o str]) -> Option<&'o str> {
        let of_request = self.request.iter().flat_map(|head| head.headers.get_all(ACCEPT));
        let mut ranges = Vec::new();
        for value in of_request.chain(&self.accept) {
            ranges.extend(elements(value.as_bytes()).filter_map(ascii).filter_map(MediaRange::parse));
        }
        let mut best: Option<((u32, usize), &'o str)> = None;
        for &offer in offers {
            let rank = rank(&ranges, offer);
            if best.is_none_or(|(highest, _)| rank > highest) {
                best = Some((rank, offer));
            }
        }
        best.map(|(_, offer)| offer)
    }
}

/// An element of `Accept` (RFC 9110 §12.5.1).
struct MediaRange {
    kind: String,
    weight: u32,
}

impl MediaRange {
    fn parse(element: &str) -> Option<MediaRange> {
        let mut parts = element.split(';').map(str::trim);
        let kind = parts.next()?.to_ascii_lowercase();
        let is_weight = |part: &&str| part.get(..2).is_some_and(|name| name.eq_ignore_ascii_case("q="));
        Some(MediaRange { kind, weight: weight(parts.find(is_weight).into_iter())? })
    }

    /// How exactly it describes a type. None if it does not.
    fn precision(&self, offer: &str) -> Option<u8> {
        let group = offer.split('/').next().unwrap_or_default();
        match self.kind.strip_suffix("/*") {
            _ if self.kind == offer => Some(2),
            Some("*") => Some(0),
            Some(kind) if kind == group => Some(1),
            _ => None,
        }
    }
}

/// The weight of the most precise range for a type, and how early that stands in the field. Without a range none is refused.
fn rank(ranges: &[MediaRange], offer: &str) -> (u32, usize) {
    let fitting =
        ranges.iter().rev().enumerate().filter_map(|(at, range)| Some((range.precision(offer)?, at, range)));
    fitting
        .max_by_key(|(precision, at, _)| (*precision, *at))
        .map_or((0, 0), |(_, at, range)| (range.weight, if range.weight == 0 { 0 } else { at }))
}

/// A function that makes error pages. Its response may borrow from the error, as that of a function with the result
/// `impl IntoResponse` does in edition 2024.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not make error pages",
    label = "not a function from `&HttpError` to a type that implements `IntoResponse`",
    note = "a closure must name the type of its parameter: `|error: &HttpError| ...`"
)]
pub trait ErrorPageFn<'e>: Fn(&'e HttpError) -> Self::Response {
    /// What it returns.
    type Response: IntoResponse;
}

impl<'e, F, R> ErrorPageFn<'e> for F
where
    F: Fn(&'e HttpError) -> R,
    R: IntoResponse,
{
    type Response = R;
}

/// The hook of a server.
#[derive(Clone)]
pub(crate) struct ErrorPages(Arc<dyn Fn(&HttpError) -> Response + Send + Sync>);

impl std::fmt::Debug for ErrorPages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ErrorPages")
    }
}

/// Why there is no page.
pub(crate) enum NoPage {
    Panicked(Box<dyn Any + Send>),
    /// The body of the page can't be read.
    Unreadable(std::io::Error),
}

impl ErrorPages {
    pub(crate) fn new<F>(hook: F) -> ErrorPages
    where
        F: for<'e> ErrorPageFn<'e> + Send + Sync + 'static,
    {
        ErrorPages(Arc::new(move |error| hook(error).into_response()))
    }

    /// The header fields and the content of a page.
    ///
    /// # Errors
    /// The hook has panicked, or its body can't be read: the response stays as it was.
    pub(crate) fn make(&self, error: &HttpError) -> Result<(HeaderMap, Bytes), NoPage> {
        let make = || {
            let mut page = (self.0)(error);
            let content = page.body_mut().read_bytes()?;
            Ok((std::mem::take(page.headers_mut()), content))
        };
        catch_unwind(AssertUnwindSafe(make)).map_err(NoPage::Panicked)?.map_err(NoPage::Unreadable)
    }
}

/// What a page says about an error response without a body of its own. None for any other response.
pub(crate) fn error_of(response: &Response) -> Option<HttpError> {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return None;
    }
    let mut error = HttpError::new(status);
    match (response.body().author(), response.body().kind()) {
        (Author::Detail, BodyKind::Bytes(text)) => {
            error.detail = Some(String::from_utf8_lossy(text).trim_end().to_owned());
        }
        (Author::Status, BodyKind::Bytes(_)) => {}
        _ if response.body().is_empty() => {}
        _ => return None,
    }
    error.headers = response.headers().clone();
    Some(error)
}

/// Adds the header fields of a page to those of the response, in place of what described the built-in text.
pub(crate) fn add_fields(headers: &mut HeaderMap, page: &HeaderMap) {
    headers.remove(CONTENT_TYPE);
    headers.remove(CONTENT_ENCODING);
    headers.remove(CONTENT_LENGTH);
    for name in
        page.keys().filter(|name| ![CONTENT_LENGTH, CONNECTION, TRANSFER_ENCODING, VARY].contains(name))
    {
        headers.remove(name);
        for value in page.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    for value in page.get_all(VARY) {
        for name in elements(value.as_bytes()).filter_map(|name| http::HeaderName::from_bytes(name).ok()) {
            vary(headers, name);
        }
    }
}

/// Pages for browsers, problems for programs, and text for other clients: HTML, `application/problem+json` or plain text, as
/// the client's `Accept` prefers. A client without a preference, such as curl, gets the text. A hook of
/// [`Server::error_pages`](crate::Server::error_pages).
///
/// ```
/// use heirloom::error_pages;
/// use heirloom::prelude::*;
///
/// let server = Server::new(Router::new()).error_pages(error_pages::by_accept);
/// # let _ = server;
/// ```
pub fn by_accept(error: &HttpError) -> Response {
    const OFFERS: [&str; 4] = ["text/plain", "text/html", "application/problem+json", "application/json"];
    let response = match error.preferred(&OFFERS) {
        Some("text/html") => html(error),
        Some("application/problem+json" | "application/json") => problem(error),
        _ => text(error),
    };
    response.with_header(VARY, "accept")
}

/// A problem for clients that are programs: `application/problem+json` (RFC 9457) with `title`, `status`, and `detail` if
/// there is one.
///
/// ```
/// use heirloom::error_pages::{HttpError, problem};
/// use heirloom::prelude::*;
///
/// let mut response = problem(&HttpError::new(StatusCode::NOT_FOUND).with_detail("no \"tea\""));
/// let said = response.body_mut().read_text().unwrap();
/// assert_eq!(said, r#"{"title":"Not Found","status":404,"detail":"no \"tea\""}"#);
/// ```
pub fn problem(error: &HttpError) -> Response {
    let mut json = format!("{{\"title\":\"{}\",\"status\":{}", reason(error.status), error.status.as_u16());
    if let Some(detail) = error.detail() {
        json.push_str(",\"detail\":\"");
        detail.chars().for_each(|c| match c {
            '"' | '\\' => json.extend(['\\', c]),
            '\0'..=' ' if c != ' ' => {
                let _ = write!(json, "\\u{:04x}", u32::from(c));
            }
            _ => json.push(c),
        });
        json.push('"');
    }
    json.push('}');
    json.into_response().with_header(CONTENT_TYPE, "application/problem+json").with_status(error.status)
}

/// A small page for people, light or dark as the browser is.
pub fn html(error: &HttpError) -> Response {
    let title = error.title();
    let detail = error.detail().map(|detail| format!("<p>{}</p>", escaped(detail))).unwrap_or_default();
    let page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{title}</title><style>:root{{color-scheme:light dark}}\
         body{{font:1rem/1.5 sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem}}</style>\
         <h1>{title}</h1>{detail}\n"
    );
    Html(page).into_response().with_status(error.status)
}

/// Plain text: the detail if there is one, otherwise the status.
pub fn text(error: &HttpError) -> Response {
    let text = error.detail().map_or_else(|| error.title(), str::to_owned);
    format!("{text}\n").into_response().with_status(error.status)
}

fn reason(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Unknown")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InputError;
    use crate::web::response::plain;

    fn error(accept: &[&str]) -> HttpError {
        let mut head = http::Request::get("/a");
        for value in accept {
            head = head.header(ACCEPT, *value);
        }
        HttpError::new(StatusCode::NOT_FOUND).with_request(head.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn the_form_that_a_client_prefers() {
        let cases: &[(&[&str], &str)] = &[
            (&[], "text/plain"),
            (&["*/*"], "text/plain"),
            (&["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], "text/html"),
            (&["application/json"], "application/problem+json"),
            (&["application/json, text/plain, */*"], "application/problem+json"),
            (&["text/plain, application/json"], "text/plain"),
            (&["application/problem+json;q=0.9", "text/html;q=0.8"], "application/problem+json"),
            (&["Text/HTML;level=1;Q=0.5, text/plain;q=0.4"], "text/html"),
            (&["text/*"], "text/plain"),
            (&["text/*, text/plain;q=0"], "text/html"),
            (&["*/*, text/plain;q=0.1"], "text/html"),
            (&["application/*"], "application/problem+json"),
            (&["image/png"], "text/plain"),
            (&["text/html;q=0"], "text/plain"),
            (&["text/html;q=9", ",;,"], "text/plain"),
        ];
        for (accept, kind) in cases {
            let response = by_accept(&error(accept));
            let given = response.headers()[CONTENT_TYPE].to_str().unwrap();
            assert_eq!(given.split(';').next(), Some(*kind), "{accept:?}");
            assert_eq!(response.status(), StatusCode::NOT_FOUND);
            assert_eq!(response.headers()[VARY], "accept");
        }
        let unread =
            HttpError::new(StatusCode::BAD_REQUEST).with_accept(Some(HeaderValue::from_static("text/html")));
        assert_eq!(unread.preferred(&["text/plain", "text/html"]), Some("text/html"));
        assert_eq!(error(&["*/*"]).preferred(&[]), None);
    }

    #[test]
    fn nothing_of_a_detail_is_markup() {
        let error = HttpError::new(StatusCode::BAD_REQUEST).with_detail("<b> & \"\\\n\u{1f}é");
        let read = |mut response: Response| response.body_mut().read_text().unwrap();
        assert!(
            read(html(&error)).ends_with("<h1>400 Bad Request</h1><p>&lt;b&gt; &amp; \"\\\n\u{1f}é</p>\n")
        );
        let json = r#"{"title":"Bad Request","status":400,"detail":"<b> & \"\\\u000a\u001fé"}"#;
        assert_eq!(read(problem(&error)), json);
        assert_eq!(read(text(&error)), "<b> & \"\\\n\u{1f}é\n");
        let unknown = HttpError::new(StatusCode::from_u16(499).unwrap());
        assert_eq!(read(text(&unknown)), "499 Unknown\n");
        assert_eq!(read(problem(&unknown)), r#"{"title":"Unknown","status":499}"#);
    }

    #[test]
    fn which_responses_get_a_page() {
        let cases: Vec<(Response, Option<Option<&str>>)> = vec![
            (plain(StatusCode::NOT_FOUND), Some(None)),
            (plain(StatusCode::NOT_FOUND).with_status(StatusCode::GONE), Some(None)),
            (
                InputError::from(std::io::Error::other("a")).into_response(),
                Some(Some("the body can't be read")),
            ),
            (StatusCode::NOT_FOUND.into_response(), Some(None)),
            (None::<()>.into_response(), Some(None)),
            ((StatusCode::NOT_FOUND, "mine").into_response(), None),
            ((StatusCode::NOT_FOUND, "404 Not Found\n").into_response(), None),
            (StatusCode::OK.into_response(), None),
            (plain(StatusCode::OK), None),
            (StatusCode::SEE_OTHER.into_response(), None),
        ];
        for (response, want) in cases {
            let error = error_of(&response);
            let detail = error.as_ref().map(HttpError::detail);
            assert_eq!(detail, want, "{response:?}");
        }
    }

    #[test]
    fn fields_of_the_response_stay_and_those_of_the_page_are_added() {
        let fields = |lines: &[(&'static str, &'static str)]| -> HeaderMap {
            let field = |&(name, value): &(&'static str, &'static str)| {
                (http::HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            lines.iter().map(field).collect()
        };
        let mut headers =
            fields(&[("allow", "GET"), ("content-type", "text/plain"), ("vary", "origin"), ("x-a", "1")]);
        let page = fields(&[
            ("content-type", "text/html"),
            ("vary", "accept"),
            ("x-a", "2"),
            ("connection", "keep-alive"),
        ]);
        add_fields(&mut headers, &page);
        let mut got: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
        got.sort();
        let want = [
            "allow: \"GET\"",
            "content-type: \"text/html\"",
            "vary: \"accept\"",
            "vary: \"origin\"",
            "x-a: \"2\"",
        ];
        assert_eq!(got, want);
    }
}
