//! The metrics in the text format of Prometheus, version 0.0.4. Names and labels of requests are those of OpenTelemetry's
//! conventions for HTTP servers, as Prometheus spells them; those of the lifecycle begin with `heirloom_`.

use std::fmt::Write;

use crate::base::requests::{Recorded, Totals};
use crate::base::status::Stats;

/// All metrics that the server has itself.
pub(in crate::server) fn text(
    stats: &Stats,
    ready: bool,
    totals: &Totals,
    program_version: Option<&str>,
) -> String {
    let mut out = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, rows: &[(String, u64)]| {
        let _ = writeln!(out, "# HELP heirloom_{name} {help}\n# TYPE heirloom_{name} {kind}");
        for (labels, value) in rows {
            let _ = writeln!(out, "heirloom_{name}{labels} {value}");
        }
    };
    let one = |value: u64| [(String::new(), value)];
    let program = program_version.map(|version| format!(",program_version=\"{}\"", LabelText(version)));
    let labels = format!("{{version=\"{}\"{}}}", env!("CARGO_PKG_VERSION"), program.unwrap_or_default());
    metric("build_info", "gauge", "Versions of heirloom and of the program.", &[(labels, 1)]);
    metric("generation", "gauge", "Generation of this process.", &one(stats.generation.into()));
    metric("ready", "gauge", "1 if new clients are accepted.", &one(ready.into()));
    metric("connections_accepted_total", "counter", "Connections accepted.", &one(stats.accepted));
    metric("connections_open", "gauge", "Connections open.", &one(stats.open));
    metric("connections_limit", "gauge", "Connections that may be open.", &one(stats.connections_limit));
    metric("requests_total", "counter", "Requests answered.", &one(stats.requests));
    let classes: Vec<(String, u64)> =
        (1..).zip(stats.responses).map(|(class, n)| (format!("{{class=\"{class}xx\"}}"), n)).collect();
    metric("responses_total", "counter", "Responses by class of status.", &classes);
    metric("handler_panics_total", "counter", "Handlers that panicked.", &one(stats.panics));
    let replaced = one(stats.workers_replaced);
    metric("workers_replaced_total", "counter", "Workers that died and were replaced.", &replaced);
    metric(
        "connections_handed_over_total",
        "counter",
        "Connections passed on to the next generation.",
        &one(stats.handed_over),
    );
    let passed = one(stats.deadlines_passed);
    metric("handler_deadlines_passed_total", "counter", "Handlers that missed their deadline.", &passed);
    let past = one(stats.handlers_past_deadline);
    metric("handlers_past_deadline", "gauge", "Handlers running past their deadline.", &past);
    let handshakes = [("full", stats.handshakes_full), ("resumed", stats.handshakes_resumed)]
        .map(|(kind, n)| (format!("{{kind=\"{kind}\"}}"), n));
    metric("tls_handshakes_total", "counter", "TLS handshakes completed, by kind.", &handshakes);
    metric("requests_in_flight", "gauge", "Requests started and not finished.", &one(stats.in_flight));
    metric("connections_queued", "gauge", "Connections waiting for a worker.", &one(stats.queued));
    metric("workers", "gauge", "Workers in all pools.", &one(stats.workers));
    metric("detached_threads", "gauge", "Threads of streams and upgraded connections.", &one(stats.detached));
    metric("buffered_bytes", "gauge", "Bytes of connections in memory.", &one(stats.buffered_bytes));
    let limit = one(stats.buffered_bytes_limit);
    metric("buffered_bytes_limit", "gauge", "Bytes of connections that may be in memory.", &limit);
    metric("temporary_bytes", "gauge", "Bytes of bodies in files.", &one(stats.temporary_bytes));
    let limit = one(stats.temporary_bytes_limit);
    metric("temporary_bytes_limit", "gauge", "Bytes of bodies that may be in files.", &limit);
    let closes: Vec<(String, u64)> =
        stats.closes.iter().map(|(reason, n)| (format!("{{reason=\"{reason}\"}}"), *n)).collect();
    metric("connections_closed_total", "counter", "Connections closed, by reason.", &closes);
    let kept: Vec<(String, u64)> =
        stats.tls_kept.iter().map(|(reason, n)| (format!("{{reason=\"{reason}\"}}"), *n)).collect();
    metric("tls_connections_kept_total", "counter", "TLS connections that could not move, by reason.", &kept);
    write_totals(totals, &mut out);
    out
}

/// The histograms, if somebody wants them.
fn write_totals(totals: &Totals, out: &mut String) {
    let mut last = "";
    for (recorded, total) in totals {
        let (name, help) = match recorded {
            Recorded::Duration { .. } => ("http_server_request_duration_seconds", "Duration of requests."),
            Recorded::QueueWait => ("heirloom_queue_wait_seconds", "Time until a worker took a connection."),
            Recorded::RequestBytes => ("http_server_request_body_size_bytes", "Size of request bodies."),
            Recorded::ResponseBytes => ("http_server_response_body_size_bytes", "Size of response bodies."),
            Recorded::Handover { .. } => ("heirloom_handover_duration_seconds", "Duration of handovers."),
        };
        if name != last {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
            last = name;
        }
        let labels = match recorded {
            Recorded::Duration { route, method, class } => format!(
                "http_request_method=\"{method}\",http_route=\"{}\",http_response_status_class=\"{class}xx\"",
                LabelText(route)
            ),
            Recorded::Handover { outcome } => format!("outcome=\"{outcome}\""),
            Recorded::QueueWait | Recorded::RequestBytes | Recorded::ResponseBytes => String::new(),
        };
        total.write_samples(name, &labels, out);
    }
}

/// A label's value, with the escapes of the format.
struct LabelText<'a>(&'a str);

impl std::fmt::Display for LabelText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::close_reason::CloseReason;
    use crate::base::phase::Phase;
    use crate::base::requests::SeriesKey;
    use crate::base::status::AllCounters;

    fn metrics(counters: &AllCounters) -> String {
        let mut stats = Stats::new(3, Phase::Serving);
        counters.add_up(&mut stats);
        text(&stats, true, &counters.requests.totals(), Some("1.2 \"beta\""))
    }

    #[test]
    fn counts_are_samples() {
        let all = AllCounters::default();
        let counters = all.register();
        counters.response(200);
        counters.response(503);
        counters.closed(CloseReason::Idle);
        assert!(!metrics(&all).contains("histogram"), "nobody wants any");
        all.requests.want();
        let mut recorder = all.requests.recorder().unwrap();
        recorder.duration(SeriesKey::new(1, "GET", 200), Duration::from_millis(2), || "/\"\\".to_owned());
        let text = metrics(&all);
        for line in [
            "heirloom_requests_total 2",
            "heirloom_responses_total{class=\"2xx\"} 1",
            "heirloom_connections_closed_total{reason=\"idle\"} 1",
            "heirloom_generation 3",
            concat!(
                "heirloom_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\",program_version=\"1.2 \\\"beta\\\"\"} 1"
            ),
            "http_server_request_duration_seconds_count{http_request_method=\"GET\",http_route=\"/\\\"\\\\\",\
             http_response_status_class=\"2xx\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }

    /// The name, type and text of each metric, in their order.
    #[test]
    fn each_metric_is_in_the_docs() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        let docs = std::fs::read_to_string(path).unwrap();
        let documented: Vec<&str> = docs.lines().filter(|line| line.starts_with("| `")).collect();
        let all = AllCounters::default();
        all.requests.want();
        let mut recorder = all.requests.recorder().unwrap();
        recorder.duration(SeriesKey::new(0, "GET", 200), Duration::ZERO, String::new);
        all.requests.handover(true, Duration::ZERO);
        let text = metrics(&all);
        let mut names = text.lines().filter_map(|line| line.strip_prefix("# HELP "));
        let mut kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        for line in documented {
            let (name, help) = names.next().unwrap().split_once(' ').unwrap();
            let kind = kinds.next().unwrap().rsplit(' ').next().unwrap();
            let begin = format!("| `{name}` | {kind} | {}", help.trim_end_matches('.'));
            assert!(line.starts_with(&begin), "{line}\nis not\n{begin}");
        }
        assert_eq!(names.next(), None, "not in docs/metrics.md");
    }
}
