//! What a real browser sees of WebSockets and of server-sent events, over handovers and a stop, and what it says of requests
//! across sites.
//! Skipped where there is no chromium.

use testkit::{Browser, Proc, Signal, until};

use crate::TESTKIT;

fn pages() -> Proc {
    Proc::start_as_said(TESTKIT, &["pages", "127.0.0.1:0"])
}

fn open(server: &Proc, page: &str) -> Option<Browser> {
    let testkit::Addr::Tcp(addr) = server.addr() else { panic!("no address") };
    Browser::open(&format!("http://{addr}/{page}"))
}

#[test]
fn a_websocket_gets_1001_and_reconnects_to_the_successor() {
    let server = pages();
    let Some(_browser) = open(&server, "websocket.html") else { return };
    server.wait_for("REPORT text grüß dich of 70010, protocol a");
    server.wait_for("REPORT bytes 0,255,7 in generation 1");
    server.signal(Signal::SIGHUP);
    server.wait_for("REPORT closed 1001 clean true opened true");
    server.wait_for("WEBSOCKET ended in Some((1001,");
    server.wait_for("REPORT bytes 0,255,7 in generation 2");
    until("one generation", || server.alive().len() == 1);
    // A stop: no process is left that the page could report to.
    server.settled();
    server.signal(Signal::SIGTERM);
    server.wait_for_nth("WEBSOCKET ended in Some((1001,", 2);
    server.wait_gone();
}

#[test]
fn an_event_source_goes_on_in_the_next_generation() {
    let server = pages();
    let Some(_browser) = open(&server, "events.html") else { return };
    server.wait_for(r#"REPORT lines "one\ntwo\n""#);
    server.wait_for("REPORT first of generation 1");
    for generation in 2..=4 {
        server.signal(Signal::SIGHUP);
        server.wait_for_nth("REPORT reconnecting true", generation - 1);
        server.wait_for(&format!("REPORT first of generation {generation}"));
        server.settled();
    }
    assert_eq!(server.count("REPORT WRONG"), 0, "an event was missed, or came twice");
}

#[test]
fn a_page_of_another_site_can_not_change_anything() {
    let server = pages();
    let Some(_browser) = open(&server, "forgery.html") else { return };
    server.wait_for("CHANGE 200 same-origin, Origin is of the host");
    server.wait_for_nth("CHANGE 403 cross-site, Origin is of another", 2);
    assert_eq!(server.count("CHANGE "), 3);
}
