//! What starts generation 1, and what its end means to that process: where it would be the end of the service, a handover
//! is refused; everywhere else it works.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use testkit::{Addr, Crowd, Proc, Signal, lacks, put_script, skip, unshare};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");
const FLAGS: [&str; 4] = ["--listen", "127.0.0.1:0", "--probation-ms", "0"];
/// A shell that stays the parent: it has something to do after the server.
const STAYS: &str = r#""$0" "$@"; exit"#;

/// `words`, then the server.
fn below(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(PROGRAM).args(FLAGS);
    command.env_remove("NOTIFY_SOCKET").env_remove("SYSTEMD_EXEC_PID");
    command
}

/// What `command` starts is the parent of the server.
fn start(command: Command) -> Proc {
    let server = Proc::begin(command, Stdio::null());
    server.wait_for("serving as generation 1");
    server
}

fn hands_over_five_times(command: Command) -> Proc {
    let server = start(command);
    let first = server.get("/pid").ok().number();
    let crowd = Crowd::of(&server.addr());
    for generation in 2..=6 {
        server.signal_to(server.serving(), Signal::SIGHUP);
        server.wait_for_nth("handover: predecessor *: COMMIT", generation - 1);
        server.wait_for(&format!("serving as generation {generation}"));
    }
    assert_eq!(crowd.stop().failed, []);
    assert_ne!(server.get("/pid").ok().number(), first);
    assert_eq!(server.count("refused"), 0);
    server.signal_to(server.serving(), Signal::SIGTERM);
    server.wait_for("end of generation 6");
    server.wait_gone();
    server
}

fn refuses(server: &Proc, reason: &str) {
    server.wait_for(&format!("a HUP will have no effect: {reason}"));
    let first = server.get("/pid").ok().number();
    let started = server.count(" as child ");
    for n in 1..=2 {
        server.signal_to(server.serving(), Signal::SIGHUP);
        server.wait_for_nth(&format!("handover: {reason}*; still serving"), n);
        assert_eq!(server.get("/pid").ok().number(), first);
    }
    assert_eq!(server.count(" as child "), started);
}

/// A shell with the name of another program.
fn shell_named(name: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    symlink(fs::canonicalize("/bin/sh").unwrap(), &path).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn below_a_script_it_hands_over_and_warns_once() {
    let server = hands_over_five_times(below(&["sh", "-c", STAYS]));
    assert_eq!(server.count("if the script of * (sh) starts this program again when this process ends"), 1);
}

/// The loop takes the exit of generation 1 for its end, and finds the address in use. The error names the process that has it,
/// and the service continues.
fn in_a_restart_loop(listen: &str) {
    let restarts = r#"for run in 1 2 3; do "$0" "$@"; echo "run $run ended with $?"; done"#;
    let mut command = Command::new("sh");
    command.args(["-c", restarts, PROGRAM, "--listen", listen, "--probation-ms", "0"]);
    let server = start(command);
    server.signal_to(server.serving(), Signal::SIGHUP);
    server.wait_for("run 1 ended with 0");
    server.wait_for("run 3 ended with 1");
    let second = server.get("/pid").ok().number();
    let errors = server.lines("Error: can't listen on");
    let expected = format!(
        "Error: can't listen on {listen}: process {second} listens there, a later generation of this program. If a \
         supervisor has started the program again because generation 1 has ended after a handover, write \
         ProcessConfig::supervise, or Type=notify under systemd. To start the service anew, stop it first (kill -TERM \
         {second}): Address already in use (os error 98)"
    );
    assert_eq!(errors, [&*expected, &*expected]);
    server.signal_to(server.serving(), Signal::SIGTERM);
    server.wait_gone();
}

#[test]
fn a_restart_loop_is_told_who_has_its_address() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    in_a_restart_loop(&format!("127.0.0.1:{port}"));
    let folder = tempfile::tempdir().unwrap();
    in_a_restart_loop(&format!("unix:{}", folder.path().join("socket").display()));
}

/// A first generation has the address, or another program.
#[test]
fn a_second_start_beside_the_first_names_no_generation() {
    let server = start(below(&["sh", "-c", STAYS]));
    let Addr::Tcp(address) = server.addr() else { panic!("not TCP") };
    let second = Command::new(PROGRAM).args(["--listen", &address.to_string()]).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains(": another process uses it; stop that process"), "{said}");
}

#[test]
fn below_python_it_hands_over() {
    if lacks("python3") {
        return;
    }
    let call = "import subprocess, sys; subprocess.call(sys.argv[1:])";
    hands_over_five_times(below(&["python3", "-c", call]));
}

#[test]
fn below_timeout_it_hands_over() {
    if lacks("timeout") {
        return;
    }
    hands_over_five_times(below(&["timeout", "600"]));
}

#[test]
fn below_a_subreaper_it_hands_over() {
    if lacks("python3") {
        return;
    }
    // PR_SET_CHILD_SUBREAPER
    let call = "import ctypes, os, subprocess, sys\nctypes.CDLL(None).prctl(36, 1)\nsubprocess.call(sys.argv[1:])\n\
                while True:\n try: os.wait()\n except ChildProcessError: break";
    hands_over_five_times(below(&["python3", "-c", call]));
}

#[test]
fn below_cargo_run_it_hands_over() {
    // Often in another user's home directory.
    if !Command::new(env!("CARGO")).arg("--version").output().is_ok_and(|output| output.status.success()) {
        skip("this test needs a cargo that this user may run");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("Cargo.toml"),
        "[package]\nname = \"starter\"\nedition = \"2024\"\n[workspace]\n",
    )
    .unwrap();
    fs::create_dir(folder.path().join("src")).unwrap();
    let main = "fn main() {\n    let mut args = std::env::args().skip(1);\n    \
                let mut command = std::process::Command::new(args.next().unwrap());\n    \
                std::process::exit(command.args(args).status().unwrap().code().unwrap_or(1));\n}\n";
    fs::write(folder.path().join("src/main.rs"), main).unwrap();
    let manifest = folder.path().join("Cargo.toml");
    let mut command = below(&[
        env!("CARGO"),
        "run",
        "--quiet",
        "--offline",
        "--manifest-path",
        manifest.to_str().unwrap(),
        "--",
    ]);
    command.env("CARGO_TARGET_DIR", folder.path().join("target"));
    hands_over_five_times(command);
}

#[test]
fn a_service_of_systemd_without_notifications_is_refused() {
    let own = r#"SYSTEMD_EXEC_PID=$$ exec "$0" "$@""#;
    refuses(&start(below(&["sh", "-c", own])), "refused under systemd");
    // A shell of that service.
    let other = r#"export SYSTEMD_EXEC_PID=$$; "$0" "$@"; exit"#;
    hands_over_five_times(below(&["sh", "-c", other]));
}

#[test]
fn below_a_supervisor_it_refuses() {
    for name in ["runsv", "s6-supervise", "supervisord", "supervise-daemo", "containerd-shim"] {
        let (_folder, path) = shell_named(name);
        refuses(&start(below(&[&path, "-c", STAYS])), &format!("refused under {name}"));
    }
}

#[test]
fn below_an_init_that_ends_with_it_it_refuses() {
    for name in ["tini", "tini-static", "dumb-init", "docker-init", "catatonit"] {
        let Some(words) = unshare(&["--fork", "--pid", "--kill-child", "--mount-proc"]) else { return };
        let (_folder, path) = shell_named(name);
        let words: Vec<&str> = words.iter().map(String::as_str).chain([&*path, "-c", STAYS]).collect();
        refuses(&Proc::start_inside(below(&words)), &format!("refused under {name}"));
        // Not as PID 1.
        let command = below(&[&path, "-c", STAYS]);
        if name == "tini" {
            hands_over_five_times(command);
        }
    }
}

#[test]
fn the_program_may_know_better() {
    let (_folder, path) = shell_named("runsv");
    let mut command = below(&[&path, "-c", STAYS]);
    command.arg("--any-parent");
    hands_over_five_times(command);
}

/// The decision of generation 1 holds in its successors, however those were started.
#[test]
fn the_decision_is_passed_on() {
    let (folder, path) = shell_named("s6-supervise");
    let program = folder.path().join("program");
    symlink(PROGRAM, &program).unwrap();
    let mut command = Command::new(path);
    command.args(["-c", STAYS]).arg(&program).args(FLAGS).arg("--any-parent");
    let server = start(command);
    // The next version does not claim to know better.
    put_script(&program, format!("#!/bin/sh\nexec {PROGRAM} {}\n", FLAGS.join(" ")));
    server.signal_to(server.serving(), Signal::SIGHUP);
    server.wait_for("serving as generation 2");
    server.wait_for("end of generation 1");
    refuses(&server, "refused under s6-supervise");
}
