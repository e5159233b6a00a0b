//! TLS: certificates from files, reloaded without a handover, and the information that a handler gets.
//!
//! ```text
//! $ openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
//!     -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem 2>/dev/null
//! $ cargo run --features tls --example tls -- 127.0.0.1:8443 cert.pem key.pem
//! $ curl --cacert cert.pem https://localhost:8443/
//! TLSv1.3 TLS_AES_256_GCM_SHA384 for localhost
//! $ curl http://localhost:8443/
//! plain HTTP request sent to an HTTPS port
//! $ cp cert.pem old.pem
//! $ openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
//!     -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem 2>/dev/null
//! $ curl --cacert old.pem -X POST https://localhost:8443/renewed
//! new connections get the new certificate
//! $ curl --cacert cert.pem https://localhost:8443/
//! TLSv1.3 TLS_AES_256_GCM_SHA384 for localhost
//! $ echo broken > cert.pem
//! $ curl --insecure -X POST https://localhost:8443/renewed
//! the old one stays: can't use the certificate cert.pem: ...
//! ```
//!
//! A successor reads the files when it starts, so `kill -HUP` would have worked too. A fourth argument is a file of
//! authorities: then clients must present a certificate issued by one of them
//! (`curl --cert client.pem --key client-key.pem`).

use heirloom::prelude::*;
use heirloom::tls::Tls;

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let mut args = std::env::args().skip(1);
    let mut arg = |default: &str| args.next().unwrap_or_else(|| default.to_owned());
    let (listen, cert, key) = (arg("127.0.0.1:8443"), arg("cert.pem"), arg("key.pem"));
    let mut tls = Tls::from_files(cert, key);
    if let Some(authorities) = args.next() {
        tls = tls.require_clients(authorities);
    }
    let renewed = tls.clone();
    let router = Router::new().get("/", who).post("/renewed", move |_: Request| match renewed.reload() {
        Ok(()) => (StatusCode::OK, "new connections get the new certificate\n".to_owned()),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("the old one stays: {e}\n")),
    });
    Server::new(router).listen(Listen::new(listen).tls(tls)).serve()
}

fn who(req: Request) -> String {
    let Some(tls) = req.tls() else { return "plain text\n".to_owned() };
    let name = tls.server_name().unwrap_or("nobody");
    format!("{} {} for {name}\n", tls.version(), tls.cipher_suite())
}
