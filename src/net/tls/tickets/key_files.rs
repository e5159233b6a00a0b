//! Keys of tickets in files, for several hosts that serve the same names: a ticket of one is resumed by the others. The formats
//! are those of nginx (`ssl_session_ticket_key`: 48 or 80 random bytes) and HAProxy (`tls-ticket-keys`: at least three lines of
//! base64, each of as many bytes), so that files and their rotation can be taken over from there.
//!
//! Only the files are compatible, tickets are not: of a key's bytes the first 16 are its name, as there, and the others are
//! turned into a key of our AEAD by HKDF. So no key is used by two algorithms, even if nginx reads the same file.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use super::super::certificates::wrong;
use super::{NAME_BYTES, Scope, TicketKey};
use crate::base::error::Error;

const WHAT: &str = "file of session ticket keys";
/// The bytes of a key, with its name.
const KEY_BYTES: [usize; 2] = [48, 80];
/// As HAProxy has it: the last of a file but one encrypts, so that the other processes know the last one before it is used.
const LINES: usize = 3;
/// A file that is longer is another one.
const MOST_BYTES: usize = 64 << 10;

const WANTED: &str =
    "expected 48 or 80 random bytes (openssl rand 80), or at least three lines with as many in base64 each";

/// All keys of the files; the first one encrypts.
pub(in crate::net::tls) struct TicketKeyFiles(Vec<TicketKey>);

impl TicketKeyFiles {
    /// Reads the files; the first one has the key that encrypts.
    pub(in crate::net::tls) fn load(files: &[PathBuf]) -> Result<TicketKeyFiles, Error> {
        let mut keys = Vec::new();
        for file in files {
            let text = read(file)?;
            keys.extend(parse(&text).map_err(|why| wrong(WHAT, file, why))?);
        }
        Ok(TicketKeyFiles(keys))
    }

    pub(super) fn seal(&self, session: &[u8], scope: &Scope) -> Option<Vec<u8>> {
        self.0.first()?.seal(session, scope)
    }

    pub(super) fn open(&self, ticket: &[u8], scope: &Scope) -> Option<Vec<u8>> {
        self.0.iter().find_map(|key| key.open(ticket, scope))
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let failed = |e| wrong(WHAT, path, e);
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode();
    if mode & 0o027 != 0 {
        let why =
            format!("its group can write it, or others can read it (mode {:o}): chmod 600", mode & 0o777);
        return Err(wrong(WHAT, path, why));
    }
    if metadata.size() > MOST_BYTES as u64 {
        return Err(wrong(WHAT, path, "longer than 64 KiB: keep the last three lines"));
    }
    // With room for all of it at once, since a `Vec` that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(MOST_BYTES));
    file.take(MOST_BYTES as u64).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

/// The keys of a file, first the one that encrypts.
fn parse(text: &[u8]) -> Result<Vec<TicketKey>, String> {
    if KEY_BYTES.contains(&text.len()) {
        return Ok(vec![key(text).ok_or(WANTED)?]);
    }
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let mut keys = Vec::new();
    for (n, line) in (1..).zip(lines) {
        let mut bytes = Zeroizing::new([0; 128]);
        let length = STANDARD.decode_slice(line, &mut *bytes).ok();
        let key = length.and_then(|length| key(bytes.get(..length)?));
        keys.push(key.ok_or_else(|| format!("line {n} has no key; {WANTED}"))?);
    }
    // HAProxy takes the last three.
    let mut keys = keys.split_off(keys.len().saturating_sub(LINES));
    match &mut keys[..] {
        [first, encrypts, _] => std::mem::swap(first, encrypts),
        _ => return Err(format!("it has {} lines and {} bytes; {WANTED}", keys.len(), text.len())),
    }
    Ok(keys)
}

fn key(bytes: &[u8]) -> Option<TicketKey> {
    let (name, secret) = bytes.split_first_chunk::<NAME_BYTES>()?;
    if !KEY_BYTES.contains(&bytes.len()) {
        return None;
    }
    let extracted = Salt::new(HKDF_SHA256, b"heirloom session tickets").extract(secret);
    let expanded = extracted.expand(&[b"aes-256-gcm"], HKDF_SHA256).ok()?;
    TicketKey::filled(*name, |secret| expanded.fill(secret).ok())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::slice;

    use super::*;

    fn raw(n: u8, length: usize) -> Vec<u8> {
        (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add(n)).collect()
    }

    fn lines(keys: &[u8], length: usize) -> Vec<u8> {
        keys.iter().flat_map(|n| (STANDARD.encode(raw(*n, length)) + "\n").into_bytes()).collect()
    }

    fn place(folder: &tempfile::TempDir, name: &str, content: &[u8]) -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        path
    }

    /// By which key a file encrypts and by which it decrypts: the numbers of the keys.
    #[test]
    fn which_key_encrypts_and_which_decrypt() {
        let folder = tempfile::tempdir().unwrap();
        let scope = Scope::default();
        for length in KEY_BYTES {
            type Case<'a> = (&'a [Vec<u8>], u8, &'a [u8]);
            let cases: [Case<'_>; 7] = [
                (&[raw(1, length)], 1, &[1]),
                (&[raw(1, length), raw(2, length)], 1, &[1, 2]),
                (&[lines(&[1, 2, 3], length)], 2, &[1, 2, 3]),
                (&[lines(&[1, 2, 3, 4, 5], length)], 4, &[3, 4, 5]),
                (&[lines(&[1, 2, 3], length), raw(4, length)], 2, &[1, 2, 3, 4]),
                (&[lines(&[1, 2, 3], length).trim_ascii_end().to_vec()], 2, &[1, 2, 3]),
                (&[[b"\r\n\n", &lines(&[1, 2, 3], length)[..], b"\n"].concat()], 2, &[1, 2, 3]),
            ];
            for (contents, encrypts, decrypt) in cases {
                let named = contents.iter().enumerate();
                let files: Vec<PathBuf> =
                    named.map(|(n, content)| place(&folder, &n.to_string(), content)).collect();
                let keys = TicketKeyFiles::load(&files).unwrap();
                let ticket = keys.seal(b"session", &scope).unwrap();
                for n in 1..=5 {
                    let one = key(&raw(n, length)).unwrap();
                    assert_eq!(one.open(&ticket, &scope).is_some(), n == encrypts, "{n} of {decrypt:?}");
                    let foreign = one.seal(b"session", &scope).unwrap();
                    assert_eq!(
                        keys.open(&foreign, &scope).is_some(),
                        decrypt.contains(&n),
                        "{n} of {decrypt:?}"
                    );
                }
            }
        }
    }

    /// The AEAD's key is none of the file's bytes, and both lengths have their own.
    #[test]
    fn a_key_is_derived() {
        let (short, long) = (key(&raw(1, 48)).unwrap(), key(&raw(1, 80)).unwrap());
        assert_eq!((&short.name[..], &long.name[..]), (&raw(1, 16)[..], &raw(1, 16)[..]));
        assert_ne!(short, long);
        assert!(!raw(1, 80).windows(8).any(|eight| long.secret.windows(8).any(|own| own == eight)));
        assert_eq!(key(&raw(1, 48)), Some(short));
    }

    #[test]
    fn an_error_names_the_file_and_the_fault_and_no_byte_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let cases: [(&[u8], &str); 9] = [
            (b"", "it has 0 lines and 0 bytes; expected 48 or 80 random bytes"),
            (&raw(1, 47), "line 1 has no key; expected 48 or 80 random bytes"),
            (&[0; 48][..47], "line 1 has no key"),
            (&lines(&[1, 2], 48), "it has 2 lines and 130 bytes; expected"),
            (&lines(&[1], 80), "it has 1 lines and 109 bytes; expected"),
            (&lines(&[1, 2, 3], 32), "line 1 has no key"),
            (&[&lines(&[1, 2], 80)[..], b"not base64\n"].concat(), "line 3 has no key"),
            (&[&lines(&[1, 2, 3], 80)[..], &[b'A'; 1_000]].concat(), "line 4 has no key"),
            (&[b'A'; (64 << 10) + 1], "longer than 64 KiB: keep the last three lines"),
        ];
        for (content, expected) in cases {
            let path = place(&folder, "keys", content);
            let error = TicketKeyFiles::load(slice::from_ref(&path)).err().unwrap().to_string();
            let start = format!("can't use the file of session ticket keys {}: {expected}", path.display());
            assert!(error.starts_with(&start), "{error}");
        }
        let missing = TicketKeyFiles::load(&[folder.path().join("none")]).err().unwrap();
        assert!(missing.to_string().ends_with("none: No such file or directory (os error 2)"), "{missing}");
        let content = String::from_utf8(lines(&[1], 48)).unwrap();
        let passed_itself = TicketKeyFiles::load(&[PathBuf::from(content.trim())]).err().unwrap();
        assert!(!passed_itself.to_string().contains(&content[..8]), "{passed_itself}");
    }

    #[test]
    fn a_file_that_others_can_read_or_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = place(&folder, "keys", &raw(1, 80));
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        let usable = [0o600, 0o640, 0o400].map(|mode| (mode, true));
        let refused = [0o644, 0o602, 0o601, 0o660, 0o620].map(|mode| (mode, false));
        for (mode, is_usable) in usable.into_iter().chain(refused) {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            for path in [&path, &link] {
                let loaded = TicketKeyFiles::load(slice::from_ref(path));
                assert_eq!(loaded.is_ok(), is_usable, "{mode:o}");
                if let Err(e) = loaded {
                    let expected =
                        format!("its group can write it, or others can read it (mode {mode:o}): chmod 600");
                    assert!(e.to_string().ends_with(&expected), "{e}");
                }
            }
        }
    }
}
