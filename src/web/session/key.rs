//! The keys of signed and private cookies.
//!
//! A key is always given by the program: one that a process made for itself would end with it, and each upgrade would log
//! all users out. So the only key that is generated is written to a file, which every generation reads.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cookie::{Cookie, CookieJar, Key};
use tempfile::NamedTempFile;

use crate::base::error::{self, Error};
use crate::base::log::info;

/// HKDF needs as many; 32 random bytes can't be guessed.
const LEAST_BYTES: usize = 32;

/// The key of signed and private cookies, and of [`Sessions`](super::Sessions), possibly with keys of earlier times. It is
/// a secret: with it every cookie can be forged. It is never printed.
///
/// All processes of a service must have the same key, those before and after an upgrade too: so it is in a file, in the
/// environment, or wherever the service has its other secrets. A file with a random key is made by
/// `head -c 48 /dev/urandom | base64 > cookie.key`, or by [`from_file_or_new`](Self::from_file_or_new).
///
/// To replace a key, give the old one as [`previous`](Self::previous) for as long as its cookies are to be accepted:
///
/// ```no_run
/// use heirloom::session::CookieKey;
///
/// # fn main() -> Result<(), heirloom::Error> {
/// let key = CookieKey::from_file("cookie.key")?.previous(CookieKey::from_file("cookie.key.old")?);
/// # let _ = key;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CookieKey {
    current: Key,
    /// Accepted, but not used for new cookies.
    previous: Vec<Key>,
}

/// Whether a cookie has the current key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyAge {
    Current,
    Previous,
}

impl CookieKey {
    /// A key from at least 32 random bytes. A password is not random: it can be guessed, cookie by cookie, without asking the
    /// server.
    ///
    /// # Errors
    /// Fewer bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<CookieKey, Error> {
        CookieKey::of(bytes, "the cookie key")
    }

    /// A key from the content of a file, without white space around it.
    ///
    /// # Errors
    /// The file can't be read, or has less than 32 bytes.
    pub fn from_file(path: impl AsRef<Path>) -> Result<CookieKey, Error> {
        let path = path.as_ref();
        CookieKey::read(path).map_err(|e| unusable(path, e))?
    }

    /// As [`from_file`](Self::from_file). If there is no such file, it is created with a random key, for its owner alone, and
    /// this is logged. The key then survives restarts and upgrades of this service on this host; services on several
    /// hosts need one file for all of them.
    ///
    /// # Errors
    /// As `from_file`; the file can't be created.
    pub fn from_file_or_new(path: impl AsRef<Path>) -> Result<CookieKey, Error> {
        let path = path.as_ref();
        match CookieKey::read(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            read => return read.map_err(|e| unusable(path, e))?,
        }
        match create(path) {
            Ok(()) => info!("created the cookie key {}", path.display()),
            // Another process was faster.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(unusable(path, e)),
        }
        CookieKey::from_file(path)
    }

    /// A key from the value of an environment variable, without white space around it.
    ///
    /// # Errors
    /// The variable is not set, or has less than 32 bytes.
    pub fn from_env(name: &str) -> Result<CookieKey, Error> {
        let value = std::env::var_os(name)
            .ok_or_else(|| Error::config(format!("the cookie key: the environment has no {name}")))?;
        CookieKey::of(value.as_encoded_bytes().trim_ascii(), &format!("the cookie key in {name}"))
    }

    /// Also accepts cookies with this key, and with those that it accepts. New cookies have the first key.
    #[must_use]
    pub fn previous(mut self, key: CookieKey) -> CookieKey {
        self.previous.push(key.current);
        self.previous.extend(key.previous);
        self
    }

    fn of(bytes: &[u8], what: &str) -> Result<CookieKey, Error> {
        if bytes.len() < LEAST_BYTES {
            let len = bytes.len();
            return Err(Error::config(format!(
                "{what} has {len} bytes: it needs at least {LEAST_BYTES} random ones"
            )));
        }
        Ok(CookieKey { current: Key::derive_from(bytes), previous: Vec::new() })
    }

    fn read(path: &Path) -> io::Result<Result<CookieKey, Error>> {
        let bytes = fs::read(path)?;
        Ok(CookieKey::of(bytes.trim_ascii(), &format!("the cookie key in {}", path.display())))
    }

    /// Encrypts a cookie's value. It is bound to the cookie's name.
    pub(crate) fn seal(&self, cookie: Cookie<'static>) -> Cookie<'static> {
        let mut jar = CookieJar::new();
        let name = cookie.name().to_owned();
        jar.private_mut(&self.current).add(cookie);
        jar.get(&name).cloned().unwrap_or_else(|| Cookie::new(name, ""))
    }

    /// Decrypts what `seal` has made with one of the keys.
    pub(crate) fn open(&self, cookie: &Cookie<'_>) -> Option<(Cookie<'static>, KeyAge)> {
        self.try_keys(|key| CookieJar::new().private(key).decrypt(cookie.clone().into_owned()))
    }

    /// Signs a cookie's value together with its name, which the crate `cookie` alone would leave out: so a client can't
    /// send the signed value of one cookie as that of another.
    pub(crate) fn sign(&self, mut cookie: Cookie<'static>) -> Cookie<'static> {
        let mut jar = CookieJar::new();
        let name = cookie.name().to_owned();
        cookie.set_value(format!("{name}={}", cookie.value()));
        jar.signed_mut(&self.current).add(cookie);
        jar.get(&name).cloned().unwrap_or_else(|| Cookie::new(name, ""))
    }

    /// The cookie as it was before `sign` with one of the keys.
    pub(crate) fn verify(&self, cookie: &Cookie<'_>) -> Option<(Cookie<'static>, KeyAge)> {
        let (mut cookie, age) =
            self.try_keys(|key| CookieJar::new().signed(key).verify(cookie.clone().into_owned()))?;
        let value = cookie.value().strip_prefix(cookie.name())?.strip_prefix('=')?.to_owned();
        cookie.set_value(value);
        Some((cookie, age))
    }

    fn try_keys<T>(&self, attempt: impl Fn(&Key) -> Option<T>) -> Option<(T, KeyAge)> {
        let current = attempt(&self.current).map(|value| (value, KeyAge::Current));
        let previous = || self.previous.iter().find_map(&attempt).map(|value| (value, KeyAge::Previous));
        current.or_else(previous)
    }
}

/// Creates a file with a random key. It appears whole, or not at all.
fn create(path: &Path) -> io::Result<()> {
    let key = Key::try_generate().ok_or_else(|| io::Error::other("there is no source of randomness"))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    // Its mode is 0600.
    let mut file = NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    writeln!(file, "{}", STANDARD.encode(key.master()))?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    Ok(())
}

fn unusable(path: &Path, e: io::Error) -> Error {
    Error::io(error::ErrorKind::Config, format!("the cookie key in {}", path.display()), e)
}

/// Nothing of the key.
impl fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieKey").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn key(byte: u8) -> CookieKey {
        CookieKey::from_bytes(&[byte; 32]).unwrap()
    }

    #[test]
    fn short_keys_are_refused_and_no_key_is_printed() {
        for len in [0, 16, 31] {
            let error = CookieKey::from_bytes(&vec![b'k'; len]).unwrap_err();
            assert_eq!(error.kind(), error::ErrorKind::Config);
            assert_eq!(
                error.to_string(),
                format!("the cookie key has {len} bytes: it needs at least 32 random ones")
            );
        }
        let key = CookieKey::from_bytes(&[b'k'; 64]).unwrap().previous(key(1));
        assert_eq!(format!("{key:?}"), "CookieKey { .. }");
        let error = CookieKey::from_env("HEIRLOOM_NO_SUCH_VARIABLE").unwrap_err();
        assert_eq!(error.to_string(), "the cookie key: the environment has no HEIRLOOM_NO_SUCH_VARIABLE");
    }

    #[test]
    fn a_file_is_read_or_created_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cookie.key");
        let error = CookieKey::from_file(&path).unwrap_err();
        assert!(error.to_string().starts_with(&format!("the cookie key in {}: ", path.display())), "{error}");
        let first = CookieKey::from_file_or_new(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let sealed = first.seal(Cookie::new("a", "secret"));
        for again in [CookieKey::from_file_or_new(&path).unwrap(), CookieKey::from_file(&path).unwrap()] {
            assert_eq!(again.open(&sealed).unwrap().0.value(), "secret");
        }
        assert_eq!(create(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        fs::write(&path, "  too short \n").unwrap();
        let error = CookieKey::from_file_or_new(&path).unwrap_err().to_string();
        assert!(error.ends_with("cookie.key has 9 bytes: it needs at least 32 random ones"), "{error}");
        assert!(CookieKey::from_file_or_new(folder.path().join("nowhere/key")).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn values_are_bound_to_key_and_name() {
        let (old, new) = (key(1), key(2));
        let both = key(2).previous(key(3)).previous(key(1));
        type Make = fn(&CookieKey, Cookie<'static>) -> Cookie<'static>;
        type Read = fn(&CookieKey, &Cookie<'_>) -> Option<(Cookie<'static>, KeyAge)>;
        let ways: [(Make, Read); 2] = [
            (CookieKey::seal, |key, cookie| key.open(cookie)),
            (CookieKey::sign, |key, cookie| key.verify(cookie)),
        ];
        for (make, read) in ways {
            for value in ["", "a=b", "\u{e9} x", &"x".repeat(3000)] {
                let made = make(&old, Cookie::build(("name", value.to_owned())).http_only(true).into());
                assert_eq!((made.name(), made.http_only()), ("name", Some(true)));
                let read_by = |key: &CookieKey, cookie: &Cookie<'_>| {
                    read(key, cookie).map(|(cookie, age)| (cookie.value().to_owned(), age))
                };
                assert_eq!(read_by(&old, &made), Some((value.to_owned(), KeyAge::Current)));
                assert_eq!(read_by(&both, &made), Some((value.to_owned(), KeyAge::Previous)));
                assert_eq!(read_by(&new, &made), None, "another key");
                for other in ["nam", "names", "n"] {
                    assert_eq!(
                        read_by(&old, &Cookie::new(other, made.value().to_owned())),
                        None,
                        "another name"
                    );
                }
                let changed = format!("{}x", made.value());
                assert_eq!(read_by(&old, &Cookie::new("name", changed)), None);
                for cut in [0, 1, 10, 43, 44, 45] {
                    let cut: String = made.value().chars().take(cut).collect();
                    if cut != made.value() {
                        assert_eq!(read_by(&old, &Cookie::new("name", cut)), None);
                    }
                }
            }
        }
        let (sealed, signed) = (old.seal(Cookie::new("a", "b")), old.sign(Cookie::new("a", "b")));
        assert!(old.verify(&sealed).is_none() && old.open(&signed).is_none());
        assert!(!sealed.value().contains('b') || sealed.value().len() > 30, "encrypted");
        assert_ne!(sealed.value(), old.seal(Cookie::new("a", "b")).value(), "never the same twice");
    }
}
