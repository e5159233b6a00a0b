//! Records what processes of one version say to each other at handovers, for `testkit/tests/it/compat.rs`.
//!
//! `testkit record PROGRAMS FOLDER`, which `testkit/old-version --record` runs: PROGRAMS has that version's `kitchen_sink` and
//! `testkit` (or `hooked`), FOLDER gets the recordings. It stands between the two: to the predecessor it is the successor, by
//! `testkit puppet`, and starts the real one itself.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, poll};
use testkit::golden::{Entry, HALF, OTHER_HALF, RECORDINGS, Said, UPLOADS_HALVES, done, upload_head};
use testkit::handover::{Lifecycle, Packets, Setup, Understudy, channels, names, start_successor};
use testkit::{Addr, Client, DEADLINE, Proc, Signal, beside, golden};

use super::MainResult;

/// How often it is looked whether a client has its answer, in milliseconds.
const TICK: u8 = 20;

pub(super) fn main(args: &[String]) -> MainResult {
    let [programs, folder] = args else { return Err("usage: testkit record PROGRAMS FOLDER".into()) };
    let (programs, folder) = (Path::new(programs), Path::new(folder));
    fs::create_dir_all(folder)?;
    for (name, flags) in RECORDINGS {
        let mut args = golden::args(flags);
        let mut program = programs.join(if flags.is_empty() { "testkit" } else { "kitchen_sink" });
        // In versions without subcommands it is a program of its own.
        if flags.is_empty() && !program.exists() {
            program = programs.join(args.remove(0));
        }
        let mut hub = Hub::start(&program.canonicalize()?, args)?;
        match name {
            "ordinary" => ordinary(&mut hub),
            "state" => state(&mut hub),
            "refused" => refused(&mut hub),
            "rolled_back" => rolled_back(&mut hub),
            "predecessor_killed" => predecessor_killed(&mut hub),
            "stopped_by_predecessor" => stopped(&mut hub, 1),
            "stopped_by_successor" => stopped(&mut hub, 2),
            "passed_on" => passed_on(&mut hub),
            _ => unreachable!("{name}"),
        }
        let text = hub.log.iter().map(|entry| format!("{entry}\n")).collect::<String>();
        fs::write(folder.join(name), text)?;
        println!("{name}: {} entries", hub.log.len());
    }
    Ok(())
}

fn ordinary(hub: &mut Hub) {
    hub.gather(done::CLIENTS);
    hub.signal(done::HUP, 1, Signal::SIGHUP);
    hub.until_closed();
    hub.ask(2);
    hub.signal(done::TERM, 2, Signal::SIGTERM);
}

fn state(hub: &mut Hub) {
    fs::write(hub.folder.path().join("size"), "70000").expect("room");
    hub.done(&format!("{}70000", done::STATE));
    hub.signal(done::HUP, 1, Signal::SIGHUP);
    hub.until_closed();
    hub.signal(done::TERM, 2, Signal::SIGTERM);
}

fn refused(hub: &mut Hub) {
    hub.gather(done::CLIENTS);
    hub.done(done::NO_PID_FILE);
    fs::remove_dir_all(hub.folder.path().join("run")).expect("a folder");
    hub.signal(done::HUP, 1, Signal::SIGHUP);
    hub.until_said("2>1 lifecycle FAILED");
    // Whichever of the two closes it first.
    hub.until_closed();
    hub.ask(1);
}

fn rolled_back(hub: &mut Hub) {
    hub.gather(done::CLIENTS);
    hub.signal(done::HUP, 1, Signal::SIGHUP);
    hub.until_said("2>1 lifecycle SERVING");
    hub.signal(done::KILL, 2, Signal::SIGKILL);
    hub.until_closed();
    hub.servers[0].wait_for("still serving");
    hub.ask(1);
}

fn predecessor_killed(hub: &mut Hub) {
    hub.signal(done::HUP, 1, Signal::SIGHUP);
    hub.until_said("2>1 lifecycle SERVING");
    hub.signal(done::KILL, 1, Signal::SIGKILL);
    hub.until_closed();
    hub.servers[1].wait_for("serving as generation 2");
    hub.ask(2);
    hub.signal(done::TERM, 2, Signal::SIGTERM);
}

fn stopped(hub: &mut Hub, generation: u32) {
    hub.gather(done::CLIENTS);
    hub.signal(done::HUP, 1, Signal::SIGHUP);
    hub.until_said("2>1 lifecycle SERVING");
    hub.signal(done::TERM, generation, Signal::SIGTERM);
    hub.until_said("1>2 lifecycle CLOSED");
    hub.done(done::COMPLETED);
    let mut half = hub.clients.pop().expect("a client");
    half.send(OTHER_HALF);
    let answered = beside("client", move || half.answer().ok().text().to_owned());
    assert_eq!(hub.until_finished(answered), "1");
    hub.until_closed();
}

fn passed_on(hub: &mut Hub) {
    hub.gather(done::UPLOAD);
    hub.signal(done::HUP, 1, Signal::SIGHUP);
    hub.until_said("1>2 lifecycle COMMIT");
    hub.until_said("2>1 connections ACK");
    hub.signal(done::HUP, 1, Signal::SIGHUP);
    hub.until_said("2>3 connections END");
    hub.done(done::UPLOADED);
    let mut upload = hub.clients.pop().expect("a client");
    let [_, rest] = UPLOADS_HALVES;
    upload.send("b".repeat(rest));
    let answered = beside("upload", move || {
        assert_eq!(upload.answer().ok().body.len(), UPLOADS_HALVES.iter().sum::<usize>());
        upload
    });
    let upload = hub.until_finished(answered);
    hub.clients.push(upload);
    hub.until_closed();
    hub.ask(3);
    hub.signal(done::TERM, 3, Signal::SIGTERM);
}

/// All generations, with the channels between them.
struct Hub {
    /// First, so that no server outlives what it needs to be ended.
    servers: Vec<Proc>,
    folder: tempfile::TempDir,
    program: PathBuf,
    args: Vec<String>,
    understudy: Understudy,
    links: Vec<Link>,
    log: Vec<Entry>,
    clients: Vec<Client>,
}

/// The ends that are turned to the predecessor, and to the successor.
struct Link {
    lifecycle: [Option<Lifecycle>; 2],
    connections: [Option<Packets>; 2],
}

impl Link {
    fn is_closed(&self) -> bool {
        self.lifecycle.iter().all(Option::is_none) && self.connections.iter().all(Option::is_none)
    }
}

impl Hub {
    fn start(program: &Path, args: Vec<String>) -> io::Result<Hub> {
        let folder = tempfile::tempdir()?;
        let understudy = Understudy::new(folder.path());
        let place = folder.path().join("server");
        fs::create_dir(folder.path().join("run"))?;
        fs::copy(program, &place)?;
        let mut command = Command::new(&place);
        command.args(&args).current_dir(folder.path()).env("PWD", folder.path());
        command.env("TESTKIT_PUPPET", understudy.socket());
        let first = Proc::start_command(command);
        understudy.take_over(&own_program()?, &place)?;
        Ok(Hub {
            servers: vec![first],
            program: program.to_owned(),
            args,
            understudy,
            links: Vec::new(),
            log: Vec::new(),
            clients: Vec::new(),
            folder,
        })
    }

    fn done(&mut self, what: &str) {
        self.log.push(Entry::Done(what.to_owned()));
    }

    fn signal(&mut self, what: &str, generation: u32, signal: Signal) {
        self.done(&format!("{what}{generation}"));
        let server = &self.servers[generation as usize - 1];
        server.signal_to(server.pid(), signal);
    }

    fn gather(&mut self, which: &str) {
        self.done(which);
        let server = &self.servers[0];
        let mut clients = vec![server.client(), Client::to(&Addr::Unix(self.folder.path().join("socket")))];
        clients.iter_mut().for_each(|client| drop(client.get("/ok").ok()));
        let mut busy = server.client();
        if which == done::CLIENTS {
            busy.send(HALF);
        } else {
            busy.send(upload_head() + &"b".repeat(UPLOADS_HALVES[0]));
        }
        server.in_flight(server.pid(), 1);
        clients.push(busy);
        self.clients = clients;
    }

    fn ask(&mut self, generation: u32) {
        self.done(&format!("{}{generation}", done::ASK));
        let has_half = self.log.contains(&Entry::Done(done::CLIENTS.to_owned()));
        for (n, mut client) in std::mem::take(&mut self.clients).into_iter().enumerate() {
            match n {
                2 if has_half => client.send(OTHER_HALF),
                _ => client.ask("/generation"),
            }
            let answered = beside("client", move || client.answer().ok().text().to_owned());
            assert_eq!(self.until_finished(answered), generation.to_string());
        }
    }

    fn until_said(&mut self, text: &str) {
        self.until(text, |hub| hub.log.iter().any(|entry| entry.to_string().starts_with(text)));
    }

    fn until_closed(&mut self) {
        self.until("the end of all channels", |hub| {
            !hub.links.is_empty() && hub.links.iter().all(Link::is_closed)
        });
    }

    fn until(&mut self, what: &str, fact: impl Fn(&Hub) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !fact(self) {
            assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}; so far:\n{:#?}", self.log);
            self.turn();
        }
    }

    fn until_finished<T>(&mut self, thread: JoinHandle<T>) -> T {
        while !thread.is_finished() {
            self.turn();
        }
        thread.join().expect("an answer")
    }

    /// Passes on the messages that have arrived.
    fn turn(&mut self) {
        let mut fds: Vec<BorrowedFd<'_>> = vec![self.understudy.as_fd()];
        for link in &self.links {
            fds.extend(link.lifecycle.iter().flatten().map(AsFd::as_fd));
            fds.extend(link.connections.iter().flatten().map(AsFd::as_fd));
        }
        let mut fds: Vec<PollFd<'_>> = fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        poll(&mut fds, TICK).expect("to wait");
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or_default()).collect();
        let mut ready = ready.into_iter();
        let is_new = ready.next().unwrap_or_default();
        for (older, link) in (1..).zip(&mut self.links) {
            let open =
                |end: bool, ready: &mut std::vec::IntoIter<bool>| end && ready.next().unwrap_or_default();
            let lines = [0, 1].map(|n| open(link.lifecycle[n].is_some(), &mut ready));
            let packets = [0, 1].map(|n| open(link.connections[n].is_some(), &mut ready));
            for ear in [0, 1] {
                // Messages of the predecessor arrive at the end that faces it.
                let (from, to) = if ear == 0 { (older, older + 1) } else { (older + 1, older) };
                let mut note = |what| self.log.push(Entry::Said { from, to, what });
                if lines[ear] {
                    let Some(channel) = &mut link.lifecycle[ear] else { continue };
                    let goes_on = channel.read();
                    while let Some(line) = link.lifecycle[ear].as_mut().and_then(Lifecycle::heard) {
                        link.lifecycle[1 - ear].as_mut().into_iter().for_each(|other| other.say(&line));
                        note(Said::Line(line));
                    }
                    if !goes_on {
                        link.lifecycle = [None, None];
                        note(Said::LifecycleEnd);
                    }
                }
                if packets[ear] {
                    let Some(channel) = &link.connections[ear] else { continue };
                    match channel.receive() {
                        Some(packet) => {
                            let fds: Vec<BorrowedFd<'_>> = packet.fds.iter().map(AsFd::as_fd).collect();
                            if let Some(other) = &link.connections[1 - ear] {
                                other.send(&packet.bytes, &fds);
                            }
                            note(Said::Packet { bytes: packet.bytes, fds: packet.fds.len() });
                        }
                        None => {
                            link.connections = [None, None];
                            note(Said::ConnectionsEnd);
                        }
                    }
                }
            }
        }
        if is_new {
            self.join_in();
        }
    }

    /// Starts the real successor in the place of a puppet.
    fn join_in(&mut self) {
        let part = self.understudy.step_in();
        let (from, to) = (self.servers.len() as u32, self.servers.len() as u32 + 1);
        let count = names(&part.note, "sockets=").len();
        self.log.push(Entry::Said { from, to, what: Said::Note { text: part.note.clone(), fds: count } });
        let (ends, its) = channels();
        let fds: Vec<OwnedFd> = part.listeners.into_iter().chain(its).chain(part.rest).collect();
        let setup = Setup { folder: self.folder.path(), socket: self.understudy.socket() };
        self.servers.push(start_successor(
            &own_program().expect("a path"),
            &self.program,
            &self.args,
            &part.note,
            &fds,
            setup,
        ));
        self.links.push(Link {
            lifecycle: [Some(part.ends.lifecycle), Some(ends.lifecycle)],
            connections: [Some(part.ends.connections), Some(ends.connections)],
        });
    }
}

fn own_program() -> io::Result<PathBuf> {
    std::env::current_exe()
}
