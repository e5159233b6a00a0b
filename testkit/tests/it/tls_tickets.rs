//! Sessions are resumed whichever generation a client comes back to: by rustls and by OpenSSL, over handovers, rollbacks and
//! earlier versions; and the keys by which that works are seen by the successor alone.

use std::fs;
use std::io::{Read, Seek, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind};
use testkit::handover::{Part, Understudy};
use testkit::{Addr, Exit, Pid, Proc, Signal, lacks, skip};

use crate::TESTKIT;
use crate::secure::{Authority, Secure};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");

/// Longer than any test: probation does not end.
const LONG: &str = "600000";

/// A server that speaks TLS, whose program can be replaced.
pub(crate) struct Secured {
    pub(crate) server: Proc,
    pub(crate) authority: Authority,
}

impl Secured {
    pub(crate) fn start(flags: &[&str]) -> Secured {
        Secured::begin(flags, |command| Proc::start_command(command))
    }

    pub(crate) fn begin(flags: &[&str], start: impl FnOnce(Command) -> Proc) -> Secured {
        let authority = Authority::new("authority");
        let pair = authority.server("server", &["localhost"]);
        symlink(PROGRAM, authority.path("program")).unwrap();
        // It logs all that it can, to show that it logs no key.
        let mut command = Command::new("env");
        command.arg("RUST_LOG=trace").arg(authority.path("program")).args(["--listen", "127.0.0.1:0"]);
        command
            .args(["--tls-listen", "127.0.0.1:0", "--cert"])
            .arg(pair.certificate)
            .arg("--key")
            .arg(pair.key)
            .args(flags);
        Secured { server: start(command), authority }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match self.server.addrs().pop() {
            Some(Addr::Tcp(addr)) => addr,
            other => panic!("{other:?}"),
        }
    }

    /// Makes `program` the program of later generations.
    pub(crate) fn put(&self, program: &Path) {
        let new = self.authority.path("new");
        symlink(program, &new).unwrap();
        fs::rename(new, self.authority.path("program")).unwrap();
    }

    /// A client of each version, which keeps its sessions.
    pub(crate) fn clients(&self) -> [Arc<ClientConfig>; 2] {
        [&TLS12, &TLS13].map(|version| self.authority.trusted().only(version).config())
    }

    /// Connects anew: how the handshake was, and which process has answered.
    fn visit(&self, client: &Arc<ClientConfig>) -> (HandshakeKind, Pid) {
        let mut client = Secure::to(self.address(), "localhost", client).unwrap();
        let answer = client.get("/pid");
        let pid = answer.strip_prefix("200 ").unwrap().parse().unwrap();
        (client.tls.handshake_kind().unwrap(), Pid::from_raw(pid))
    }

    #[track_caller]
    fn each_is(&self, kind: HandshakeKind, clients: &[Arc<ClientConfig>], pid: Pid) {
        for client in clients {
            assert_eq!(self.visit(client), (kind, pid));
        }
    }
}

#[test]
fn sessions_are_resumed_over_ten_handovers() {
    let secured = Secured::start(&["--probation-ms", "0"]);
    let (regulars, late) = (secured.clients(), secured.clients());
    let first = secured.server.pid();
    secured.each_is(HandshakeKind::Full, &regulars, first);
    secured.each_is(HandshakeKind::Full, &late, first);
    for _ in 0..10 {
        let new = secured.server.handover();
        secured.each_is(HandshakeKind::Resumed, &regulars, new);
    }
    secured.each_is(HandshakeKind::Resumed, &late, secured.server.newest());
    secured.server.stop();
}

/// By either generation, with tickets of the other.
#[test]
fn sessions_are_resumed_on_probation_and_after_a_rollback() {
    let secured = Secured::start(&["--probation-ms", LONG]);
    let (of_old, of_new) = (secured.clients(), secured.clients());
    let old = secured.server.pid();
    secured.each_is(HandshakeKind::Full, &of_old, old);
    for _ in 0..2 {
        let new = secured.server.hup_to_probation();
        secured.server.paused(old);
        secured.each_is(HandshakeKind::Resumed, &of_old, new);
        // The first of these are full handshakes.
        of_new.iter().for_each(|client| assert_eq!(secured.visit(client).1, new));
        secured.server.signal_to(new, Signal::SIGKILL);
        secured.server.wait_exit(new);
        secured.each_is(HandshakeKind::Resumed, &of_old, old);
        secured.each_is(HandshakeKind::Resumed, &of_new, old);
        secured.server.reaped_all(old);
    }
    // One that ends before GO costs nothing either.
    secured.put(Path::new("/bin/false"));
    secured.server.signal(Signal::SIGHUP);
    secured.server.wait_for("exited with status 1; still serving");
    secured.each_is(HandshakeKind::Resumed, &of_old, old);
}

/// A predecessor that dies on probation leaves its keys to the service.
#[test]
fn sessions_are_resumed_after_the_predecessor_was_killed() {
    let secured = Secured::start(&["--probation-ms", LONG]);
    let clients = secured.clients();
    secured.each_is(HandshakeKind::Full, &clients, secured.server.pid());
    let new = secured.server.hup_to_probation();
    secured.server.signal_to(secured.server.pid(), Signal::SIGKILL);
    secured.server.wait_for("serving as generation 2");
    secured.each_is(HandshakeKind::Resumed, &clients, new);
}

/// The keys end with the process that is killed: the next one makes its own. With a file they are there.
#[test]
fn after_a_crash_under_supervision_sessions_begin_anew() {
    let folder = tempfile::tempdir().unwrap();
    let file = key_file(folder.path(), &[1, 2, 3]);
    for (flags, kind) in [
        (&["--supervise"][..], HandshakeKind::Full),
        (&["--supervise", "--ticket-keys", &file], HandshakeKind::Resumed),
    ] {
        let secured = Secured::begin(flags, |command| {
            let server = Proc::begin(command, Stdio::null());
            server.wait_for("serving as generation 1");
            server
        });
        let clients = secured.clients();
        let first = secured.visit(&clients[0]).1;
        secured.each_is(HandshakeKind::Full, &clients[1..], first);
        secured.server.signal_to(first, Signal::SIGKILL);
        secured.server.wait_for("serving as generation 2");
        for client in &clients {
            let (how, pid) = secured.visit(client);
            assert_eq!(how, kind);
            assert_ne!(pid, first);
            assert_eq!(secured.visit(client), (HandshakeKind::Resumed, pid));
        }
    }
}

fn key_file(folder: &Path, keys: &[u8]) -> String {
    let path = folder.join("keys");
    let mut text = String::new();
    for n in keys {
        // 80 bytes in base64.
        text += &format!("{}A=\n", format!("{n:02}").repeat(53));
    }
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Two servers that share no memory and no handover, and the rotation of their file by HUP.
#[test]
fn hosts_with_the_same_key_file_resume_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let file = key_file(folder.path(), &[1, 2, 3]);
    let one = Secured::start(&["--probation-ms", "0", "--ticket-keys", &file]);
    let pair = (one.authority.path("server.pem"), one.authority.path("server.key"));
    let mut command = Command::new(PROGRAM);
    command.args(["--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0", "--ticket-keys", &file]);
    command.arg("--cert").arg(pair.0).arg("--key").arg(pair.1);
    let other = Secured { server: Proc::start_command(command), authority: Authority::new("none") };
    let clients = one.clients();
    one.each_is(HandshakeKind::Full, &clients, one.server.pid());
    other.each_is(HandshakeKind::Resumed, &clients, other.server.pid());

    // One host has the next key, and encrypts with what the other one has as its last.
    key_file(folder.path(), &[2, 3, 4]);
    let new = one.server.handover();
    one.each_is(HandshakeKind::Resumed, &clients, new);
    other.each_is(HandshakeKind::Resumed, &clients, other.server.pid());

    // A file that others can read: the handover fails, and nothing is lost.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    one.server.signal(Signal::SIGHUP);
    one.server.wait_for("its group can write it, or others can read it (mode 644): chmod 600; still serving");
    one.each_is(HandshakeKind::Resumed, &clients, new);
}

/// Where `testkit/old-version` has put the released version, if it has run here.
pub(crate) fn old_version() -> Option<PathBuf> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/old/4a81a84/kitchen_sink");
    match program.canonicalize() {
        Ok(program) => Some(program),
        Err(e) => {
            skip(&format!("no program of 4a81a84, which testkit/old-version builds: {e}"));
            None
        }
    }
}

/// It skips what it does not know, passes nothing on, and loses nothing but sessions.
#[test]
fn an_old_version_in_between_costs_full_handshakes_alone() {
    let Some(old) = old_version() else { return };
    let secured = Secured::start(&["--probation-ms", "0"]);
    let clients = secured.clients();
    secured.each_is(HandshakeKind::Full, &clients, secured.server.pid());
    for (program, kind) in [
        (&*old, HandshakeKind::Full),
        (Path::new(PROGRAM), HandshakeKind::Full),
        (Path::new(PROGRAM), HandshakeKind::Resumed),
    ] {
        let mut kept = secured.server.client();
        kept.get("/ok").ok();
        secured.put(program);
        let new = secured.server.handover();
        secured.each_is(kind, &clients, new);
        secured.each_is(HandshakeKind::Resumed, &clients, new);
        assert_eq!(kept.get("/pid").ok().number(), new.as_raw());
    }
    secured.server.stop();
}

#[test]
fn openssl_resumes_over_a_handover() {
    if lacks("openssl") {
        return;
    }
    let secured = Secured::start(&["--probation-ms", "0"]);
    let session = secured.authority.path("session");
    let connect = |version: &str, flag: &str| {
        let mut client = Command::new("openssl")
            .args(["s_client", "-ign_eof", version, "-servername", "localhost", "-connect"])
            .arg(secured.address().to_string())
            .arg("-CAfile")
            .arg(secured.authority.file())
            .arg(flag)
            .arg(&session)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let request = b"GET /pid HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        client.stdin.take().unwrap().write_all(request).unwrap();
        let output = client.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("HTTP/1.1 200 OK"), "{text} {}", String::from_utf8_lossy(&output.stderr));
        text
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let first = connect(version, "-sess_out");
        assert!(first.contains("\nNew, TLSv1"), "{first}");
        secured.server.handover();
        let second = connect(version, "-sess_in");
        assert!(second.contains("\nReused, TLSv1"), "{second}");
    }
}

/// A generation 1 whose successors are played.
pub(crate) struct Watched {
    pub(crate) secured: Secured,
    understudy: Understudy,
    folder: tempfile::TempDir,
}

impl Watched {
    pub(crate) fn start() -> Watched {
        let folder = tempfile::tempdir().unwrap();
        let understudy = Understudy::new(folder.path());
        let secured = Secured::begin(&["--probation-ms", "0"], |mut command| {
            command.env("TESTKIT_PUPPET", understudy.socket());
            Proc::start_command(command)
        });
        understudy.take_over(Path::new(TESTKIT), &secured.authority.path("program")).unwrap();
        Watched { secured, understudy, folder }
    }

    /// A successor of 4a81a84 until GO, which it has read.
    pub(crate) fn until_go(&self) -> Part {
        self.secured.server.signal(Signal::SIGHUP);
        let mut part = self.understudy.step_in();
        let lifecycle = &mut part.ends.lifecycle;
        assert!(lifecycle.hear().unwrap().starts_with("HELLO "));
        lifecycle.say("HELLO version=1 generation=2 pid=1 nohup=0 blocked=");
        lifecycle.say("PREPARED adopted=127.0.0.1:0,127.0.0.1:0");
        part.ends.connections.send(b"CREDIT n=256\n", &[]);
        assert!(lifecycle.hear().unwrap().starts_with("GO "));
        part
    }
}

/// The bytes as a log could have them.
pub(crate) fn spellings(bytes: &[u8]) -> [String; 4] {
    let hex = |byte: &u8| format!("{byte:02x}");
    [
        bytes.iter().map(hex).collect(),
        bytes.iter().map(|byte| hex(byte).to_uppercase()).collect(),
        bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", "),
        bytes.escape_ascii().to_string(),
    ]
}

#[test]
fn the_keys_come_before_go_once_and_are_seen_nowhere_else() {
    let watched = Watched::start();
    let Watched { secured, .. } = &watched;
    let clients = secured.clients();
    secured.each_is(HandshakeKind::Full, &clients, secured.server.pid());
    let mut part = watched.until_go();
    let packet = part.ends.connections.receive().unwrap();
    assert!(packet.fds.is_empty());
    let line = packet.bytes.iter().position(|byte| *byte == b'\n').unwrap();
    let (line, keys) = packet.bytes.split_at(line + 1);
    let line = String::from_utf8(line.to_vec()).unwrap();
    // With a batch number 4a81a84 would answer by a NAK.
    assert!(line.starts_with("TICKETS ages_ms=") && !line.contains("batch"), "{line}");
    assert_eq!(keys.len(), 16 + 32, "one key, which is new");
    // That version says no more before COMMIT, and what it gets then is what it has always got.
    part.ends.lifecycle.say("SERVING");
    part.ends.lifecycle.say("STILL-GOOD");
    assert_eq!(part.ends.lifecycle.hear().as_deref(), Some("COMMIT"));
    let counts = part.ends.connections.receive().unwrap();
    assert!(counts.bytes.starts_with(b"COUNTS "), "{}", counts.bytes.escape_ascii());
    assert_eq!(secured.server.wait_exit(secured.server.pid()), Exit::Status(0));

    let log = secured.server.lines("").join("\n");
    assert!(log.contains("the keys of session tickets went to the successor"), "it logs all that it can");
    for eight in keys.windows(8) {
        assert!(spellings(eight).iter().all(|run| !log.contains(run)));
        assert!(!part.note.as_bytes().windows(8).any(|run| run == eight));
    }
    let mut state = Vec::new();
    for file in part.rest {
        let mut file = fs::File::from(file);
        if file.rewind().is_ok() {
            file.read_to_end(&mut state).unwrap();
        }
    }
    assert!(!keys.windows(8).any(|eight| state.windows(8).any(|run| run == eight)));
}

#[test]
fn the_successor_after_a_failed_one_gets_the_same_keys() {
    let watched = Watched::start();
    let received = [(); 2].map(|()| {
        let mut part = watched.until_go();
        let keys = part.ends.connections.receive().unwrap().bytes;
        part.ends.lifecycle.say("FAILED reason=on%20purpose");
        drop(part);
        let line = keys.iter().position(|byte| *byte == b'\n').unwrap();
        keys[line..].to_vec()
    });
    assert_eq!(received[0], received[1]);
    watched.secured.server.wait_for_nth("on purpose", 2);
    let clients = watched.secured.clients();
    watched.secured.each_is(HandshakeKind::Full, &clients, watched.secured.server.pid());
    watched.secured.each_is(HandshakeKind::Resumed, &clients, watched.secured.server.pid());
    drop(watched.folder);
}
