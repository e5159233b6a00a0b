//! In containers: other pids, other mounts, another network.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::unistd::geteuid;
use testkit::{Addr, Pid, Proc, Signal, get, skip, unshare, until};

use crate::TESTKIT;

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");
/// A shell that becomes an init that stays.
const INIT: &str = r#""$0" "$@" & exec sleep 1000 >/dev/null 2>&1"#;
const OWN_PIDS: [&str; 4] = ["--fork", "--pid", "--kill-child", "--mount-proc"];

/// `words`, then the server with these flags.
fn command(words: &[String], more: &[&str], flags: &[&str]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(more).arg(PROGRAM).args(["--probation-ms", "0"]).args(flags);
    command
}

/// Starts the server by `line` of a shell in new namespaces, where `$0` and `$@` are the server.
fn by_shell(namespaces: &[&str], line: &str, flags: &[&str]) -> Option<Proc> {
    let words = unshare(namespaces)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let all = [&words[..], &["sh", "-c", line, PROGRAM, "--probation-ms", "0"], flags].concat();
    Some(Proc::start_as_said(all[0], &all[1..]))
}

/// Whether such a shell can do `line` at all here; says it if not.
fn can(namespaces: &[&str], line: &str) -> bool {
    let Some(words) = unshare(namespaces) else { return false };
    let tried = Command::new(&words[0]).args(&words[1..]).args(["sh", "-c", line]).output().unwrap();
    if !tried.status.success() {
        skip(&format!("{line:?}: {}", String::from_utf8_lossy(&tried.stderr)));
    }
    tried.status.success()
}

/// One that calls `init` first becomes a supervisor: see `supervise.rs`.
#[test]
fn as_pid_1_without_init_it_refuses_to_hand_over() {
    let Some(words) = unshare(&OWN_PIDS) else { return };
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args([TESTKIT, "started"]);
    command.args(["--listen", "127.0.0.1:0", "--pid-file", pid_file.to_str().unwrap()]);
    let server = Proc::start_inside(command);
    server.wait_for("a HUP will have no effect: not possible as PID 1");
    assert_eq!(server.get("/pid").ok().number(), 1);
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), "1\n");
    for n in 1..=2 {
        server.signal(Signal::SIGHUP);
        server.wait_for_nth("handover: not possible as PID 1", n);
        assert_eq!(server.get("/pid").ok().number(), 1);
    }
    server.wait_for("SIGHUP from outside our pid namespace, uid ");
    assert_eq!(server.count(" as child "), 0);

    // Signals without a handler would not reach it.
    server.signal(Signal::SIGUSR1);
    server.wait_for("pid 1 generation 1 serving");
    server.signal(Signal::SIGTERM);
    server.wait_for("end of generation 1");
    server.wait_gone();
    assert!(!pid_file.exists());
}

/// The pid file has the numbers of the namespace, for processes in it.
#[test]
fn below_an_init_that_stays_it_hands_over() {
    let Some(words) = unshare(&OWN_PIDS) else { return };
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    let flags = ["--listen", "127.0.0.1:0", "--pid-file", pid_file.to_str().unwrap()];
    let server = Proc::start_inside(command(&words, &["sh", "-c", INIT], &flags));
    let mut before = server.get("/pid").ok().number();
    for generation in 2..=4 {
        let [serving] = server.alive()[..] else { panic!("{:?}", server.alive()) };
        server.signal_to(serving, Signal::SIGHUP);
        server.wait_for_nth("handover: predecessor *: COMMIT", generation - 1);
        server.wait_for(&format!("end of generation {}", generation - 1));
        until("only the new one runs", || server.alive().len() == 1 && server.alive() != [serving]);
        let now = server.get("/pid").ok().number();
        assert_ne!(now, before);
        assert_eq!(server.get("/generation").ok().text(), generation.to_string());
        assert_eq!(fs::read_to_string(&pid_file).unwrap(), format!("{now}\n"));
        before = now;
    }
}

#[test]
fn a_drain_longer_than_a_containers_stop_timeout_is_warned_of() {
    let Some(words) = unshare(&OWN_PIDS) else { return };
    let kubernetes = (("KUBERNETES_SERVICE_HOST", "10.0.0.1"), "Kubernetes kills after 30s");
    let podman = (("container", "podman"), "Podman kills after 10s");
    for ((variable, warning), drain, is_warned) in [
        (kubernetes, "60000", true),
        (kubernetes, "20000", false),
        (podman, "60000", true),
        (podman, "9000", false),
    ] {
        let flags = ["--listen", "127.0.0.1:0", "--drain-timeout-ms", drain];
        let mut command = command(&words, &["sh", "-c", INIT], &flags);
        command.env_remove("container").env(variable.0, variable.1);
        let server = Proc::start_inside(command);
        server.signal_to(server.serving(), Signal::SIGHUP);
        server.wait_for("end of generation 1");
        let warnings =
            server.count(&format!("a stop may take 60s, but {warning} unless configured otherwise"));
        assert_eq!(warnings, usize::from(is_warned));
    }
}

/// Hands over twice, asked at `addr`.
fn hands_over(server: &Proc, addr: &Addr) {
    for _ in 0..2 {
        let new = server.handover();
        assert_eq!(get(addr, "/pid").ok().number(), new.as_raw());
    }
}

#[test]
fn a_read_only_root_and_no_proc_are_no_obstacle() {
    let line = "umount -l /proc && mount -o remount,bind,ro /";
    if !can(&["--mount"], line) {
        return;
    }
    let flags = ["--listen", "127.0.0.1:0"];
    let Some(server) = by_shell(&["--mount"], &format!(r#"{line} && exec "$0" "$@""#), &flags) else {
        return;
    };
    assert!(!Path::new(&format!("/proc/{}/root/proc/self", server.pid())).exists());
    hands_over(&server, &server.addr());
    server.stop();
}

#[test]
fn a_pid_file_in_a_read_only_directory_stays_correct() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_str().unwrap();
    let line = format!("mount --bind {at} {at}");
    if testkit::lacks("nsenter") || !can(&["--mount"], &format!("{line} && mount -o remount,bind,ro {at}")) {
        return;
    }
    let pid_file = folder.path().join("pid");
    let flags = ["--listen", "127.0.0.1:0", "--pid-file", pid_file.to_str().unwrap()];
    let Some(server) = by_shell(&["--mount"], &format!(r#"{line} && exec "$0" "$@""#), &flags) else {
        return;
    };
    let mount = |how: &[&str], of: Pid| {
        let target = of.to_string();
        // An ordinary user needs a user namespace for them.
        let as_root: &[&str] = if geteuid().is_root() { &[] } else { &["--user", "--preserve-credentials"] };
        let words = [&["--mount", "--target", &target, "mount"], how, &[at]].concat();
        assert!(Command::new("nsenter").args(as_root).args(words).status().unwrap().success());
    };
    let names = |pid: Pid| assert_eq!(fs::read_to_string(&pid_file).unwrap(), format!("{pid}\n"));
    let old = server.pid();
    names(old);
    // The file is open for writing, since it is locked: the mount in which it was opened can't become read-only.
    mount(&["--bind", at], old);
    mount(&["-o", "remount,bind,ro"], old);
    server.hup();
    server.wait_for("failed: can't write the pid file *Read-only file system*; still serving");
    assert_eq!(server.get("/pid").ok().number(), old.as_raw());
    names(old);
    mount(&["-o", "remount,bind,rw"], old);
    names(server.handover());
    server.stop();
    assert!(!pid_file.exists());
}

#[test]
fn a_network_of_its_own_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let flags = ["--unix", path.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let Some(server) = by_shell(&["--net"], r#"exec "$0" "$@""#, &flags) else { return };
    let listeners = server.facts(server.pid()).listeners;
    assert_eq!(listeners.len(), 2);
    hands_over(&server, &Addr::Unix(path));
    assert_eq!(server.facts(server.newest()).listeners, listeners);
    server.stop();
}

#[test]
fn a_network_whose_loopback_is_up_is_no_obstacle() {
    let up = "ip link set lo up";
    if testkit::lacks("ip") || !can(&["--net"], up) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let flags = ["--unix", path.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let Some(server) = by_shell(&["--net"], &format!(r#"{up} && exec "$0" "$@""#), &flags) else { return };
    let listeners = server.facts(server.pid()).listeners;
    hands_over(&server, &Addr::Unix(path));
    assert_eq!(server.facts(server.newest()).listeners, listeners);
    server.stop();
}
