//! The servers, each with TLS or without.

use crate::Scratch;
use heirloom_bench::nginx;
use heirloom_bench::server::Running;
use heirloom_bench::{Error, free_address};
use std::fs;

#[derive(Clone)]
pub struct Peer {
    pub name: &'static str,
    pub is_tls: bool,
    /// The heirloom that the others are compared with.
    pub is_ours: bool,
    pub command: Vec<String>,
    /// A file and its content, with `{addr}` and `{workers}` to be replaced.
    config: Option<(String, String)>,
}

impl Peer {
    /// On these cores, as for `taskset -c`.
    pub fn start(&self, cpus: &str) -> Result<Running, Error> {
        let address = free_address()?;
        if let Some((file, template)) = &self.config {
            let cores = cpus.split(',').count();
            let text = template.replace("{addr}", &address).replace("{workers}", &cores.to_string());
            fs::write(file, text)?;
        }
        Running::start_at(address, &self.command, Some(cpus))
    }

    pub fn is_nginx(&self) -> bool {
        self.config.is_some()
    }
}

/// All servers with TLS, and then those without it.
pub fn known(scratch: &Scratch) -> Result<Vec<Peer>, Error> {
    let mut peers = Vec::new();
    let certificate =
        ["--cert".to_owned(), scratch.file("cert.pem"), "--key".into(), scratch.file("key.pem")];
    let ours = |name, is_ours, program, more: &[String]| -> Result<Peer, Error> {
        let program = std::env::current_exe()?.with_file_name(program);
        let mut command = vec![program.display().to_string(), "--listen".into(), "{addr}".into()];
        command.extend_from_slice(more);
        Ok(Peer { name, is_tls: !more.is_empty(), is_ours, command, config: None })
    };
    let carried: Vec<String> = certificate.iter().cloned().chain(["--carried".into()]).collect();
    peers.push(ours("heirloom", true, "heirloom_tls", &certificate)?);
    peers.push(ours("heirloom-moved", false, "heirloom_tls", &carried)?);
    peers.push(ours("hyper", false, "hyper_tls", &certificate)?);
    peers.push(ours("heirloom-plain", false, "heirloom_tls", &[])?);
    peers.push(ours("hyper-plain", false, "hyper_tls", &[])?);
    match nginx::program() {
        None => eprintln!("no nginx: it is left out"),
        Some(program) => {
            let nginx = nginx::prepare(scratch.folder(), &program)?;
            let plain = nginx.template.clone();
            let listen = format!(
                "listen {{addr}} ssl backlog=4096; ssl_certificate {}; ssl_certificate_key {}; \
                 ssl_protocols TLSv1.2 TLSv1.3;",
                scratch.file("cert.pem"),
                scratch.file("key.pem")
            );
            let secured = plain.replace("listen {addr} backlog=4096;", &listen);
            for (name, is_tls, template) in [("nginx", true, secured), ("nginx-plain", false, plain)] {
                let config = Some((nginx.config.clone(), template));
                peers.push(Peer { name, is_tls, is_ours: false, command: nginx.command.clone(), config });
            }
        }
    }
    peers.sort_by_key(|peer| !peer.is_tls);
    Ok(peers)
}
