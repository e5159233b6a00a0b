//! A handover for which something is lacking on this host: it says what, the old process serves on,
//! and the next one works.

use std::fs::{self, Permissions};
use std::io;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use heirloom_testkit::internal::descriptors;
use rustix::process::{Resource, getrlimit};
use tempfile::TempDir;
use testkit::{Addr, Crowd, DEADLINE, Exit, Proc, Signal, copy_program, kitchen_sink, lacks, skip, until};
use tungstenite::{Message, WebSocket};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");

/// Sets a soft limit of the server, as the user that it runs as: even root may not be allowed to.
fn set_limit(server: &Proc, user: u32, resource: &str, soft: &str) {
    let limit = format!("--{resource}={soft}:");
    let mut command = Command::new("prlimit");
    command.args([&limit, "--pid", &server.pid().to_string()]).uid(user).gid(user);
    assert!(command.status().unwrap().success(), "{limit}");
}

/// The limit of this process, and so of the server, for `set_limit`.
fn own_limit(resource: Resource) -> String {
    getrlimit(resource).maximum.map_or("unlimited".to_owned(), |limit| limit.to_string())
}

/// A handover to nothing, which says `words`; then one that works. No client notices.
fn fails_once<T>(server: &Proc, spoil: impl FnOnce() -> T, words: &[&str], mend: impl FnOnce(T)) {
    let crowd = Crowd::of(&server.addr());
    let mut kept = server.client();
    kept.get("/ok").ok();
    let spoilt = spoil();
    let old = server.pid();
    server.signal(Signal::SIGHUP);
    let line = server.wait_for("; still serving");
    assert!(words.iter().all(|word| line.contains(word)), "{line}");
    assert_eq!(kept.get("/pid").ok().number(), old.as_raw());
    mend(spoilt);
    let new = server.handover();
    assert_eq!(server.get("/pid").ok().number(), new.as_raw());
    // The old process answers on it until it has sent it on.
    until("the connection has moved", || kept.get("/pid").ok().number() == new.as_raw());
    assert_eq!(crowd.stop().failed, []);
    assert_eq!(server.wait_exit(old), Exit::Status(0));
}

#[test]
fn no_descriptors() {
    if lacks("prlimit") {
        return;
    }
    let server = kitchen_sink!("--probation-ms", "0");
    let set = |soft: &str| set_limit(&server, nix::unistd::geteuid().as_raw(), "nofile", soft);
    // The next one would be the fourth. Clients that connect meanwhile wait.
    let emfile = io::Error::from_raw_os_error(nix::libc::EMFILE).to_string();
    let words = [PROGRAM, &emfile, "ulimit -n"];
    fails_once(&server, || set("3"), &words, |()| set(&own_limit(Resource::Nofile)));
    server.stop();
}

/// A WebSocket's sender has no event of its own then: its thread looks each second whether it was woken.
#[test]
fn no_descriptors_for_a_bell() {
    if lacks("prlimit") {
        return;
    }
    let server = kitchen_sink!();
    let set = |soft: &str| set_limit(&server, nix::unistd::geteuid().as_raw(), "nofile", soft);
    let Addr::Tcp(addr) = server.addr() else { panic!("TCP") };
    let connect = || {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        tungstenite::client(format!("ws://{addr}/ws/bell"), stream).unwrap().0
    };
    let (mut listener, mut ringer) = (connect(), connect());
    let hears = |client: &mut WebSocket<TcpStream>, expected: &str| loop {
        match client.read() {
            Ok(Message::Text(text)) => break assert_eq!(text.as_str(), expected),
            Ok(Message::Ping(_)) => {}
            // A read with a timeout is not restarted after a signal.
            Err(tungstenite::Error::Io(e)) if e.kind() == io::ErrorKind::Interrupted => {}
            other => panic!("{other:?} in place of {expected}"),
        }
    };
    let ring = |listener: &mut WebSocket<TcpStream>, ringer: &mut WebSocket<TcpStream>| {
        ringer.send(Message::text("ring")).unwrap();
        hears(ringer, "1");
        hears(listener, "rung");
    };
    let events = || {
        let all = descriptors(server.pid().as_raw().unsigned_abs());
        all.into_values().filter(|what| what.contains("eventfd")).count()
    };
    let before = events();
    set("3");
    listener.send(Message::text("listen")).unwrap();
    hears(&mut listener, "listening");
    (0..2).for_each(|_| ring(&mut listener, &mut ringer));
    assert_eq!(events(), before, "no descriptor was left");
    // A later sender has one.
    set(&own_limit(Resource::Nofile));
    listener.send(Message::text("listen")).unwrap();
    hears(&mut listener, "listening");
    assert_eq!(events(), before + 1);
    (0..3).for_each(|_| ring(&mut listener, &mut ringer));
    // They would not answer a Close.
    drop((listener, ringer));
    server.stop();
}

#[test]
fn no_processes() {
    if is_ordinary() || lacks("setpriv") || lacks("prlimit") {
        return;
    }
    let (_folder, program) = of_everybody();
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let server = Proc::start_as_said("setpriv", &[&user[..], &[&program], &FLAGS].concat());
    let set = |soft: &str| set_limit(&server, 65_534, "nproc", soft);
    // It has more threads than that already.
    let words = ["Resource temporarily unavailable", "ulimit -u"];
    fails_once(&server, || set("1"), &words, |()| set(&own_limit(Resource::Nproc)));
    server.stop();
}

#[test]
fn no_room_for_the_pid_file() {
    if is_ordinary() || can_not_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_str().unwrap();
    let line = format!("mount -t tmpfs -o size=64k none {at} && exec \"$@\" --pid-file {at}/pid");
    let server = in_own_mounts(&line);
    let seen = |name: &str| format!("/proc/{}/root{at}/{name}", server.pid());
    // Up to the last page.
    let spoil = || assert!(fs::write(seen("filler"), vec![0; 1 << 20]).is_err());
    let filler = seen("filler");
    fails_once(&server, spoil, &["can't write the pid file", "make room", "No space left"], |()| {
        fs::remove_file(filler).unwrap();
    });
    let names = format!("/proc/{}/root{at}/pid", server.newest());
    assert_eq!(fs::read_to_string(names).unwrap(), format!("{}\n", server.newest()));
    server.stop();
}

#[test]
fn no_proc() {
    if is_ordinary() || can_not_mount() {
        return;
    }
    let server = in_own_mounts("mount -t tmpfs none /proc && exec \"$@\"");
    let crowd = Crowd::of(&server.addr());
    for generation in 2..=3 {
        server.handover();
        assert_eq!(server.get("/generation").ok().number(), generation);
    }
    assert_eq!(crowd.stop().failed, []);
    server.stop();
}

const FLAGS: [&str; 4] = ["--listen", "127.0.0.1:0", "--probation-ms", "0"];

/// The program, where ordinary users can run it.
fn of_everybody() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("program").to_str().unwrap().to_owned();
    copy_program(PROGRAM, &program);
    (folder, program)
}

/// With private mounts, which end with it; `"$@"` in `line` is the server.
fn in_own_mounts(line: &str) -> Proc {
    let words = ["-m", "sh", "-c", line, "sh", PROGRAM];
    Proc::start_as_said("unshare", &[&words[..], &FLAGS].concat())
}

/// Only root can become another user, or mount.
fn is_ordinary() -> bool {
    let ordinary = nix::unistd::geteuid().as_raw() != 0;
    if ordinary {
        skip("this test needs root");
    }
    ordinary
}

/// As in most containers.
fn can_not_mount() -> bool {
    let line = "mount -t tmpfs none /proc";
    let can = Command::new("unshare").args(["-m", "sh", "-c", line]).output();
    let can_not = !can.is_ok_and(|output| output.status.success());
    if can_not {
        skip("this test needs a mount of its own");
    }
    can_not
}
