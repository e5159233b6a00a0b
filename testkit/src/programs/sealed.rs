//! A server that speaks TLS as a file says, which each generation reads anew: `sealed FILE`. Its lines:
//!
//! ```text
//! pair CERTIFICATE KEY
//! require AUTHORITIES | request AUTHORITIES      whether clients show certificates
//! stay                                           connections do not move
//! plain                                          no TLS
//! listen NAME                                    instead of 127.0.0.1:0
//! grace MS
//! ```

use std::fs;
use std::time::Duration;

use heirloom::prelude::*;
use heirloom::tls::Tls;

use super::{MainResult, start_log};

pub(super) fn main(args: &[String]) -> MainResult {
    heirloom::handover::init()?;
    start_log();
    let file = args.first().ok_or("sealed FILE")?;
    let (mut tls, mut name) = (None, "127.0.0.1:0".to_owned());
    let mut timeouts = Timeouts::new().probation(Duration::ZERO);
    for line in fs::read_to_string(file)?.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        tls = match (&words[..], tls) {
            (["pair", certificate, key], None) => Some(Tls::from_files(*certificate, *key)),
            (["pair", certificate, key], Some(tls)) => Some(Tls::and_files(tls, *certificate, *key)),
            (["require", authorities], Some(tls)) => Some(tls.require_clients(*authorities)),
            (["request", authorities], Some(tls)) => Some(tls.request_clients(*authorities)),
            (["stay"], Some(tls)) => Some(tls.carry(false)),
            (["plain"], _) => None,
            (["listen", other], tls) => {
                name = (*other).to_owned();
                tls
            }
            (["grace", ms], tls) => {
                timeouts = timeouts.idle_grace(Duration::from_millis(ms.parse()?));
                tls
            }
            _ => return Err(format!("{line}: not understood").into()),
        };
    }
    let reloaded = tls.clone();
    let handle = Handle::new();
    let router = Router::new()
        .get("/ok", |_: Request| "ok\n")
        .get("/pid", |_: Request| std::process::id().to_string())
        .get("/tls", parameters)
        .get("/big/{bytes}", |req: Request| -> Result<Vec<u8>, InputError> {
            Ok(vec![b'x'; req.param_as("bytes")?])
        })
        .post("/echo", |mut req: Request| req.text())
        .post("/reload", move |_: Request| match reloaded.as_ref().map(Tls::reload) {
            Some(Ok(())) => "reloaded".to_owned(),
            other => format!("{other:?}"),
        })
        .merge(heirloom::admin::routes(&handle));
    let listen = Listen::new(name);
    let listen = match tls {
        Some(tls) => listen.tls(tls),
        None => listen,
    };
    // One of plain text, whatever the other is.
    let server = Server::new(router).with_handle(handle).timeouts(timeouts).listen("localhost:0");
    Ok(server.listen(listen).serve()?)
}

/// Version, suite, name, and each certificate's length and last byte.
fn parameters(req: Request) -> String {
    let Some(tls) = req.tls() else { return "plain".to_owned() };
    let shown: Vec<String> = tls
        .client_certificates()
        .map(|der| format!("{}:{}", der.len(), der.last().copied().unwrap_or(0)))
        .collect();
    let name = tls.server_name().unwrap_or("-");
    format!("{} {} {name} [{}]", tls.version(), tls.cipher_suite(), shown.join(","))
}
