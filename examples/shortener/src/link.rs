//! The parts of a link, and which texts may be one.

use serde::{Deserialize, Serialize};
use url::Url;

/// A link as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    #[serde(skip)]
    pub id: i64,
    pub alias: String,
    pub url: String,
    /// The path of the redirect.
    pub path: String,
    /// UTC, in the format of RFC 3339.
    pub created: String,
    pub hits: i64,
}

/// The URLs that a link may have.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Target(String);

impl Target {
    /// Bytes, as sent to browsers.
    const MOST: usize = 2_000;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Target {
    type Error = &'static str;

    /// Parsed by the rules of browsers, so that the check sees what they see.
    fn try_from(text: String) -> Result<Target, &'static str> {
        let url = Url::parse(text.trim()).map_err(|_| "not a URL, such as https://example.com/page")?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("http and https only");
        }
        // https://bank.example@elsewhere.example
        if !url.username().is_empty() || url.password().is_some() {
            return Err("without a user's name in it, please");
        }
        let text = String::from(url);
        if text.len() > Target::MOST { Err("too long: 2,000 bytes at most") } else { Ok(Target(text)) }
    }
}

/// The name of a link: letters, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Alias(String);

impl Alias {
    const MOST: usize = 40;
    /// What the site may want to have there itself.
    const RESERVED: [&str; 3] = ["api", "admin", "login"];

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Eight characters that are not confused with each other, from a number that can't be guessed.
    pub fn of_number(number: i64) -> Alias {
        const LETTERS: &[u8; 32] = b"23456789abcdefghijkmnpqrstuvwxyz";
        let letter = |n: u32| char::from(LETTERS[(number >> (5 * n) & 31) as usize]);
        Alias((0..8).map(letter).collect())
    }
}

impl TryFrom<String> for Alias {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Alias, &'static str> {
        if text.is_empty() || text.len() > Alias::MOST {
            return Err("1 to 40 characters");
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err("letters, digits, - and _ only");
        }
        if Alias::RESERVED.contains(&&*text) { Err("reserved") } else { Ok(Alias(text)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for (text, expected) in [
            ("https://example.com", Ok("https://example.com/")),
            (" HTTP://Example.COM:80/a b?c#d ", Ok("http://example.com/a%20b?c#d")),
            ("https://käse.example/ä", Ok("https://xn--kse-qla.example/%C3%A4")),
            ("https://example.com/\r\nSet-Cookie: a=b", Ok("https://example.com/Set-Cookie:%20a=b")),
            ("example.com", Err("not a URL, such as https://example.com/page")),
            ("/here", Err("not a URL, such as https://example.com/page")),
            ("", Err("not a URL, such as https://example.com/page")),
            ("https://", Err("not a URL, such as https://example.com/page")),
            ("ftp://example.com", Err("http and https only")),
            ("javascript:alert(1)", Err("http and https only")),
            ("data:text/html,hello", Err("http and https only")),
            ("https://bank.example@elsewhere.example", Err("without a user's name in it, please")),
        ] {
            let target = Target::try_from(text.to_owned());
            assert_eq!(target.as_ref().map(Target::as_str).map_err(|e| *e), expected, "{text:?}");
        }
        let of_length = |len: usize| format!("https://example.com/{}", "a".repeat(len - 20));
        assert!(Target::try_from(of_length(2_000)).is_ok());
        assert_eq!(Target::try_from(of_length(2_001)), Err("too long: 2,000 bytes at most"));
        // It is longer once it is encoded.
        assert!(Target::try_from(format!("https://example.com/{}", "ä".repeat(600))).is_err());
    }

    #[test]
    fn aliases() {
        for (text, fit) in [
            ("a", true),
            ("Rust-2024_x", true),
            ("", false),
            ("a b", false),
            ("a/b", false),
            ("a.b", false),
            ("ä", false),
            ("api", false),
            ("apis", true),
        ] {
            assert_eq!(Alias::try_from(text.to_owned()).is_ok(), fit, "{text:?}");
        }
        assert!(Alias::try_from("a".repeat(40)).is_ok() && Alias::try_from("a".repeat(41)).is_err());
        for (number, alias) in [(0, "22222222"), (-1, "zzzzzzzz"), (1, "32222222"), (i64::MIN, "22222222")] {
            assert_eq!(Alias::of_number(number).as_str(), alias);
            assert!(Alias::try_from(alias.to_owned()).is_ok());
        }
    }
}
