//! A bad new binary costs nothing: the old process serves on, says what was wrong, and the next
//! good one takes over.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use testkit::{Exit, Pid, Proc, Signal};

/// A server whose program lies in a folder of its own, to be replaced.
struct Bench {
    server: Proc,
    program: PathBuf,
    folder: TempDir,
}

impl Bench {
    fn start(flags: &[&str]) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        copy(Path::new(env!("CARGO_BIN_EXE_kitchen_sink")), &program);
        let server = Proc::start(&program, &[&["--probation-ms", "0"], flags].concat());
        Bench { server, program, folder }
    }

    /// Takes the program away, and puts a text in its place.
    fn replace(&self, text: &str) {
        fs::rename(&self.program, self.folder.path().join("good")).unwrap();
        fs::write(&self.program, text).unwrap();
        fs::set_permissions(&self.program, Permissions::from_mode(0o755)).unwrap();
    }

    fn put_back(&self) {
        fs::rename(self.folder.path().join("good"), &self.program).unwrap();
    }

    /// The old process has not noticed, and a good program takes over.
    fn serves_on(&self) {
        let old = self.server.newest();
        assert_eq!(self.server.get("/pid").ok().number(), old.as_raw());
        let facts = self.server.facts(old);
        assert_eq!(facts.zombies, []);
        let new = self.server.handover();
        assert_eq!(self.server.get("/pid").ok().number(), new.as_raw());
        assert_eq!(self.server.wait_exit(old), Exit::Status(0));
    }
}

/// By a process of its own: a file that this one has open for writing while another test starts
/// something can't be executed until that has happened.
fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").args([from, to]).status().unwrap().success());
}

#[test]
fn a_missing_one() {
    let bench = Bench::start(&[]);
    fs::rename(&bench.program, bench.folder.path().join("good")).unwrap();
    bench.server.signal(Signal::SIGHUP);
    let line = bench.server.wait_for("still serving");
    assert!(line.contains(bench.program.to_str().unwrap()), "{line}");
    assert!(line.contains("No such file"), "{line}");
    bench.put_back();
    bench.serves_on();
}

#[test]
fn one_that_is_not_executable() {
    let bench = Bench::start(&[]);
    fs::set_permissions(&bench.program, Permissions::from_mode(0o644)).unwrap();
    bench.server.signal(Signal::SIGHUP);
    let line = bench.server.wait_for("still serving");
    assert!(line.contains("Permission denied") && line.contains("x bit"), "{line}");
    fs::set_permissions(&bench.program, Permissions::from_mode(0o755)).unwrap();
    bench.serves_on();
}

#[test]
fn one_of_no_format_that_this_machine_knows() {
    let bench = Bench::start(&[]);
    bench.replace("this is no program\n");
    bench.server.signal(Signal::SIGHUP);
    let line = bench.server.wait_for("still serving");
    assert!(line.contains("no program for this machine"), "{line}");
    bench.put_back();
    bench.serves_on();
}

#[test]
fn one_whose_interpreter_is_missing() {
    let bench = Bench::start(&[]);
    bench.replace("#!/nowhere/at/all\n");
    bench.server.signal(Signal::SIGHUP);
    let line = bench.server.wait_for("still serving");
    assert!(line.contains("#! line"), "{line}");
    bench.put_back();
    bench.serves_on();
}

#[test]
fn one_that_fails_at_once() {
    let bench = Bench::start(&[]);
    bench.replace("#!/bin/sh\nexit 3\n");
    for n in 1..=3 {
        bench.server.signal(Signal::SIGHUP);
        let child = bench.server.child(n);
        bench.server.wait_for(&format!("child {child} exited with status 3; still serving"));
    }
    bench.put_back();
    bench.serves_on();
}

#[test]
fn one_that_crashes_at_once() {
    let bench = Bench::start(&[]);
    bench.replace("#!/bin/sh\nkill -SEGV $$\n");
    let child = bench.server.hup();
    bench.server.wait_for(&format!("child {child} was killed by SIGSEGV; still serving"));
    bench.put_back();
    bench.serves_on();
}

#[test]
fn one_that_hangs_is_killed_at_the_ready_timeout() {
    let bench = Bench::start(&["--ready-timeout-ms", "2000"]);
    bench.replace("#!/bin/sh\nexec sleep 1000\n");
    let child = bench.server.hup();
    // Meanwhile the old one serves.
    assert_eq!(bench.server.get("/pid").ok().number(), bench.server.pid().as_raw());
    bench.server.wait_for(&format!("child {child} was killed by SIGKILL"));
    bench.server.wait_exit(child);
    bench.put_back();
    bench.serves_on();
}

#[test]
fn one_that_closes_everything_and_hangs_is_killed_at_once() {
    let bench = Bench::start(&[]);
    bench.replace("#!/bin/sh\nexec 3<&- 4<&- 5<&-\nexec sleep 1000\n");
    let child = bench.server.hup();
    bench.server.wait_exit(child);
    bench.server.wait_for(&format!("child {child} was killed by SIGKILL; still serving"));
    bench.put_back();
    bench.serves_on();
}

#[test]
fn one_that_is_being_copied_is_waited_for() {
    let bench = Bench::start(&[]);
    bench.replace("");
    copy(&bench.folder.path().join("good"), &bench.program);
    let copying = OpenOptions::new().append(true).open(&bench.program).unwrap();
    bench.server.signal(Signal::SIGHUP);
    bench.server.wait_for("it is being written; trying again");
    drop(copying);
    let new = bench.server.child(1);
    bench.server.committed(new);
    bench.serves_on();
}

#[test]
fn one_whose_copying_takes_too_long_is_given_up() {
    let bench = Bench::start(&[]);
    bench.replace("");
    copy(&bench.folder.path().join("good"), &bench.program);
    let copying = OpenOptions::new().append(true).open(&bench.program).unwrap();
    bench.server.signal(Signal::SIGHUP);
    bench.server.wait_for("given up, still serving");
    drop(copying);
    bench.serves_on();
}

#[test]
fn a_symlink_is_looked_up_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two, link) =
        (folder.path().join("one"), folder.path().join("two"), folder.path().join("current"));
    copy(Path::new(env!("CARGO_BIN_EXE_kitchen_sink")), &one);
    copy(&one, &two);
    symlink("one", &link).unwrap();
    let server = Proc::start(&link, &["--probation-ms", "0"]);
    let exe = |pid: Pid| fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert_eq!(exe(server.pid()), one);

    symlink("two", folder.path().join("next")).unwrap();
    fs::rename(folder.path().join("next"), &link).unwrap();
    assert_eq!(exe(server.handover()), two);
    fs::remove_file(&one).unwrap();
    assert_eq!(exe(server.handover()), two);
}

#[test]
fn a_deleted_program_that_came_back_is_the_new_one() {
    let bench = Bench::start(&[]);
    fs::remove_file(&bench.program).unwrap();
    copy(Path::new(env!("CARGO_BIN_EXE_kitchen_sink")), &bench.program);
    bench.serves_on();
}

#[test]
fn a_stop_takes_an_unready_successor_with_it() {
    let bench = Bench::start(&[]);
    bench.replace("#!/bin/sh\nexec sleep 1000\n");
    let child = bench.server.hup();
    bench.server.signal(Signal::SIGTERM);
    assert_eq!(bench.server.wait_exit(bench.server.pid()), Exit::Status(0));
    bench.server.wait_for(&format!("child {child} was killed by SIGKILL"));
    bench.server.wait_gone();
    assert_eq!(bench.server.alive(), []);
}

#[test]
fn an_unready_successor_dies_with_its_predecessor_or_serves() {
    let bench = Bench::start(&[]);
    bench.replace("#!/bin/sh\nkill -STOP $$\nexec \"${0%/*}/good\" \"$@\"\n");
    let child = bench.server.hup();
    let state = |pid: Pid| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    testkit::until("it has stopped itself", || state(child).contains(") T "));
    bench.server.signal(Signal::SIGKILL);
    assert_eq!(bench.server.wait_exit(bench.server.pid()), Exit::Killed(Signal::SIGKILL));
    bench.server.signal_to(child, Signal::SIGCONT);
    // A predecessor that dies without a word has crashed: the service goes on.
    bench.server.wait_for("serving as generation 2");
    assert_eq!(bench.server.get("/pid").ok().number(), child.as_raw());
}
