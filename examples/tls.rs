//! TLS: certificates from files, taken up anew without a handover, and what a handler sees of it.
//!
//! Make a certificate for this host, then run:
//!
//! ```text
//! openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
//!     -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem
//! cargo run --features tls --example tls -- cert.pem key.pem
//! curl --cacert cert.pem https://localhost:8443/
//! ```
//!
//! Make another one over it, and `curl -X POST localhost:8002/renewed`: new connections get it. So they
//! do after `kill -HUP PID`. With a third file, of authorities, clients must have a certificate of
//! theirs: `curl --cacert cert.pem --cert client.pem --key client-key.pem https://localhost:8443/`.

use heirloom::Tls;
use heirloom::prelude::*;

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let files: Vec<String> = std::env::args().skip(1).collect();
    let (tls, listen) = match &files[..] {
        [certificate, key] => (Tls::from_files(certificate, key), None),
        [certificate, key, authorities] => {
            (Tls::from_files(certificate, key).require_clients(authorities), None)
        }
        [certificate, key, flag, listen] if flag == "--listen" => {
            (Tls::from_files(certificate, key), Some(listen.clone()))
        }
        _ => usage(),
    };

    let renewed = tls.clone();
    let operators = Router::new().post("/renewed", move |_: Request| match renewed.reload() {
        Ok(()) => (StatusCode::OK, "new connections get the new certificate\n".to_owned()),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("the old one stays: {e}\n")),
    });
    let listen = listen.unwrap_or_else(|| "127.0.0.1:8443".to_owned());
    let operators_listen = if listen.ends_with(":0") { "127.0.0.1:0" } else { "127.0.0.1:8002" };
    log::info!("pid {}", std::process::id());
    Server::new(Router::new().get("/", who))
        .listen_tls(listen, tls)
        .listen_with(operators_listen, operators)
        .serve()
}

fn who(req: Request) -> String {
    let Some(tls) = req.tls() else { return "plain text\n".to_owned() };
    format!(
        "{} {} for {}, {} certificates of the client\n",
        tls.version(),
        tls.cipher_suite(),
        tls.server_name().unwrap_or("no name"),
        tls.client_certificates().len()
    )
}

#[expect(clippy::exit, reason = "a command line that is wrong")]
fn usage() -> ! {
    eprintln!("usage: tls CERTIFICATE KEY [AUTHORITIES]");
    std::process::exit(2);
}
