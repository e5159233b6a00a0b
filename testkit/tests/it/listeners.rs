//! Listeners with their own workers, over handovers.

use std::fs;

use testkit::{Client, Exit, Pid, Proc, Signal, beside, until};

use crate::TESTKIT;

/// What the kernel calls the workers, sorted.
fn workers(pid: Pid) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
    let mut names: Vec<String> = names.map(|name| name.trim().to_owned()).collect();
    names.retain(|name| name.contains("worker"));
    names.sort();
    names
}

#[test]
fn one_answers_while_the_other_is_blocked_in_every_generation() {
    let folder = tempfile::tempdir().unwrap();
    let office = format!("unix:{}", folder.path().join("office").display());
    let server = Proc::start_as_said(TESTKIT, &["lanes", "127.0.0.1:0", &office]);
    let [public, office] = &server.addrs()[..] else { panic!("two") };
    // Goes from one generation to the next.
    let mut kept = Client::to(office);
    for generation in 1..=3 {
        let pid = server.newest();
        // Each thread names itself, when it gets to run.
        until(&format!("the workers of generation {generation}"), || {
            workers(pid) == ["worker-0:0", "worker-0:office", "worker-1:0"]
        });
        let blocked = [(); 2].map(|()| {
            let public = public.clone();
            beside("blocked", move || testkit::get(&public, "/until-drain").ok().number())
        });
        server.in_flight(pid, 2);
        assert_eq!(kept.get("/pid").ok().number(), pid.as_raw());
        assert_eq!(testkit::get(office, "/pid").ok().number(), pid.as_raw());
        let new = server.handover();
        assert_eq!(testkit::get(public, "/pid").ok().number(), new.as_raw());
        for blocked in blocked {
            assert_eq!(blocked.join().unwrap(), pid.as_raw());
        }
        assert_eq!(server.wait_exit(pid), Exit::Status(0));
    }
    assert_eq!(kept.get("/pid").ok().number(), server.newest().as_raw());
    server.stop();
}

#[test]
fn the_log_names_the_routes_that_keep_all_workers_busy() {
    let server = Proc::start_as_said(TESTKIT, &["lanes", "127.0.0.1:0", "127.0.0.1:0"]);
    let (pid, addrs) = (server.pid(), server.addrs());
    let get = |path: &'static str| {
        let public = addrs[0].clone();
        beside(path, move || testkit::get(&public, path).ok().number())
    };
    let busy = [get("/until-drain"), get("/until-drain")];
    server.in_flight(pid, 2);
    // One that sends nothing waits for no worker.
    let _silent = Client::to(&addrs[0]);
    let waits = get("/pid");
    let line =
        server.wait_for("all workers worker-N:0 are busy (2) while connections wait (1, the first for ");
    assert!(line.contains("WARN") && line.ends_with(": 2 in GET /until-drain"), "{line}");
    server.signal(Signal::SIGTERM);
    for answered in busy.into_iter().chain([waits]) {
        assert_eq!(answered.join().unwrap(), pid.as_raw());
    }
    assert_eq!(server.wait_exit(pid), Exit::Status(0));
}
