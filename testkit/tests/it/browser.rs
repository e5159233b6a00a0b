//! What a real browser sees of WebSockets and of server-sent events, over handovers and a stop, and what it says of requests
//! across sites; how it sends a form with files.
//! Skipped where there is no chromium.

#[cfg(feature = "multipart")]
use serde_json::json;
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

/// Filled in and sent as a person does: names of other scripts, an empty file, and one longer than what is kept in memory.
#[cfg(feature = "multipart")]
#[test]
fn a_form_with_files_arrives_whole() {
    let server = Proc::start_as_said(env!("CARGO_BIN_EXE_uploads"), &["127.0.0.1:0"]);
    let Some(browser) = open(&server, "") else { return };
    let folder = tempfile::tempdir().unwrap();
    let files = [("größe \"1\".txt", 12), ("empty.bin", 0), ("long.png", 3_000_000)].map(|(name, bytes)| {
        let path = folder.path().join(name);
        std::fs::write(&path, vec![b'x'; bytes]).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let mut page = browser.page();
    // Before the page is complete the browser may replace its nodes.
    let forms = "document.readyState === 'complete' && document.forms.length";
    until("the page is there", || page.evaluate(forms) == 1);
    let input = json!({ "expression": "document.querySelector('[name=file]')" });
    let input = page.call("Runtime.evaluate", input)["result"]["objectId"].take();
    page.call("DOM.setFileInputFiles", json!({ "objectId": input, "files": files }));
    // The answer goes to a frame, so that this page stays.
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('iframe'), { name: 'answer' }));
         const form = document.forms[0];
         form.target = 'answer';
         form.elements.title.value = 'Grüße, 世界';
         form.elements.copies.value = '2';
         form.querySelector('button').click()",
    );
    // A browser writes quotes in a name so.
    let answer = "frames.answer.document.body.innerText";
    let expected = "Grüße, 世界, 2 copies\ngröße %221%22.txt (text/plain): 12 bytes\n\
                    empty.bin (application/octet-stream): 0 bytes\nlong.png (image/png): 3000000 bytes\n";
    until("the answer is there", || page.evaluate(answer) != "");
    assert_eq!(page.evaluate(answer), expected);
    server.stop();
}
