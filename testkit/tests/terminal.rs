//! A terminal that is closed is no wish for a handover.

use testkit::{Exit, Proc, Shell};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");
const BASH: (&str, &[&str]) = ("bash", &["--norc", "--noprofile", "-i"]);
const DASH: (&str, &[&str]) = ("dash", &["-i"]);

fn ends_with_its_terminal((shell, args): (&str, &[&str]), after: &str) {
    let Some(mut shell) = Shell::start(shell, args) else { return };
    let server = shell.serve("", PROGRAM, after);
    server.get("/ok").ok();
    let mut client = server.client();
    client.ask("/sleep/2000");
    server.in_flight(server.pid(), 1);

    if after == "&" {
        shell.let_it_wait(&server);
    }
    shell.close_terminal();
    server.wait_for("the terminal was closed: drain and exit");
    assert_eq!(client.answer().ok().text(), "ok\n");
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

/// `generations` are told by the shell that the terminal is gone, which they are to ignore.
fn outlives_its_terminal((shell, args): (&str, &[&str]), generations: usize) {
    let Some(mut shell) = Shell::start(shell, args) else { return };
    let server: Proc = shell.serve("nohup", PROGRAM, "--probation-ms 0 &");
    // The first generation stays for it, or the shell would have no job to tell.
    let mut slow = server.client();
    slow.ask("/sleep/3000");
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
    assert_eq!(slow.answer().ok().text(), "ok\n");
    drop(slow);
    server.stop();
}

#[test]
fn under_nohup_in_bash_it_goes_on_and_still_hands_over() {
    outlives_its_terminal(BASH, 1);
}

/// Dash tells its background jobs nothing.
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
