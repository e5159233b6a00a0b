//! What the programs that measure TLS share: a certificate, the servers, and a client that is one epoll loop.

pub mod crowd;
pub mod link;
pub mod load;
pub mod peers;

use heirloom_bench::Error;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use rcgen::{CertificateParams, KeyPair};
use std::fs;
use std::path::{Path, PathBuf};

/// The name in the certificate, which clients request.
pub const NAME: &str = "localhost";

/// A temporary directory for the certificate and the files of servers; gone at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    /// With a certificate and its key, both new: ECDSA, P-256.
    pub fn new() -> Result<Scratch, Error> {
        let folder = std::env::temp_dir().join(format!("heirloom-tls-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let scratch = Scratch(folder);
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![NAME.to_owned()])?.self_signed(&key)?;
        fs::write(scratch.file("cert.pem"), certificate.pem())?;
        fs::write(scratch.file("key.pem"), key.serialize_pem())?;
        Ok(scratch)
    }

    pub fn folder(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Puts this process, which is the client, on these cores: numbers separated by commas.
pub fn stay_on(cpus: &str) -> Result<(), Error> {
    let mut set = CpuSet::new();
    for cpu in cpus.split(',') {
        set.set(cpu.parse()?)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}
