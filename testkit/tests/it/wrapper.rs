//! Scripts around the program: what runs again at a handover, and scripts that stay in between.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use testkit::{Crowd, Outcome, Pid, Proc, Signal, put_script, until};

use crate::TESTKIT;

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");
const FLAGS: [&str; 4] = ["--listen", "127.0.0.1:0", "--probation-ms", "0"];

/// A directory with a script that does `body`; `"$@"` are the flags, `$PROGRAM` is the program.
struct Scripts {
    folder: TempDir,
}

impl Scripts {
    fn with(body: &str) -> Scripts {
        let scripts = Scripts { folder: tempfile::tempdir().unwrap() };
        scripts.write(body);
        scripts
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("script")
    }

    fn write(&self, body: &str) {
        put_script(self.path(), format!("#!/bin/sh\nPROGRAM={PROGRAM}\n{body}\n"));
    }

    /// A server whose program becomes the script, after generation 1 was started without it.
    fn come_later(&self, flags: &[&str]) -> (Proc, Crowd) {
        let script = self.folder.path().join("moved");
        fs::rename(self.path(), &script).unwrap();
        std::os::unix::fs::symlink(PROGRAM, self.path()).unwrap();
        let server = Proc::start_as_said(self.path(), flags);
        fs::rename(&script, self.path()).unwrap();
        let crowd = Crowd::of(&server.addr());
        (server, crowd)
    }
}

fn environ_has(server: &Proc, pid: Pid, pair: &str) -> bool {
    server.facts(pid).environ.iter().any(|found| found == pair.as_bytes())
}

/// What generation 1 was started by is the program to the kernel (AT_EXECFN), not the script.
#[test]
fn a_script_that_starts_generation_1_by_exec_is_not_run_again() {
    let scripts = Scripts::with("VERSION=one exec $PROGRAM \"$@\"");
    let server = Proc::start_as_said(scripts.path(), &FLAGS);
    let crowd = Crowd::of(&server.addr());
    scripts.write("exit 7");
    for _ in 0..2 {
        let new = server.handover();
        assert_eq!(fs::read_link(format!("/proc/{new}/exe")).unwrap(), Path::new(PROGRAM));
    }
    assert_eq!(crowd.stop().failed, []);
}

#[test]
fn a_script_that_is_named_as_the_executable_is_run_anew() {
    let scripts = Scripts::with("");
    let path = scripts.path();
    scripts.write(&format!("VERSION=one exec {TESTKIT} \"$@\""));
    let server = Proc::start_as_said(
        &path,
        &["faulty", "--listen", "127.0.0.1:0", "--executable", path.to_str().unwrap()],
    );
    let crowd = Crowd::of(&server.addr());
    for version in ["two", "three"] {
        scripts.write(&format!("VERSION={version} exec {TESTKIT} \"$@\""));
        let new = server.handover();
        assert!(environ_has(&server, new, &format!("VERSION={version}")));
    }
    assert_eq!(crowd.stop().failed, []);
}

#[test]
fn a_script_is_run_at_each_handover_with_its_arguments() {
    let scripts = Scripts::with("VERSION=2 exec $PROGRAM \"$@\" --workers 3");
    let (server, crowd) = scripts.come_later(&FLAGS);
    for version in 2..=4 {
        scripts.write(&format!("VERSION={version} exec $PROGRAM \"$@\" --workers 3"));
        let new = server.handover();
        assert!(environ_has(&server, new, &format!("VERSION={version}")));
        let words = fs::read(format!("/proc/{new}/cmdline")).unwrap();
        assert_eq!(words.split(|byte| *byte == 0).filter(|word| *word == b"--workers").count(), 1);
    }
    assert_eq!(crowd.stop().failed, []);
}

#[test]
fn scripts_that_detach_or_ignore_signals_are_no_obstacle() {
    if testkit::lacks("setsid") || testkit::lacks("nohup") {
        return;
    }
    for how in ["exec setsid", "exec nohup", "exec env VERSION=2", "trap '' USR1; exec", "exec 9<$0; exec"] {
        let scripts = Scripts::with(&format!("{how} $PROGRAM \"$@\""));
        let (server, crowd) = scripts.come_later(&FLAGS);
        for generation in 2..=3 {
            server.handover();
            assert_eq!(server.get("/generation").ok().number(), generation, "{how}");
        }
        assert_eq!(crowd.stop().failed, [], "{how}");
    }
}

/// Tries to hand over to the script, which must not work, and then to the program.
fn does_not_work(body: &str, flags: &[&str], lines: &[&str]) {
    let scripts = Scripts::with(body);
    let (server, crowd) = scripts.come_later(flags);
    let child = server.hup();
    for text in lines {
        server.wait_for(&text.replace("CHILD", &child.to_string()));
    }
    until("it serves", || server.phase(server.pid()) == "serving");
    until("it is alone", || server.alive() == [server.pid()]);
    fs::remove_file(scripts.path()).unwrap();
    std::os::unix::fs::symlink(PROGRAM, scripts.path()).unwrap();
    let new = server.handover();
    assert_eq!(server.get("/pid").ok().number(), new.as_raw());
    assert_eq!(crowd.stop().failed, []);
}

#[test]
fn a_script_that_uses_the_listeners_descriptor() {
    let lines = [
        "descriptor 3 is no longer the listener 127.0.0.1:0 (no socket): a script",
        "child CHILD failed: descriptor 3",
    ];
    does_not_work("exec 3<$0\nexec $PROGRAM \"$@\"", &FLAGS, &lines);
}

#[test]
fn a_script_that_uses_the_channels_descriptor() {
    let lines = [
        "descriptor 4 is no longer the lifecycle channel",
        "child CHILD exited with status 1; still serving",
    ];
    does_not_work("exec 4<$0\nexec $PROGRAM \"$@\"", &FLAGS, &lines);
    // Although the shell keeps the channel open.
    does_not_work("$PROGRAM \"$@\" 4<$0", &FLAGS, &lines);
}

#[test]
fn a_script_that_clears_the_environment_is_refused() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let flags = ["--listen", &free, "--probation-ms", "0"];
    let lines = ["another process uses it", "child CHILD exited with status 1; still serving"];
    does_not_work("exec env -i $PROGRAM \"$@\"", &flags, &lines);
}

#[test]
fn a_script_that_leaves_its_program_behind_is_refused() {
    // Long enough for the script to end within it.
    let flags = ["--listen", "127.0.0.1:0", "--probation-ms", "8000"];
    let lines = ["child CHILD exited with status 0; still serving"];
    does_not_work("$PROGRAM \"$@\" &", &flags, &lines);
}

/// The shell waits; the server is its child.
const STAYS: &str = "$PROGRAM \"$@\"\nexit $?";

fn pid_of_server(server: &Proc) -> Pid {
    Pid::from_raw(server.get("/pid").ok().number())
}

#[test]
fn a_script_that_waits_for_its_program_hands_over() {
    let scripts = Scripts::with(STAYS);
    let pid_file = scripts.folder.path().join("pid");
    let flags = [&FLAGS[..], &["--pid-file", pid_file.to_str().unwrap()]].concat();
    let (server, crowd) = scripts.come_later(&flags);
    for generation in 2..=4 {
        // To the process that the pid file names; the kit knows the script.
        let old = pid_of_server(&server);
        server.signal_to(old, Signal::SIGHUP);
        server.committed(server.child(generation - 1));
        let new = pid_of_server(&server);
        assert_ne!(new, server.newest(), "which is the script");
        assert_eq!(server.get("/generation").ok().text(), generation.to_string());
        assert_eq!(fs::read_to_string(&pid_file).unwrap(), format!("{new}\n"));
    }
    assert_eq!(crowd.stop().failed, []);
    let last = pid_of_server(&server);
    server.signal_to(last, Signal::SIGTERM);
    server.wait_gone();
    assert!(!pid_file.exists());
    assert_eq!(server.get("/ok"), Outcome::Refused);
}

/// The script and the program that it waits for end together, at a stop before GO and at the ready timeout.
#[test]
fn an_unready_program_below_a_script_never_takes_over() {
    // The second one waits for the timeout.
    for (stops, ready) in [(true, "600000"), (false, "10000")] {
        let scripts = Scripts::with("");
        let go = scripts.folder.path().join("go");
        nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // It starts when the shell in between is dead.
        let wait = format!("echo it waits; read line <{}; exec $0 \"$@\"", go.display());
        scripts.write(&format!("sh -c '{wait}' $PROGRAM \"$@\"\nexit"));
        let (server, crowd) = scripts.come_later(&[&FLAGS[..], &["--ready-timeout-ms", ready]].concat());
        let child = server.hup();
        server.wait_for("it waits");
        if stops {
            server.signal(Signal::SIGTERM);
        }
        server.wait_for(&format!("child {child} was killed by SIGKILL"));
        drop(fs::OpenOptions::new().write(true).open(&go).unwrap());
        if stops {
            server.wait_gone();
            assert_eq!(server.get("/pid"), Outcome::Refused);
        } else {
            server.wait_for("handover: predecessor *: STOPPING");
            until("it is alone", || server.alive() == [server.pid()]);
            assert_eq!(pid_of_server(&server), server.pid());
            assert_eq!(crowd.stop().failed, []);
        }
    }
}

#[test]
fn the_death_of_a_scripts_program_is_rolled_back() {
    let scripts = Scripts::with(STAYS);
    let (server, crowd) = scripts.come_later(&["--listen", "127.0.0.1:0", "--probation-ms", "600000"]);
    // The script's own death changes nothing; that of the program does.
    let script = server.hup_to_probation();
    let new = pid_of_server(&server);
    server.signal_to(script, Signal::SIGKILL);
    server.wait_exit(script);
    assert_eq!(pid_of_server(&server), new);
    server.signal_to(new, Signal::SIGKILL);
    server.wait_for(&format!("child {script} was killed by SIGKILL; still serving"));
    assert_eq!(pid_of_server(&server), server.pid());
    let failed = crowd.stop().failed;
    assert!(failed.len() <= Crowd::NEW && !failed.iter().any(|(outcome, _)| *outcome == Outcome::Refused));
}
