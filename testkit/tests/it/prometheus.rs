//! A real Prometheus scrapes over handovers, and understands the queries of `contrib/`. Skipped where there is none.

use std::process::{Child, Command, Stdio};

use serde_json::Value;
use testkit::{Addr, Crowd, Outcome, Proc, until};

const CONTRIB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib");

/// Ends with the test.
struct Prometheus {
    child: Child,
    addr: Addr,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(target: &Addr) -> Option<Prometheus> {
        if Command::new("promtool").arg("--version").output().is_err() {
            testkit::skip("no prometheus here (apt-get install prometheus)");
            return None;
        }
        let Addr::Tcp(target) = target else { panic!("no address") };
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 250ms, scrape_timeout: 250ms }}\n\
             rule_files: [{CONTRIB}/prometheus/heirloom.rules.yml]\n\
             scrape_configs: [{{ job_name: heirloom, static_configs: [{{ targets: ['{target}'] }}] }}]\n"
        );
        std::fs::write(&config, text).unwrap();
        // Nothing else takes a port of this address.
        let free = std::net::TcpListener::bind("127.0.0.7:0").unwrap().local_addr().unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={free}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Prometheus { child, addr: Addr::Tcp(free), _folder: folder })
    }

    /// None while it does not answer.
    fn query(&self, expression: &str) -> Option<Vec<Value>> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let Outcome::Ok(answer) = testkit::get(&self.addr, &format!("/api/v1/query?query={encoded}")) else {
            return None;
        };
        let mut answer: Value = serde_json::from_str(answer.text()).ok()?;
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        let Value::Array(result) = answer["data"]["result"].take() else { panic!("{expression}") };
        Some(result)
    }

    /// The value of the only series.
    fn number(&self, expression: &str) -> Option<f64> {
        let result = self.query(expression)?;
        let [one] = &*result else { return None };
        one["value"][1].as_str()?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_prometheus_sees_ten_handovers_without_a_reset_or_a_gap() {
    let flags = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--probation-ms", "300"];
    let server = Proc::start_as_said(env!("CARGO_BIN_EXE_kitchen_sink"), &flags);
    let Some(prometheus) = Prometheus::start(&server.addrs()[1]) else { return };
    until("it scrapes", || prometheus.number("heirloom_generation") == Some(1.0));
    let crowd = Crowd::of(&server.addr());
    for generation in 2..=11 {
        server.handover();
        server.settled();
        // A scrape of each generation.
        until("it scrapes", || prometheus.number("heirloom_generation") == Some(f64::from(generation)));
    }
    crowd.stop();
    // The count of the last handover came with the last words of the tenth generation.
    let handovers = "heirloom_handover_duration_seconds_count{outcome=\"committed\"}";
    until("all are counted", || prometheus.number(handovers) == Some(10.0));
    let counters = "{__name__=~\"heirloom_.*_(total|sum|count|bucket)|http_server_.*_(sum|count|bucket)\"}";
    let counters = prometheus.query(&format!("count by (__name__) ({counters})")).expect("it answers");
    assert!(counters.len() > 20, "{counters:?}");
    for counter in &counters {
        let name = counter["metric"]["__name__"].as_str().unwrap();
        assert_eq!(prometheus.number(&format!("sum(resets({name}[1h]))")), Some(0.0), "{name}");
    }
    assert_eq!(prometheus.number("min_over_time(up[1h])"), Some(1.0));
    assert!(prometheus.number("count_over_time(up[1h])") > Some(20.0));
    every_query_is_understood(&prometheus);
}

/// Those of the dashboard, and that the rules are loaded.
fn every_query_is_understood(prometheus: &Prometheus) {
    let text = std::fs::read_to_string(format!("{CONTRIB}/grafana/heirloom.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut queries = 0;
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    for target in targets.chain(dashboard["annotations"]["list"].as_array().unwrap()) {
        let query = target["expr"].as_str().unwrap();
        let query = query.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$instance", ".*");
        let found = prometheus.query(&query).expect("it answers");
        // These have nothing to show in a test.
        let may_be_empty = query.contains("> 0") || query.contains("\"failed\"");
        assert!(!found.is_empty() || may_be_empty, "nothing for {query}");
        queries += 1;
    }
    assert!(queries > 20, "{queries}");
    let rules = testkit::get(&prometheus.addr, "/api/v1/rules").ok();
    assert!(rules.text().matches("\"name\":\"Heirloom").count() >= 9, "{}", rules.text());
}

#[test]
fn the_alert_rules_hold() {
    let tests = format!("{CONTRIB}/prometheus/heirloom.test.yml");
    let Ok(output) = Command::new("promtool").args(["test", "rules", &tests]).output() else {
        testkit::skip("no promtool here (apt-get install prometheus)");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
