//! Takes the keys out of `rustls`. All that depends on what `rustls` does not document is here, and each such assumption has
//! a test in `tests/assumptions.rs`.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::server::UnbufferedServerConnection;
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets, KeyLog};
use zeroize::Zeroizing;

use super::key::{Material, next_secret, traffic_key};
use super::suite::{Suite, Version};
use super::{Parts, Records};

/// How many KeyUpdates of one side are looked for: `rustls` does not report their number. The search is short, since the
/// client has sent as many.
pub(in crate::net::tls) const GENERATIONS_MAX: usize = 1_000;

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

/// The first traffic secrets of one connection of TLS 1.3. `rustls` gives them to its key log alone, and only the key that
/// it derives from the current one when keys are extracted; but without the secret no KeyUpdate can be followed.
///
/// They stay for as long as the connection: who reads this memory can decrypt what was sent before a KeyUpdate.
pub(in crate::net::tls) struct TrafficSecrets {
    client: OnceLock<Material>,
    server: OnceLock<Material>,
    /// The key log of the configuration, which gets all that it would get without this one.
    next: Arc<dyn KeyLog>,
}

impl TrafficSecrets {
    pub(in crate::net::tls) fn new(next: Arc<dyn KeyLog>) -> TrafficSecrets {
        TrafficSecrets { client: OnceLock::new(), server: OnceLock::new(), next }
    }

    fn place(&self, label: &str) -> Option<&OnceLock<Material>> {
        match label {
            CLIENT => Some(&self.client),
            SERVER => Some(&self.server),
            _ => None,
        }
    }
}

impl KeyLog for TrafficSecrets {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        if let Some(place) = self.place(label) {
            let _ = place.set(Zeroizing::new(secret.to_vec()));
        }
        // TLS 1.2 logs its secret without asking.
        if self.place(label).is_none() || self.next.will_log(label) {
            self.next.log(label, client_random, secret);
        }
    }

    fn will_log(&self, label: &str) -> bool {
        self.place(label).is_some() || self.next.will_log(label)
    }
}

impl fmt::Debug for TrafficSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrafficSecrets").finish_non_exhaustive()
    }
}

/// Continues a connection without `rustls`. The caller has made sure that the handshake is done, and that nothing is to be
/// sent: `rustls` consumes the connection even if it then refuses. None: the connection is lost.
pub(in crate::net::tls) fn extract(
    connection: UnbufferedServerConnection,
    logged: &TrafficSecrets,
) -> Option<Records> {
    let suite = Suite::negotiated(connection.negotiated_cipher_suite()?)?;
    let (ExtractedSecrets { tx, rx }, _) = connection.dangerous_into_kernel_connection().ok()?;
    let tx = (material(&suite, &tx.1, &logged.server)?, tx.0);
    let rx = (material(&suite, &rx.1, &logged.client)?, rx.0);
    Records::new(Parts { suite, tx, rx })
}

fn material(suite: &Suite, key: &ConnectionTrafficSecrets, first: &OnceLock<Material>) -> Option<Material> {
    let (key, iv) = match key {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key.as_ref(), iv.as_ref()),
        _ => return None,
    };
    match suite.version {
        Version::Tls12 => {
            let mut both = Zeroizing::new(Vec::with_capacity(key.len().saturating_add(iv.len())));
            both.extend_from_slice(key);
            both.extend_from_slice(iv);
            Some(both)
        }
        Version::Tls13 => {
            let mut secret = first.get()?.clone();
            for _ in 0..=GENERATIONS_MAX {
                let (of_key, of_iv) = traffic_key(suite, &secret)?;
                if of_key.as_slice() == key && of_iv.as_slice() == iv {
                    return Some(secret);
                }
                secret = next_secret(suite, &secret)?;
            }
            None
        }
    }
}

/// The material of a client's key, for tests.
#[cfg(test)]
pub(super) fn material_of(
    suite: &Suite,
    key: &ConnectionTrafficSecrets,
    logged: &TrafficSecrets,
    label: &str,
) -> Option<Material> {
    material(suite, key, logged.place(label)?)
}
