//! Clients that are other programs, or connect through one that counts, and the server that hands over to the next process
//! under them.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use heirloom_testkit::internal::Output;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use testkit::{Addr, Exit, Proc, beside};

use crate::secure::Authority;

/// A server whose process ends only when it has no connection left.
pub(crate) struct Scene {
    pub(crate) server: Proc,
    pub(crate) authority: Authority,
}

impl Scene {
    pub(crate) fn start() -> Scene {
        let authority = Authority::new("authority");
        let pair = authority.server("server", &["localhost"]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_kitchen_sink"));
        command
            .args(["--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0", "--cert"])
            .arg(&pair.certificate);
        command.arg("--key").arg(&pair.key).args(["--probation-ms", "0"]);
        // None of its connections ends by its age.
        for flag in ["--idle-grace-ms", "--idle-timeout-ms", "--head-timeout-ms"] {
            command.args([flag, "3600000"]);
        }
        Scene { server: Proc::start_command(command), authority }
    }

    /// Of the listener that speaks TLS.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address_of(true)
    }

    pub(crate) fn address_of(&self, tls: bool) -> SocketAddr {
        match self.server.addrs()[usize::from(tls)] {
            Addr::Tcp(addr) => addr,
            ref other => panic!("{other:?}"),
        }
    }

    /// A handover of all connections, and what happens while it is under way.
    #[track_caller]
    pub(crate) fn hand_over(&self, meanwhile: impl FnOnce()) {
        let old = self.server.newest();
        self.server.handover();
        meanwhile();
        assert_eq!(self.server.wait_exit(old), Exit::Status(0));
    }
}

/// A client that is another program. It gets lines and answers with lines.
pub(crate) struct Outside {
    child: Child,
    pub(crate) output: Arc<Output>,
    lines: usize,
}

/// How many handovers the clients of streams see.
pub(crate) fn handovers() -> usize {
    std::env::var("HEIRLOOM_UPGRADES").map_or(10, |n| n.parse().expect("a number"))
}

impl Outside {
    pub(crate) fn start(program: &str, change: impl FnOnce(&mut Command) -> &mut Command) -> Outside {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).unwrap();
        // It ends by itself, whatever happens to the test.
        let mut command = Command::new("timeout");
        let seconds = 300 + 5 * handovers();
        change(command.args([&seconds.to_string(), program]))
            .stdin(Stdio::piped())
            .stdout(theirs.try_clone().unwrap())
            .stderr(theirs);
        let child = command.spawn().unwrap();
        // It has the pipe's other end, too.
        drop(command);
        Outside { child, output: Output::of(ours, |_| ()), lines: 0 }
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// The answer to a line.
    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.say(&format!("{line}\n"));
        self.lines += 1;
        // A virtual machine starts, and compiles the program, in more than one deadline on a busy host.
        let _ = (0..6).any(|_| self.output.wait(|lines, ended| lines.len() >= self.lines || ended));
        self.output.wait_for_nth("", self.lines)
    }

    /// The end of its input, and of itself.
    #[track_caller]
    pub(crate) fn end(mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        self.output.wait_end();
        assert!(status.success(), "{status}: {:#?}", self.output.lines_with(""));
    }
}

/// Passes connections on, and counts them and those that the server ends.
pub(crate) struct Relay {
    pub(crate) port: u16,
    connections: Arc<AtomicUsize>,
    ended_by_server: Arc<AtomicUsize>,
}

impl Relay {
    pub(crate) fn to(server: SocketAddr) -> Relay {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let relay = Relay { port, connections: Arc::default(), ended_by_server: Arc::default() };
        let (connections, ended) = (Arc::clone(&relay.connections), Arc::clone(&relay.ended_by_server));
        beside("relay", move || {
            for client in listener.incoming().map_while(Result::ok) {
                connections.fetch_add(1, Ordering::SeqCst);
                pass_on(client, TcpStream::connect(server).unwrap(), &ended);
            }
        });
        relay
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn ended_by_server(&self) -> usize {
        self.ended_by_server.load(Ordering::SeqCst)
    }
}

/// Both ways.
fn pass_on(client: TcpStream, server: TcpStream, ended_by_server: &Arc<AtomicUsize>) {
    let (ours, theirs) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let client_has_left = Arc::new(AtomicBool::new(false));
    let (left, ended) = (Arc::clone(&client_has_left), Arc::clone(ended_by_server));
    beside("relay to the server", move || {
        let _ = io::copy(&mut &client, &mut &server);
        left.store(true, Ordering::SeqCst);
        let _ = server.shutdown(Shutdown::Write);
    });
    beside("relay to the client", move || {
        let _ = io::copy(&mut &theirs, &mut &ours);
        if !client_has_left.load(Ordering::SeqCst) {
            ended.fetch_add(1, Ordering::SeqCst);
        }
        let _ = ours.shutdown(Shutdown::Write);
    });
}
