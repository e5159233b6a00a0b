//! Scenarios, and the client's loop for them.

use crate::link::{Found, Link, Shared, Version, config};
use heirloom_bench::Error;
use heirloom_bench::machine::cpu_of;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::UsageWho;
use rustls::client::ClientConfig;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// A connection with a handshake and one request, which the server closes.
    Handshake { resumed: bool },
    /// A request on a kept connection.
    Request,
}

#[derive(Clone, Copy)]
pub struct Scenario {
    pub id: &'static str,
    pub title: &'static str,
    pub version: Version,
    pub per: Per,
    pub connections: usize,
    pub path: &'static str,
    /// Bytes of a body that is uploaded, and echoed.
    pub upload: usize,
}

pub fn scenarios() -> Vec<Scenario> {
    use Version::{Tls12, Tls13};
    let new = |id, title, version, resumed| {
        let per = Per::Handshake { resumed };
        Scenario { id, title, version, per, connections: 16, path: "/", upload: 0 }
    };
    let kept = |id, title, connections, path, upload| {
        let per = Per::Request;
        Scenario { id, title, version: Tls13, per, connections, path, upload }
    };
    vec![
        new("full13", "TLS 1.3, full handshakes, 16 at a time", Tls13, false),
        new("full12", "TLS 1.2, full handshakes, 16 at a time", Tls12, false),
        new("resumed13", "TLS 1.3, resumed handshakes, 16 at a time", Tls13, true),
        new("resumed12", "TLS 1.2, resumed handshakes, 16 at a time", Tls12, true),
        kept("ka1", "kept connections: 1, responses of 13 bytes", 1, "/", 0),
        kept("ka64", "kept connections: 64, responses of 13 bytes", 64, "/", 0),
        kept("down1m", "4 kept connections, responses of 1 MiB", 4, "/1m", 0),
        kept("echo64k", "4 kept connections, 64 KiB uploaded and echoed", 4, "/echo", 64 << 10),
    ]
}

#[derive(Clone, Copy)]
pub enum Until {
    Time(Duration),
    /// So many have been counted.
    Count(u64),
}

/// What the client saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub count: f64,
    pub seconds: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub errors: u64,
    pub first_error: Option<String>,
    /// Handshakes that were of the other kind. The first ones can't be resumed.
    pub other_kind: u64,
    /// Cores that it kept busy.
    pub client_cores: f64,
}

struct Slot {
    link: Link,
    began: Instant,
}

struct Client {
    address: SocketAddr,
    config: Option<Arc<ClientConfig>>,
    request: Arc<[u8]>,
    epoll: Epoll,
    shared: Shared,
}

impl Client {
    fn begin(&mut self, number: usize) -> Result<Slot, Error> {
        let began = Instant::now();
        let mut link = Link::connect(self.address, self.config.as_ref(), &mut self.shared)?;
        link.ask(&self.request, &mut self.shared)?;
        self.epoll.add(&link.stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
        Ok(Slot { link, began })
    }
}

impl Scenario {
    pub fn request(&self) -> Arc<[u8]> {
        let close = if self.per == Per::Request { "" } else { "Connection: close\r\n" };
        let (method, length) = match self.upload {
            0 => ("GET", String::new()),
            n => ("POST", format!("Content-Length: {n}\r\n")),
        };
        let head = format!("{method} {} HTTP/1.1\r\nHost: localhost\r\n{close}{length}\r\n", self.path);
        let mut bytes = head.into_bytes();
        bytes.resize(bytes.len() + self.upload, b'x');
        bytes.into()
    }

    /// Loads a server.
    pub fn run(&self, address: &str, until: Until) -> Result<Seen, Error> {
        let resumes = self.per == Per::Handshake { resumed: true };
        let mut client = Client {
            address: address.parse()?,
            config: Some(config(self.version, resumes)?),
            request: self.request(),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            shared: Shared::default(),
        };
        let (mut seen, mut latencies) = (Seen::default(), Vec::new());
        let mut slots: Vec<Option<Slot>> = (0..self.connections).map(|_| None).collect();
        let mut events = vec![EpollEvent::empty(); 256];
        let (started, cpu_before) = (Instant::now(), cpu_of(UsageWho::RUSAGE_SELF)?);
        loop {
            match until {
                Until::Time(time) if started.elapsed() >= time => break,
                Until::Count(count) if latencies.len() as u64 >= count => break,
                _ => {}
            }
            for (number, slot) in slots.iter_mut().enumerate() {
                if slot.is_none() {
                    match client.begin(number) {
                        Ok(started) => *slot = Some(started),
                        Err(error) => seen.failed(&error),
                    }
                }
            }
            if seen.errors > 100 {
                break;
            }
            let count = client.epoll.wait(&mut events, EpollTimeout::from(1000u16))?;
            for event in events.iter().take(count) {
                let Some(slot) = slots.get_mut(event.data() as usize) else { continue };
                if !self.look(&mut client, slot, &mut seen, &mut latencies) {
                    *slot = None;
                }
            }
        }
        seen.seconds = started.elapsed().as_secs_f64();
        seen.client_cores = (cpu_of(UsageWho::RUSAGE_SELF)? - cpu_before).as_secs_f64() / seen.seconds;
        seen.count = latencies.len() as f64;
        latencies.sort_by(f64::total_cmp);
        let at = |share: f64| latencies.get((seen.count * share) as usize).copied().unwrap_or(f64::NAN);
        (seen.p50_ms, seen.p99_ms) = (at(0.5), at(0.99));
        Ok(seen)
    }

    /// Whether the connection stays.
    fn look(
        &self,
        client: &mut Client,
        slot: &mut Option<Slot>,
        seen: &mut Seen,
        latencies: &mut Vec<f64>,
    ) -> bool {
        let Some(Slot { link, began }) = slot else { return true };
        let found = match link.look(&mut client.shared) {
            // The answer and the close mostly come together.
            Ok(Found::Answer) if self.per != Per::Request => link.look(&mut client.shared),
            found => found,
        };
        let took = began.elapsed().as_secs_f64() * 1000.0;
        match (found, self.per) {
            (Ok(Found::Nothing), _) | (Ok(Found::Answer), Per::Handshake { .. }) => true,
            (Ok(Found::Answer), Per::Request) => {
                latencies.push(took);
                *began = Instant::now();
                link.ask(&client.request, &mut client.shared).is_ok()
            }
            (Ok(Found::Closed { answered: true }), Per::Handshake { resumed }) => {
                latencies.push(took);
                seen.other_kind += u64::from(link.is_resumed() != resumed);
                false
            }
            (Ok(Found::Closed { .. }), _) => {
                seen.failed(&"closed without an answer".into());
                false
            }
            (Err(error), _) => {
                seen.failed(&error);
                false
            }
        }
    }
}

impl Seen {
    fn failed(&mut self, error: &Error) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }
}
