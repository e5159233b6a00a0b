//! Thousands of connections that do nothing, until all of them ask.

use crate::link::{Found, Link, Shared, Version, config};
use heirloom_bench::Error;
use rustls::client::ClientConfig;
use std::net::SocketAddr;
use std::sync::Arc;

pub struct Crowd {
    address: SocketAddr,
    config: Option<Arc<ClientConfig>>,
    links: Vec<Link>,
    shared: Shared,
}

/// So many connect, or ask, at the same time.
const TURN: usize = 64;

fn get(path: &str) -> Arc<[u8]> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes().into()
}

impl Crowd {
    /// Without a version there is no TLS. Each connection makes one request, whose answer has arrived when this returns.
    pub fn connect(address: &str, version: Option<Version>, many: usize, path: &str) -> Result<Crowd, Error> {
        let config = version.map(|version| config(version, false)).transpose()?;
        let (links, shared) = (Vec::with_capacity(many), Shared::default());
        let mut crowd = Crowd { address: address.parse()?, config, links, shared };
        let request = get(path);
        while crowd.links.len() < many {
            let started = crowd.links.len();
            for _ in 0..TURN.min(many - started) {
                let mut link = Link::connect(crowd.address, crowd.config.as_ref(), &mut crowd.shared)?;
                link.ask(&request, &mut crowd.shared)?;
                crowd.links.push(link);
            }
            for link in crowd.links.get_mut(started..).unwrap_or_default() {
                match link.wait(&mut crowd.shared)? {
                    Found::Answer if !link.is_last() => {}
                    _ => return Err("a connection was closed".into()),
                }
            }
        }
        Ok(crowd)
    }

    /// Each asks once more. Returns how many got an answer that does not announce the close.
    pub fn ask_all(&mut self, path: &str) -> Result<usize, Error> {
        Ok(self.answers(path)?.len())
    }

    /// The bodies of their answers; none of connections that have ended, or whose answer announces the close.
    pub fn answers(&mut self, path: &str) -> Result<Vec<String>, Error> {
        let request = get(path);
        let mut answers = Vec::with_capacity(self.links.len());
        for turn in self.links.chunks_mut(TURN) {
            let sent: Vec<bool> =
                turn.iter_mut().map(|link| link.ask(&request, &mut self.shared).is_ok()).collect();
            for (link, _) in turn.iter_mut().zip(sent).filter(|(_, is_sent)| *is_sent) {
                if let Ok(Found::Answer) = link.wait(&mut self.shared) {
                    if !link.is_last() {
                        answers.push(link.text().to_owned());
                    }
                }
            }
        }
        Ok(answers)
    }
}
