//! Two hundred generations later everything is as it was in the beginning. This test takes longest, and tests start in the order
//! of their names: by its name it starts first.

use testkit::{Exit, Facts, kitchen_sink, until};

#[test]
fn two_hundred_generations_leak_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let server = kitchen_sink!("--probation-ms", "0", "--unix", path.to_str().unwrap(), "--workers", "4");
    let named = |threads: &[String]| threads.iter().filter(|name| name.starts_with("heirloom-")).count() == 6;
    let first = || server.facts(server.pid());
    // The kernel's tables of sockets change while they are read, so that one listener may be missing.
    let mut start = first();
    until("two listeners, and threads with their names", || {
        start = first();
        named(&start.threads) && start.listeners.len() == 2
    });
    let Facts { threads, fds, listeners, .. } = start;
    let at_rest = fds.len();
    // Without the connection of this request, and the channels of the predecessor.
    let settled = || -> Facts {
        server.get("/ok").ok();
        let now = || server.facts(server.newest());
        // A thread names itself once it runs.
        until("a generation at rest", || now().fds.len() == at_rest && now().threads == threads);
        until("the listeners of the first generation", || now().listeners == listeners);
        now()
    };
    let server_started_with = server.facts(server.pid()).leaky;
    let mut resident = Vec::new();
    let mut second = None;
    for generation in 2..=200 {
        let old = server.newest();
        server.handover();
        assert_eq!(server.wait_exit(old), Exit::Status(0));
        server.wait_for(&format!("predecessor {old} is gone"));
        let now = settled();
        let second = second.get_or_insert_with(&settled);
        // Descriptors that were open when the tests were started don't count.
        assert_eq!(now.leaky, server_started_with, "generation {generation}");
        assert_eq!(now.kinds_of_fds(), second.kinds_of_fds(), "generation {generation}: {:?}", now.fds);
        assert_eq!(now.environ, second.environ, "generation {generation}");
        assert_eq!(now.zombies, [0; 0], "generation {generation}");
        resident.push(now.resident_kib);
    }
    assert_eq!(server.get("/generation").ok().text(), "200");
    // No trend: the last fifty need no more than the first fifty did at most, except for the noise of
    // an allocator.
    let most = |part: &[u64]| part.iter().copied().max().unwrap();
    let (early, late) = (most(&resident[..50]), most(&resident[resident.len() - 50..]));
    assert!(late < early + early / 10, "{early} KiB at first, {late} KiB at last");
    server.stop();
}
