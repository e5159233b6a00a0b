//! One run: a server is started, loaded, watched and ended.

use crate::peers::Peer;
use crate::scenarios::{Beside, Load, Needs, Scenario};
use heirloom_bench::machine::{busy, cpu_of};
use heirloom_bench::server::Running;
use heirloom_bench::slow::{Kind, Tormentor};
use heirloom_bench::wrk::{Seen, Wrk, output_of};
use heirloom_bench::{Error, answer, ask, connect, send, work};
use nix::sys::resource::UsageWho;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A connection that gets no answer for so long is not served.
const SERVED_WITHIN: Duration = Duration::from_secs(1);
const AFTER_THAT: Duration = Duration::from_millis(1);
/// So many connections ask at the same time when it is found out how many are served.
const TURN: usize = 64;

/// Where and how long.
pub struct Bench {
    pub server_cpus: String,
    pub client_cpus: String,
    pub seconds: u64,
    pub scratch: PathBuf,
}

#[derive(Clone)]
pub struct Sample {
    pub seen: Seen,
    pub cpu_us: f64,
    pub rss_mib: f64,
    /// What was odd about the run, if anything.
    pub notes: Vec<String>,
    /// Others took a fifth of a core or more.
    pub disturbed: bool,
}

impl Bench {
    fn cpus<'a>(&self, scenario: &Scenario, cpus: &'a str) -> Option<&'a str> {
        scenario.pinned.then_some(cpus)
    }

    pub fn start(&self, peer: &Peer, scenario: &Scenario) -> Result<Running, Error> {
        peer.start(self.cpus(scenario, &self.server_cpus))
    }

    pub fn run(&self, peer: &Peer, scenario: &Scenario) -> Result<Sample, Error> {
        let server = self.start(peer, scenario)?;
        let company = Company::join(&server.address, scenario.beside)?;
        let others_at_first = busy()? - own()?;
        let (started, cpu_before) = (Instant::now(), server.cpu()?);
        let mut rss = Ok(0);
        let seen = self.load(&server, scenario, || rss = server.status("VmRSS:"));
        let cpu = server.cpu()? - cpu_before;
        let took = started.elapsed();
        // The server was counted with the others so far, since it is not ours and waited for.
        let others = (busy()? - own()?).saturating_sub(others_at_first).saturating_sub(cpu);
        let mut notes = company.leave(server);
        let seen = seen?;
        if !seen.errors.is_empty() {
            notes.push(seen.errors.clone());
        }
        if seen.requests > 0.0 && seen.bytes_each < scenario.body as f64 * 0.98 {
            notes.push(format!("only {:.0} bytes a response", seen.bytes_each));
        }
        Ok(Sample {
            cpu_us: cpu.as_secs_f64() * 1e6 / seen.requests,
            rss_mib: rss? as f64 / 1024.0,
            disturbed: others.as_secs_f64() / took.as_secs_f64() >= 0.2,
            seen,
            notes,
        })
    }

    /// `meanwhile` is called when most of the time has passed.
    pub fn load(
        &self,
        server: &Running,
        scenario: &Scenario,
        meanwhile: impl FnOnce(),
    ) -> Result<Seen, Error> {
        let cpus = self.cpus(scenario, &self.client_cpus);
        match scenario.load {
            Load::Reconnect => return self.reconnect(server, scenario.connections, &[], cpus, meanwhile),
            Load::ReconnectAndClose => {
                return self.reconnect(server, scenario.connections, &["--closes"], cpus, meanwhile);
            }
            _ => {}
        }
        let script = |name: &str| self.scratch.join(name).display().to_string();
        let (file, argument) = match scenario.load {
            Load::Pipelined(depth) => (script("pipeline.lua"), depth),
            Load::Post(size) => (script("post.lua"), size),
            Load::Get | Load::Reconnect | Load::ReconnectAndClose => (String::new(), 0),
        };
        let wrk = Wrk {
            url: format!("http://{}{}", server.address, scenario.path),
            connections: scenario.connections,
            seconds: self.seconds,
            cpus,
            script: (!file.is_empty()).then(|| (file.as_str(), argument.to_string())),
        };
        wrk.run(meanwhile)
    }

    fn reconnect(
        &self,
        server: &Running,
        connections: usize,
        options: &[&str],
        cpus: Option<&str>,
        meanwhile: impl FnOnce(),
    ) -> Result<Seen, Error> {
        let mut command = beside("reconnect", cpus)?;
        command.args(options);
        command.arg(&server.address).args(["--connections", &connections.to_string()]);
        command.args(["--seconds", &self.seconds.to_string()]);
        let (text, client_cores) = output_of(command, Duration::from_secs(self.seconds), meanwhile)?;
        let requests = field(&text, "requests")?;
        let errors = field(&text, "errors")?;
        Ok(Seen {
            requests,
            rate: requests / field(&text, "seconds")?,
            p50_ms: field(&text, "p50_us")? / 1000.0,
            p99_ms: field(&text, "p99_us")? / 1000.0,
            bytes_each: work::HELLO.len() as f64,
            errors: if errors > 0.0 {
                format!("{errors} connections without an answer")
            } else {
                String::new()
            },
            client_cores,
        })
    }

    /// Whether the peer serves the scenario at all, tried on a separate server: some serve only as many
    /// connections as they have threads, and wrk does not count clients that get nothing.
    pub fn check(&self, peer: &Peer, scenario: &Scenario) -> Result<Check, Error> {
        let server = self.start(peer, scenario)?;
        let mut check = Check { comparable: true, notes: Vec::new() };
        if scenario.needs == Needs::Router {
            let (path, expected) = work::ROUTED;
            let answer = ask(&mut connect(&server.address)?, path)?;
            if answer != expected {
                check.notes.push(format!("answers {answer:?}"));
            }
        }
        let served = keep_open(&server.address, scenario.connections).len();
        if served < scenario.connections {
            check.notes.push(format!("serves {served} of {}", scenario.connections));
        }
        check.comparable = served * 2 >= scenario.connections;
        Ok(check)
    }
}

/// What is known of a peer before its runs.
pub struct Check {
    /// It serves at least half of the connections.
    pub comparable: bool,
    pub notes: Vec<String>,
}

/// What this process and the load programs have taken.
fn own() -> Result<Duration, Error> {
    Ok(cpu_of(UsageWho::RUSAGE_SELF)? + cpu_of(UsageWho::RUSAGE_CHILDREN)?)
}

/// A program built beside this one.
pub fn beside(name: &str, cpus: Option<&str>) -> Result<Command, Error> {
    let program = std::env::current_exe()?.with_file_name(name);
    let Some(cpus) = cpus else { return Ok(Command::new(program)) };
    let mut command = Command::new("taskset");
    command.args(["-c", cpus]).arg(program);
    Ok(command)
}

/// The number behind `NAME=` in a load program's line.
pub fn field(text: &str, name: &str) -> Result<f64, Error> {
    let found = text.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    Ok(found.ok_or_else(|| format!("no {name} in {text:?}"))?.parse()?)
}

/// Opens connections that have made one request each, some at a time, until one gets no answer.
fn keep_open(address: &str, many: usize) -> Vec<TcpStream> {
    let begin = || -> Result<TcpStream, Error> {
        let mut stream = TcpStream::connect_timeout(&address.parse()?, SERVED_WITHIN)?;
        stream.set_nodelay(true)?;
        send(&mut stream, "/")?;
        Ok(stream)
    };
    let mut open = Vec::new();
    let mut within = SERVED_WITHIN;
    while open.len() < many && within == SERVED_WITHIN {
        let turn = TURN.min(many - open.len());
        let streams: Vec<TcpStream> = (0..turn).map_while(|_| begin().ok()).collect();
        if streams.len() < turn {
            within = AFTER_THAT;
        }
        for mut stream in streams {
            let answered = stream.set_read_timeout(Some(within)).and_then(|()| answer(&mut stream));
            match answered {
                Ok(_) => open.push(stream),
                // Clients behind that one have waited as long.
                Err(_) => within = AFTER_THAT,
            }
        }
    }
    open
}

/// The other connections during the run.
enum Company {
    Nobody,
    Idle(Vec<TcpStream>, usize),
    Slow(Tormentor, usize),
    Route(Arc<AtomicBool>, Vec<JoinHandle<usize>>),
}

impl Company {
    fn join(address: &str, beside: Beside) -> Result<Company, Error> {
        Ok(match beside {
            Beside::Nobody => Company::Nobody,
            Beside::Idle(many) => Company::Idle(keep_open(address, many), many),
            Beside::SlowHeads(many) => {
                let tormentor = Tormentor::start(address, &[(Kind::Head, many)]);
                Company::Slow(tormentor, many)
            }
            Beside::SlowRoute(many) => {
                let stop = Arc::new(AtomicBool::new(false));
                let mut threads = Vec::new();
                for _ in 0..many {
                    let (mut stream, stop) = (connect(address)?, Arc::clone(&stop));
                    threads.push(thread::spawn(move || {
                        let mut answered = 0;
                        while !stop.load(Ordering::Relaxed) && ask(&mut stream, "/slow").is_ok() {
                            answered += 1;
                        }
                        answered
                    }));
                }
                Company::Route(stop, threads)
            }
        })
    }

    /// Stops them; the server ends. Returns what was odd about them.
    fn leave(self, server: Running) -> Vec<String> {
        match self {
            Company::Nobody => Vec::new(),
            Company::Idle(open, many) if open.len() == many => Vec::new(),
            Company::Idle(open, many) => vec![format!("{} of {many} idle ones served", open.len())],
            Company::Slow(tormentor, many) => match tormentor.stop() {
                Ok(counts) if counts.turned_away == 0 && counts.connects == many as u64 => Vec::new(),
                Ok(counts) => vec![format!(
                    "slow clients: {} connects, {} turned away",
                    counts.connects, counts.turned_away
                )],
                Err(error) => vec![error.to_string()],
            },
            Company::Route(stop, threads) => {
                stop.store(true, Ordering::Relaxed);
                // What they wait for would take its time.
                drop(server);
                let served = threads.into_iter().filter_map(|thread| thread.join().ok());
                let idle = served.filter(|answered| *answered == 0).count();
                if idle == 0 { Vec::new() } else { vec![format!("{idle} slow requests without an answer")] }
            }
        }
    }
}

/// Puts wrk's scripts where it can read them.
pub fn write_scripts(scratch: &Path) -> Result<(), Error> {
    std::fs::write(scratch.join("pipeline.lua"), include_str!("../../../peers/pipeline.lua"))?;
    std::fs::write(scratch.join("post.lua"), include_str!("../../../peers/post.lua"))?;
    Ok(())
}
