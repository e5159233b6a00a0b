//! A start that fails: the message names the cause and the remedy, the status is not zero, and nothing is left behind.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;
use testkit::{Addr, Outcome, Proc, get, skip};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");
/// A port that is free on most hosts.
const ORDINARY_USER: u32 = 65_534;

/// Fails, within the deadline, with one line that has all of `words`.
#[track_caller]
fn fails(command: &mut Command, words: &[&str]) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(1), "{stdout}{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("Error: ")).collect();
    let [error] = errors[..] else { panic!("not one line: {stderr}") };
    let missing: Vec<_> = words.iter().filter(|word| !error.contains(**word)).collect();
    assert!(missing.is_empty(), "{missing:?} not in {error:?}");
    // The output of Debug, which should not appear.
    assert!(["Some(", "Os {", "kind:", "{:?}"].iter().all(|noise| !error.contains(noise)), "{error}");
    assert!(!stderr.contains("serving as"), "{stderr}");
}

/// Under `timeout`, for a start that does not fail would serve.
fn program() -> Command {
    let mut command = Command::new("timeout");
    command.args(["20", PROGRAM]).env("RUST_LOG", "info");
    command
}

fn listening_on(name: impl AsRef<OsStr>) -> Command {
    let mut command = program();
    command.arg("--listen").arg(name);
    command
}

/// Each of them has its own, because ordinary users can't enter a directory of root's.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    folder
}

#[test]
fn an_address_in_use() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    fails(&mut listening_on(&address), &[&address, "another process uses it", "os error 98"]);
    let mut twice = listening_on("127.0.0.1:1");
    fails(twice.args(["--admin", "127.0.0.1:1"]), &["127.0.0.1:1 twice", "remove one"]);
}

#[test]
fn a_unix_path_of_a_live_server() {
    let folder = folder();
    let path = folder.path().join("socket");
    let path = path.to_str().unwrap();
    let server = Proc::start(PROGRAM, &["--unix", path]);
    fails(program().args(["--unix", path]), &[path, "another process uses it"]);
    assert!(get(&Addr::Unix(path.into()), "/ok").is_ok(), "the live one has kept it");
    drop(server);
    assert!(Path::new(path).exists(), "it was killed");
    Proc::start(PROGRAM, &["--unix", path]);
}

#[test]
fn a_unix_path_of_a_server_too_busy_to_accept() {
    let folder = folder();
    let path = folder.path().join("socket");
    let _live = UnixListener::bind(&path).unwrap();
    // Until its backlog is full; a blocking connect would wait indefinitely.
    let fill = || -> std::io::Result<UnixStream> {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let client = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(std::os::fd::AsRawFd::as_raw_fd(&client), &UnixAddr::new(&path)?)?;
        Ok(client.into())
    };
    let _waiting: Vec<UnixStream> = std::iter::from_fn(|| fill().ok()).collect();
    fails(program().arg("--unix").arg(&path), &[path.to_str().unwrap(), "another process uses it"]);
}

#[test]
fn a_unix_path_that_is_an_ordinary_file() {
    let folder = folder();
    let path = folder.path().join("file");
    fs::write(&path, "precious").unwrap();
    fails(program().arg("--unix").arg(&path), &[path.to_str().unwrap(), "not a socket", "remove it"]);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_bad_address() {
    let want = "expected ADDRESS:PORT, HOST:PORT or unix:PATH";
    for (name, words) in [
        ("", ["can't listen on \"\"", want]),
        ("127.0.0.1", ["127.0.0.1", want]),
        ("8001", ["8001", want]),
        ("127.0.0.1:", ["127.0.0.1:", want]),
        ("127.0.0.1:http", ["127.0.0.1:http", want]),
        ("127.0.0.1:99999", ["127.0.0.1:99999", want]),
        ("127.0.0.1:-1", ["127.0.0.1:-1", want]),
        ("unix:", ["unix:", want]),
        (":8001", [":8001", "0.0.0.0:PORT or [::]:PORT"]),
        ("no.such.host.invalid:80", ["no.such.host.invalid:80", "check the host name"]),
        ("192.0.2.1:80", ["192.0.2.1:80", "this host has no such address"]),
        ("unix:/no/such/folder/socket", ["/no/such/folder/socket", "its directory must exist"]),
    ] {
        fails(&mut listening_on(name), &words);
    }
    let long = format!("unix:/{}", "x".repeat(200));
    fails(&mut listening_on(&long), &[&long, "SUN_LEN"]);
}

#[test]
fn no_permission_for_a_port() {
    let path = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    if fs::read_to_string(path).is_ok_and(|first| first.trim().parse().is_ok_and(|first: u16| first <= 1)) {
        skip("every port is free for all on this host");
        return;
    }
    if is_ordinary() {
        return;
    }
    fails(listening_on("127.0.0.1:1").uid(ORDINARY_USER), &["127.0.0.1:1", "CAP_NET_BIND_SERVICE"]);
}

#[test]
fn no_permission_for_a_path() {
    if is_ordinary() {
        return;
    }
    let folder = folder();
    let path = folder.path().join("socket");
    let mut command = program();
    command.arg("--unix").arg(&path).uid(ORDINARY_USER);
    fails(&mut command, &[path.to_str().unwrap(), "check the directory's permissions"]);
    let path = folder.path().join("pid");
    let mut command = listening_on("127.0.0.1:0");
    command.arg("--pid-file").arg(&path).uid(ORDINARY_USER);
    fails(&mut command, &[path.to_str().unwrap(), "its directory must be writable"]);
}

/// Only root can become another user.
fn is_ordinary() -> bool {
    let ordinary = nix::unistd::geteuid().as_raw() != 0;
    if ordinary {
        skip("this test needs root");
    }
    ordinary
}

#[test]
fn a_pid_file_that_can_not_be_written() {
    let folder = folder();
    let missing = folder.path().join("missing/pid");
    let mut command = listening_on("127.0.0.1:0");
    fails(command.arg("--pid-file").arg(&missing), &[missing.to_str().unwrap(), "its directory must exist"]);
    let mut command = listening_on("127.0.0.1:0");
    let path = folder.path();
    fails(
        command.arg("--pid-file").arg(path),
        &[path.to_str().unwrap(), "expected the path of a file", "is a directory"],
    );
    fails(listening_on("127.0.0.1:0").args(["--pid-file", ""]), &["pid file", "expected the path of a file"]);
    assert_eq!(fs::read_dir(path).unwrap().count(), 0);
}

#[test]
fn a_start_that_fails_half_way_leaves_nothing() {
    let folder = folder();
    let path = folder.path().join("socket");
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let mut command = program();
    // The admin listener is the last one.
    fails(command.arg("--unix").arg(&path).args(["--admin", &address]), &[&address]);
    assert!(!path.exists());
    assert_eq!(get(&Addr::Unix(path), "/ok"), Outcome::Refused);
}

/// A program that a predecessor seems to have started: `third` is descriptor 3, 4 and 5 are a
/// channel. Gives our end of that. A shell puts them where they belong.
fn heir(third: OwnedFd, note: &str, redirections: &str) -> (Command, UnixStream) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    std::io::Write::write_all(&mut ours, b"HELLO version=1 generation=1 pid=1 nohup=0 blocked=\n").unwrap();
    let note = note.replace("CHANNEL", &inode(theirs.as_fd())).replace("THIRD", &inode(third.as_fd()));
    let line = format!("exec \"$@\" {redirections} </dev/null >/dev/null");
    let mut command = Command::new("sh");
    command.args(["-c", &line, "sh", "timeout", "20", PROGRAM, "--listen", "127.0.0.1:0"]);
    command.env("HEIRLOOM_HANDOVER", note).env("RUST_LOG", "info");
    command.stdin(Stdio::from(third)).stdout(Stdio::from(OwnedFd::from(theirs)));
    (command, ours)
}

fn inode(fd: BorrowedFd<'_>) -> String {
    File::from(fd.try_clone_to_owned().unwrap()).metadata().unwrap().ino().to_string()
}

const ALL_THREE: &str = "3<&0 4<&1 5<&1";
const NOTE: &str = "channel=CHANNEL;listeners=127.0.0.1:0";

/// It says so to the predecessor, too.
#[track_caller]
fn can_not_be_heir((mut command, mut ours): (Command, UnixStream), words: &[&str]) {
    fails(&mut command, words);
    drop(command);
    let mut said = String::new();
    // Reset, if it has not read its HELLO.
    let _ = ours.read_to_string(&mut said);
    assert!(said.starts_with("FAILED reason=descriptor%20"), "{said:?}");
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

#[test]
fn inherited_descriptors_that_are_no_listeners() {
    let advice = "must leave descriptors from 3 on alone";
    let third = "descriptor 3 is no longer the listener 127.0.0.1:0";
    let file = File::open(PROGRAM).unwrap();
    can_not_be_heir(heir(file.into(), NOTE, ALL_THREE), &[third, "no socket", advice]);
    let (pipe, _other_end) = nix::unistd::pipe().unwrap();
    can_not_be_heir(heir(pipe, NOTE, ALL_THREE), &[third, "no socket", advice]);
    let (client, _server) = tcp_pair();
    can_not_be_heir(heir(client.into(), NOTE, ALL_THREE), &[third, "does not listen", advice]);
    let closed = File::open("/dev/null").unwrap();
    can_not_be_heir(heir(closed.into(), NOTE, "3<&- 4<&1 5<&1"), &[third, "Bad file descriptor", advice]);
}

#[test]
fn fewer_inherited_descriptors_than_names() {
    let listener = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let two = "channel=CHANNEL;listeners=127.0.0.1:0,127.0.0.2:0";
    let words = ["descriptor 4 is no longer the listener 127.0.0.2:0", "Bad file descriptor"];
    can_not_be_heir(heir(listener(), two, "3<&0 4<&- 5<&1 6<&1"), &words);
    let words = ["descriptor 5 is no longer the connection channel", "Bad file descriptor"];
    can_not_be_heir(heir(listener(), NOTE, "3<&0 4<&1 5<&-"), &words);
}

#[test]
fn a_channel_that_a_script_has_overwritten() {
    let listener = OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let note = "channel=CHANNEL;listeners=127.0.0.1:0;sockets=THIRD,CHANNEL,7";
    let (mut command, _ours) = heir(listener, note, "3<&0 4</dev/null 5<&-");
    fails(&mut command, &["descriptor 4 is no longer the lifecycle channel", "must leave descriptors"]);
}

/// A variable that is not from a predecessor prevents no start.
#[test]
fn an_environment_of_a_stale_process() {
    for note in [
        "",
        "1",
        "channel=;listeners=",
        "channel=123456;listeners=127.0.0.1:0",
        "channel=123456;listeners=%zz",
        "channel=99999999999999999999;listeners=127.0.0.1:0",
        "channel=123456;listeners=127.0.0.1:0;sockets=1,2,3",
    ] {
        let note = format!("HEIRLOOM_HANDOVER={note}");
        let server =
            Proc::start_as_said("env", &[&*note, PROGRAM, "--listen", "127.0.0.1:0", "--probation-ms", "0"]);
        server.wait_for("HEIRLOOM_HANDOVER is ignored, starting as generation 1: ");
        server.handover();
        assert_eq!(server.get("/generation").ok().number(), 2);
        assert_eq!(server.count("is ignored"), 1, "its successor has a good one");
    }
}
