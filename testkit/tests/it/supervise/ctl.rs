//! heirloomctl and a supervised service: the pid file names the supervisor for good, and the result of an upgrade comes
//! by it and a signal alone as well.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::{Exit, Signal, put_script, until};

use super::{PROGRAM, Place, Supervised};

const CTL: &str = env!("CARGO_BIN_EXE_ctl");

/// A supervised service with a control socket.
struct Bench {
    supervised: Supervised,
    place: Place,
}

impl Bench {
    fn start(flags: &[&str]) -> Bench {
        let place = Place::new();
        let control = place.folder.path().join("control");
        let flags = [&["--control", control.to_str().unwrap()], flags].concat();
        Bench { supervised: place.supervised(&[], &flags), place }
    }

    fn control(&self) -> PathBuf {
        self.place.folder.path().join("control")
    }

    /// The JSON object of an action by the control socket or the pid file.
    #[track_caller]
    fn ctl(&self, action: &str, by: &str) -> Value {
        let target = if by == "--control" { self.control() } else { self.place.pid_file() };
        let output = Command::new(CTL).args([action, "--json", by]).arg(target).output().unwrap();
        let value: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
        assert_eq!(value["ok"], output.status.success(), "{value}");
        value
    }

    /// It succeeds, and names the process that serves as generation `n`.
    #[track_caller]
    fn upgrades_to(&self, n: usize, by: &str) {
        let value = self.ctl("upgrade", by);
        assert_eq!(value["ok"], true, "{value}");
        self.supervised.serves(n);
        assert_eq!(value["pid"], self.supervised.server.serving().as_raw());
        assert_eq!(self.place.named(), format!("{}\n", self.supervised.supervisor));
    }
}

const BOTH: [&str; 2] = ["--control", "--pid-file"];

#[test]
fn an_upgrade_names_the_new_generation_and_not_the_supervisor() {
    let bench = Bench::start(&[]);
    for n in 2..=7 {
        bench.upgrades_to(n, BOTH[n % 2]);
    }
    let status = bench.ctl("status", "--control");
    assert_eq!(status["supervisor"], bench.supervised.supervisor.as_raw(), "{status}");
    assert_eq!((&status["generation"], &status["phase"]), (&Value::from(7), &Value::from("serving")));
    bench.supervised.stops_well();
    assert!(!bench.place.pid_file().exists() && !bench.control().exists());
}

#[test]
fn a_failed_upgrade_is_a_failure_within_the_ready_timeout() {
    let bench = Bench::start(&["--ready-timeout-ms", "1000"]);
    let sleeps = bench.place.folder.path().join("sleeps");
    put_script(&sleeps, "#!/bin/sh\nexec sleep 1000\n");
    let mut n = 1;
    for file in [sleeps.to_str().unwrap(), "/bin/false", "/nonexistent"] {
        bench.place.put(file);
        for by in BOTH {
            let (begin, value) = (Instant::now(), bench.ctl("upgrade", by));
            assert_eq!(
                (&value["ok"], &value["error"]),
                (&Value::from(false), &Value::from("failed")),
                "{value}"
            );
            assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        }
        bench.place.put(PROGRAM);
        for by in BOTH {
            n += 1;
            bench.upgrades_to(n, by);
        }
    }
    bench.supervised.stops_well();
}

#[test]
fn after_a_crash_and_a_new_supervisor_both_ways_work() {
    let bench = Bench::start(&[]);
    let mut n = 1;
    for _ in 0..2 {
        bench.supervised.server.signal_to(bench.supervised.server.serving(), Signal::SIGKILL);
        n += 1;
        bench.supervised.serves(n);
        until("the new generation has the control socket", || {
            bench.ctl("status", "--control")["generation"] == n
        });
        for by in BOTH {
            n += 1;
            bench.upgrades_to(n, by);
        }
        bench.place.put_copy();
        n += 1;
        bench.upgrades_to(n, "--pid-file");
        bench.supervised.server.wait_for("supervisor: continues as the new version of");
    }
    bench.supervised.stops_well();
}

#[test]
fn a_drain_ends_the_service_and_its_supervisor() {
    let bench = Bench::start(&[]);
    bench.upgrades_to(2, "--control");
    let mut client = bench.supervised.server.client();
    client.ask("/sleep/1000");
    bench.supervised.server.in_flight(bench.supervised.server.serving(), 1);
    let value = bench.ctl("drain", "--control");
    assert_eq!(
        (&value["ok"], &value["requests_in_flight"]),
        (&Value::from(true), &Value::from(1)),
        "{value}"
    );
    assert!(!bench.supervised.server.alive().contains(&bench.supervised.supervisor), "it has ended");
    assert_eq!(client.answer().ok().text(), "ok\n");
    assert_eq!(bench.supervised.server.wait_exit(bench.supervised.supervisor), Exit::Status(0));
}

/// The generation that serves goes on, and is the service itself from then on.
#[test]
fn without_its_supervisor_a_generation_takes_the_pid_file() {
    let bench = Bench::start(&[]);
    bench.upgrades_to(2, "--pid-file");
    let serving = bench.supervised.server.serving();
    bench.supervised.signal(Signal::SIGKILL);
    until("the pid file names it", || bench.place.named() == format!("{serving}\n"));
    let value = bench.ctl("upgrade", "--pid-file");
    assert_eq!(value["ok"], true, "{value}");
    assert_eq!(value["pid"], bench.supervised.server.serving().as_raw());
    bench.supervised.server.signal_to(bench.supervised.server.serving(), Signal::SIGTERM);
    bench.supervised.server.wait_gone();
    assert!(!bench.place.pid_file().exists());
}
