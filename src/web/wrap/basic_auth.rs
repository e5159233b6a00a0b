//! User and password in each request (RFC 7617).

use std::fmt;
use std::hint::black_box;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, StatusCode};

use crate::Request;
use crate::web::fields;
use crate::web::handler::{EarlyResponse, Wrapper};
use crate::web::response::{ResponseExt, plain};

/// Requires a password, and responds with 401 without one; the user is a [`BasicUser`] in the request's extensions. The
/// password is sent with each request, and readable without TLS.
///
/// It is a [guard](crate::Wrapper::guard): the password is checked before the body of the request is received.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::wrap::{BasicAuth, BasicUser};
///
/// let handler = (|req: Request| format!("hello {}\n", req.extensions().get::<BasicUser>().unwrap().0))
///     .wrap(BasicAuth::user("the back office", "Aladdin", "open sesame"));
/// let ask = |builder: http::request::Builder| handler.call(builder.body(Body::empty()).unwrap());
/// let response = ask(http::Request::get("/"));
/// assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
/// assert_eq!(response.headers()["www-authenticate"], r#"Basic realm="the back office", charset="UTF-8""#);
/// let mut response =
///     ask(http::Request::get("/").header("authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
/// assert_eq!(response.body_mut().read_text().unwrap(), "hello Aladdin\n");
/// ```
pub struct BasicAuth {
    realm: String,
    check: Check,
}

/// Checks name and password.
type Check = Box<dyn Fn(&str, &str) -> bool + Send + Sync>;

/// The user that [`BasicAuth`] has authenticated, in the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicUser(
    /// The name.
    pub String,
);

/// Some clients leave out the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl BasicAuth {
    /// Accepts a name and password if `check` returns true for them. It may block, and should take as long for a wrong
    /// password as for a right one: see [`same_secret`]. Browsers show `realm` when they ask for the password.
    ///
    /// ```
    /// use heirloom::wrap::{BasicAuth, same_secret};
    /// # fn password_of(_user: &str) -> Option<String> { None }
    /// let auth = BasicAuth::new("the back office", |user, password| {
    ///     password_of(user).is_some_and(|right| same_secret(&right, password))
    /// });
    /// ```
    pub fn new(
        realm: impl Into<String>,
        check: impl Fn(&str, &str) -> bool + Send + Sync + 'static,
    ) -> BasicAuth {
        BasicAuth { realm: realm.into(), check: Box::new(check) }
    }

    /// Accepts one user, whose name and password are compared in constant time.
    pub fn user(realm: impl Into<String>, user: impl Into<String>, password: impl Into<String>) -> BasicAuth {
        let (name, secret) = (user.into(), password.into());
        // Both are compared, whatever the result of the first.
        BasicAuth::new(realm, move |user, password| same_secret(&name, user) & same_secret(&secret, password))
    }

    fn challenge(&self) -> Option<HeaderValue> {
        let visible = |c: char| c == ' ' || c.is_ascii_graphic();
        let realm = self.realm.replace('\\', "\\\\").replace('"', "\\\"");
        let text = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
        realm.chars().all(visible).then(|| HeaderValue::try_from(text).ok()).flatten()
    }
}

/// Name and password, if that is what the request has.
fn credentials(request: &Request) -> Option<(String, String)> {
    let token = fields::credentials(request.headers(), "basic")?;
    let decoded = String::from_utf8(BASE64.decode(token).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    let control = |text: &str| text.chars().any(|c| c.is_ascii_control());
    (!control(user) && !control(password)).then(|| (user.to_owned(), password.to_owned()))
}

/// Whether two secrets, as text or bytes, are the same, in a time that reveals at most their lengths.
///
/// ```
/// use heirloom::wrap::same_secret;
/// assert!(same_secret("open sesame", "open sesame"));
/// assert!(!same_secret(b"open sesame", "open sesamE"));
/// ```
pub fn same_secret(a: impl AsRef<[u8]>, b: impl AsRef<[u8]>) -> bool {
    let (a, b) = (a.as_ref(), b.as_ref());
    let differing = a.iter().zip(b).fold(0, |seen, (a, b)| black_box(seen | (a ^ b)));
    (a.len() == b.len()) & (black_box(differing) == 0)
}

impl Wrapper for BasicAuth {
    fn guard(&self, request: &mut Request) -> Result<(), EarlyResponse> {
        match credentials(request) {
            Some((user, password)) if (self.check)(&user, &password) => {
                request.extensions_mut().insert(BasicUser(user));
                Ok(())
            }
            _ => {
                let response = plain(StatusCode::UNAUTHORIZED);
                Err(match self.challenge() {
                    Some(challenge) => response.with_header(WWW_AUTHENTICATE, challenge).into(),
                    None => response.into(),
                })
            }
        }
    }

    fn check(&self) -> Result<(), String> {
        match self.challenge() {
            Some(_) => Ok(()),
            None => Err(format!("BasicAuth: the realm {:?} is not plain ASCII", self.realm)),
        }
    }
}

impl fmt::Debug for BasicAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BasicAuth").field("realm", &self.realm).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Handler;
    use crate::web::wrap::testing::{ask, field};

    #[test]
    fn who_is_let_in() {
        let handler = (|req: Request| req.extensions().get::<BasicUser>().unwrap().0.clone())
            .wrap(BasicAuth::user("here", "Jø", "a:b"));
        let of = |text: &[u8]| format!("Basic {}", BASE64.encode(text));
        let right = of("Jø:a:b".as_bytes());
        let cases = [
            (right.clone(), true),
            (right.replace("Basic", "bAsIc"), true),
            (right.trim_end_matches('=').to_owned(), true),
            (right.replace("Basic ", "Basic   "), true),
            (right.replace("Basic", "Bearer"), false),
            (right.replace("Basic ", "Basic"), false),
            (right.replace("Basic ", ""), false),
            (of("Jø:a:c".as_bytes()), false),
            (of("Jø:a".as_bytes()), false),
            (of("Jø:a:bc".as_bytes()), false),
            (of("jø:a:b".as_bytes()), false),
            (of(b":"), false),
            (of(b"J"), false),
            (of(b"J\xf8:a:b"), false),
            (of("Jø:a:b\0".as_bytes()), false),
            ("Basic".to_owned(), false),
            ("Basic !".to_owned(), false),
            (String::new(), false),
        ];
        for (value, comes_in) in cases {
            let mut response = ask(&handler, "GET /", &[("authorization", &value)]);
            let body = response.body_mut().read_text().unwrap();
            if comes_in {
                assert_eq!((response.status().as_u16(), &*body), (200, "Jø"), "{value}");
            } else {
                assert_eq!((response.status().as_u16(), &*body), (401, "401 Unauthorized\n"), "{value}");
                let challenge = field(&response, "www-authenticate");
                assert_eq!(challenge, "Basic realm=\"here\", charset=\"UTF-8\"");
            }
        }
        let twice = [("authorization", &*right), ("authorization", &*right)];
        assert_eq!(ask(&handler, "GET /", &twice).status(), 401);
        assert_eq!(ask(&handler, "GET /", &[]).status(), 401);
    }

    #[test]
    fn realms() {
        let auth = |realm: &str| BasicAuth::new(realm, |_, _| false);
        assert_eq!(auth("a\"b\\c").challenge().unwrap(), "Basic realm=\"a\\\"b\\\\c\", charset=\"UTF-8\"");
        for realm in ["é", "a\nb", "\u{7f}"] {
            assert!((|_: Request| ()).wrap(auth(realm)).check().is_err(), "{realm:?}");
            assert_eq!(ask(&(|_: Request| ()).wrap(auth(realm)), "GET /", &[]).status(), 401);
        }
    }

    #[test]
    fn secrets() {
        for (a, b, same) in
            [("", "", true), ("a", "a", true), ("a", "b", false), ("a", "", false), ("ab", "a", false)]
        {
            assert_eq!((same_secret(a, b), same_secret(b, a)), (same, same), "{a:?} {b:?}");
        }
    }
}
