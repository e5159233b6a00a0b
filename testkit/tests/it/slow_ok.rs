//! The manual test of README, by machine: `slow_ok`, two requests, `kill -HUP`.

use testkit::{Exit, Signal, slow_ok};

#[test]
fn the_old_process_completes_while_the_new_one_accepts() {
    let server = slow_ok!(8);
    let old = server.pid();
    let mut started = [server.client(), server.client()];
    started.iter_mut().for_each(|client| client.ask("/ok"));
    for request in 1..=2 {
        server.wait_for(&format!("{old} handling request {request}: second 1 of 8"));
    }

    let new = server.hup();
    server.wait_for(&format!("SIGHUP from pid {} (", std::process::id()));
    server.wait_for(&format!("child {new}: PREPARED adopted=127.0.0.1:0"));
    server.wait_for(&format!("to child {new}: GO"));
    server.wait_for(&format!("child {new}: SERVING"));
    server.paused(old);
    let mut third = server.client();
    third.ask("/ok");
    server.wait_for(&format!("{new} handling request 1: second 1 of 8"));

    server.wait_for(&format!("child {new}: STILL-GOOD"));
    server.wait_for(&format!("to child {new}: COMMIT"));
    server.wait_for(&format!("draining (handed over to {new}): 2 requests in flight"));
    for client in &mut started {
        let response = client.answer().ok();
        assert_eq!((response.status, response.text()), (200, "ok\n"));
    }
    assert_eq!(third.answer().ok().text(), "ok\n");
    drop((started, third));

    assert_eq!(server.wait_exit(old), Exit::Status(0));
    assert_eq!(server.alive(), [new]);
    for (pid, requests) in [(old, 2), (new, 1)] {
        for request in 1..=requests {
            let lines = server.lines(&format!("{pid} handling request {request}: "));
            let expected =
                (1..=8).map(|second| format!("{pid} handling request {request}: second {second} of 8"));
            assert!(lines.iter().eq(&expected.collect::<Vec<_>>()), "{lines:?}");
        }
        assert_eq!(server.count(&format!("{pid} handling request ")), 8 * requests);
    }
}

#[test]
fn five_generations_in_a_row_leave_one_process_each_time() {
    let server = slow_ok!(1);
    for generation in 2..=6 {
        let old = server.newest();
        let mut client = server.client();
        client.ask("/ok");
        server.wait_for(&format!("{old} handling request 1: second 1 of 1"));

        let new = server.handover();
        server.wait_for(&format!("serving as generation {generation}"));
        assert_eq!(client.answer().ok().text(), "ok\n");
        drop(client);
        assert_eq!(server.wait_exit(old), Exit::Status(0));
        assert_eq!(server.alive(), [new]);
    }
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit(server.newest()), Exit::Status(0));
    server.wait_gone();
}
