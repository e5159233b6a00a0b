//! Signed and private cookies, and sessions in them.
//!
//! ```
//! use heirloom::prelude::*;
//! use heirloom::session::{CookieKey, Sessions};
//!
//! fn login(mut req: Request) -> Result<Response, AnyError> {
//!     let user = req.text()?; // and a password, which is checked
//!     let session = req.session();
//!     session.clear();
//!     session.insert("user", &user)?;
//!     Ok(Redirect::see_other("/").into_response())
//! }
//!
//! fn home(req: Request) -> String {
//!     let user: Option<String> = req.session().get("user");
//!     format!("hello {}\n", user.as_deref().unwrap_or("stranger"))
//! }
//!
//! fn logout(req: Request) -> Redirect {
//!     req.session().clear();
//!     Redirect::see_other("/")
//! }
//!
//! # fn main() -> Result<(), heirloom::Error> {
//! # let folder = std::env::temp_dir().join(format!("heirloom-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder).unwrap();
//! # let path = folder.join("cookie.key");
//! let key = CookieKey::from_file_or_new(&path)?;
//! let router = Router::new().get("/", home).post("/login", login).post("/logout", logout).wrap(Sessions::new(key));
//! # std::fs::remove_dir_all(&folder).unwrap();
//!
//! let response = router.call(http::Request::post("/login").body("Ada".into()).unwrap());
//! let cookie = response.headers()["set-cookie"].clone();
//! let mut response = router.call(http::Request::get("/").header("cookie", cookie).body(Body::empty()).unwrap());
//! assert_eq!(response.body_mut().read_text().unwrap(), "hello Ada\n");
//! # Ok(())
//! # }
//! ```
//!
//! A session is in the client's cookie, encrypted and authenticated (AES-256-GCM), and nowhere else. So it needs no store
//! and no lock, and it continues over restarts and upgrades, in both generations while both serve, as long as they have
//! the same [`CookieKey`]. It follows from this that
//!
//! - it has room for less than 4 KiB: keep an id in it, and the rest in a database;
//! - of two requests at once that change it, one wins;
//! - a cookie that was copied stays valid until it [expires](Sessions::max_age), also after a logout. Where that matters, keep
//!   in it a number that your database can revoke.
//!
//! Sessions belong together with [`wrap::Csrf`](crate::wrap::Csrf).
//!
//! For single values there are [`RequestExt::private_cookie`](crate::RequestExt::private_cookie), which clients can neither read nor
//! change, and [`RequestExt::signed_cookie`](crate::RequestExt::signed_cookie), which they can read.

mod key;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use cookie::{Cookie, SameSite};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, COOKIE};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::key::CookieKey;
use self::key::KeyAge;
use crate::base::sync::lock;
use crate::web::coding::vary;
use crate::web::handler::{EarlyResponse, Next, Wrapper};
use crate::web::request::RequestExt;
use crate::web::response::{IntoResponse, ResponseExt};
use crate::{Request, Response};

/// RFC 6265 §6.1: what every browser takes, with name and attributes.
const MOST_BYTES: usize = 4096;
/// What AES-GCM adds: a nonce and a tag.
const SEAL_BYTES: usize = 12 + 16;

/// Gives each request a [`Session`], by [`RequestExt::session`](crate::RequestExt::session), and keeps it in a cookie.
///
/// The cookie is `HttpOnly`, `SameSite=Lax`, `Path=/`, and `Secure` if the request has come by `https`, which a
/// [trusted proxy](crate::Client::is_https) may say. It is read and decrypted when a handler first uses the session, and sent when the
/// session has changed, or half of its time is over. Such responses get `Vary: Cookie`, and `Cache-Control: private` unless
/// the handler has set that field.
///
/// Guards within it see the session too.
#[derive(Clone)]
#[must_use]
pub struct Sessions {
    config: Arc<Config>,
}

#[derive(Clone)]
struct Config {
    key: CookieKey,
    name: String,
    max_age: Duration,
    always_secure: bool,
    attributes: Option<Attributes>,
}

/// Changes the attributes of a cookie.
type Attributes = Arc<dyn Fn(&mut Cookie<'static>) + Send + Sync>;

impl Sessions {
    /// Sessions with this key: the same in every process of the service.
    pub fn new(key: CookieKey) -> Sessions {
        let max_age = Duration::from_secs(14 * 24 * 60 * 60);
        let config = Config { key, name: "session".into(), max_age, always_secure: false, attributes: None };
        Sessions { config: Arc::new(config) }
    }

    /// The name of the cookie. Default `session`. With the name `__Host-session` browsers refuse it from plain HTTP and from
    /// other hosts of the same domain; this needs [`always_secure`](Self::always_secure).
    pub fn cookie_name(mut self, name: impl Into<String>) -> Sessions {
        Arc::make_mut(&mut self.config).name = name.into();
        self
    }

    /// How long a session lasts after it was last sent. Default 14 days. The time is also in the encrypted part, so a client
    /// can't extend it.
    pub fn max_age(mut self, age: Duration) -> Sessions {
        Arc::make_mut(&mut self.config).max_age = age;
        self
    }

    /// Sends `Secure` with every cookie: for a service that clients reach by `https` only, behind a proxy that does not say so.
    pub fn always_secure(mut self) -> Sessions {
        Arc::make_mut(&mut self.config).always_secure = true;
        self
    }

    /// Changes the attributes of the cookie, after the defaults are set:
    ///
    /// ```
    /// use heirloom::cookie::SameSite;
    /// use heirloom::session::{CookieKey, Sessions};
    /// # fn sessions(key: CookieKey) -> Sessions {
    /// Sessions::new(key).attributes(|cookie| {
    ///     cookie.set_same_site(SameSite::Strict);
    ///     cookie.set_path("/app");
    /// })
    /// # }
    /// ```
    pub fn attributes(mut self, change: impl Fn(&mut Cookie<'static>) + Send + Sync + 'static) -> Sessions {
        Arc::make_mut(&mut self.config).attributes = Some(Arc::new(change));
        self
    }

    fn session_of(&self, request: &Request) -> Session {
        Session {
            kept: Some(Arc::new(Kept {
                config: Arc::clone(&self.config),
                received: request
                    .cookies()
                    .filter(|cookie| cookie.name() == self.config.name)
                    .map(Cookie::into_owned)
                    .collect(),
                is_secure: self.config.always_secure || request.client().is_https(),
                data: Mutex::new(None),
            })),
        }
    }

    /// The session of a request that was made by this wrapper's guard.
    fn is_of(&self, session: &Session) -> bool {
        session.kept.as_ref().is_some_and(|kept| Arc::ptr_eq(&kept.config, &self.config))
    }
}

impl Wrapper for Sessions {
    fn guard(&self, request: &mut Request) -> Result<(), EarlyResponse> {
        let session = self.session_of(request);
        request.extensions_mut().insert(session);
        Ok(())
    }

    fn call(&self, mut request: Request, next: Next<'_>) -> Response {
        let given = request.extensions().get::<Session>().filter(|session| self.is_of(session)).cloned();
        let session = given.unwrap_or_else(|| self.session_of(&request));
        request.extensions_mut().insert(session.clone());
        let response = next.call(request);
        match &session.kept {
            Some(kept) => kept.send_with(response, now()),
            None => response,
        }
    }

    fn check(&self) -> Result<(), String> {
        let Config { name, always_secure, max_age, .. } = &*self.config;
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(format!("Sessions: {name:?} is not the name of a cookie"));
        }
        if (name.starts_with("__Host-") || name.starts_with("__Secure-")) && !always_secure {
            return Err(format!("Sessions: browsers refuse {name} without `always_secure`"));
        }
        if max_age.as_secs() == 0 {
            return Err("Sessions: max_age is less than a second: no session would last".to_owned());
        }
        Ok(())
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("cookie_name", &self.config.name).finish_non_exhaustive()
    }
}

/// Values that belong to a client, from [`RequestExt::session`](crate::RequestExt::session). Clones are the same session. Changes
/// count until the handler has returned, and not in a stream that outlives it.
#[derive(Clone)]
pub struct Session {
    /// None if no `Sessions` are around the route.
    kept: Option<Arc<Kept>>,
}

struct Kept {
    config: Arc<Config>,
    /// The cookies of this name. There may be several, of which other hosts of the domain may have set some.
    received: Vec<Cookie<'static>>,
    is_secure: bool,
    /// None until it is used.
    data: Mutex<Option<Data>>,
}

/// A session as it is used.
#[derive(Default)]
struct Data {
    values: Map<String, Value>,
    /// It is to be sent.
    changed: bool,
}

/// A session as it is sent.
#[derive(Deserialize, Serialize)]
struct Payload<V> {
    /// When it was sent, in seconds since 1970.
    t: u64,
    v: V,
}

impl Session {
    /// The session of a request.
    pub(crate) fn of(request: &Request) -> Session {
        request.extensions().get::<Session>().cloned().unwrap_or(Session { kept: None })
    }

    /// A value. None if there is none of this name, or none of this type: after an upgrade that has changed the type it is
    /// as if the client had no value.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let mut data = self.kept.as_ref()?.data();
        let value = data.get_or_insert_default().values.get(name)?.clone();
        drop(data);
        serde_json::from_value(value).ok()
    }

    /// Sets a value.
    ///
    /// # Errors
    /// The cookie would exceed 4 KiB; the value can't be written as JSON; no [`Sessions`] are around the route. As a
    /// response each is a 500, and is logged. The session stays as it was.
    pub fn insert(&self, name: &str, value: impl Serialize) -> Result<(), SessionError> {
        let kept = self.kept.as_ref().ok_or(SessionError(Reason::NoWrapper))?;
        let value = serde_json::to_value(value).map_err(|e| SessionError(Reason::Value(e)))?;
        let mut data = kept.data();
        let data = data.get_or_insert_default();
        let before = data.values.insert(name.to_owned(), value);
        let bytes = kept.cookie_bytes(&data.values);
        if bytes > MOST_BYTES {
            match before {
                Some(before) => data.values.insert(name.to_owned(), before),
                None => data.values.remove(name),
            };
            return Err(SessionError(Reason::TooLong(bytes)));
        }
        data.changed = true;
        Ok(())
    }

    /// Removes a value.
    pub fn remove(&self, name: &str) {
        if let Some(kept) = &self.kept {
            let mut data = kept.data();
            let data = data.get_or_insert_default();
            data.changed |= data.values.remove(name).is_some();
        }
    }

    /// Removes everything: at a logout, and at a login before the user is set, so that nothing of the session before it
    /// remains. A session without values has no cookie.
    pub fn clear(&self) {
        if let Some(kept) = &self.kept {
            *kept.data() = Some(Data { values: Map::new(), changed: true });
        }
    }

    /// Whether it has no values.
    pub fn is_empty(&self) -> bool {
        self.kept.as_ref().is_none_or(|kept| kept.data().as_ref().is_none_or(|data| data.values.is_empty()))
    }
}

/// Nothing of its values.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Kept {
    /// The data, which this reads from the cookie if nothing has yet.
    fn data(&self) -> MutexGuard<'_, Option<Data>> {
        let mut data = lock(&self.data);
        if data.is_none() {
            *data = Some(self.read(now()));
        }
        data
    }

    /// Reads the first cookie that one of the keys has made, and that has not expired.
    fn read(&self, now: u64) -> Data {
        let max_age = self.config.max_age.as_secs();
        let read = |cookie: &Cookie<'static>| {
            let (opened, key) = self.config.key.open(cookie)?;
            let payload: Payload<Map<String, Value>> = serde_json::from_str(opened.value()).ok()?;
            let age = now.saturating_sub(payload.t);
            let changed = key == KeyAge::Previous || age > max_age / 2;
            (age <= max_age).then_some(Data { values: payload.v, changed })
        };
        self.received.iter().find_map(read).unwrap_or_default()
    }

    /// The length of the cookie with these values, and its attributes.
    fn cookie_bytes(&self, values: &Map<String, Value>) -> usize {
        let text = payload(values, now());
        let sealed = text.len().saturating_add(SEAL_BYTES).div_ceil(3).saturating_mul(4);
        self.cookie(String::new()).to_string().len().saturating_add(sealed)
    }

    fn cookie(&self, value: String) -> Cookie<'static> {
        let max_age = i64::try_from(self.config.max_age.as_secs()).unwrap_or(i64::MAX);
        let mut cookie = Cookie::build((self.config.name.clone(), value))
            .http_only(true)
            .same_site(SameSite::Lax)
            .path("/")
            .secure(self.is_secure)
            .max_age(cookie::time::Duration::seconds(max_age))
            .build();
        if let Some(change) = &self.config.attributes {
            change(&mut cookie);
        }
        cookie
    }

    /// The response, with the cookie if it is to be sent.
    fn send_with(&self, mut response: Response, now: u64) -> Response {
        let data = lock(&self.data).take();
        let Some(data) = data else { return response };
        let headers = response.headers_mut();
        vary(headers, COOKIE);
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("private"));
        if !data.changed {
            return response;
        }
        if !data.values.is_empty() {
            return response.with_cookie(self.config.key.seal(self.cookie(payload(&data.values, now))));
        }
        if self.received.is_empty() {
            return response;
        }
        let mut removal = self.cookie(String::new());
        removal.make_removal();
        response.with_cookie(removal)
    }
}

fn payload(values: &Map<String, Value>, now: u64) -> String {
    // JSON of JSON values does not fail.
    serde_json::to_string(&Payload { t: now, v: values }).unwrap_or_default()
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Why a value can't be put into a [`Session`].
#[derive(Debug)]
pub struct SessionError(Reason);

#[derive(Debug)]
enum Reason {
    NoWrapper,
    Value(serde_json::Error),
    TooLong(usize),
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Reason::NoWrapper => {
                f.write_str("no `Sessions` are around this route, so its session can't be kept")
            }
            Reason::Value(e) => write!(f, "a value of the session can't be written as JSON: {e}"),
            Reason::TooLong(bytes) => write!(
                f,
                "the session would need a cookie of {bytes} bytes, and browsers take {MOST_BYTES}: keep an id in it, and the rest in a database"
            ),
        }
    }
}

impl std::error::Error for SessionError {}

impl IntoResponse for SessionError {
    fn into_response(self) -> Response {
        std::io::Error::other(self).into_response()
    }
}

impl From<SessionError> for std::io::Error {
    fn from(e: SessionError) -> std::io::Error {
        std::io::Error::other(e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::wrap::testing::{ask, field};
    use crate::{Handler, Router};

    fn key(byte: u8) -> CookieKey {
        CookieKey::from_bytes(&[byte; 32]).unwrap()
    }

    fn routes() -> Router {
        Router::new()
            .get("/set/{name}/{value}", |req: Request| {
                let (name, value) = req.params_as::<(String, String)>().unwrap();
                req.session().insert(&name, value)
            })
            .get("/get/{name}", |req: Request| req.session().get::<String>(req.param("name").unwrap()))
            .get("/remove/{name}", |req: Request| req.session().remove(req.param("name").unwrap()))
            .get("/clear", |req: Request| req.session().clear())
            .get("/long", |req: Request| req.session().insert("long", "x".repeat(2990)))
            .get("/none", |_: Request| "unused")
    }

    /// A browser with one cookie, and the last response's status and body.
    #[derive(Default)]
    struct Browser {
        cookie: Option<String>,
    }

    impl Browser {
        fn get(&mut self, handler: &impl Handler, path: &str) -> String {
            let cookie = self.cookie.clone().unwrap_or_default();
            let mut response = ask(handler, &format!("GET {path}"), &[("cookie", &cookie)]);
            let set = field(&response, "set-cookie");
            if let Some((pair, _)) = set.split_once(';') {
                self.cookie = (!set.contains("Max-Age=0")).then(|| pair.to_owned());
            }
            let status = response.status().as_u16();
            format!("{status} {}", response.body_mut().read_text().unwrap().trim_end())
        }
    }

    #[test]
    fn values_come_back_until_they_are_removed() {
        let handler = routes().wrap(Sessions::new(key(1)));
        assert_eq!(handler.check(), Ok(()));
        let mut browser = Browser::default();
        assert_eq!(browser.get(&handler, "/get/user"), "404 404 Not Found");
        assert_eq!(browser.cookie, None, "nothing to keep");
        browser.get(&handler, "/set/user/ada");
        browser.get(&handler, "/set/theme/dark");
        assert!(
            browser
                .cookie
                .as_ref()
                .is_some_and(|cookie| cookie.starts_with("session=") && !cookie.contains("ada"))
        );
        assert_eq!(browser.get(&handler, "/get/user"), "200 ada");
        browser.get(&handler, "/remove/user");
        assert_eq!(browser.get(&handler, "/get/user"), "404 404 Not Found");
        assert_eq!(browser.get(&handler, "/get/theme"), "200 dark");
        let copied = browser.cookie.clone();
        browser.get(&handler, "/clear");
        assert_eq!(browser.cookie, None);
        // As documented: a copy lasts until it expires.
        assert_eq!(Browser { cookie: copied }.get(&handler, "/get/theme"), "200 dark");
    }

    #[test]
    fn the_attributes_of_the_cookie() {
        let set = |sessions: Sessions| {
            let response = ask(&routes().wrap(sessions), "GET /set/a/b", &[]);
            let cookie = field(&response, "set-cookie");
            let (pair, attributes) = cookie.split_once("; ").unwrap();
            format!("{} {attributes}", pair.split_once('=').unwrap().0)
        };
        let sessions = || Sessions::new(key(1));
        assert_eq!(set(sessions()), "session HttpOnly; SameSite=Lax; Path=/; Max-Age=1209600");
        let host = sessions().cookie_name("__Host-s").always_secure().max_age(Duration::from_secs(60));
        assert_eq!(set(host), "__Host-s HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=60");
        let changed = sessions().attributes(|cookie| {
            cookie.set_same_site(SameSite::Strict);
            cookie.set_domain("example.com");
            cookie.unset_path();
        });
        assert_eq!(set(changed), "session HttpOnly; SameSite=Strict; Domain=example.com; Max-Age=1209600");
    }

    #[test]
    fn only_used_sessions_are_in_the_response() {
        let cached = |_: Request| ([("cache-control", "no-store")], "x");
        let handler = routes().get("/cached", cached).wrap(Sessions::new(key(1)));
        let said = |path: &str| {
            let response = ask(&handler, &format!("GET {path}"), &[]);
            ["set-cookie", "vary", "cache-control"].map(|name| field(&response, name))
        };
        assert_eq!(said("/none"), ["", "", ""]);
        assert_eq!(said("/cached"), ["", "", "no-store"]);
        assert_eq!(said("/get/user"), ["", "cookie", "private"]);
        assert_eq!(said("/clear"), ["", "cookie", "private"], "there is no cookie to remove");
        assert_ne!(said("/set/a/b")[0], "");
    }

    #[test]
    fn what_others_made_is_no_session() {
        let handler = routes().wrap(Sessions::new(key(1)));
        let mut browser = Browser::default();
        browser.get(&handler, "/set/user/ada");
        let right = browser.cookie.unwrap();
        let mut foreign = Browser::default();
        foreign.get(&routes().wrap(Sessions::new(key(2))), "/set/user/eve");
        let foreign = foreign.cookie.unwrap();
        let private = key(1).seal(Cookie::new("session", "{\"t\":1}")).to_string();
        let cases = [
            (right.clone(), "200 ada"),
            (format!("{foreign}; {right}"), "200 ada"),
            (format!("session=; session=x; {right}"), "200 ada"),
            (foreign, "404 404 Not Found"),
            (private, "404 404 Not Found"),
            (right.replace("session=", "other="), "404 404 Not Found"),
            (right[..right.len() - 4].to_owned(), "404 404 Not Found"),
            ("session=".to_owned(), "404 404 Not Found"),
        ];
        for (cookie, wanted) in cases {
            assert_eq!(
                Browser { cookie: Some(cookie.clone()) }.get(&handler, "/get/user"),
                wanted,
                "{cookie}"
            );
        }
    }

    #[test]
    fn a_cookie_with_a_previous_key_gets_the_current_one() {
        let old = routes().wrap(Sessions::new(key(1)));
        let both = routes().wrap(Sessions::new(key(2).previous(key(1))));
        let new = routes().wrap(Sessions::new(key(2)));
        let mut browser = Browser::default();
        browser.get(&old, "/set/user/ada");
        assert_eq!(Browser { cookie: browser.cookie.clone() }.get(&new, "/get/user"), "404 404 Not Found");
        assert_eq!(browser.get(&both, "/get/user"), "200 ada");
        assert_eq!(browser.get(&new, "/get/user"), "200 ada");
    }

    #[test]
    fn a_session_that_is_used_is_kept_and_an_old_one_expires() {
        let sessions = Sessions::new(key(1)).max_age(Duration::from_secs(100));
        let mut request = Request::default();
        let set = |request: &Request, now| {
            let session = sessions.session_of(request);
            let kept = session.kept.unwrap();
            *lock(&kept.data) = Some(kept.read(now));
            field(&kept.send_with(Response::default(), now), "set-cookie")
        };
        let value = payload(&Map::from_iter([("user".to_owned(), Value::from("ada"))]), 1_000);
        let cookie = key(1).seal(Cookie::new("session", value)).to_string();
        request.headers_mut().insert(COOKIE, cookie.parse().unwrap());
        for (now, sent) in [(0, false), (1_000, false), (1_050, false), (1_051, true), (1_100, true)] {
            assert_eq!(set(&request, now).starts_with("session="), sent, "{now}");
        }
        let kept = sessions.session_of(&request).kept.unwrap();
        assert!(!kept.read(1_100).values.is_empty() && kept.read(1_101).values.is_empty());
    }

    #[test]
    fn a_session_too_long_for_a_cookie_is_an_error_and_stays() {
        let handler = routes().wrap(Sessions::new(key(1)));
        let mut browser = Browser::default();
        browser.get(&handler, "/set/user/ada");
        assert_eq!(browser.get(&handler, "/long"), "500 500 Internal Server Error");
        assert_eq!(browser.get(&handler, "/get/user"), "200 ada");
        // What is taken fits.
        let session = Sessions::new(key(1)).always_secure().session_of(&Request::default());
        let mut len = 2_990;
        while session.insert("long", "x".repeat(len)).is_err() {
            len -= 1;
        }
        let response = session.kept.unwrap().send_with(Response::default(), now());
        assert!((MOST_BYTES - 4..=MOST_BYTES).contains(&field(&response, "set-cookie").len()), "{len}");
        let error = Session { kept: None }.insert("a", 1).unwrap_err();
        assert_eq!(error.to_string(), "no `Sessions` are around this route, so its session can't be kept");
        let wrong = std::collections::BTreeMap::from([((1, 2), 3)]);
        let session = Sessions::new(key(1)).session_of(&Request::default());
        assert!(session.insert("a", wrong).unwrap_err().to_string().contains("can't be written as JSON"));
    }

    #[test]
    fn types_and_guards() {
        let guard = |req: &mut Request| match req.session().get::<u32>("id") {
            Some(_) => Ok(()),
            None => Err(http::StatusCode::UNAUTHORIZED.into()),
        };
        let inside = (|req: Request| format!("{:?}", req.session().get::<(u32, bool)>("pair"))).guard(guard);
        let enter = |req: Request| {
            req.session().insert("id", 7).unwrap();
            req.session().insert("pair", (1, true)).unwrap();
            format!("{} {:?}", req.session().is_empty(), req.session())
        };
        let handler = Router::new().get("/in", inside).get("/enter", enter).wrap(Sessions::new(key(1)));
        let mut browser = Browser::default();
        assert_eq!(browser.get(&handler, "/in"), "401 ");
        assert_eq!(browser.get(&handler, "/enter"), "200 false Session { .. }");
        assert_eq!(browser.get(&handler, "/in"), "200 Some((1, true))");
        assert_eq!(browser.cookie.as_ref().map(|cookie| cookie.contains("pair")), Some(false));
        // Of another type: as if there were none.
        let other = Router::new()
            .get("/", |req: Request| req.session().get::<String>("id"))
            .wrap(Sessions::new(key(1)));
        assert_eq!(browser.get(&other, "/"), "404 404 Not Found");
    }

    #[test]
    fn invalid_settings_are_errors_at_startup() {
        let check = |sessions: Sessions| routes().wrap(sessions).check();
        let sessions = || Sessions::new(key(1));
        for name in ["", "a b", "a=b", "a;b", "\u{e9}", "__Host-s", "__Secure-s"] {
            assert!(check(sessions().cookie_name(name)).is_err(), "{name}");
        }
        assert_eq!(check(sessions().cookie_name("__Host-s").always_secure()), Ok(()));
        assert!(check(sessions().max_age(Duration::from_millis(999))).is_err());
        assert_eq!(format!("{:?}", sessions()), "Sessions { cookie_name: \"session\", .. }");
    }

    #[test]
    fn signed_and_private_cookies() {
        let key = key(1);
        let response = Response::default()
            .with_private_cookie(("basket", "3 teapots"), &key)
            .with_signed_cookie(("theme", "dark"), &key);
        let mut request = Request::default();
        let cookies: Vec<&str> =
            response.headers().get_all("set-cookie").iter().map(|value| value.to_str().unwrap()).collect();
        assert!(!cookies[0].contains("teapots") && cookies[1].contains("dark"));
        request.headers_mut().insert(COOKIE, cookies.join("; ").parse().unwrap());
        let value = |cookie: Option<Cookie<'static>>| cookie.map(|cookie| cookie.value().to_owned());
        assert_eq!(value(request.private_cookie("basket", &key)), Some("3 teapots".into()));
        assert_eq!(value(request.signed_cookie("theme", &key)), Some("dark".into()));
        assert_eq!(value(request.signed_cookie("basket", &key)), None);
        assert_eq!(value(request.private_cookie("theme", &key)), None);
        assert_eq!(value(request.private_cookie("none", &key)), None);
    }
}
