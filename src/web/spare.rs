//! The memory of the fields of a thread's last response, which its next one takes.

use std::cell::RefCell;

use http::header::CONTENT_TYPE;
use http::response::Parts;
use http::{HeaderValue, StatusCode, Version};

use crate::{Body, Response};

/// The type that most responses have.
pub(super) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

thread_local! {
    /// A head without extensions and with one field, the type of text, for the next response of this thread. It has the memory
    /// of the last response's fields.
    static SPARE: RefCell<Option<Parts>> = const { RefCell::new(None) };
}

/// A response with the type of text.
#[inline]
pub(super) fn text(body: Body) -> Response {
    match SPARE.try_with(|spare| spare.borrow_mut().take()) {
        Ok(Some(parts)) => Response::from_parts(parts, body),
        _ => new_text(body),
    }
}

#[cold]
fn new_text(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

/// Keeps the memory of a response's head that was sent. It is changed where it is, because it is large.
#[inline(always)]
pub(crate) fn recycle(place: &mut Option<Response>) {
    const MOST: usize = 32;
    let Some(sent) = place else { return };
    // One without memory would take the place of one that has some.
    if !(1..=MOST).contains(&sent.headers().capacity()) || !sent.extensions().is_empty() {
        return;
    }
    let headers = sent.headers_mut();
    let is_alone = headers.len() == 1;
    match headers.iter_mut().next() {
        // The next response most likely has this field, and to replace its value costs a fifth of an insertion.
        Some((name, value)) if is_alone && *name == CONTENT_TYPE => *value = TEXT,
        _ => {
            headers.clear();
            headers.insert(CONTENT_TYPE, TEXT);
        }
    }
    (*sent.status_mut(), *sent.version_mut()) = (StatusCode::OK, Version::HTTP_11);
    // The body is dropped last. To pass it to `drop` would copy it once more.
    let Some((parts, _body)) = place.take().map(Response::into_parts) else { return };
    // A thread that is ending keeps nothing.
    let _ = SPARE.try_with(|spare| *spare.borrow_mut() = Some(parts));
}
