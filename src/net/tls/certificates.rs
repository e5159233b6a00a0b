//! From files to what `rustls` works by.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{
    ClientHello, NoClientAuth, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier, danger,
};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};

use crate::base::error::{Error, Kind};

/// What is spoken within: the only answer to ALPN.
const HTTP_1_1: &[u8] = b"http/1.1";

/// The names of the files.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    /// Certificate and key.
    pub(super) pairs: Vec<(PathBuf, PathBuf)>,
    /// Authorities of clients, and whether a client must have a certificate.
    pub(super) clients: Option<(PathBuf, bool)>,
}

impl Spec {
    /// Reads the files.
    pub(super) fn load(&self) -> Result<Loaded, Error> {
        let provider = Arc::new(ring::default_provider());
        let pairs = self.pairs.iter();
        let keys = pairs.map(|(certificate, key)| pair(certificate, key, &provider));
        let keys: Keys = keys.collect::<Result<_, _>>()?;
        let clients = match &self.clients {
            Some((file, required)) => verifier(file, *required, &provider)?,
            None => Arc::new(NoClientAuth),
        };
        let broken = |e: rustls::Error| Error::new(Kind::Config, format!("TLS can't be set up: {e}"));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(broken)?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::new(Chooser { keys: Arc::clone(&keys), asked: Arc::default() }));
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        config.ticketer = ring::Ticketer::new().map_err(broken)?;
        Ok(Loaded { config, keys })
    }
}

fn wrong(what: &str, file: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Config, format!("can't use the {what} {}: {why}", file.display()))
}

fn pair(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
    let chain = certificates("certificate", certificate)?;
    if let Some(end) = chain.first() {
        ParsedCertificate::try_from(end).map_err(|e| wrong("certificate", certificate, e))?;
    }
    let bytes = read("private key", key)?;
    let secret = PrivateKeyDer::from_pem_slice(&bytes).map_err(|e| {
        let why = match e {
            pem::Error::NoItemsFound => {
                "there is none in it that can be read: want PEM, PKCS#8, SEC1 or PKCS#1, not encrypted"
                    .to_owned()
            }
            e => format!("it is no valid PEM: {e}"),
        };
        wrong("private key", key, why)
    })?;
    let certified = CertifiedKey::from_der(chain, secret, provider).map_err(|e| match e {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            wrong("private key", key, format!("it is not that of the certificate {}", certificate.display()))
        }
        e => wrong("private key", key, e),
    })?;
    Ok(Arc::new(certified))
}

fn certificates(what: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read(what, file)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let all = all.map_err(|e| wrong(what, file, format!("it is no valid PEM: {e}")))?;
    if all.is_empty() {
        return Err(wrong(what, file, "there is none in it: want PEM, with a line BEGIN CERTIFICATE"));
    }
    Ok(all)
}

fn read(what: &str, file: &Path) -> Result<Vec<u8>, Error> {
    fs::read(file).map_err(|e| wrong(what, file, e))
}

fn verifier(
    file: &Path,
    required: bool,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn danger::ClientCertVerifier>, Error> {
    const WHAT: &str = "authority of clients";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(WHAT, file)? {
        roots.add(certificate).map_err(|e| wrong(WHAT, file, e))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    let verifier = builder.build().map_err(|e| wrong(WHAT, file, e))?;
    Ok(verifier)
}

/// What was in the files.
pub(super) struct Loaded {
    config: ServerConfig,
    keys: Keys,
}

type Keys = Arc<[Arc<CertifiedKey>]>;

/// What a client has asked for by name.
pub(super) type Asked = Arc<OnceLock<Box<str>>>;

impl Loaded {
    /// For one connection, and where the name is put that its client asks for.
    pub(super) fn for_client(&self) -> (Arc<ServerConfig>, Asked) {
        let asked = Asked::default();
        let mut own = self.config.clone();
        own.cert_resolver = Arc::new(Chooser { keys: Arc::clone(&self.keys), asked: Arc::clone(&asked) });
        (Arc::new(own), asked)
    }
}

/// Chooses a certificate, and remembers for whom: `rustls` tells the name to nobody else.
#[derive(Debug)]
struct Chooser {
    keys: Keys,
    asked: Asked,
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
        named.or_else(|| self.keys.iter().find(fits)).cloned()
    }
}

fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = key.cert.first().map(ParsedCertificate::try_from);
    parsed.is_some_and(|parsed| parsed.is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok()))
}
