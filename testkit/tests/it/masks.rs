//! A server receives its signals with any mask that it was started with, and leaves that mask to others.

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use testkit::{Exit, kitchen_sink};

fn blocked(pid: testkit::Pid) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find(|line| line.starts_with("SigBlk:")).unwrap().to_owned()
}

#[test]
fn a_server_started_with_blocked_signals_receives_them() {
    // What a parent that waits for signals passes on to what it starts.
    let ours: SigSet = [Signal::SIGHUP, Signal::SIGTERM].into_iter().collect();
    let starting = testkit::beside("a parent with a mask", move || {
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&ours), None).unwrap();
        kitchen_sink!("--probation-ms", "0")
    });
    let server = starting.join().unwrap();
    let first = blocked(server.pid());
    assert_ne!(first, "SigBlk:\t0000000000000000");
    for _ in 0..2 {
        let old = server.newest();
        server.handover();
        assert_eq!(server.wait_exit(old), Exit::Status(0));
        // The main thread's: what its children would have.
        assert_eq!(blocked(server.newest()), first);
    }
    server.stop();
}
