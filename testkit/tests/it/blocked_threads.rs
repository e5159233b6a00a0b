//! Things that could block the control loop: it does not wait, and the third TERM ends the process in any case.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::kill;
use nix::sys::stat::Mode;
use nix::unistd::{mkfifo, pipe2};
use testkit::{Addr, Exit, Pid, Signal, get, kitchen_sink, pass, unshare, until};

use crate::TESTKIT;

/// After this a stop is another one.
const ANOTHER: Duration = Duration::from_millis(600);

#[test]
fn a_named_pipe_in_the_place_of_the_pid_file_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pid");
    let server = kitchen_sink!("--probation-ms", "0", "--pid-file", path.to_str().unwrap());
    fs::remove_file(&path).unwrap();
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
    assert!(path.exists(), "it is not ours to remove");

    // The next one replaces it, as it does with a file of an earlier server.
    let server = kitchen_sink!("--probation-ms", "0", "--pid-file", path.to_str().unwrap());
    mkfifo(&folder.path().join("pipe"), Mode::S_IRWXU).unwrap();
    fs::rename(folder.path().join("pipe"), &path).unwrap();
    let new = server.handover();
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{new}\n"));
    server.stop();
}

/// A server whose log is a full pipe without a reader: writes to it block.
struct Mute {
    child: Child,
    /// The other end, so that it stays open.
    _log: OwnedFd,
}

impl Mute {
    /// Runs `command`, whose server is to serve at `addr`.
    fn start(mut command: Command, addr: &Addr) -> Mute {
        let (log, theirs) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let full = theirs.try_clone().unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(theirs).env("RUST_LOG", "info");
        let child = command.spawn().unwrap();
        drop(command);
        until("it serves", || get(addr, "/ok").is_ok());
        // The flag is that of the pipe's end, which the server shares: only for as long as this takes.
        fcntl(&full, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut pipe = fs::File::from(full);
        while pipe.write(b"\n").is_ok() {}
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        Mute { child, _log: log }
    }

    fn wait(&mut self) -> ExitStatus {
        let mut end = None;
        until("it ends", || {
            end = self.child.try_wait().unwrap();
            end.is_some()
        });
        end.unwrap()
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stop_three_times(pid: Pid, last: Signal) {
    for signal in [Signal::SIGTERM, Signal::SIGTERM, last] {
        kill(pid, signal).unwrap();
        pass(ANOTHER);
    }
}

fn server_at(path: &std::path::Path) -> Vec<String> {
    [env!("CARGO_BIN_EXE_kitchen_sink"), "--unix", path.to_str().unwrap()].map(str::to_owned).to_vec()
}

/// One that does not become a supervisor as PID 1.
fn server_without_init_at(path: &std::path::Path) -> Vec<String> {
    let name = format!("unix:{}", path.display());
    [TESTKIT, "started", "--listen", &name].map(str::to_owned).to_vec()
}

#[test]
fn the_third_stop_ends_a_process_blocked_on_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    for last in [Signal::SIGTERM, Signal::SIGINT] {
        let words = server_at(&path);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        let mut server = Mute::start(command, &Addr::Unix(path.clone()));
        let pid = Pid::from_raw(i32::try_from(server.child.id()).unwrap());
        for _ in 0..2 {
            // TERMs that come together with the first count as the first, and with the second as the second.
            for signal in [Signal::SIGTERM, Signal::SIGINT] {
                kill(pid, signal).unwrap();
            }
            pass(ANOTHER);
            assert!(server.child.try_wait().unwrap().is_none(), "only the third ends it");
        }
        kill(pid, last).unwrap();
        assert_eq!(server.wait().signal(), Some(last as i32));
    }
}

#[test]
fn as_pid_1_it_ends_with_the_status_that_stands_for_the_signal() {
    let Some(words) = unshare(&["--fork", "--pid", "--kill-child", "--mount-proc"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    for (last, status) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(server_without_init_at(&path));
        let mut server = Mute::start(command, &Addr::Unix(path.clone()));
        // The only child of the program that made the namespace.
        let maker = server.child.id();
        let children = fs::read_to_string(format!("/proc/{maker}/task/{maker}/children")).unwrap();
        let pid = Pid::from_raw(children.trim().parse().unwrap());
        stop_three_times(pid, last);
        assert_eq!(server.wait().code(), Some(status));
    }
}
