//! What a successor writes to standard error before it is ready: it is in the error of its predecessor, and where it was
//! written to, whole and in order, whichever process is killed meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::pty::openpty;
use nix::unistd::ttyname;
use tempfile::TempDir;
use testkit::{Exit, Facts, Pid, Proc, Signal, beside, until};

use crate::TESTKIT;

const CTL: &str = env!("CARGO_BIN_EXE_ctl");

/// A server whose next generations have the fault that `set_fault` names.
struct Bench {
    server: Proc,
    /// Those of the first generation.
    pipes: BTreeSet<String>,
    folder: TempDir,
}

impl Bench {
    /// Started by this script, whose arguments are the program's.
    fn by(script: &str) -> Bench {
        Bench::begin(script, Proc::start_command)
    }

    fn begin(script: &str, start: impl FnOnce(Command) -> Proc) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", TESTKIT, "faulty", "--listen", "127.0.0.1:0"]);
        command.args(["--ready-timeout-ms", "10000", "--fault"]).arg(path("fault"));
        command.arg("--control").arg(path("control")).env("WRITER_WAITS_FOR", path("go"));
        let server = start(command);
        let pipes = pipes(&server.facts(server.pid()).fds);
        Bench { server, pipes, folder }
    }

    fn start() -> Bench {
        Bench::by("exec \"$@\"")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn set_fault(&self, fault: &str) {
        fs::write(self.path("fault"), fault).unwrap();
    }

    /// The answer of the control socket to an upgrade.
    fn upgrade(&self) -> String {
        let mut socket = UnixStream::connect(self.path("control")).unwrap();
        socket.write_all(b"upgrade\n").unwrap();
        io::read_to_string(socket).unwrap()
    }

    /// All of them arrived, once, in order, and before what was written later.
    #[track_caller]
    fn has_filler(&self, count: usize) {
        self.server.wait_for_nth("serving as generation", 2);
        let lines = self.server.lines("");
        let filler: Vec<&String> = lines.iter().filter(|line| line.starts_with("filler ")).collect();
        assert_eq!(filler.len(), count);
        for (n, line) in filler.iter().enumerate() {
            assert_eq!(**line, format!("filler {n:08} {}", "x".repeat(40)));
        }
        let at = |text: &str| lines.iter().rposition(|line| line.contains(text)).unwrap();
        assert!(at("filler ") < at("handover: to predecessor"));
    }

    /// Its standard error is that of the first generation. It has no other pipe, and no thread that copies.
    #[track_caller]
    fn has_own_stderr(&self, pid: Pid) {
        let Facts { fds, threads, .. } = self.server.facts(pid);
        // The test's pipe.
        assert_eq!(fds.get(&2), fds.get(&1));
        assert_eq!(pipes(&fds), self.pipes);
        let of_stderr = fds.iter().filter(|(fd, what)| **fd > 2 && fds.get(&2) == Some(what));
        assert_eq!(of_stderr.count(), 0, "{fds:?}");
        assert!(!threads.iter().any(|name| name == "heirloom-stderr"), "{threads:?}");
    }
}

fn pipes(fds: &BTreeMap<i32, String>) -> BTreeSet<String> {
    fds.values().filter(|what| what.starts_with("pipe:")).cloned().collect()
}

const WROTE: &str = r"; it wrote: one | two: \u{1b}[31mred | the last";

#[test]
fn the_last_lines_of_one_that_fails_are_in_the_error() {
    let bench = Bench::start();
    bench.set_fault("exit-with-words");
    let child = bench.server.hup();
    bench.server.wait_for(&format!("child {child} exited with status 3; still serving{WROTE}"));
    let answer = bench.upgrade();
    let reason = "exited%20with%20status%203%3B%20it%20wrote:%20one%20|%20two:%20%1B[31mred%20|%20the%20last";
    assert!(answer.contains(reason), "{answer}");
    // They are where they were written to, as well, and the last one has an end. All have been read when the second ERROR line has.
    bench.server.wait_for_nth("exited with status 3; still serving", 2);
    bench.server.wait_for("  two: \u{1b}[31mred");
    // A line of the log may come between the words and their end, which precedes the error.
    let lines = bench.server.lines("");
    let has_end = |at: usize| {
        let until_error = || lines[at + 1..].iter().take_while(|line| !line.contains("exited with status 3"));
        lines[at] == "the last" || lines[at].starts_with("the last[") && until_error().any(String::is_empty)
    };
    assert_eq!((0..lines.len()).filter(|at| has_end(*at)).count(), 2);
    let ran = Command::new(CTL).arg("upgrade").arg("--control").arg(bench.path("control")).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(!ran.status.success() && said.contains("exited with status 3; it wrote: one | two: "), "{said}");
}

#[cfg(feature = "systemd")]
#[test]
fn systemds_status_has_the_last_lines() {
    let socket = testkit::NotifySocket::new();
    let bench = Bench::begin("exec \"$@\"", |mut command| {
        command.env("NOTIFY_SOCKET", socket.path());
        Proc::start_command(command)
    });
    bench.set_fault("exit-with-words");
    bench.server.signal(Signal::SIGHUP);
    socket.next_with("READY=1");
    let again = socket.next_with("READY=1");
    let status = again.value("STATUS").unwrap();
    assert!(
        status.contains("the last handover failed: child ") && status.contains("; it wrote: one | "),
        "{status}"
    );
}

#[test]
fn a_panic_before_the_server_is_ready_is_in_the_error() {
    let bench = Bench::start();
    bench.set_fault("panic-before-ready");
    bench.server.signal(Signal::SIGHUP);
    bench.server.wait_for("exited with status 101; still serving; it wrote: *as asked");
}

#[test]
fn the_last_lines_of_one_that_hangs_are_in_the_error() {
    let bench = Bench::start();
    bench.set_fault("hang-with-words");
    let answer = bench.upgrade();
    let reason = "not%20ready%20in%20time%3B%20it%20wrote:%20waiting%20for%20a%20lock";
    assert!(answer.contains(reason), "{answer}");
    bench.server.wait_for("was killed by SIGKILL; still serving; it wrote: waiting for a lock");
}

#[test]
fn megabytes_arrive_whole_and_in_order() {
    let bench = Bench::start();
    bench.set_fault("write-megabytes");
    let new = bench.server.handover();
    bench.has_filler(50_000);
    bench.has_own_stderr(new);
}

#[test]
fn a_program_that_runs_itself_again_has_it_back() {
    let bench = Bench::start();
    bench.set_fault("run-itself-again");
    let new = bench.server.handover();
    bench.has_filler(1_000);
    bench.has_own_stderr(new);
}

#[test]
fn a_killed_predecessor_loses_nothing_of_it() {
    let bench = Bench::start();
    bench.set_fault("write-around-a-stop");
    let child = bench.server.hup();
    let state = || fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    until("it has stopped itself", || state().contains(") T "));
    bench.server.wait_for("filler 00000999");
    bench.server.signal(Signal::SIGKILL);
    assert_eq!(bench.server.wait_exit(bench.server.pid()), Exit::Killed(Signal::SIGKILL));
    bench.server.signal_to(child, Signal::SIGCONT);
    bench.has_filler(5_000);
    bench.has_own_stderr(child);
}

#[test]
fn a_program_that_it_started_may_write_later() {
    let bench = Bench::start();
    bench.set_fault("start-a-writer");
    let old = bench.server.pid();
    bench.server.handover();
    assert_eq!(bench.server.wait_exit(old), Exit::Status(0));
    fs::write(bench.path("go"), "").unwrap();
    bench.server.wait_for("late words");
}

#[test]
fn a_server_without_standard_error_hands_over() {
    // It has no log, either.
    let bench = Bench::begin("exec \"$@\" 2>&-", |command| Proc::begin(command, Stdio::null()));
    until("it serves", || UnixStream::connect(bench.path("control")).is_ok());
    bench.set_fault("exit-with-words");
    let answer = bench.upgrade();
    assert!(answer.contains("it%20wrote:%20one"), "{answer}");
}

/// A program may look whether its standard error is the journal, and write there in another way.
#[test]
fn the_stream_of_the_journal_is_left_alone() {
    let bench = Bench::by("export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/$$/fd/2); exec \"$@\"");
    bench.set_fault("write-around-a-stop");
    let child = bench.server.hup();
    let state = || fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    until("it has stopped itself", || state().contains(") T "));
    bench.has_own_stderr(child);
    bench.server.signal_to(child, Signal::SIGKILL);
    let line = bench.server.wait_for("was killed by SIGKILL; still serving; its messages are in the journal");
    assert!(!line.contains("it wrote"), "{line}");
}

/// A program decides by it on colours, for its whole life.
#[test]
fn a_terminal_is_left_alone() {
    let pty = openpty(None, None).unwrap();
    let name = ttyname(&pty.slave).unwrap();
    // What the server logs makes room for what follows.
    let mut seen = File::from(pty.master);
    let reading = beside("terminal", move || drop(io::copy(&mut seen, &mut io::sink())));
    let script = format!("exec \"$@\" 2>{}", name.display());
    let bench = Bench::begin(&script, |command| Proc::begin(command, Stdio::null()));
    until("it serves", || UnixStream::connect(bench.path("control")).is_ok());
    bench.set_fault("exit-with-words");
    let answer = bench.upgrade();
    assert!(
        answer.contains("exited%20with%20status%203%3B%20its%20messages%20are%20on%20the%20terminal"),
        "{answer}"
    );
    drop((bench, pty.slave));
    reading.join().unwrap();
}
