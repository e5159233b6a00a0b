//! Which clients a listener accepts, as a hash: a connection never moves to a listener with other rules, where its client
//! would have had to show another certificate, or any. The certificates of the server are no part of it, nor is the time: an
//! authority's renewed certificate is another rule, which costs the close of these connections and nothing else.
//!
//! Processes of different versions compare it, so it must not change.

use std::fmt;
use std::str::FromStr;

use ring::digest::{Context, SHA256};

const BYTES: usize = 16;

/// The rules by which clients are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientRules([u8; BYTES]);

impl ClientRules {
    /// No certificate is requested.
    pub(super) fn none() -> ClientRules {
        ClientRules::hash(b"none", Vec::new())
    }

    /// Certificates of these authorities (DER), in any order, are requested.
    pub(super) fn requested<'a>(authorities: impl Iterator<Item = &'a [u8]>) -> ClientRules {
        ClientRules::hash(b"requested", authorities.collect())
    }

    /// As `requested`, and clients without one are refused.
    pub(super) fn required<'a>(authorities: impl Iterator<Item = &'a [u8]>) -> ClientRules {
        ClientRules::hash(b"required", authorities.collect())
    }

    fn hash(kind: &[u8], mut authorities: Vec<&[u8]>) -> ClientRules {
        authorities.sort_unstable();
        authorities.dedup();
        let mut hash = Context::new(&SHA256);
        for part in [kind].into_iter().chain(authorities) {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut rules = [0; BYTES];
        rules.iter_mut().zip(hash.finish().as_ref()).for_each(|(byte, of_hash)| *byte = *of_hash);
        ClientRules(rules)
    }
}

impl fmt::Display for ClientRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for ClientRules {
    type Err = ();

    fn from_str(text: &str) -> Result<ClientRules, ()> {
        let mut rules = [0; BYTES];
        let mut digits = text.chars().map(|digit| digit.to_digit(16).and_then(|n| u8::try_from(n).ok()));
        for byte in &mut rules {
            let mut digit = || digits.next().flatten().ok_or(());
            *byte = digit()? << 4 | digit()?;
        }
        if digits.next().is_none() { Ok(ClientRules(rules)) } else { Err(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts are a promise to later versions.
    #[test]
    fn each_rule_has_its_hash() {
        let authorities = || [&b"one"[..], b"two"].into_iter();
        let all = [
            (ClientRules::none(), "9506f170afb36fca8c02831b18c88d72"),
            (ClientRules::requested(authorities()), "289b8d3d4039c56c679cf5a7bebbce61"),
            (ClientRules::required(authorities()), "c022f43dc882e0a0d5ea5efd26b783da"),
            (ClientRules::required(authorities().take(1)), "fea5959be044292744db828ee1375ce3"),
        ];
        for (rules, text) in all {
            assert_eq!(rules.to_string(), text);
            assert_eq!(text.parse(), Ok(rules));
            for wrong in [&text[1..], &format!("{text}0"), &text.replacen(&text[..1], "g", 1)] {
                assert_eq!(wrong.parse::<ClientRules>(), Err(()), "{wrong}");
            }
        }
    }

    #[test]
    fn the_order_of_authorities_does_not_matter() {
        let (one, two) = (&b"one"[..], &b"two"[..]);
        let of = |authorities: &[&'static [u8]]| ClientRules::required(authorities.iter().copied());
        assert_eq!(of(&[one, two]), of(&[two, one, two]));
        assert_ne!(of(&[one, two]), of(&[b"onetwo"]));
    }
}
