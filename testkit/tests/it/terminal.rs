//! A closed terminal does not request a handover.

use nix::unistd::{getpgid, getsid};
use testkit::{Begin, Exit, LogPipe, Pid, Proc, Shell, Signal};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");
const BASH: (&str, &[&str]) = ("bash", &["--norc", "--noprofile", "-i"]);
const DASH: (&str, &[&str]) = ("dash", &["-i"]);

fn ends_with_its_terminal((shell, args): (&str, &[&str]), after: &str) {
    let Some(mut shell) = Shell::start(shell, args) else { return };
    let server = shell.serve("", PROGRAM, after);
    server.get("/ok").ok();
    let mut client = server.client();
    client.begin();
    server.in_flight(server.pid(), 1);

    if after == "&" {
        shell.let_it_wait(&server);
    }
    shell.close_terminal();
    server.wait_for("the terminal was closed: drain and exit");
    assert_eq!(client.finish().ok().text(), "ok");
    drop(client);
    server.wait_gone();
    assert!(matches!(server.wait_exit(server.pid()), Exit::Status(0) | Exit::Untold));
    assert_eq!(server.count(" as child "), 0);
}

#[test]
fn a_foreground_job_of_bash_drains_and_exits() {
    ends_with_its_terminal(BASH, "");
}

#[test]
fn a_background_job_of_bash_drains_and_exits() {
    ends_with_its_terminal(BASH, "&");
}

#[test]
fn a_foreground_job_of_dash_drains_and_exits() {
    ends_with_its_terminal(DASH, "");
}

/// The shell signals the end of the terminal to `generations`, which must ignore it.
fn outlives_its_terminal((shell, args): (&str, &[&str]), generations: usize) {
    let Some(mut shell) = Shell::start(shell, args) else { return };
    let server: Proc = shell.serve("nohup", PROGRAM, "--probation-ms 0 &");
    // The first generation stays alive, or the shell would have no job to signal.
    let mut slow = server.client();
    slow.begin();
    server.in_flight(server.pid(), 1);
    for _ in 1..generations {
        server.handover();
    }
    shell.let_it_wait(&server);
    shell.close_terminal();
    shell.wait();
    if generations > 0 {
        // Two HUPs that are pending at once are one; ours is not to be that one.
        server.wait_for_nth("the terminal was closed, ignored under nohup", generations);
    }
    for _ in 0..2 {
        let new = server.handover();
        assert_eq!(server.get("/pid").ok().number(), new.as_raw());
    }
    assert_eq!(slow.finish().ok().text(), "ok");
    drop(slow);
    server.stop();
}

#[test]
fn under_nohup_in_bash_it_goes_on_and_still_hands_over() {
    outlives_its_terminal(BASH, 1);
}

/// Dash does not signal its background jobs.
#[test]
fn under_nohup_in_dash_it_goes_on_and_still_hands_over() {
    outlives_its_terminal(DASH, 0);
}

#[test]
fn under_nohup_later_generations_know_it_too() {
    outlives_its_terminal(BASH, 2);
}

#[test]
fn a_hup_by_the_shell_on_a_living_terminal_is_a_handover() {
    let Some(mut shell) = Shell::start(BASH.0, BASH.1) else { return };
    let server = shell.serve("", PROGRAM, "--probation-ms 0 &");
    shell.type_in("kill -HUP %1\n");
    let new = server.child(1);
    server.committed(new);
    assert_eq!(server.get("/pid").ok().number(), new.as_raw());
}

const CLOSED: &str = "the terminal was closed: drain and exit";

fn session_and_group(pid: Pid) -> (Pid, Pid) {
    (getsid(Some(pid)).unwrap(), getpgid(Some(pid)).unwrap())
}

/// The first generation has ended, and no shell knows of the third.
fn ends_with_its_terminal_after_upgrades((shell, args): (&str, &[&str]), after: &str) {
    let Some(mut shell) = Shell::start(shell, args) else { return };
    let server = shell.serve("", PROGRAM, &format!("--probation-ms 0 {after}"));
    let first = session_and_group(server.pid());
    for _ in 0..2 {
        let new = server.handover();
        assert_eq!(session_and_group(new), first);
        assert_eq!(server.get("/pid").ok().number(), new.as_raw());
    }
    let mut client = server.client();
    client.begin();
    server.in_flight(server.newest(), 1);
    shell.close_terminal();
    server.wait_for(CLOSED);
    assert_eq!(client.finish().ok().text(), "ok");
    drop(client);
    server.wait_gone();
    assert!(matches!(server.wait_exit(server.newest()), Exit::Status(0) | Exit::Untold));
}

#[test]
fn a_job_of_bash_that_was_upgraded_twice_drains_and_exits() {
    ends_with_its_terminal_after_upgrades(BASH, "");
    ends_with_its_terminal_after_upgrades(BASH, "&");
}

#[test]
fn a_job_of_dash_that_was_upgraded_twice_drains_and_exits() {
    ends_with_its_terminal_after_upgrades(DASH, "");
    ends_with_its_terminal_after_upgrades(DASH, "&");
}

/// Without job control, so the server is in the group of the session's leader, which continues when the first generation ends.
#[test]
fn below_a_script_it_drains_with_its_terminal() {
    for stays in ["& while :; do wait; read line; done", "; read line"] {
        let pipe = LogPipe::new();
        let line = pipe.line(PROGRAM, &format!("--probation-ms 0 {stays}"));
        let (shell, server) = pipe.serve(|| Shell::start("bash", &["--norc", "-c", &line]));
        let Some(mut shell) = shell else { return };
        for _ in 0..2 {
            let new = server.handover();
            assert_eq!(server.get("/pid").ok().number(), new.as_raw());
        }
        assert_eq!(server.wait_exit(server.pid()), Exit::Untold);
        shell.close_terminal();
        server.wait_for(CLOSED);
        server.wait_gone();
    }
}

#[test]
fn a_terminal_closed_after_commit_drains_each_generation() {
    for (shell, args) in [BASH, DASH] {
        for after in ["", "&"] {
            let Some(mut shell) = Shell::start(shell, args) else { return };
            let server = shell.serve("", PROGRAM, &format!("--probation-ms 0 {after}"));
            let mut slow = server.client();
            slow.begin();
            server.in_flight(server.pid(), 1);
            let new = server.handover();
            shell.close_terminal();
            server.wait_for(CLOSED);
            assert!(matches!(server.wait_exit(new), Exit::Status(0) | Exit::Untold));
            assert_eq!(slow.finish().ok().text(), "ok");
            drop(slow);
            server.wait_gone();
        }
    }
}

/// A shell that ends by itself leaves its background jobs alone, also if the terminal is closed after that.
#[test]
fn a_background_job_outlives_a_shell_that_ends_by_itself() {
    let Some(mut shell) = Shell::start(BASH.0, BASH.1) else { return };
    let server = shell.serve("", PROGRAM, "--probation-ms 0 &");
    server.handover();
    shell.type_in("exit\n");
    server.wait_for("the session's leader has ended");
    shell.wait();
    shell.close_terminal();
    let new = server.handover();
    assert_eq!(server.get("/pid").ok().number(), new.as_raw());
    assert_eq!(server.count(CLOSED), 0);
    server.stop();
}

#[test]
fn without_a_terminal_session_and_group_stay() {
    for server in [
        Proc::start_group(PROGRAM, &["--probation-ms", "0"]),
        Proc::start_as_said("setsid", &[PROGRAM, "--listen", "127.0.0.1:0", "--probation-ms", "0"]),
    ] {
        let first = session_and_group(server.pid());
        for _ in 0..2 {
            assert_eq!(session_and_group(server.handover()), first);
        }
        let group = first.1;
        nix::sys::signal::killpg(group, Signal::SIGTERM).unwrap();
        server.wait_gone();
    }
}

#[test]
fn ctrl_c_reaches_both_generations_of_a_foreground_job() {
    let Some(mut shell) = Shell::start(BASH.0, BASH.1) else { return };
    let server = shell.serve("", PROGRAM, "--probation-ms 0");
    let mut slow = server.client();
    slow.begin();
    server.in_flight(server.pid(), 1);
    let new = server.handover();
    shell.type_in("\x03");
    assert!(matches!(server.wait_exit(new), Exit::Status(0) | Exit::Untold));
    assert_eq!(slow.finish().ok().text(), "ok");
}
