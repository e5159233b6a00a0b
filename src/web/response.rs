//! What a handler may return: everything that is [`IntoResponse`].

use std::borrow::Cow;
use std::convert::Infallible;
use std::error::Error;
use std::fmt::{self, Display};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http::header::{LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::base::error::{Chain, lacks_descriptor};
use crate::base::log::{Escaped, error, warn};
use crate::base::sync::lock;
use crate::process::handover::inherit::Failure;
use crate::web::body::{Author, BodyError};
use crate::web::extract::InputError;
use crate::web::handler::call_deadline;
use crate::web::resume::ResumeName;
use crate::web::spare::text;
use crate::{Body, Response};

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// What a handler can return.
///
/// | type | response |
/// | --- | --- |
/// | `&'static str`, `String`, `Cow<'static, str>` | 200, `text/plain; charset=utf-8` |
/// | `Vec<u8>`, `&'static [u8]`, `Bytes` | 200, `application/octet-stream` |
/// | [`Body`] | 200, without `Content-Type` |
/// | `()` | 200, empty |
/// | `StatusCode` | that status, empty |
/// | `(StatusCode, T)` | as `T`, with that status |
/// | `([(name, value); N], T)`, `(Vec<(name, value)>, T)`, `(HeaderMap, T)` | as `T`, with those header fields |
/// | `(StatusCode, ..., T)` with any of these | both |
/// | [`Html`], [`Redirect`] | a page; a redirect |
/// | `Option<T>` | as `T`; `None` is 404 |
/// | `Result<T, E>` | as `T` or as `E` |
/// | [`InputError`] | 400, 404, 413, 415, 422: what is wrong with the input |
/// | `std::io::Error`, `http::Error`, boxed errors, [`AnyError`] | 500; the error is only logged. If it is an [`InputError`], as that; if it says that the request's body can't be read: 400, 408 or 413 |
/// | [`Response`] | itself |
///
/// A field given in a tuple replaces what `T` had under that name; given twice, both are sent.
/// Names and values are any types that convert to `HeaderName` and `HeaderValue`; a failed conversion makes the response a
/// 500, and is logged.
///
/// ```
/// use heirloom::prelude::*;
///
/// fn save(mut req: Request) -> Result<impl IntoResponse, std::io::Error> {
///     let text = req.text()?;
///     Ok((StatusCode::CREATED, [(header::LOCATION, "/notes/1")], text))
/// }
///
/// let router = Router::new().post("/notes", save);
/// let mut response = router.call(http::Request::post("/notes").body("a note".into()).unwrap());
/// assert_eq!(response.status(), StatusCode::CREATED);
/// assert_eq!(response.headers()["location"], "/notes/1");
/// assert_eq!(response.body_mut().read_text().unwrap(), "a note");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a response: a handler can't return it",
    label = "not a type that implements `IntoResponse`",
    note = "responses are strings, bytes, `StatusCode`, `(StatusCode, T)`, `([(name, value)], T)`, `Option<T>`, `Result<T, E>`, \
            `Html`, `Json` (feature `json`), `Body` and `Response`; see the table at `heirloom::IntoResponse`",
    note = "a handler is a blocking function, not an `async` one",
    note = "an error of any type is a response once it is converted to `heirloom::AnyError`, which `?` does"
)]
pub trait IntoResponse {
    /// Converts into a response.
    fn into_response(self) -> Response;
}

/// Status and reason as text, such as `404 Not Found`, for responses of the server itself.
pub(crate) fn plain(status: StatusCode) -> Response {
    let reason = status.canonical_reason().unwrap_or("Unknown");
    (status, format!("{} {reason}\n", status.as_u16())).into_response().map(|body| body.by(Author::Status))
}

/// A resource is exhausted for now; the client should try again.
pub(crate) fn busy() -> Response {
    plain(StatusCode::SERVICE_UNAVAILABLE).with_header(RETRY_AFTER, 1)
}

/// A mistake of the handler: the log has the reason, the client only the status.
fn failed(what: impl Display) -> Response {
    log_failure(what);
    plain(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Logs why a response is a 500. Past the deadline of its route no client gets that response: then the line that says so has
/// the reason too.
pub(crate) fn log_failure(what: impl Display) {
    if !call_deadline::note_failure(&what) {
        error!("500: {what}"; reason:% = Escaped(&what));
    }
}

fn typed(content_type: HeaderValue, body: Body) -> Response {
    let mut response = text(body);
    if let Some(value) = response.headers_mut().values_mut().next() {
        *value = content_type;
    }
    response
}

/// The value is not logged: it may be a secret.
fn field<K, V>(name: K, value: V) -> Result<(HeaderName, HeaderValue), String>
where
    K: TryInto<HeaderName, Error: Display>,
    V: TryInto<HeaderValue, Error: Display>,
{
    let name = name.try_into().map_err(|e| format!("the name of a response header: {e}"))?;
    match value.try_into() {
        Ok(value) => Ok((name, value)),
        Err(e) => Err(format!("the value of the response header {name}: {e}")),
    }
}

impl IntoResponse for Response {
    fn into_response(self) -> Response {
        self
    }
}

impl IntoResponse for Body {
    fn into_response(self) -> Response {
        Response::new(self)
    }
}

impl IntoResponse for &'static str {
    fn into_response(self) -> Response {
        text(self.into())
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Response {
        text(self.into())
    }
}

impl IntoResponse for Cow<'static, str> {
    fn into_response(self) -> Response {
        match self {
            Cow::Borrowed(text) => text.into_response(),
            Cow::Owned(text) => text.into_response(),
        }
    }
}

impl IntoResponse for Vec<u8> {
    fn into_response(self) -> Response {
        typed(BINARY, self.into())
    }
}

impl IntoResponse for &'static [u8] {
    fn into_response(self) -> Response {
        typed(BINARY, self.into())
    }
}

impl<const N: usize> IntoResponse for &'static [u8; N] {
    fn into_response(self) -> Response {
        self.as_slice().into_response()
    }
}

impl IntoResponse for Bytes {
    fn into_response(self) -> Response {
        typed(BINARY, self.into())
    }
}

impl IntoResponse for () {
    fn into_response(self) -> Response {
        Response::default()
    }
}

impl IntoResponse for StatusCode {
    fn into_response(self) -> Response {
        ().into_response().with_status(self)
    }
}

impl<T: IntoResponse> IntoResponse for (StatusCode, T) {
    fn into_response(self) -> Response {
        self.1.into_response().with_status(self.0)
    }
}

impl<T: IntoResponse> IntoResponse for (HeaderMap, T) {
    fn into_response(self) -> Response {
        let mut response = self.1.into_response();
        response.headers_mut().extend(self.0);
        response
    }
}

impl<T: IntoResponse> IntoResponse for (StatusCode, HeaderMap, T) {
    fn into_response(self) -> Response {
        (self.1, self.2).into_response().with_status(self.0)
    }
}

/// Fields as an array or as a `Vec` of names and values.
macro_rules! fields_and_body {
    ($($fields:ty $(, $n:ident)?: $given:expr;)+) => {$(
        impl<K, V, T $(, const $n: usize)?> IntoResponse for ($fields, T)
        where
            K: TryInto<HeaderName, Error: Display>,
            V: TryInto<HeaderValue, Error: Display>,
            T: IntoResponse,
        {
            fn into_response(self) -> Response {
                let given: fn(&$fields) -> _ = $given;
                let mut given = given(&self.0);
                with_fields(self.1.into_response(), self.0, &mut given).unwrap_or_else(failed)
            }
        }

        impl<K, V, T $(, const $n: usize)?> IntoResponse for (StatusCode, $fields, T)
        where
            K: TryInto<HeaderName, Error: Display>,
            V: TryInto<HeaderValue, Error: Display>,
            T: IntoResponse,
        {
            fn into_response(self) -> Response {
                (self.1, (self.0, self.2)).into_response()
            }
        }
    )+};
}

fields_and_body! {
    [(K, V); N], N: |_| [const { None::<HeaderName> }; N];
    Vec<(K, V)>: |fields| vec![None::<HeaderName>; fields.len()];
}

/// The first field of a name replaces the response's fields of that name, further ones are added (Set-Cookie). `given` has
/// room for the name of each field.
fn with_fields<K, V>(
    mut response: Response,
    fields: impl IntoIterator<Item = (K, V)>,
    given: &mut [Option<HeaderName>],
) -> Result<Response, String>
where
    K: TryInto<HeaderName, Error: Display>,
    V: TryInto<HeaderValue, Error: Display>,
{
    let headers = response.headers_mut();
    for (i, (name, value)) in fields.into_iter().enumerate() {
        let (name, value) = field(name, value)?;
        if given.iter().flatten().any(|earlier| *earlier == name) {
            headers.append(name, value);
        } else {
            headers.insert(name.clone(), value);
            if let Some(place) = given.get_mut(i) {
                *place = Some(name);
            }
        }
    }
    Ok(response)
}

/// None is a 404.
impl<T: IntoResponse> IntoResponse for Option<T> {
    fn into_response(self) -> Response {
        self.map_or_else(|| plain(StatusCode::NOT_FOUND), T::into_response)
    }
}

impl<T: IntoResponse, E: IntoResponse> IntoResponse for Result<T, E> {
    fn into_response(self) -> Response {
        match self {
            Ok(value) => value.into_response(),
            Err(error) => error.into_response(),
        }
    }
}

impl IntoResponse for Infallible {
    fn into_response(self) -> Response {
        match self {}
    }
}

/// Whether the error means that no descriptor is left for now. Then it is logged.
pub(crate) fn is_busy(e: &(dyn Error + 'static)) -> bool {
    let is_busy = e.downcast_ref::<io::Error>().is_some_and(lacks_descriptor);
    if is_busy {
        warn!("503: {e}"; reason:% = Escaped(e));
    }
    is_busy
}

/// An error is a 500, unless it carries another status or means that a resource is exhausted.
fn of_error(e: &(dyn Error + 'static)) -> Response {
    if is_busy(e) {
        return busy();
    }
    if let Some(input) = InputError::within(e) {
        return input.response();
    }
    BodyError::status_of(e).map_or_else(|| failed(Chain(e)), plain)
}

impl IntoResponse for io::Error {
    fn into_response(self) -> Response {
        of_error(&self)
    }
}

impl IntoResponse for http::Error {
    fn into_response(self) -> Response {
        failed(self)
    }
}

impl IntoResponse for Box<dyn Error + Send + Sync> {
    fn into_response(self) -> Response {
        of_error(&*self)
    }
}

impl IntoResponse for Box<dyn Error + Send> {
    fn into_response(self) -> Response {
        of_error(&*self)
    }
}

impl IntoResponse for Box<dyn Error> {
    fn into_response(self) -> Response {
        of_error(&*self)
    }
}

/// Any error, for a handler in which `?` meets errors of several types: everything that converts to a boxed error converts
/// to this, also errors of crates such as anyhow and eyre, which are no [`std::error::Error`] themselves. As a response it
/// is a 500, and the error is only logged, with its sources; an [`InputError`], and an error of the request's body, keep
/// their status. `?` converts it to an [`io::Error`], which the code of a stream returns, and to a `Problem` (feature `json`).
/// Returned from `main` it prints as text, with its sources. Only a `Box<dyn Error>`, which can't be sent to another thread, does
/// not convert: a handler may return it as it is.
///
/// ```
/// use heirloom::prelude::*;
///
/// fn sum(mut req: Request) -> Result<String, AnyError> {
///     let text = req.text()?;
///     let (a, b) = text.split_once('+').ok_or("there is no plus")?;
///     Ok((a.parse::<u32>()? + b.parse::<u32>()?).to_string())
/// }
/// let router = Router::new().post("/", sum);
/// let status = |text: &str| router.call(http::Request::post("/").body(text.to_owned().into()).unwrap()).status();
/// assert_eq!((status("1+2"), status("1+b")), (StatusCode::OK, StatusCode::INTERNAL_SERVER_ERROR));
/// ```
pub struct AnyError(Box<dyn Error + Send + Sync>);

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for AnyError {
    fn from(e: E) -> AnyError {
        AnyError(e.into())
    }
}

impl AnyError {
    #[cfg(feature = "json")]
    pub(crate) fn into_inner(self) -> Box<dyn Error + Send + Sync> {
        self.0
    }
}

/// For [`handover::fail`](crate::handover::fail).
impl Failure<AnyError> for AnyError {
    fn into_error(self) -> crate::Error {
        self.0.into_error()
    }
}

/// The text, with its sources: what `main` prints of an error that it returns.
impl fmt::Debug for AnyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Chain(&*self.0).fmt(f)
    }
}

/// For the code of a stream, which returns an [`io::Result`]. An `io::Error` stays the one that it was.
impl From<AnyError> for io::Error {
    fn from(e: AnyError) -> io::Error {
        e.0.downcast::<io::Error>().map_or_else(io::Error::other, |e| *e)
    }
}

impl Display for AnyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl IntoResponse for AnyError {
    fn into_response(self) -> Response {
        of_error(&*self.0)
    }
}

/// A page: 200, `text/html; charset=utf-8`. Nothing is escaped.
///
/// ```
/// use heirloom::prelude::*;
/// let response = Html("<h1>It works</h1>").into_response();
/// assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Html<T>(
    /// The markup.
    pub T,
);

impl<T: Into<Body>> IntoResponse for Html<T> {
    fn into_response(self) -> Response {
        typed(HTML, self.0.into())
    }
}

/// Redirects the client to another address. An address that is not a valid header value makes the response a 500, and is
/// logged.
///
/// ```
/// use heirloom::prelude::*;
/// let response = Redirect::see_other("/done").into_response();
/// assert_eq!(response.status(), StatusCode::SEE_OTHER);
/// assert_eq!(response.headers()["location"], "/done");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    status: StatusCode,
    to: Cow<'static, str>,
}

impl Redirect {
    /// 303: the client continues there with GET, as after a form.
    pub fn see_other(to: impl Into<Cow<'static, str>>) -> Redirect {
        Redirect { status: StatusCode::SEE_OTHER, to: to.into() }
    }

    /// 307: the client repeats this request there, with the same method and body.
    pub fn temporary(to: impl Into<Cow<'static, str>>) -> Redirect {
        Redirect { status: StatusCode::TEMPORARY_REDIRECT, to: to.into() }
    }

    /// 308: as 307, permanently; clients remember it.
    pub fn permanent(to: impl Into<Cow<'static, str>>) -> Redirect {
        Redirect { status: StatusCode::PERMANENT_REDIRECT, to: to.into() }
    }
}

impl IntoResponse for Redirect {
    fn into_response(self) -> Response {
        (self.status, [(LOCATION, &*self.to)], ()).into_response()
    }
}

/// Changes to an existing [`Response`], for example in wrappers.
///
/// ```
/// use heirloom::prelude::*;
/// let response = "nothing here\n".into_response().with_status(StatusCode::GONE).with_header("Age", 7);
/// assert_eq!((response.status(), &response.headers()["age"]), (StatusCode::GONE, &HeaderValue::from(7)));
/// ```
pub trait ResponseExt: Sized + sealed::Sealed {
    /// The same response with another status.
    fn with_status(self, status: StatusCode) -> Self;

    /// The same response with this header field in place of any of the same name. A name or value
    /// that is not valid makes it a 500, and is logged.
    fn with_header<K, V>(self, name: K, value: V) -> Self
    where
        K: TryInto<HeaderName, Error: Display>,
        V: TryInto<HeaderValue, Error: Display>;

    /// The same response, which also sets this cookie. A `;` in its name, value, path or domain would change its meaning: it
    /// makes the response a 500, and is logged. A feature: `cookies`.
    ///
    /// To remove a cookie, set one after [`make_removal`](cookie::Cookie::make_removal).
    #[cfg(feature = "cookies")]
    fn with_cookie(self, cookie: impl Into<cookie::Cookie<'static>>) -> Self;

    #[cfg(not(feature = "cookies"))]
    #[doc(hidden)]
    fn with_cookie<C>(self, _cookie: C) -> Self
    where
        Self: crate::web::missing::Cookies,
    {
        self.never()
    }

    /// The same response, which also sets this cookie, encrypted: the client can neither read nor change its value, and
    /// can't send it under another name. Nothing in it expires; [`Sessions`](crate::session::Sessions) do. A feature: `sessions`.
    #[cfg(feature = "sessions")]
    fn with_private_cookie(
        self,
        cookie: impl Into<cookie::Cookie<'static>>,
        key: &crate::session::CookieKey,
    ) -> Self;

    #[cfg(not(feature = "sessions"))]
    #[doc(hidden)]
    fn with_private_cookie<C, K>(self, _cookie: C, _key: &K) -> Self
    where
        Self: crate::web::missing::Sessions,
    {
        self.never()
    }

    /// The same response, which also sets this cookie, signed together with its name: the client can read its value, but
    /// not change it. A feature: `sessions`.
    #[cfg(feature = "sessions")]
    fn with_signed_cookie(
        self,
        cookie: impl Into<cookie::Cookie<'static>>,
        key: &crate::session::CookieKey,
    ) -> Self;

    #[cfg(not(feature = "sessions"))]
    #[doc(hidden)]
    fn with_signed_cookie<C, K>(self, _cookie: C, _key: &K) -> Self
    where
        Self: crate::web::missing::Sessions,
    {
        self.never()
    }

    /// The same response; `hook` is called when it has ended: when its last byte was written to the socket, or certainly
    /// will not be. Pipelined responses that are written together end together. A stream or another protocol ends when its
    /// thread is done.
    ///
    /// The hook runs on that thread or on a worker, and should be short. It is not called in a test without a server. A
    /// wrapper that builds a new response from this one must keep its extensions.
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// static SENT: AtomicU64 = AtomicU64::new(0);
    /// let counted = |request: Request, next: Next| {
    ///     next.call(request).on_end(|end| {
    ///         SENT.fetch_add(end.bytes, Ordering::Relaxed);
    ///     })
    /// };
    /// let handler = Router::new().get("/", |_: Request| "hello\n").wrap(counted);
    /// # handler.check().unwrap();
    /// ```
    fn on_end(self, hook: impl FnOnce(&ResponseEnd) + Send + 'static) -> Self;

    /// The same response, of which the stream may continue in the next process after a handover: a WebSocket, an event
    /// stream, or another protocol after an upgrade. It needs three things, and ends as without this if one is missing:
    ///
    /// - Its code calls `hand_over` with its state when it is notified of the drain
    ///   (`WebSocket::hand_over`,
    ///   [`EventWriter::hand_over`](crate::sse::EventWriter::hand_over),
    ///   [`Upgraded::hand_over`](crate::upgrade::Upgraded::hand_over)), within 30 seconds.
    /// - This program and the next one say how a stream of this name continues, by
    ///   [`Server::resume`](crate::Server::resume).
    /// - The next program listens on the same address.
    ///
    /// A compressed event stream ends with its process. [`guide::streaming`](crate::guide::streaming) has examples.
    fn resumable(self, name: impl Into<String>) -> Self;
}

impl ResponseExt for Response {
    fn with_status(mut self, status: StatusCode) -> Response {
        *self.status_mut() = status;
        self
    }

    fn with_header<K, V>(self, name: K, value: V) -> Response
    where
        K: TryInto<HeaderName, Error: Display>,
        V: TryInto<HeaderValue, Error: Display>,
    {
        with_fields(self, [(name, value)], &mut []).unwrap_or_else(failed)
    }

    #[cfg(feature = "cookies")]
    fn with_cookie(mut self, cookie: impl Into<cookie::Cookie<'static>>) -> Response {
        let cookie = cookie.into();
        let parts = [Some(cookie.name()), Some(cookie.value()), cookie.path(), cookie.domain()];
        let whole = parts.iter().flatten().all(|part| !part.contains(';'))
            && !cookie.name().is_empty()
            && !cookie.name().contains('=');
        match HeaderValue::try_from(cookie.to_string()) {
            Ok(value) if whole => {
                self.headers_mut().append(http::header::SET_COOKIE, value);
                self
            }
            // The value is not logged: it may be a secret.
            _ => failed(format_args!("the cookie {:?} can't be sent", cookie.name())),
        }
    }

    #[cfg(feature = "sessions")]
    fn with_private_cookie(
        self,
        cookie: impl Into<cookie::Cookie<'static>>,
        key: &crate::session::CookieKey,
    ) -> Response {
        self.with_cookie(key.seal(cookie.into()))
    }

    #[cfg(feature = "sessions")]
    fn with_signed_cookie(
        self,
        cookie: impl Into<cookie::Cookie<'static>>,
        key: &crate::session::CookieKey,
    ) -> Response {
        self.with_cookie(key.sign(cookie.into()))
    }

    fn on_end(mut self, hook: impl FnOnce(&ResponseEnd) + Send + 'static) -> Response {
        self.extensions_mut().get_or_insert_default::<OnEnd>().add(Box::new(hook));
        self
    }

    fn resumable(mut self, name: impl Into<String>) -> Response {
        self.extensions_mut().insert(ResumeName(name.into().into()));
        self
    }
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResponseEnd {
    /// The status sent to the client; not the handler's if its response could not be sent.
    pub status: StatusCode,
    /// Bytes of the body, without its framing.
    pub bytes: u64,
    /// Whether the socket has accepted all of it. Otherwise the client has disconnected or was too slow, or the body's
    /// source has failed.
    pub complete: bool,
    /// When it ended.
    pub(crate) at: Instant,
}

type Hook = Box<dyn FnOnce(&ResponseEnd) + Send>;

/// The hooks for the end of a response, kept in its extensions.
#[derive(Clone, Default)]
pub(crate) struct OnEnd(Arc<Mutex<Hooks>>);

/// Most responses that have a hook have one.
#[derive(Default)]
struct Hooks {
    first: Option<Hook>,
    more: Vec<Hook>,
}

impl OnEnd {
    fn add(&self, hook: Hook) {
        let mut hooks = lock(&self.0);
        match hooks.first {
            None => hooks.first = Some(hook),
            Some(_) => hooks.more.push(hook),
        }
    }

    /// In the order of their registration; each is called once.
    pub(crate) fn take(&self) -> impl Iterator<Item = Hook> + use<> {
        let hooks = std::mem::take(&mut *lock(&self.0));
        hooks.first.into_iter().chain(hooks.more)
    }
}

mod sealed {
    /// Seals the trait, so that methods can be added later.
    pub trait Sealed {}
    impl Sealed for crate::Response {}
}

#[cfg(test)]
mod tests {
    use http::Version;
    use http::header::CONTENT_TYPE;

    use super::*;
    use crate::web::spare::recycle;

    /// Status, the header fields in order of name, body.
    fn shown(response: impl IntoResponse) -> String {
        let mut response = response.into_response();
        let mut fields: Vec<String> = Vec::new();
        for (name, value) in response.headers() {
            fields.push(format!("{name}: {}", value.to_str().unwrap()));
        }
        fields.sort();
        let body = response.body_mut().read_text().unwrap();
        format!("{} [{}] {body:?}", response.status().as_u16(), fields.join(", "))
    }

    #[test]
    fn any_error_is_an_io_error_where_that_is_returned() {
        fn stream(e: impl Into<AnyError>) -> io::Result<()> {
            Err(e.into())?
        }
        assert_eq!(
            stream(io::Error::from(io::ErrorKind::BrokenPipe)).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
        let other = stream("no such table").unwrap_err();
        assert_eq!((other.kind(), &*other.to_string()), (io::ErrorKind::Other, "no such table"));
        let number = "x".parse::<u8>().unwrap_err();
        assert_eq!(
            stream(number.clone()).unwrap_err().downcast::<std::num::ParseIntError>().unwrap(),
            number
        );
    }

    #[test]
    fn nothing_of_a_sent_head_is_in_the_next_response() {
        let with_two = [(CONTENT_TYPE, "a/b"), (CONTENT_TYPE, "c/d")];
        let sent = [
            "a".into_response(),
            (StatusCode::NOT_FOUND, Html("a")).into_response(),
            (with_two, "a").into_response(),
            ([(LOCATION, "/")], "a").into_response(),
            ([(LOCATION, "/")], ()).into_response(),
            http::Response::builder().version(Version::HTTP_10).extension(7).body("a".into()).unwrap(),
        ];
        for response in sent {
            let what = format!("{:?}", response.headers());
            recycle(&mut Some(response));
            let next = b"x".into_response();
            assert_eq!((next.version(), next.extensions().is_empty()), (Version::HTTP_11, true), "{what}");
            assert_eq!(shown(next), "200 [content-type: application/octet-stream] \"x\"", "{what}");
        }
    }

    #[test]
    fn each_type_is_the_response_of_its_table() {
        const TEXT: &str = "content-type: text/plain; charset=utf-8";
        const BINARY: &str = "content-type: application/octet-stream";
        let mut map = HeaderMap::new();
        map.insert("a", HeaderValue::from(1));
        map.append("a", HeaderValue::from(2));
        map.insert(CONTENT_TYPE, HeaderValue::from_static("a/b"));
        let ok: Result<&'static str, io::Error> = Ok("x");
        let refused: Result<(), StatusCode> = Err(StatusCode::FORBIDDEN);
        let created = StatusCode::CREATED;
        let cases = [
            (shown("x"), format!("200 [{TEXT}] \"x\"")),
            (shown(String::from("x")), format!("200 [{TEXT}] \"x\"")),
            (shown(Cow::from("x")), format!("200 [{TEXT}] \"x\"")),
            (shown(Cow::from(String::from("x"))), format!("200 [{TEXT}] \"x\"")),
            (shown(b"x".to_vec()), format!("200 [{BINARY}] \"x\"")),
            (shown(&b"x"[..]), format!("200 [{BINARY}] \"x\"")),
            (shown(b"x"), format!("200 [{BINARY}] \"x\"")),
            (shown(Bytes::from("x")), format!("200 [{BINARY}] \"x\"")),
            (shown(Body::from("x")), "200 [] \"x\"".into()),
            (shown(Response::new("x".into())), "200 [] \"x\"".into()),
            (shown(()), "200 [] \"\"".into()),
            (shown(StatusCode::NO_CONTENT), "204 [] \"\"".into()),
            (shown((created, "x")), format!("201 [{TEXT}] \"x\"")),
            (shown((map.clone(), "x")), "200 [a: 1, a: 2, content-type: a/b] \"x\"".into()),
            (shown(([("content-type", "a/b")], "x")), "200 [content-type: a/b] \"x\"".into()),
            (shown(([("a", "1"), ("b", "2"), ("A", "3")], ())), "200 [a: 1, a: 3, b: 2] \"\"".into()),
            (shown((created, [(LOCATION, "/1")], ())), "201 [location: /1] \"\"".into()),
            (shown((created, map.clone(), "x")), "201 [a: 1, a: 2, content-type: a/b] \"x\"".into()),
            (shown((vec![("a", "1"), ("A", "3")], "x")), format!("200 [a: 1, a: 3, {TEXT}] \"x\"")),
            (shown((created, vec![(LOCATION, String::from("/1"))], ())), "201 [location: /1] \"\"".into()),
            (shown(Some("x")), format!("200 [{TEXT}] \"x\"")),
            (shown(None::<&'static str>), format!("404 [{TEXT}] \"404 Not Found\\n\"")),
            (shown(ok), format!("200 [{TEXT}] \"x\"")),
            (shown(refused), "403 [] \"\"".into()),
            (shown(Html("x")), "200 [content-type: text/html; charset=utf-8] \"x\"".into()),
            (shown(Redirect::see_other("/1")), "303 [location: /1] \"\"".into()),
            (shown(Redirect::temporary("/1")), "307 [location: /1] \"\"".into()),
            (shown(Redirect::permanent(String::from("/1"))), "308 [location: /1] \"\"".into()),
            (
                shown("x".into_response().with_header(CONTENT_TYPE, "a/b")),
                "200 [content-type: a/b] \"x\"".into(),
            ),
        ];
        for (got, want) in cases {
            assert_eq!(got, want);
        }
    }

    #[test]
    fn exhausted_resources_are_a_503_with_retry_after() {
        for errno in [libc::EMFILE, libc::ENFILE] {
            let lacks = || io::Error::from_raw_os_error(errno);
            let boxed: Box<dyn Error + Send + Sync> = lacks().into();
            for response in [lacks().into_response(), boxed.into_response()] {
                assert_eq!(
                    (response.status().as_u16(), &response.headers()[RETRY_AFTER]),
                    (503, &HeaderValue::from(1))
                );
            }
        }
        assert_eq!(io::Error::from_raw_os_error(libc::EIO).into_response().status(), 500);
    }

    #[test]
    fn an_error_is_logged_with_its_sources() {
        #[derive(Debug)]
        struct Outer(io::Error);
        impl Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("no picture")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let outer = Outer(io::Error::other("the disk is on fire"));
        assert_eq!(Chain(&outer).to_string(), "no picture: the disk is on fire");
        let outer = AnyError::from(io::Error::other(outer));
        assert_eq!(format!("{outer:?}"), "no picture: the disk is on fire");
        // What `handover::fail` says of errors of each kind.
        assert_eq!(outer.into_error().to_string(), "no picture: the disk is on fire");
        assert_eq!(Box::<dyn Error>::from("no \"picture\"").into_error().to_string(), "no \"picture\"");
        assert_eq!(io::Error::other("no picture").into_error().to_string(), "no picture");
        let own = || crate::Error::config("no picture".to_owned());
        assert_eq!(Box::<dyn Error>::from(own()).into_error().to_string(), own().to_string());
        assert_eq!(AnyError::from(own()).into_error().to_string(), own().to_string());
    }

    #[test]
    fn a_mistake_is_a_500_without_details() {
        let builder = http::Response::builder().header("a b", "x").body(Body::from("secret"));
        let cases = [
            shown(io::Error::other("secret")),
            shown(Box::<dyn Error + Send + Sync>::from("secret")),
            shown(Box::<dyn Error + Send>::from(Box::<dyn Error + Send + Sync>::from("secret"))),
            shown(Box::<dyn Error>::from("secret")),
            shown(AnyError::from("secret")),
            shown(AnyError::from(io::Error::other("secret"))),
            shown(builder),
            shown(([("a b", "x")], "secret")),
            shown(([("a", "x\r\nsecret: y")], "secret")),
            shown((StatusCode::CREATED, [("a", "x"), ("", "y")], "secret")),
            shown(Redirect::see_other("/\nsecret")),
            shown("secret".into_response().with_header("a", "\0")),
        ];
        for got in cases {
            assert_eq!(got, "500 [content-type: text/plain; charset=utf-8] \"500 Internal Server Error\\n\"");
        }
    }
}
