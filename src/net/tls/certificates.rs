//! Reads certificates and keys from files into a configuration of `rustls`.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{
    ClientHello, NoClientAuth, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
    WebPkiClientVerifier, danger,
};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};

use super::client_rules::ClientRules;
use super::clock::WallClock;
use super::records::TrafficSecrets;
use super::tickets::{NoTickets, RingPlace, Scope, TicketKeyFiles, TicketKeys, Tickets};
use super::{pem, reasons};
use crate::base::error::Error;

/// The only protocol that ALPN offers.
const HTTP_1_1: &[u8] = b"http/1.1";

/// The names of the files.
#[derive(Clone)]
pub(super) struct Spec {
    /// Certificate and key.
    pub(super) pairs: Vec<(PathBuf, PathBuf)>,
    /// None: clients are not asked for certificates.
    pub(super) clients: Option<ClientAuth>,
    /// Files with keys of session tickets. Empty: they are generated.
    pub(super) ticket_keys: Vec<PathBuf>,
}

/// How clients are authenticated.
#[derive(Clone)]
pub(super) struct ClientAuth {
    /// The file with the certificates of the authorities.
    pub(super) authorities: PathBuf,
    /// A client without a certificate is refused.
    pub(super) required: bool,
}

impl Spec {
    /// Reads the files. Tickets have keys of the ring at `place`, unless files have them.
    pub(super) fn load(&self, place: &RingPlace) -> Result<Loaded, Error> {
        let provider = Arc::new(ring::default_provider());
        let pairs = self.pairs.iter();
        let keys = pairs.map(|(certificate, key)| pair(certificate, key, &provider));
        let keys: Keys = keys.collect::<Result<_, _>>()?;
        let (clients, rules): (Arc<dyn danger::ClientCertVerifier>, _) = match &self.clients {
            Some(auth) => verifier(auth, &provider)?,
            None => (Arc::new(NoClientAuth), ClientRules::none()),
        };
        let broken = |e: rustls::Error| Error::config(format!("TLS can't be set up: {e}"));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(broken)?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::new(Chooser { keys: Arc::clone(&keys), asked: Arc::default() }));
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        match &self.clients {
            None => config.ticketer = Arc::new(self.tickets(place, &keys)?),
            Some(_) => {
                config.ticketer = Arc::new(NoTickets);
                config.session_storage = Arc::new(NoServerSessionStorage {});
                config.send_tls13_tickets = 0;
            }
        }
        config.time_provider = Arc::new(WallClock);
        Ok(Loaded { config, keys, rules })
    }

    fn tickets(&self, place: &RingPlace, pairs: &Keys) -> Result<Tickets, Error> {
        let certificates = pairs.iter().filter_map(|pair| pair.cert.first());
        let scope = Scope::of(certificates.map(|certificate| &**certificate));
        let keys = match &self.ticket_keys[..] {
            [] => TicketKeys::Generated(Arc::clone(place)),
            files => TicketKeys::Files(TicketKeyFiles::load(files)?),
        };
        Ok(Tickets { keys, scope })
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.pairs.iter().flat_map(|(certificate, key)| [certificate, key]);
        let clients = self.clients.iter().map(|auth| &auth.authorities);
        let files = pairs.chain(clients).chain(&self.ticket_keys);
        f.debug_list().entries(files.map(|file| name(file))).finish()
    }
}

/// The name of a file for messages; or a placeholder, if the content of a file was passed as its name by mistake, because
/// that is secret.
fn name(file: &Path) -> String {
    const NAME_MAX: usize = 255;
    // A line of base64, which may contain `/` as a path does. Names of that length contain a `.`, `-` or `_`, or begin
    // with a `/`.
    const LINE: usize = 64;
    let text = file.display().to_string();
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let starts_with_line = !text.starts_with('/') && text.bytes().take_while(is_base64).count() >= LINE;
    // The second is the first in base64.
    let is_content = text.contains("-----BEGIN") || text.contains("LS0tLS1CRUdJTi") || text.contains('\n');
    if is_content || starts_with_line || text.split('/').any(|part| part.len() > NAME_MAX) {
        return "(given by its content; give the name of a file)".to_owned();
    }
    text
}

pub(super) fn wrong(what: &str, file: &Path, why: impl fmt::Display) -> Error {
    Error::config(format!("can't use the {what} {}: {why}", name(file)))
}

fn pair(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
    const KEY: &str = "private key";
    let chain = certificates("certificate", certificate)?;
    if let Some(end) = chain.first() {
        ParsedCertificate::try_from(end)
            .map_err(|_| wrong("certificate", certificate, reasons::of_certificate(end)))?;
    }
    let secret = pem::private_key(&read(KEY, key)?).map_err(|fault| wrong(KEY, key, fault))?;
    let signer = provider.key_provider.load_private_key(secret.clone_key());
    // Errors of `rustls` are never passed on where secrets are read.
    let signer = signer.map_err(|_| wrong(KEY, key, reasons::of_key(&secret)))?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(Arc::new(certified)),
        Err(_) => {
            Err(wrong(KEY, key, format!("it does not belong to the certificate {}", name(certificate))))
        }
    }
}

fn certificates(what: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    pem::certificates(&read(what, file)?).map_err(|fault| wrong(what, file, fault))
}

fn read(what: &str, file: &Path) -> Result<Vec<u8>, Error> {
    fs::read(file).map_err(|e| wrong(what, file, e))
}

fn verifier(
    auth: &ClientAuth,
    provider: &Arc<CryptoProvider>,
) -> Result<(Arc<dyn danger::ClientCertVerifier>, ClientRules), Error> {
    const WHAT: &str = "authority of clients";
    let file = &auth.authorities;
    let mut roots = RootCertStore::empty();
    let authorities = certificates(WHAT, file)?;
    for certificate in &authorities {
        roots
            .add(certificate.clone())
            .map_err(|_| wrong(WHAT, file, reasons::of_certificate(certificate)))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = if auth.required { builder } else { builder.allow_unauthenticated() };
    let verifier = builder.build().map_err(|_| wrong(WHAT, file, "none of its certificates can be used"))?;
    let authorities = authorities.iter().map(|certificate| &**certificate);
    let rules =
        if auth.required { ClientRules::required(authorities) } else { ClientRules::requested(authorities) };
    Ok((verifier, rules))
}

/// The content of the files.
pub(super) struct Loaded {
    config: ServerConfig,
    keys: Keys,
    pub(super) rules: ClientRules,
}

type Keys = Arc<[Arc<CertifiedKey>]>;

/// The server name that a client has requested.
pub(super) type RequestedName = Arc<OnceLock<Box<str>>>;

/// What one connection needs.
pub(super) struct ForClient {
    pub(super) config: Arc<ServerConfig>,
    /// The place for the server name that its client requests.
    pub(super) asked: RequestedName,
    /// What a move takes out of the connection.
    pub(super) secrets: Option<Arc<TrafficSecrets>>,
}

impl Loaded {
    /// The configuration for one connection, which may move if it is `carried`.
    pub(super) fn for_client(&self, carried: bool) -> ForClient {
        let asked = RequestedName::default();
        let mut own = self.config.clone();
        own.cert_resolver = Arc::new(Chooser { keys: Arc::clone(&self.keys), asked: Arc::clone(&asked) });
        let secrets = carried.then(|| Arc::new(TrafficSecrets::new(Arc::clone(&own.key_log))));
        if let Some(secrets) = &secrets {
            own.enable_secret_extraction = true;
            own.key_log = Arc::<TrafficSecrets>::clone(secrets);
        }
        ForClient { config: Arc::new(own), asked, secrets }
    }
}

/// Chooses a certificate, and remembers the requested name, which `rustls` reports nowhere else.
#[derive(Debug)]
struct Chooser {
    keys: Keys,
    asked: RequestedName,
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        if let Some(name) = name {
            let _ = self.asked.set(name.into());
        }
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let wanted = name.and_then(|name| ServerName::try_from(name).ok());
        let named = wanted.and_then(|name| self.keys.iter().find(|key| is_for(key, &name) && fits(key)));
        // With a key that the client does not support, the alert of `rustls` is handshake_failure, which says that client
        // and server have nothing in common. Without a key it would be access_denied, which means something else.
        named.or_else(|| self.keys.iter().find(fits)).or(self.keys.first()).cloned()
    }
}

fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = key.cert.first().map(ParsedCertificate::try_from);
    parsed.is_some_and(|parsed| parsed.is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok()))
}
