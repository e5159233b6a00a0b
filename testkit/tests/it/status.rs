//! What the admin listener shows: counters that go on over handovers, the history of the generations, and the page in a
//! real browser.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use testkit::{Addr, Browser, Crowd, Page, Proc, get, until};

use crate::TESTKIT;

fn kitchen_sink(flags: &[&str]) -> (Proc, Addr) {
    let flags = [&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], flags].concat();
    let server = Proc::start_as_said(env!("CARGO_BIN_EXE_kitchen_sink"), &flags);
    let admin = server.addrs().swap_remove(1);
    (server, admin)
}

fn status(admin: &Addr) -> Value {
    serde_json::from_str(get(admin, "/status.json").ok().text()).expect("JSON")
}

/// Each counter, and each sum, count and bucket of a histogram.
fn counters(admin: &Addr) -> BTreeMap<String, f64> {
    let answer = get(admin, "/metrics").ok();
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        let bare = name.split('{').next()?;
        let counts = ["_total", "_bucket", "_sum", "_count"].iter().any(|end| bare.ends_with(end));
        counts.then(|| (name.to_owned(), value.parse().expect("a number")))
    };
    answer.text().lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}

#[track_caller]
fn assert_none_went_back(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) {
    for (name, then) in before {
        let now = after.get(name).unwrap_or_else(|| panic!("{name} is gone"));
        assert!(now >= then, "{name}: {now} after {then}");
    }
}

#[test]
fn no_counter_goes_back_over_handovers() {
    let (server, admin) = kitchen_sink(&["--probation-ms", "300"]);
    let crowd = Crowd::of(&server.addr());
    server.get("/sleep/1").ok();
    let route = "{http_request_method=\"GET\",http_route=\"/sleep/{ms}\",http_response_status_class=\"2xx\"}";
    let slept = format!("http_server_request_duration_seconds_count{route}");
    let mut before = counters(&admin);
    assert_eq!(before[&slept], 1.0);
    for n in 2..=4 {
        server.hup_to_probation();
        // This is the answer of the successor, which has the counts since GO.
        let during = counters(&admin);
        assert_none_went_back(&before, &during);
        server.settled();
        server.get("/sleep/1").ok();
        before = counters(&admin);
        assert_none_went_back(&during, &before);
        assert_eq!(before[&slept], f64::from(n));
    }
    // What each process counted, and none twice. A client may have its answer before it is counted.
    let sent = crowd.stop().answered as f64;
    let counted = || counters(&admin)["heirloom_requests_total"];
    let (first, scrapes) = (counted(), 9.0);
    assert!(first >= sent && first <= sent + 4.0 + scrapes, "{first} of {sent}");
}

#[test]
fn the_history_survives_handovers_and_names_failures() {
    let folder = tempfile::tempdir().unwrap();
    let fault = folder.path().join("fault");
    let flags =
        ["faulty", "--fault", fault.to_str().unwrap(), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let server = Proc::start_as_said(TESTKIT, &flags);
    let admin = server.addrs().swap_remove(1);
    server.handover();
    server.settled();
    std::fs::write(&fault, "exit-100ms-before").unwrap();
    server.hup();
    until("the failure is noted", || status(&admin)["generations"][0]["failures"][0].is_object());
    std::fs::remove_file(&fault).unwrap();
    server.handover();
    server.settled();
    let history = status(&admin)["generations"].take();
    let numbers: Vec<_> = history.as_array().unwrap().iter().map(|one| one["generation"].clone()).collect();
    assert_eq!(numbers, [json!(3), json!(2), json!(1)], "{history}");
    for (n, newer) in [(1, 0), (2, 1)] {
        let (one, next) = (&history[n], &history[newer]);
        assert!(one["until_ms"].as_u64() >= one["since_ms"].as_u64() && one["since_ms"].is_u64(), "{one}");
        assert!(one["drain_ms"].is_u64(), "{one}");
        assert_eq!(next["steps"].as_object().map(serde_json::Map::len), Some(5), "{next}");
    }
    assert!(history[0]["until_ms"].is_null(), "{history}");
    let reason = history[1]["failures"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("exited with status"), "{reason}");
}

/// Those of refused requests.
fn refused(admin: &Addr) -> Vec<Value> {
    let closes = status(admin)["last_closes"].take();
    closes.as_array().unwrap().iter().filter(|one| one["reason"] == "refused").cloned().collect()
}

#[test]
fn the_last_closes_survive_a_handover_and_its_drain_adds_more() {
    let (server, admin) = kitchen_sink(&["--probation-ms", "0"]);
    let mut client = server.client();
    client.send("GET /ok HTTP/1.1\r\nHost: here\r\n\r\nGET /ok HTTP/1.1\r\n\r\n");
    client.answer().ok();
    until("the second request is refused", || refused(&admin).len() == 1);
    let closed = refused(&admin).remove(0);
    assert_eq!((&closed["requests"], &closed["request"]), (&json!(2), &Value::Null), "{closed}");
    assert_eq!(closed["listener"], json!("127.0.0.1:0"), "{closed}");
    assert!(closed["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{closed}");
    assert!(closed["at_ms"].is_u64() && closed["age_ms"].is_u64(), "{closed}");

    // Too much of it has been received for a successor.
    let mut slow = server.client();
    slow.send("POST /echo?secret HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n5000\r\n");
    slow.send(vec![b'x'; 0x5000]);
    server.in_flight(server.serving(), 1);
    server.handover();
    assert_eq!(refused(&admin), std::slice::from_ref(&closed));
    slow.send("\r\nno chunk\r\n");
    assert!(!slow.answer().is_ok());
    server.settled();
    until("the other one is there", || refused(&admin).len() == 2);
    let both = refused(&admin);
    assert_eq!((&both[0]["request"], &both[1]), (&json!("POST /echo"), &closed));
}

/// The page, with its script, in a browser that is skipped where there is none.
fn open(admin: &Addr) -> Option<(Browser, Page)> {
    let Addr::Tcp(addr) = admin else { panic!("no address") };
    let browser = Browser::open(&format!("http://{addr}/status"))?;
    let page = browser.page();
    Some((browser, page))
}

#[track_caller]
fn until_page(page: &mut Page, what: &str, expression: &str) {
    // While it loads, there is nothing of it yet.
    let safe = format!("(() => {{ try {{ return {expression} }} catch {{ return false }} }})()");
    until(what, || page.evaluate(&safe) == json!(true));
}

#[test]
fn the_page_renews_itself_over_a_handover_and_fits_a_phone() {
    let (server, admin) = kitchen_sink(&["--probation-ms", "300"]);
    let Some((_browser, mut page)) = open(&admin) else { return };
    let crowd = Crowd::of(&server.addr());
    until_page(&mut page, "it is live", "live.textContent == 'live'");
    until_page(&mut page, "the load shows", "/\\/ok|\\/pid/.test(routes.textContent)");
    // Each scheme has its own background, and no text of the same colour.
    let colours =
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color].join()";
    let mut seen = Vec::new();
    for scheme in ["light", "dark"] {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        page.call("Emulation.setEmulatedMedia", features);
        seen.push(page.evaluate(colours));
    }
    assert_eq!(
        seen,
        [json!("rgb(246, 247, 249),rgb(27, 31, 36)"), json!("rgb(14, 17, 22),rgb(230, 234, 239)")]
    );
    // Nothing is wider than a phone; tables scroll by themselves.
    for width in [400, 1100] {
        let screen = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width == 400 });
        page.call("Emulation.setDeviceMetricsOverride", screen);
        assert_eq!(
            page.evaluate("document.documentElement.scrollWidth <= innerWidth"),
            json!(true),
            "{width}"
        );
    }
    server.handover();
    until_page(&mut page, "the next generation shows", "head.textContent.includes('generation 2')");
    until_page(&mut page, "its start shows", "/probation [\\d.]+ m?s/.test(generations.textContent)");
    until_page(
        &mut page,
        "the drain of the first shows",
        "/drain [\\d.]+ m?s/.test(generations.textContent)",
    );
    until_page(&mut page, "it is live again", "live.textContent == 'live'");
    crowd.stop();
}

#[test]
fn the_page_works_while_the_server_drains_and_without_scripts() {
    let (server, admin) = kitchen_sink(&["--lame-duck-ms", "600000"]);
    let Some((_browser, mut page)) = open(&admin) else { return };
    until_page(&mut page, "it is live", "live.textContent == 'live'");
    server.signal(testkit::Signal::SIGTERM);
    until_page(&mut page, "the phase shows", "head.textContent.includes('lame duck')");
    page.call("Emulation.setScriptExecutionDisabled", json!({ "value": true }));
    page.call("Page.reload", json!({}));
    until_page(
        &mut page,
        "it has no script",
        "document.readyState == 'complete' && typeof source == 'undefined'",
    );
    // DevTools may still look at it.
    until_page(
        &mut page,
        "all is there",
        "['head', 'tiles', 'chart', 'routes', 'handlers', 'generations', 'closes'].every(id => document.getElementById(id).textContent)",
    );
}
