//! A bad new binary costs nothing: the old process continues to serve and logs the cause, and the next good binary takes
//! over.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;
use testkit::{Crowd, Exit, Outcome, Pid, Proc, Signal, copy_program, put_script};

use crate::TESTKIT;

/// A server whose program can be replaced, and clients that send requests without pause.
struct Bench {
    server: Proc,
    program: PathBuf,
    folder: TempDir,
    crowd: Crowd,
}

impl Bench {
    fn start(flags: &[&str]) -> Bench {
        let flags = [&["--probation-ms", "0"], flags].concat();
        Bench::of(&[env!("CARGO_BIN_EXE_kitchen_sink")], tempfile::tempdir().unwrap(), &flags)
    }

    /// Later generations have the fault that `set_fault` names.
    fn faulty(flags: &[&str]) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let fault = folder.path().join("fault");
        let flags = [&["--fault", fault.to_str().unwrap()], flags].concat();
        Bench::of(&[TESTKIT, "faulty"], folder, &flags)
    }

    fn of(command: &[&str], folder: TempDir, flags: &[&str]) -> Bench {
        let program = folder.path().join("program");
        copy_program(command[0], &program);
        let server =
            Proc::start_as_said(&program, &[&command[1..], &["--listen", "127.0.0.1:0"], flags].concat());
        let crowd = Crowd::of(&server.addr());
        Bench { server, program, folder, crowd }
    }

    fn set_fault(&self, fault: &str) {
        fs::write(self.folder.path().join("fault"), fault).unwrap();
    }

    fn mend(&self) {
        fs::remove_file(self.folder.path().join("fault")).unwrap();
    }

    /// Takes the program away, and puts something in its place.
    fn replace(&self, with: impl AsRef<[u8]>) {
        fs::rename(&self.program, self.folder.path().join("good")).unwrap();
        put_script(&self.program, with);
    }

    fn put_back(&self) {
        fs::rename(self.folder.path().join("good"), &self.program).unwrap();
    }

    /// No client has noticed, and a good program takes over.
    fn serves_on(self) {
        let old = self.still_serves();
        let new = self.server.handover();
        assert_eq!(self.server.get("/pid").ok().number(), new.as_raw());
        let tally = self.crowd.stop();
        assert!(tally.answered > 0);
        assert_eq!(tally.failed, []);
        assert_eq!(self.server.wait_exit(old), Exit::Status(0));
    }

    /// A good program serves, on a probation that outlasts the test; gives what has failed so far.
    fn serves_on_probation(self) -> Vec<(Outcome, Option<i32>)> {
        self.still_serves();
        let new = self.server.hup_to_probation();
        assert_eq!(self.server.get("/pid").ok().number(), new.as_raw());
        let tally = self.crowd.stop();
        assert!(tally.answered > 0);
        tally.failed
    }

    /// The old process, which has reaped its child.
    fn still_serves(&self) -> Pid {
        let old = self.server.newest();
        assert_eq!(self.server.get("/pid").ok().number(), old.as_raw());
        self.server.reaped_all(old);
        old
    }
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

/// This can't be started, and the log says why.
fn can_not_be_started(program: impl AsRef<[u8]>, why: &str) {
    let bench = Bench::start(&[]);
    bench.replace(program);
    bench.server.signal(Signal::SIGHUP);
    let line = bench.server.wait_for("still serving");
    assert!(line.contains(why), "{line}");
    bench.put_back();
    bench.serves_on();
}

#[test]
fn one_of_no_format_that_this_machine_knows() {
    can_not_be_started("this is no program\n", "not a program for this machine");
}

#[test]
fn one_for_another_machine() {
    let mut program = fs::read(env!("CARGO_BIN_EXE_kitchen_sink")).unwrap();
    // e_machine: 42 is a SuperH.
    program[18..20].copy_from_slice(&42u16.to_ne_bytes());
    can_not_be_started(program, "not a program for this machine");
}

#[test]
fn one_whose_interpreter_is_missing() {
    can_not_be_started("#!/nowhere/at/all\n", "#! line");
}

/// This script is started, and the log reports the result.
fn script_ends(script: &str, how: &str) {
    let bench = Bench::start(&[]);
    bench.replace(script);
    let child = bench.server.hup();
    bench.server.wait_for(&format!("child {child} {how}"));
    bench.put_back();
    bench.serves_on();
}

/// A successor with this fault is started, and the log reports the result.
fn fault_ends(fault: &str, flags: &[&str], how: &[&str]) {
    let bench = Bench::faulty(flags);
    bench.set_fault(fault);
    let child = bench.server.hup();
    for how in how {
        bench.server.wait_for(&format!("child {child} {how}"));
    }
    bench.mend();
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
    script_ends("#!/bin/sh\nkill -SEGV $$\n", "was killed by SIGSEGV; still serving");
}

#[test]
fn one_that_exits_after_100_ms() {
    fault_ends("exit-100ms-before", &[], &["exited with status 3; still serving"]);
    fault_ends("exit-100ms-after-inheriting", &[], &["exited with status 4; still serving"]);
}

#[test]
fn a_binary_that_fails_its_own_check_is_reported() {
    let failed = "failed: before_ready failed: the database has another schema";
    fault_ends("fail-before-ready", &[], &[failed, "exited with status 1"]);
}

#[test]
fn what_fails_in_main_is_reported() {
    let failed = r#"failed: app.conf, line 3: | no such "key"; still serving"#;
    fault_ends("fail-in-main", &[], &[failed, "exited with status 1"]);
}

/// A client of the control socket gets it too.
#[test]
fn an_upgrade_is_answered_by_what_failed_in_main() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let bench = Bench::faulty(&["--control", path.to_str().unwrap()]);
    bench.set_fault("fail-in-main");
    let mut socket = UnixStream::connect(&path).unwrap();
    socket.write_all(b"upgrade\n").unwrap();
    let answer = io::read_to_string(socket).unwrap();
    let reason = "reason=the%20new%20process%20failed:%20app.conf%2C%20line%203:%20|%20no%20such%20\"key\"";
    assert!(answer.contains(reason), "{answer}");
    bench.mend();
    bench.serves_on();
}

#[test]
fn without_a_logger_a_failure_is_on_standard_error() {
    let folder = tempfile::tempdir().unwrap();
    let [fault, path] = ["fault", "socket"].map(|name| folder.path().join(name));
    let mut command = Command::new(TESTKIT);
    command.args(["faulty", "--no-logger"]).arg("--fault").arg(&fault);
    command.arg("--listen").arg(format!("unix:{}", path.display()));
    let server = Proc::begin(command, Stdio::null());
    testkit::until("it listens", || UnixStream::connect(&path).is_ok());
    // Errors are text: the quotes are as they were written.
    for (how, said) in [
        ("fail-before-ready", "child * failed: before_ready failed: the database has another schema"),
        ("fail-in-main", r#"child * failed: app.conf, line 3: | no such "key"; still serving"#),
        ("panic-before-ready", "child * exited with status 101; still serving; it wrote: *as asked"),
        ("exit-with-words", "child * exited with status 3; still serving; it wrote: one | two: "),
    ] {
        fs::write(&fault, how).unwrap();
        server.signal(Signal::SIGHUP);
        server.wait_for(&format!("[ERROR heirloom::process] handover: {said}"));
    }
}

#[test]
fn a_binary_whose_worker_values_fail() {
    for (fault, failed) in [
        (
            "fail-in-a-worker",
            "failed: heirloom-worker-3 can't create its (): the database has no more connections",
        ),
        ("panic-in-workers", "failed: heirloom-worker-* can't create its (): it panicked: as asked"),
    ] {
        fault_ends(fault, &[], &[failed, "exited with status 1"]);
    }
}

#[test]
fn one_that_panics_before_it_is_ready() {
    fault_ends("panic-before-ready", &[], &["exited with status 101; still serving"]);
}

#[test]
fn one_that_hangs_before_it_is_ready() {
    fault_ends("hang-before-ready", &["--ready-timeout-ms", READY], &["was killed by SIGKILL"]);
}

/// Longer than any test: probation does not end.
const LONG: &str = "600000";

/// For tests that wait for this timeout: a good successor is ready within it even on a busy machine.
const READY: &str = "10000";

/// What a successor has accepted dies with it, and only that: at most one request of each client
/// that connects again. Clients that keep their connection stay with the predecessor during probation.
#[test]
fn one_that_crashes_over_its_first_request() {
    let bench = Bench::faulty(&["--probation-ms", LONG]);
    bench.set_fault("die-on-first-request");
    for n in 1..=3 {
        let child = {
            bench.server.signal(Signal::SIGHUP);
            bench.server.child(n)
        };
        bench.server.wait_for(&format!("child {child} was killed by SIGABRT; still serving"));
    }
    bench.mend();
    let failed = bench.serves_on_probation();
    assert!((1..=3 * Crowd::NEW).contains(&failed.len()), "{failed:?}");
    assert!(failed.iter().all(|(outcome, before)| is_of_crashed(outcome) && before.is_none()), "{failed:?}");
    eprintln!("{} requests that crashed successors had accepted", failed.len());
}

#[test]
fn one_that_crashes_after_it_has_served_for_a_while() {
    let bench = Bench::faulty(&["--probation-ms", LONG]);
    bench.set_fault("abort-when-asked");
    let child = bench.server.hup_to_probation();
    let later = Crowd::of(&bench.server.addr());
    let mut kept = bench.server.client();
    for _ in 0..500 {
        assert_eq!(kept.get("/pid").ok().number(), child.as_raw());
    }
    for outcome in [bench.server.get("/abort"), kept.get("/pid")] {
        assert!(is_of_crashed(&outcome), "{outcome:?}");
    }
    bench.server.wait_for(&format!("child {child} was killed by SIGABRT; still serving"));
    bench.mend();
    let failed = later.stop().failed;
    let of_child = |(outcome, before): &(Outcome, Option<i32>)| {
        is_of_crashed(outcome) && before.is_none_or(|pid| pid == child.as_raw())
    };
    assert!(failed.len() <= Crowd::ALL && failed.iter().all(of_child), "{failed:?}");
    let others = bench.serves_on_probation();
    assert!(others.len() <= Crowd::NEW && others.iter().all(of_child), "{others:?}");
    eprintln!("{} requests that a crashed successor had accepted", failed.len() + others.len());
}

/// The process ended with the request in it; no client was refused.
fn is_of_crashed(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Reset | Outcome::Cut | Outcome::ClosedSilently)
}

/// The next program is a script that says on the lifecycle channel, descriptor 4, what a successor says until it
/// accepts, and then does `last`.
fn says_it_serves(bench: &Bench, last: &str) {
    let said = "PREPARED adopted=127.0.0.1:0\\nSERVING\\n";
    bench.replace(format!("#!/bin/sh\nprintf '{said}' >&4\n{last}\n"));
}

fn a_successor_that_serves_no_client(last: &str, cause: &str, ended: &str) {
    let bench = Bench::of(
        &[env!("CARGO_BIN_EXE_kitchen_sink")],
        tempfile::tempdir().unwrap(),
        &["--probation-ms", LONG],
    );
    let go = bench.folder.path().join("go");
    mkfifo(&go, Mode::S_IRWXU).unwrap();
    says_it_serves(&bench, &format!("read line <'{}'\n{last}", go.display()));
    let child = bench.server.hup();
    bench.server.paused(bench.server.pid());
    drop(OpenOptions::new().write(true).open(go).unwrap());
    bench.server.wait_for(&format!("child {child} {cause}"));
    bench.server.wait_for(&format!("child {child} {ended}"));
    bench.put_back();
    // Clients that waited meanwhile are served.
    assert_eq!(bench.serves_on_probation(), []);
}

#[test]
fn one_that_says_failed_on_probation() {
    let last = "echo 'FAILED reason=no%20worker%20answers' >&4";
    a_successor_that_serves_no_client(
        last,
        "failed: no worker answers; still serving",
        "exited with status 0",
    );
}

#[test]
fn one_that_exits_on_probation() {
    a_successor_that_serves_no_client("exit 9", "exited with status 9; still serving", "exited");
}

#[test]
fn one_that_segfaults_on_probation() {
    a_successor_that_serves_no_client("kill -SEGV $$", "was killed by SIGSEGV; still serving", "was killed");
}

/// It has ten seconds more than its probation.
#[test]
fn one_that_is_silent_on_probation() {
    let bench = Bench::start(&[]);
    says_it_serves(&bench, "exec sleep 1000");
    let child = bench.server.hup();
    bench.server.wait_for(&format!("child {child}: SERVING"));
    let silent = "handover: the new process was silent at the end of its probation";
    bench.server.wait_for(&format!("{silent}: child {child} was killed by SIGKILL; still serving"));
    bench.put_back();
    bench.serves_on();
}

#[test]
fn one_that_talks_nonsense() {
    let script = "#!/bin/sh\nprintf 'SALUTE\\n\\377\\376\\nCOMMIT\\nGO\\nSTILL-GOOD\\n' >&4\nexit 5\n";
    script_ends(script, "exited with status 5; still serving");
}

#[test]
fn one_that_hangs_is_killed_at_the_ready_timeout() {
    let bench = Bench::start(&["--ready-timeout-ms", READY]);
    bench.replace("#!/bin/sh\nexec sleep 1000\n");
    let child = bench.server.hup();
    // Meanwhile the old one serves.
    assert_eq!(bench.server.get("/pid").ok().number(), bench.server.pid().as_raw());
    let why = "the new process was not ready in time";
    bench.server.wait_for(&format!("handover: {why}: child {child} was killed by SIGKILL; still serving"));
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

/// The program is being written when the handover starts, until the file is closed.
fn being_copied() -> (Bench, File) {
    let bench = Bench::start(&[]);
    bench.replace("");
    copy_program(bench.folder.path().join("good"), &bench.program);
    let copying = OpenOptions::new().append(true).open(&bench.program).unwrap();
    bench.server.signal(Signal::SIGHUP);
    (bench, copying)
}

#[test]
fn one_that_is_being_copied_is_waited_for() {
    let (bench, copying) = being_copied();
    bench.server.wait_for("it is being written; trying again");
    drop(copying);
    let new = bench.server.child(1);
    bench.server.committed(new);
    bench.serves_on();
}

#[test]
fn one_whose_copying_takes_too_long_is_given_up() {
    let (bench, copying) = being_copied();
    bench.server.wait_for("given up, still serving");
    drop(copying);
    bench.serves_on();
}

#[test]
fn a_symlink_is_looked_up_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two, link) =
        (folder.path().join("one"), folder.path().join("two"), folder.path().join("current"));
    copy_program(env!("CARGO_BIN_EXE_kitchen_sink"), &one);
    copy_program(&one, &two);
    symlink("one", &link).unwrap();
    let server = Proc::start(&link, &["--probation-ms", "0"]);
    let exe = |pid: Pid| fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert_eq!(exe(server.pid()), one);
    let crowd = Crowd::of(&server.addr());

    symlink("two", folder.path().join("next")).unwrap();
    fs::rename(folder.path().join("next"), &link).unwrap();
    assert_eq!(exe(server.handover()), two);
    fs::remove_file(&one).unwrap();
    assert_eq!(exe(server.handover()), two);
    assert_eq!(crowd.stop().failed, []);
}

#[test]
fn a_deleted_program_that_came_back_is_the_new_one() {
    let bench = Bench::start(&[]);
    fs::remove_file(&bench.program).unwrap();
    copy_program(env!("CARGO_BIN_EXE_kitchen_sink"), &bench.program);
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
    // A predecessor that dies without STOPPING has crashed: the service continues.
    bench.server.wait_for("serving as generation 2");
    assert_eq!(bench.server.get("/pid").ok().number(), child.as_raw());
}
