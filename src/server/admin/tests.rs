//! The report as page and as JSON.

use std::time::{Duration, SystemTime};

#[cfg(feature = "json")]
use super::json;
use super::page;
use super::report::{Bar, Latency, Report, RouteRow};
use crate::base::history::{FailedHandover, Generation};
use crate::base::last_closes::ClosedConnection;
use crate::base::phase::Phase;
use crate::base::status::{RunningHandler, Stats};

/// Everything at its longest, with what an attacker would send.
fn report() -> Report {
    // As long as the page shows it.
    const EVIL: &str = "/<script>alert(1)</script>\"'&\u{1b}[31m and much more: one two three four five six seven eight nine ten eleven, twelve";
    assert!(EVIL.chars().count() > 110);
    let latency = Latency([Some(0.000_05), Some(0.009), Some(70.0)]);
    let row = |n: u64| RouteRow {
        route: format!("{EVIL}{n}/{{id}}"),
        method: "GET",
        requests: 1_234_567,
        errors: n,
        latency,
    };
    let mut stats = Stats::new(50, Phase::Serving);
    (stats.requests, stats.open, stats.connections_limit) = (1_234_567, 3, 912);
    let steps =
        || ["spawn", "ready", "release", "accept", "probation"].map(|name| (name.to_owned(), 1_234)).to_vec();
    let failed = FailedHandover { at: 1_795_954_085_735, reason: EVIL.to_owned(), steps: steps() };
    let generation = |number: u32| Generation {
        number,
        pid: 4_194_304,
        version: Some(EVIL.to_owned()),
        steps: steps(),
        since: Some(1_795_954_085_735),
        until: Some(1_795_954_185_735).filter(|_| number < 50),
        drained: Some(61_000).filter(|_| number < 48),
        crash: Some("was killed by SIGKILL".to_owned()).filter(|_| number == 48),
        failures: std::iter::repeat_n(failed.clone(), 2).collect(),
    };
    Report {
        program: EVIL.to_owned(),
        version: Some(EVIL.to_owned()),
        pid: 1,
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_954_285_735),
        stats,
        chart: (1..=60)
            .map(|n| Bar { age: 600 - 10 * n, seconds: 10, requests: 1_234.5, errors: 10.0 })
            .collect(),
        latency,
        routes: (0..40).map(row).collect(),
        handlers: (0..40)
            .map(|n| {
                RunningHandler::new(
                    &format!("GET {EVIL}"),
                    Duration::from_millis(n * 100),
                    "worker".to_owned(),
                )
            })
            .collect(),
        closes: vec![("idle", 7, 1)],
        last_closes: (0..50)
            .map(|n| {
                let close = ClosedConnection {
                    at: 1_795_954_085_735,
                    listener: EVIL.to_owned(),
                    client: "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535".to_owned(),
                    requests: n,
                    age: 61_000,
                    request: format!("GET {EVIL}"),
                };
                ("response_timeout".to_owned(), close)
            })
            .collect(),
        generations: (1..=50).rev().map(generation).collect(),
    }
}

#[test]
fn the_page_is_small_and_shows_nothing_unescaped() {
    let html = page::html(&report());
    // As the longest it is still less than the page's bound.
    assert!(html.len() < 60 << 10, "{} bytes", html.len());
    assert!(!html.contains("<script>alert") && !html.contains('\u{1b}'));
    assert_eq!(html.matches("<script>").count(), 1, "the page's own");
    for outside in ["http:", "https:", "//", "@import", "url("] {
        // A comment of the script is no address.
        assert_eq!(html.matches(outside).count(), usize::from(outside == "//"), "{outside}");
    }
    for shown in [
        "1,234,567",
        "serves</span>",
        "drains</span> for 1 min 40 s",
        "drain 1 min 1 s",
        "handover failed",
        "crashed</span>: was killed by SIGKILL",
        "50 µs",
    ] {
        assert!(html.contains(shown), "{shown} in\n{html}");
    }
}

#[test]
fn what_changes_has_an_id() {
    let body = page::body(&report());
    let starts = body.matches("<header").count() + body.matches("<section").count();
    assert_eq!((starts, body.matches(" id=").count()), (7, 7));
}

#[cfg(feature = "json")]
#[test]
fn the_json_is_what_the_page_shows() {
    let text = json::text(&report());
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    for (pointer, expected) in [
        ("/generation", serde_json::json!(50)),
        ("/requests/per_second", serde_json::json!(1234.5)),
        ("/requests/p99_ms", serde_json::json!(70000.0)),
        ("/connections/limit", serde_json::json!(912)),
        ("/routes/39/errors", serde_json::json!(39)),
        ("/handlers/7/age_ms", serde_json::json!(700)),
        ("/closes/0/last_ten_minutes", serde_json::json!(1)),
        ("/last_closes/49/requests", serde_json::json!(49)),
        ("/last_closes/0/reason", serde_json::json!("response_timeout")),
        ("/generations/1/steps/probation_ms", serde_json::json!(1234)),
        ("/generations/0/until_ms", serde_json::Value::Null),
        ("/generations/1/crash", serde_json::Value::Null),
        ("/generations/2/crash", serde_json::json!("was killed by SIGKILL")),
        ("/generations/49/failures/1/at_ms", serde_json::json!(1_795_954_085_735_u64)),
        ("/rates/59/errors_per_second", serde_json::json!(10.0)),
    ] {
        assert_eq!(value.pointer(pointer), Some(&expected), "{pointer}");
    }
}
