//! The control socket: every command is answered, whatever other clients do, and the path leads to the process that owns the
//! service.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{self, TryRecvError};

use tempfile::TempDir;
use testkit::{
    DEADLINE, Exit, Proc, Signal, beside, copy_program, expect_calm, lacks, put_script, skip, until,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");

struct Bench {
    server: Proc,
    path: PathBuf,
    folder: TempDir,
}

impl Bench {
    fn start(flags: &[&str]) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let (program, path) = (folder.path().join("program"), folder.path().join("control"));
        symlink(PROGRAM, &program).unwrap();
        let flags = [&["--control", path.to_str().unwrap()], flags].concat();
        let server = Proc::start(&program, &flags);
        Bench { server, path, folder }
    }

    fn next_is(&self, script: &str) {
        put_script(self.folder.path().join("program"), script);
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    #[track_caller]
    fn ask(&self, command: &str) -> String {
        answer(self.connect(), format!("{command}\n").as_bytes())
    }

    #[track_caller]
    fn is_owned_by(&self, pid: testkit::Pid) {
        until("the path leads to the owner", || self.ask("status").starts_with(&format!("ok pid={pid} ")));
    }
}

#[track_caller]
fn answer(mut stream: UnixStream, bytes: &[u8]) -> String {
    stream.write_all(bytes).unwrap();
    rest(stream)
}

#[track_caller]
fn rest(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn each_command_has_its_answer() {
    let bench = Bench::start(&["--probation-ms", "0"]);
    let pid = bench.server.pid();
    let metadata = fs::metadata(&bench.path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let mut client = bench.server.client();
    client.send("GET /until-drain?secret HTTP/1.1\r\nHost: x\r\n\r\n");
    bench.server.in_flight(pid, 1);
    let status = bench.ask("status");
    assert!(
        status.starts_with(&format!("ok pid={pid} generation=1 phase=serving requests_in_flight=1 ")),
        "{status}"
    );
    let handlers = bench.ask("handlers");
    let mut lines = handlers.lines();
    assert_eq!(lines.next(), Some("ok count=1 listed=1"));
    let line = lines.next().unwrap();
    assert!(line.starts_with("handler method=GET path=/until-drain age_ms="), "{line}");
    assert!(line.contains(" thread=heirloom-worker-"), "{line}");
    let _parked = bench.server.client();
    until("the connection is parked", || {
        let text = bench.ask("connections");
        text.starts_with("ok count=2 listed=1 ")
            && text.contains("\nconnection listener=127.0.0.1:0 peer=127.0.0.1:")
    });
    let refused = bench.ask("restart");
    assert!(refused.starts_with("error code=unknown-command reason="), "{refused}");
    assert_eq!(bench.ask("drain"), format!("ok pid={pid} requests_in_flight=1\n"));
    assert_eq!(bench.server.wait_exit(pid), Exit::Status(0));
    assert!(!bench.path.exists(), "it is removed at the end");
}

#[test]
fn an_abort_is_answered_and_cuts() {
    let bench = Bench::start(&[]);
    let pid = bench.server.pid();
    let mut client = bench.server.client();
    client.send("GET /until-drain HTTP/1.1\r\nHost: x\r\n\r\n");
    bench.server.in_flight(pid, 1);
    assert_eq!(bench.ask("abort"), format!("ok pid={pid} requests_in_flight=1\n"));
    assert_eq!(bench.server.wait_exit(pid), Exit::Status(1));
    assert!(!bench.path.exists());
}

#[test]
fn an_upgrade_is_answered_when_it_is_decided() {
    let bench = Bench::start(&["--probation-ms", "100"]);
    let mut old = bench.server.pid();
    for generation in 2..5 {
        let text = bench.ask("upgrade");
        let new = bench.server.child(generation - 1);
        let steps: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("step name=")).collect();
        let steps: Vec<&str> = steps.iter().map(|step| step.split(' ').next().unwrap()).collect();
        assert_eq!(steps, ["spawn", "ready", "release", "accept", "probation"]);
        let last = text.lines().last().unwrap();
        assert!(last.starts_with(&format!("ok pid={new} generation={generation} spawn_ms=")), "{last}");
        assert!(last.contains(" probation_ms=") && last.contains(" total_ms="), "{last}");
        // All of them connect at once: none is refused, and none reaches the old process.
        let status = bench.ask("status");
        assert!(status.starts_with(&format!("ok pid={new} generation={generation} ")), "{status}");
        assert_eq!(bench.server.wait_exit(old), Exit::Status(0));
        bench.server.committed(new);
        old = new;
    }
    bench.server.stop();
    assert!(!bench.path.exists());
}

#[test]
fn after_a_failed_upgrade_the_path_leads_to_the_old_process() {
    let bench = Bench::start(&["--probation-ms", "600000", "--ready-timeout-ms", "10000"]);
    let pid = bench.server.pid();
    bench.next_is("#!/bin/sh\nexit 3\n");
    let text = bench.ask("upgrade");
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("error code=failed reason=child%20"), "{text}");
    assert!(last.contains("exited%20with%20status%203") && last.contains(&format!(" pid={pid} ")), "{text}");
    bench.next_is("#!/nowhere\n");
    assert!(bench.ask("upgrade").contains("No%20such%20file"));
    bench.is_owned_by(pid);
    // One that dies on probation; meanwhile the old process answers, and starts no other.
    symlink(PROGRAM, bench.folder.path().join("next")).unwrap();
    fs::rename(bench.folder.path().join("next"), bench.folder.path().join("program")).unwrap();
    let mut waiting = bench.connect();
    waiting.write_all(b"upgrade\n").unwrap();
    bench.server.wait_for(": SERVING");
    let child = bench.server.child(2);
    bench.is_owned_by(pid);
    assert!(bench.ask("upgrade").starts_with("error code=busy "));
    bench.server.signal_to(child, Signal::SIGKILL);
    let text = rest(waiting);
    assert!(text.contains("error code=failed reason=child%20") && text.contains("SIGKILL"), "{text}");
    bench.is_owned_by(pid);
    bench.server.stop();
    assert!(!bench.path.exists());
}

/// A HUP or a stop from elsewhere is the decision too.
#[test]
fn a_stop_during_an_upgrade_is_its_result() {
    let bench = Bench::start(&["--probation-ms", "600000"]);
    let mut waiting = bench.connect();
    waiting.write_all(b"upgrade\n").unwrap();
    bench.server.wait_for(": SERVING");
    bench.server.signal(Signal::SIGTERM);
    let text = rest(waiting);
    assert!(text.contains("error code=failed reason=the%20service%20was%20stopped"), "{text}");
    bench.server.wait_gone();
    assert!(!bench.path.exists());
}

#[test]
fn after_a_crash_on_probation_the_survivor_has_the_path() {
    let bench = Bench::start(&["--probation-ms", "600000"]);
    let new = bench.server.hup_to_probation();
    bench.server.signal_to(bench.server.pid(), Signal::SIGKILL);
    bench.is_owned_by(new);
    assert_eq!(bench.server.settled(), Some(new));
    bench.server.stop();
    assert!(!bench.path.exists());
}

#[test]
fn garbage_is_refused() {
    let bench = Bench::start(&[]);
    let long = vec![b'x'; 1 << 20];
    let cases: [&[u8]; 5] =
        [b"\n", b"\0\xff\xfe\n", b"status status\n", b"GET / HTTP/1.1\r\n\r\n", b"upgrade now\n"];
    for bytes in cases {
        let text = answer(bench.connect(), bytes);
        assert!(text.starts_with("error code=unknown-command "), "{bytes:?}: {text}");
    }
    // Refused before all of it is sent.
    let mut client = bench.connect();
    let _ = client.write_all(&long);
    // As `printf status` sends it.
    let mut client = bench.connect();
    client.write_all(b"status").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(rest(client).starts_with("ok pid="));
    // Nothing at all.
    let client = bench.connect();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rest(client), "");
    assert_eq!(bench.server.count("as child"), 0);
    bench.is_owned_by(bench.server.pid());
    bench.server.stop();
}

#[test]
fn clients_that_do_nothing_keep_nobody_from_being_served() {
    let bench = Bench::start(&["--probation-ms", "0"]);
    let pid = bench.server.pid();
    let before = bench.server.facts(pid).fds.len();
    // These never read, ask nothing, or ask and leave.
    let idle: Vec<UnixStream> = (0..100).map(|_| bench.connect()).collect();
    let mut deaf: Vec<UnixStream> = (0..100).map(|_| bench.connect()).collect();
    deaf.iter_mut().for_each(|client| {
        let _ = client.write_all(&b"handlers\n".repeat(100));
    });
    for n in 0..1000 {
        let mut client = bench.connect();
        let _ = client.write_all(if n % 2 == 0 { b"status\n" } else { b"statu" });
    }
    bench.is_owned_by(pid);
    assert!(bench.server.facts(pid).fds.len() <= before + 16, "clients are bounded");
    let text = bench.ask("upgrade");
    assert!(text.lines().last().unwrap().starts_with("ok pid="), "{text}");
    assert_eq!(bench.server.get("/generation").ok().number(), 2);
    drop((idle, deaf));
    bench.server.committed(bench.server.child(1));
    bench.server.stop();
}

#[test]
fn without_descriptors_a_client_waits_and_nothing_spins() {
    if lacks("prlimit") {
        return;
    }
    let bench = Bench::start(&[]);
    let pid = bench.server.pid();
    let limit = |soft: usize| {
        let (soft, pid) = (format!("--nofile={soft}:"), pid.to_string());
        assert!(Command::new("prlimit").args([&soft, "--pid", &pid]).status().unwrap().success());
    };
    limit(5);
    let mut waiting = bench.connect();
    waiting.write_all(b"status\n").unwrap();
    expect_calm(pid);
    limit(1000);
    assert!(rest(waiting).starts_with(&format!("ok pid={pid} ")));
    bench.is_owned_by(pid);
    bench.server.stop();
}

#[test]
fn clients_at_every_moment_of_upgrades_are_answered() {
    let bench = Bench::start(&["--probation-ms", "50"]);
    let path = bench.path.clone();
    let (done, end) = mpsc::channel::<()>();
    let asking = beside("asking", move || {
        let mut generations = Vec::new();
        while end.try_recv() == Err(TryRecvError::Empty) {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let _ = stream.write_all(b"status\n");
            let text = rest(stream);
            if text.starts_with("error code=moved ") {
                continue;
            }
            let generation = text.split(' ').nth(2).and_then(|field| field.strip_prefix("generation="));
            generations.push(generation.expect(&text).parse::<u32>().unwrap());
        }
        generations
    });
    for _ in 0..5 {
        bench.server.handover();
    }
    bench.is_owned_by(bench.server.newest());
    drop(done);
    let generations = asking.join().unwrap();
    assert!(generations.is_sorted(), "the path never leads back: {generations:?}");
    assert!(generations.len() > 10);
    bench.server.stop();
}

#[test]
fn a_path_that_can_not_be_used_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "mine\n").unwrap();
    let taken = folder.path().join("taken");
    let _live = UnixListener::bind(&taken).unwrap();
    let long = folder.path().join("x".repeat(120));
    let cases = [
        (file.clone(), "not a socket"),
        (taken.clone(), "another server has it"),
        (folder.path().join("no/control"), "its directory must exist"),
        (long, "1 to 107 bytes"),
    ];
    for (path, why) in cases {
        let output =
            Command::new(PROGRAM).args(["--listen", "127.0.0.1:0", "--control"]).arg(&path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(text.contains(path.to_str().unwrap()) && text.contains(why), "{text}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine\n");
    assert!(taken.exists());
}

#[test]
fn the_path_of_a_server_that_was_killed_is_used_again() {
    let bench = Bench::start(&[]);
    bench.server.signal(Signal::SIGKILL);
    bench.server.wait_gone();
    assert!(bench.path.exists());
    let server = testkit::kitchen_sink!("--control", bench.path.to_str().unwrap());
    assert!(bench.ask("status").starts_with(&format!("ok pid={} ", server.pid())));
    server.stop();
    assert!(!bench.path.exists());
}

#[test]
fn a_path_that_was_removed_is_there_again_after_an_upgrade() {
    let bench = Bench::start(&["--probation-ms", "0"]);
    fs::remove_file(&bench.path).unwrap();
    let new = bench.server.handover();
    bench.is_owned_by(new);
    // Something else that was put there is left alone.
    fs::remove_file(&bench.path).unwrap();
    fs::write(&bench.path, "not ours\n").unwrap();
    bench.server.stop();
    assert_eq!(fs::read_to_string(&bench.path).unwrap(), "not ours\n");
}

/// Root alone may become another user.
#[test]
fn another_user_is_refused_whatever_the_mode_is() {
    if !nix::unistd::geteuid().is_root() || lacks("setpriv") {
        skip("needs root and setpriv");
        return;
    }
    let bench = Bench::start(&[]);
    fs::set_permissions(bench.folder.path(), Permissions::from_mode(0o755)).unwrap();
    let text = as_nobody(&bench);
    assert!(text.contains(r#""error":"no-permission""#), "{text}");
    fs::set_permissions(&bench.path, Permissions::from_mode(0o666)).unwrap();
    let text = as_nobody(&bench);
    assert!(text.contains(r#""error":"not-permitted""#), "{text}");
    bench.server.wait_for("control: pid *, uid 65534 is refused");
    bench.is_owned_by(bench.server.pid());
    bench.server.stop();
}

fn as_nobody(bench: &Bench) -> String {
    let program = bench.folder.path().join("ctl");
    copy_program(env!("CARGO_BIN_EXE_ctl"), &program);
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program)
        .args(["status", "--json", "--control"])
        .arg(&bench.path)
        .output()
        .unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_handler_past_its_deadline_is_listed_as_such() {
    let bench = Bench::start(&[]);
    let mut client = bench.server.client();
    client.ask("/late/60000");
    assert_eq!(client.answer().ok().status, 503);
    let handlers = bench.ask("handlers");
    let line = handlers.lines().nth(1).unwrap();
    assert!(
        line.starts_with("handler method=GET path=/late/60000 age_ms=") && line.ends_with(" deadline=passed"),
        "{line}"
    );
}
