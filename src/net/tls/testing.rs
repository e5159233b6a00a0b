//! What tests of TLS have in common: a listener, and a client that trusts its certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

use super::Tls;

/// A file among the certificates and keys of the tests.
pub(crate) fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name)
}

/// A listener with this certificate, whose files are not read yet.
pub(crate) fn listener(certificate: &str) -> Tls {
    Tls::from_files(file(certificate), file("localhost.key"))
}

/// The configuration of a client that trusts `localhost.pem`.
pub(crate) fn client_config(
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("localhost.pem")).unwrap()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A client of `localhost`.
pub(crate) fn client_with(config: ClientConfig) -> ClientConnection {
    ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap()
}

/// A client of `localhost` with the defaults of `rustls`.
pub(crate) fn client() -> ClientConnection {
    client_with(client_config(ring::default_provider(), rustls::DEFAULT_VERSIONS))
}
