//! The watchdog is fed while the acceptor and the workers make progress, and only then.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use testkit::{Client, NotifySocket, Pid, beside, until};

use super::start;

#[test]
fn the_watchdog_is_fed_while_workers_make_progress() {
    let socket = NotifySocket::new();
    let stale = [("WATCHDOG_USEC", "300000")];
    let server = start(&socket, &["--workers", "1"], &stale);
    for _ in 0..3 {
        let fed = socket.next();
        assert_eq!((fed.pid, &*fed.keys()), (server.pid(), "WATCHDOG=1"));
    }
    let new = server.handover();
    loop {
        let notice = socket.next();
        if notice.pid == new {
            assert_eq!(notice.keys(), "WATCHDOG=1");
            break;
        }
    }
    // The only worker is in a handler: no progress.
    let mut client = Client::to(&server.addr());
    client.ask("/sleep/2000");
    server.in_flight(new, 1);
    let fed = socket.drain(60);
    assert!(fed.len() <= 3, "{fed:?}");
    assert_eq!(client.answer().ok().text(), "ok\n");
    until("it is fed again", || socket.has().is_some_and(|notice| notice.keys() == "WATCHDOG=1"));
    server.stop();
}

#[test]
fn a_watchdog_of_another_process_is_not_fed() {
    let socket = NotifySocket::new();
    let variables = [("WATCHDOG_USEC", "30000"), ("WATCHDOG_PID", "1")];
    let server = start(&socket, &[], &variables);
    assert!(socket.drain(40).is_empty());
    server.stop();
}

/// One worker, and always a request that waits for it.
#[test]
fn busy_workers_that_come_back_feed_it() {
    let socket = NotifySocket::new();
    let server = start(&socket, &["--workers", "1"], &[("WATCHDOG_USEC", "300000")]);
    let stop = Arc::new(AtomicBool::new(false));
    let ask = |_| {
        let (addr, stop) = (server.addr(), Arc::clone(&stop));
        beside("client", move || {
            let mut client = Client::to(&addr);
            let mut answered = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(client.get("/sleep/20").ok().text(), "ok\n");
                answered += 1;
            }
            answered
        })
    };
    let clients: Vec<_> = (0..4).map(ask).collect();
    until("all of them wait", || server.requests_in_flight(server.pid()) > 0);
    for _ in 0..10 {
        let fed = socket.next();
        assert_eq!((fed.pid, &*fed.keys()), (server.pid(), "WATCHDOG=1"));
    }
    stop.store(true, Ordering::Relaxed);
    assert!(clients.into_iter().all(|client| client.join().unwrap() > 0));
    server.stop();
}

/// All workers are idle, and the control loop runs.
#[test]
fn a_stuck_acceptor_starves_it() {
    let socket = NotifySocket::new();
    let server = start(&socket, &[], &[("WATCHDOG_USEC", "300000")]);
    assert_eq!(socket.next().keys(), "WATCHDOG=1");
    let acceptor = thread(server.pid(), "heirloom-accept");
    ptrace::seize(acceptor, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(acceptor).unwrap();
    waitpid(acceptor, Some(WaitPidFlag::__WALL)).unwrap();
    // Perhaps it had answered before.
    let fed = socket.drain(60);
    assert!(fed.len() <= 1, "{fed:?}");
    ptrace::detach(acceptor, None).unwrap();
    assert_eq!(socket.next().keys(), "WATCHDOG=1");
    server.stop();
}

/// The thread of this name, of which the kernel keeps 15 bytes.
fn thread(pid: Pid, name: &str) -> Pid {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let is_it = |path: &std::path::PathBuf| {
        fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let path = threads.map(|thread| thread.unwrap().path()).find(is_it).expect("a thread of this name");
    Pid::from_raw(path.file_name().unwrap().to_str().unwrap().parse().unwrap())
}
