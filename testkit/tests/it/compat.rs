//! The recorded conversations of processes of 4a81a84, with one of them replaced by a process of today: it says what
//! that version understands, understands what that version says, and nothing is lost. The recordings are made by the
//! program `testkit record`; `testkit/old-version` runs the real old program beside today's, under load.

use std::fs;
use std::io::{Read, Seek, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tempfile::TempDir;
use testkit::golden::{
    HALF, OTHER_HALF, RECORDINGS, Stage, Traveller, UPLOADS_HALVES, args, done, play, read, upload_head,
};
use testkit::handover::{Ends, Part, Setup, Understudy, names, readable, start_successor, state_file};
use testkit::{Addr, Client, Exit, Proc, Signal, copy_program};

use crate::TESTKIT;

/// The recordings.
const VERSION: &str = "4a81a84";

/// Plays a recording around a real process.
struct Theatre {
    real: u32,
    /// Before the directory, so that it is ended first.
    server: Option<Proc>,
    folder: TempDir,
    program: &'static str,
    args: Vec<String>,
    understudy: Understudy,
    /// The listeners of the real one's predecessor, if that is played.
    tcp: TcpListener,
    unix: UnixListener,
    /// One end of each client connection that no real process has accepted.
    accepted: Vec<(String, OwnedFd, Option<String>)>,
    clients: Vec<Client>,
    /// One of them has sent half of a request.
    has_half: bool,
    state: Option<fs::File>,
    state_bytes: usize,
}

impl Theatre {
    fn new(name: &str, real: u32) -> Theatre {
        let (_, flags) =
            RECORDINGS.into_iter().find(|(of, _)| *of == name).expect("a recording of that name");
        let folder = tempfile::tempdir().unwrap();
        let program = match flags {
            [] => TESTKIT,
            _ => env!("CARGO_BIN_EXE_kitchen_sink"),
        };
        copy_program(program, folder.path().join("server"));
        fs::create_dir(folder.path().join("run")).unwrap();
        let understudy = Understudy::new(folder.path());
        let (tcp, unix) = (TcpListener::bind("127.0.0.1:0").unwrap(), folder.path().join("socket"));
        let unix = if real == 1 { folder.path().join("no socket of the server") } else { unix };
        let mut theatre = Theatre {
            real,
            server: None,
            program,
            args: args(flags),
            understudy,
            tcp,
            unix: UnixListener::bind(unix).unwrap(),
            accepted: Vec::new(),
            clients: Vec::new(),
            has_half: false,
            state: None,
            state_bytes: 0,
            folder,
        };
        if real == 1 {
            let mut command = Command::new(theatre.place());
            command.args(&theatre.args).current_dir(theatre.folder.path()).env("PWD", theatre.folder.path());
            command.env("TESTKIT_PUPPET", theatre.understudy.socket());
            theatre.server = Some(Proc::start_command(command));
        }
        theatre.take_over();
        theatre
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("server")
    }

    /// Every successor from now on is played.
    fn take_over(&self) {
        self.understudy.take_over(Path::new(TESTKIT), &self.place()).unwrap();
    }

    fn server(&self) -> &Proc {
        self.server.as_ref().expect("it is started")
    }

    fn gather(&mut self, which: &str) {
        let unix = Addr::Unix(self.folder.path().join("socket"));
        let tcp = self.tcp_addr();
        self.has_half = which == done::CLIENTS;
        let upload = upload_head() + &"b".repeat(UPLOADS_HALVES[0]);
        let sent = if which == done::CLIENTS { HALF } else { &upload };
        for addr in [&tcp, &unix] {
            let mut client = Client::to(addr);
            if self.real == 1 {
                client.get("/ok").ok();
            } else {
                self.accept(addr, "idle", 0);
            }
            self.clients.push(client);
        }
        let mut busy = Client::to(&tcp);
        busy.send(sent);
        if self.real == 1 {
            self.server().in_flight(self.server().pid(), 1);
        } else {
            let bytes = sent.len();
            self.accept(&tcp, if which == done::CLIENTS { "half" } else { "upload" }, bytes);
        }
        self.clients.push(busy);
    }

    /// As a played predecessor that has read so much.
    fn accept(&mut self, addr: &Addr, kind: &str, bytes: usize) {
        let (mut file, peer): (fs::File, _) = match addr {
            Addr::Tcp(_) => {
                let (stream, peer) = self.tcp.accept().unwrap();
                (OwnedFd::from(stream).into(), Some(peer.to_string()))
            }
            Addr::Unix(_) => (OwnedFd::from(self.unix.accept().unwrap().0).into(), None),
        };
        file.read_exact(&mut vec![0; bytes]).unwrap();
        let kind = format!("{kind}{}", if peer.is_none() { " unix" } else { "" });
        self.accepted.push((kind, file.into(), peer));
    }

    /// Each client sends a request, and so do new clients if the real process serves; the owner of each connection answers.
    fn ask(&mut self, generation: &str, arrived: &mut Vec<Traveller>) {
        let mut clients = std::mem::take(&mut self.clients);
        for (n, client) in clients.iter_mut().enumerate() {
            match (n, self.has_half) {
                (2, true) => client.send(OTHER_HALF),
                _ => client.ask("/generation"),
            }
        }
        self.answer(generation, arrived);
        if generation == self.real.to_string() {
            clients.push(Client::to(&self.tcp_addr()));
            clients.push(Client::to(&Addr::Unix(self.folder.path().join("socket"))));
            clients.iter_mut().rev().take(2).for_each(|client| client.ask("/generation"));
        }
        for client in &mut clients {
            assert_eq!(client.answer().ok().text(), generation);
        }
    }

    fn tcp_addr(&self) -> Addr {
        match &self.server {
            Some(server) if self.real == 1 => server.addr(),
            _ => Addr::Tcp(self.tcp.local_addr().unwrap()),
        }
    }

    /// A played successor answers the requests that have arrived there.
    fn answer(&self, text: &str, arrived: &mut Vec<Traveller>) {
        for Traveller { bytes, fd, line } in arrived {
            let mut stream = fs::File::from(fd.try_clone().unwrap());
            let mut request = std::mem::take(bytes);
            while !request.ends_with(b"\r\n\r\n") {
                let mut buf = [0; 4096];
                readable(fd.as_fd(), line);
                let n = stream.read(&mut buf).unwrap();
                assert!(n > 0, "{line} is at its end");
                request.extend_from_slice(&buf[..n]);
            }
            assert!(request.starts_with(b"GET /generation HTTP/1.1\r\nHost: test\r\n"), "{line}");
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).unwrap();
        }
    }
}

impl Stage for Theatre {
    fn act(&mut self, what: &str, arrived: &mut Vec<Traveller>) {
        let real = self.real.to_string();
        match what {
            done::CLIENTS | done::UPLOAD => self.gather(what),
            done::NO_PID_FILE => fs::remove_dir_all(self.folder.path().join("run")).unwrap(),
            done::COMPLETED if self.real == 1 => {
                let mut half = self.clients.pop().unwrap();
                half.send(OTHER_HALF);
                assert_eq!(half.answer().ok().text(), "1");
            }
            // Its process is played; its own clients do not matter to other processes.
            done::COMPLETED => {}
            done::UPLOADED if self.real == 1 => {
                let upload = self.clients.last_mut().unwrap();
                upload.send("b".repeat(UPLOADS_HALVES[1]));
                assert_eq!(upload.answer().ok().body.len(), UPLOADS_HALVES.iter().sum::<usize>());
            }
            done::UPLOADED if self.real == 2 => drop(self.clients.pop()),
            done::UPLOADED => {
                self.clients.last_mut().unwrap().send("b".repeat(UPLOADS_HALVES[1]));
                let (_, upload, _) = self.accepted.iter().find(|(kind, ..)| kind == "upload").unwrap();
                fs::File::from(upload.try_clone().unwrap())
                    .read_exact(&mut vec![0; UPLOADS_HALVES[1]])
                    .unwrap();
            }
            _ => {
                if let Some(generation) = what.strip_prefix(done::ASK) {
                    // A client of a played generation has no server to send requests to.
                    if generation == real || !arrived.is_empty() {
                        self.ask(generation, arrived);
                    }
                } else if let Some(bytes) = what.strip_prefix(done::STATE) {
                    fs::write(self.folder.path().join("size"), bytes).unwrap();
                    self.state_bytes = bytes.parse().unwrap();
                } else if let Some((word, signal)) = [
                    (done::HUP, Signal::SIGHUP),
                    (done::TERM, Signal::SIGTERM),
                    (done::KILL, Signal::SIGKILL),
                ]
                .into_iter()
                .find(|(word, _)| what.starts_with(word))
                {
                    if what.strip_prefix(word) == Some(&*real) {
                        let server = self.server();
                        server.signal_to(server.pid(), signal);
                    }
                } else {
                    panic!("what is {what:?}?");
                }
            }
        }
    }

    fn start(&mut self, note: &str, _: usize, channels: [OwnedFd; 2]) {
        let mut fds: Vec<OwnedFd> = Vec::new();
        for name in names(note, "listeners=") {
            fds.push(if name.starts_with("unix:") {
                self.unix.try_clone().unwrap().into()
            } else {
                self.tcp.try_clone().unwrap().into()
            });
        }
        fds.extend(channels);
        let mut state = state_file();
        state.write_all(&b"x".repeat(self.state_bytes)).unwrap();
        fds.push(state.try_clone().unwrap().into());
        for name in names(note, "files=") {
            fds.push(match name {
                "udp" => UdpSocket::bind("127.0.0.1:0").unwrap().into(),
                _ => tempfile::tempfile().unwrap().into(),
            });
        }
        self.state = Some(state);
        let setup = Setup { folder: self.folder.path(), socket: self.understudy.socket() };
        let server =
            start_successor(Path::new(TESTKIT), Path::new(self.program), &self.args, note, &fds, setup);
        self.server = Some(server);
    }

    fn step_in(&mut self) -> (String, usize, Ends) {
        let Part { note, ends, listeners, rest } = self.understudy.step_in();
        let count = listeners.len() + 2 + rest.len();
        self.state = rest.into_iter().next().map(fs::File::from);
        (note, count, ends)
    }

    fn leaver(&mut self, line: &str) -> (OwnedFd, Option<String>) {
        let kind = match line {
            _ if line.contains("listener=unix:") => "idle unix",
            _ if !line.ends_with("bytes=0") => "half",
            _ => "idle",
        };
        let place = self.accepted.iter().position(|(of, ..)| of == kind);
        // The last one arrives after its answer.
        let place = place.or_else(|| self.accepted.iter().position(|(of, ..)| of == "upload"));
        let (_, fd, peer) = self.accepted.remove(place.expect("a client"));
        // As in every version.
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        (fd, peer)
    }

    fn command(&self) -> (String, Vec<String>) {
        let place = self.place().display().to_string();
        (place.clone(), [&[place][..], &self.args].concat())
    }
}

/// Plays the recording with generation `real` as a process of today.
fn perform(name: &str, real: u32) -> Theatre {
    let mut theatre = Theatre::new(name, real);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(VERSION).join(name);
    play(&read(&path), real, &mut theatre);
    theatre
}

impl Theatre {
    /// The real process exited with status 0.
    #[track_caller]
    fn ends_well(&self) {
        assert_eq!(self.server().wait_exit(self.server().pid()), Exit::Status(0));
    }
}

#[test]
fn an_old_process_takes_over_listeners_and_connections() {
    perform("ordinary", 1).ends_well();
}

#[test]
fn an_old_process_hands_over_listeners_and_connections() {
    let theatre = perform("ordinary", 2);
    theatre.ends_well();
    assert!(
        !theatre.folder.path().join("socket").exists(),
        "found at its path, as that version does not say which"
    );
}

#[test]
fn an_old_process_takes_over_state_and_files() {
    let mut theatre = perform("state", 1);
    theatre.ends_well();
    let mut state = Vec::new();
    let file = theatre.state.as_mut().unwrap();
    file.rewind().unwrap();
    file.read_to_end(&mut state).unwrap();
    assert_eq!(state, b"x".repeat(70_000));
}

#[test]
fn an_old_process_hands_over_state_and_files() {
    let theatre = perform("state", 2);
    theatre.server().wait_for("hook: acquire version 7 bytes 70000");
    theatre.ends_well();
}

#[test]
fn an_old_process_that_fails_before_go_costs_nothing() {
    perform("refused", 1).server().stop();
}

#[test]
fn a_failure_is_reported_to_an_old_process() {
    let theatre = perform("refused", 2);
    assert_eq!(theatre.server().wait_exit(theatre.server().pid()), Exit::Status(1));
}

#[test]
fn an_old_process_that_dies_on_probation_is_rolled_back() {
    perform("rolled_back", 1).server().stop();
}

#[test]
fn an_old_process_is_followed_until_it_rolls_back() {
    let theatre = perform("rolled_back", 2);
    assert_eq!(theatre.server().wait_exit(theatre.server().pid()), Exit::Killed(Signal::SIGKILL));
}

#[test]
fn an_old_process_that_dies_during_probation_leaves_the_service() {
    perform("predecessor_killed", 2).ends_well();
}

#[test]
fn a_stop_during_probation_is_sent_to_an_old_successor() {
    perform("stopped_by_predecessor", 1).ends_well();
}

#[test]
fn a_stop_during_probation_is_received_from_an_old_predecessor() {
    perform("stopped_by_predecessor", 2).ends_well();
}

#[test]
fn a_stop_during_probation_is_received_from_an_old_successor() {
    perform("stopped_by_successor", 1).ends_well();
}

#[test]
fn a_stop_during_probation_is_sent_to_an_old_predecessor() {
    perform("stopped_by_successor", 2).ends_well();
}

#[test]
fn old_processes_pass_on_what_comes_late_from_this_one() {
    perform("passed_on", 1).ends_well();
}

#[test]
fn an_old_processs_channel_is_passed_on_to_an_old_process() {
    perform("passed_on", 2).ends_well();
}

#[test]
fn late_connections_arrive_by_a_channel_that_was_passed_on() {
    perform("passed_on", 3).ends_well();
}

#[test]
fn every_recording_is_played() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(VERSION);
    let mut there: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    there.sort();
    let mut known = RECORDINGS.map(|(name, _)| name.to_owned());
    known.sort();
    assert_eq!(there, known);
}
