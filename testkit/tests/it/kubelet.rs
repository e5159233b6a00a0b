//! A rolling update of the Deployment in `contrib/kubernetes`, under load. The pods are real processes, the test plays
//! Kubernetes:
//!
//! - the controller starts a pod and waits until it is ready before it stops an old one, and does not wait for the end of that;
//! - the kubelet probes each pod until its end, sends TERM, and would send KILL after the grace period;
//! - the endpoints drop a pod seconds after its readiness probe has failed. Kubernetes does so at the deletion already, but each
//!   node learns of it on its own, and a load balancer of a cloud by its own probes;
//! - kube-proxy chooses an endpoint for each new connection, which stays there, and retries nothing.
//!
//! The times are those of the manifest. Only the probes are more frequent, so that a pod is soon ready.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use heirloom_testkit::{Load, RunningLoad};
use testkit::{Addr, Begin, Client, Exit, Outcome, Proc, Signal, beside, get, until};

const MANIFEST: &str = include_str!("../../../contrib/kubernetes/app.yaml");
const REPLICAS: usize = 3;
const UPDATES: usize = 3;
const PROBE_PERIOD: Duration = Duration::from_millis(200);

/// From the first failure of the readiness probe until no new connection goes to the pod.
const LATENESS: Duration = Duration::from_secs(3);

/// The number that follows the first `key`.
#[track_caller]
fn number(text: &str, key: &str) -> u64 {
    let (_, rest) = text.split_once(key).unwrap_or_else(|| panic!("no {key}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number behind {key}"))
}

/// The lines of the manifest below `name`, which are indented further.
#[track_caller]
fn probe(name: &str) -> String {
    let (_, rest) = MANIFEST.split_once(name).unwrap_or_else(|| panic!("no {name}"));
    let lines = rest.lines().skip(1).take_while(|line| line.starts_with("            "));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The path that the manifest probes by HTTP at the admin listener.
#[track_caller]
fn probed_path(name: &str) -> String {
    let probe = probe(name);
    assert!(probe.contains("port: admin"), "{probe}");
    let (_, rest) = probe.split_once("path: ").expect("a path");
    rest.lines().next().unwrap().to_owned()
}

/// The times that the manifest says in its comments for the program, and in its fields for Kubernetes.
struct Times {
    lame_duck: Duration,
    drain: Duration,
    stop_timeout: Duration,
    grace_period: Duration,
}

impl Times {
    fn of_the_manifest() -> Times {
        let secs = |key: &str| Duration::from_secs(number(MANIFEST, key));
        Times {
            lame_duck: secs("lame_duck(Duration::from_secs("),
            drain: secs(".drain(Duration::from_secs("),
            stop_timeout: secs("stop_timeout(Duration::from_secs("),
            grace_period: secs("terminationGracePeriodSeconds: "),
        }
    }
}

#[test]
fn the_times_of_the_manifest_fit_together() {
    let Times { lame_duck, drain, stop_timeout, grace_period } = Times::of_the_manifest();
    assert!(lame_duck + drain + Duration::from_secs(5) <= grace_period);
    assert_eq!(stop_timeout, grace_period);
    let ready = probe("readinessProbe:");
    let noticed = number(&ready, "periodSeconds: ") * number(&ready, "failureThreshold: ");
    assert!(Duration::from_secs(noticed) + LATENESS < lame_duck);
    // A pod that is ready before another goes, and no hook, whose time would count.
    assert_eq!((number(MANIFEST, "maxSurge: "), number(MANIFEST, "maxUnavailable: ")), (1, 0));
    assert!(!MANIFEST.contains("preStop:"));
}

/// The endpoints of the service, and kube-proxy.
#[derive(Default)]
struct Service {
    endpoints: Mutex<Vec<Addr>>,
    connections: AtomicUsize,
}

impl Service {
    fn add(&self, addr: &Addr) {
        self.endpoints.lock().unwrap().push(addr.clone());
    }

    fn remove(&self, addr: &Addr) {
        self.endpoints.lock().unwrap().retain(|endpoint| endpoint != addr);
    }

    fn has(&self, addr: &Addr) -> bool {
        self.endpoints.lock().unwrap().contains(addr)
    }

    /// The endpoint for a new connection: each in turn.
    fn choose(&self) -> Addr {
        let endpoints = self.endpoints.lock().unwrap();
        let n = self.connections.fetch_add(1, Ordering::Relaxed);
        endpoints[n % endpoints.len()].clone()
    }

    /// Waits until each endpoint was chosen once more.
    fn wait_for_a_round(&self) {
        let goal = self.connections.load(Ordering::Relaxed) + self.endpoints.lock().unwrap().len();
        until("each endpoint was chosen", || self.connections.load(Ordering::Relaxed) >= goal);
    }

    /// Clients that send requests without pause, and some that are idle most of the time.
    fn loads(self: &Arc<Service>) -> [RunningLoad; 2] {
        let busy = Load::new().keep_alive(3).close(3).pause(Duration::from_millis(2));
        let idle = Load::new().keep_alive(4).close(0).pause(Duration::from_millis(400));
        [busy, idle].map(|load| {
            let service = Arc::clone(self);
            let load = load.get("/pid").get("/sleep/20");
            load.identify(|response| response.text().parse().ok().map(|pid: u32| pid.to_string()))
                .start_among(move || service.choose())
        })
    }
}

/// What became of a pod, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Ready,
    Term,
    NotReady,
    /// No new connection goes to it any more.
    Removed,
    NotLive,
    Killed,
    Ended(Exit),
}

struct Pod {
    server: Proc,
    addr: Addr,
    admin: Addr,
    /// Probes that found it alive.
    live: AtomicUsize,
    /// The test lets it end: a probe may find it gone.
    may_end: AtomicBool,
}

impl Pod {
    /// As the image runs it: supervised, which there is a matter of being PID 1.
    fn start(lame_duck: Duration, drain: Duration) -> Pod {
        static PODS: AtomicUsize = AtomicUsize::new(1);
        // Nothing else takes a port of an address of its own: a connection to a pod that is gone is refused.
        let any = format!("127.0.9.{}:0", PODS.fetch_add(1, Ordering::Relaxed));
        let ms = |time: Duration| time.as_millis().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kitchen_sink"));
        command.args(["--supervise", "--listen", &any, "--admin", &any]);
        command.args(["--lame-duck-ms", &ms(lame_duck), "--drain-timeout-ms", &ms(drain)]);
        let server = Proc::begin(command, Stdio::null());
        server.wait_for_nth("listening on ", 2);
        let [addr, admin] = server.addrs().try_into().expect("two listeners");
        Pod { server, addr, admin, live: AtomicUsize::new(0), may_end: AtomicBool::new(false) }
    }

    fn succeeds(&self, path: &str) -> bool {
        matches!(get(&self.admin, path), Outcome::Ok(answer) if (200..400).contains(&answer.status))
    }

    /// Waits until a liveness probe has found it alive from now on.
    fn wait_for_a_live_probe(&self) {
        let before = self.live.load(Ordering::Relaxed);
        until("it is probed", || self.live.load(Ordering::Relaxed) > before);
    }
}

/// When the endpoints drop a pod.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Removal {
    Late,
    /// They have not been notified that the pod goes.
    AfterTheEnd,
}

/// Of one pod, together with the controller of the endpoints.
struct Kubelet {
    pod: Arc<Pod>,
    service: Arc<Service>,
    removal: Removal,
    grace_period: Duration,
    events: Vec<Event>,
}

impl Kubelet {
    /// Until the pod has ended, or the test has failed.
    fn run(mut self, orders: &Receiver<()>) -> Vec<Event> {
        let (mut killed_at, mut removed_at) = (None, None);
        while !self.pod.server.alive().is_empty() {
            self.probe();
            let now = Instant::now();
            if self.events.ends_with(&[Event::NotReady]) && self.removal == Removal::Late {
                let at = *removed_at.get_or_insert(now + LATENESS);
                if now >= at {
                    self.remove();
                }
            }
            if killed_at.is_some_and(|at| now >= at) {
                self.events.push(Event::Killed);
                self.pod.server.signal(Signal::SIGKILL);
            }
            match orders.recv_timeout(PROBE_PERIOD) {
                Ok(()) => {
                    self.events.push(Event::Term);
                    self.pod.server.signal(Signal::SIGTERM);
                    killed_at = Some(Instant::now() + self.grace_period);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.events,
            }
        }
        self.events.push(Event::Ended(self.pod.server.wait_exit(self.pod.server.pid())));
        if self.removal == Removal::AfterTheEnd {
            self.service.wait_for_a_round();
            self.remove();
        }
        self.events
    }

    fn remove(&mut self) {
        self.service.remove(&self.pod.addr);
        self.events.push(Event::Removed);
    }

    fn probe(&mut self) {
        let is_ready = self.pod.succeeds(&probed_path("readinessProbe:"));
        if is_ready && !self.events.contains(&Event::Ready) {
            self.events.push(Event::Ready);
            self.service.add(&self.pod.addr);
        } else if !is_ready && self.events.contains(&Event::Ready) && !self.events.contains(&Event::NotReady)
        {
            self.events.push(Event::NotReady);
        }
        if self.pod.succeeds(&probed_path("livenessProbe:")) {
            self.pod.live.fetch_add(1, Ordering::Relaxed);
        } else if !self.pod.may_end.load(Ordering::Relaxed) {
            self.events.push(Event::NotLive);
        }
    }
}

/// A pod with its kubelet.
struct Running {
    pod: Arc<Pod>,
    orders: Sender<()>,
    kubelet: JoinHandle<Vec<Event>>,
}

impl Running {
    /// It is an endpoint of the service when this returns.
    fn start(service: &Arc<Service>, lame_duck: Duration, removal: Removal) -> Running {
        let Times { drain, grace_period, .. } = Times::of_the_manifest();
        let pod = Arc::new(Pod::start(lame_duck, drain));
        let kubelet = Kubelet {
            pod: Arc::clone(&pod),
            service: Arc::clone(service),
            removal,
            grace_period,
            events: Vec::new(),
        };
        let (orders, received) = mpsc::channel();
        let kubelet = beside("kubelet", move || kubelet.run(&received));
        until("it is an endpoint", || service.has(&pod.addr));
        Running { pod, orders, kubelet }
    }

    /// Stops it with a request in flight, which is completed in the drain; gives what became of the pod.
    fn terminate(self) -> JoinHandle<Vec<Event>> {
        let Running { pod, orders, kubelet } = self;
        let mut client = Client::to(&pod.addr);
        client.begin();
        orders.send(()).expect("a kubelet");
        beside("end of a pod", move || {
            pod.server.wait_for("draining (stop requested)");
            // Twice: one may have started before.
            pod.wait_for_a_live_probe();
            pod.wait_for_a_live_probe();
            pod.may_end.store(true, Ordering::Relaxed);
            assert_eq!(client.finish().ok().text(), "ok");
            drop(client);
            let events = kubelet.join().expect("a kubelet");
            // Without it the kubelet takes the test for failed.
            drop(orders);
            events
        })
    }
}

#[test]
fn a_rolling_update_of_pods_loses_no_request() {
    let service = Arc::new(Service::default());
    let start = || Running::start(&service, Times::of_the_manifest().lame_duck, Removal::Late);
    let mut pods: Vec<Running> = (0..REPLICAS).map(|_| start()).collect();
    let loads = service.loads();
    let mut terminating = Vec::new();
    for n in 0..UPDATES * REPLICAS {
        let old = std::mem::replace(&mut pods[n % REPLICAS], start());
        terminating.push(old.terminate());
    }
    for old in terminating {
        let expected =
            [Event::Ready, Event::Term, Event::NotReady, Event::Removed, Event::Ended(Exit::Status(0))];
        assert_eq!(old.join().expect("its end"), expected);
    }
    let [busy, idle] = loads.map(RunningLoad::stop);
    busy.assert_nothing_lost();
    idle.assert_nothing_lost();
    assert_eq!(busy.answered_by.len(), REPLICAS * (1 + UPDATES), "{busy}");
}

/// The proof that the test above could fail.
#[test]
fn without_a_lame_duck_a_late_endpoint_refuses_requests() {
    let service = Arc::new(Service::default());
    let start = || Running::start(&service, Duration::ZERO, Removal::AfterTheEnd);
    let (old, _other) = (start(), start());
    let loads = service.loads();
    let events = old.terminate().join().expect("its end");
    assert_eq!(events.last(), Some(&Event::Removed), "{events:?}");
    let [busy, idle] = loads.map(RunningLoad::stop);
    let refused = [busy, idle].map(|report| report.losses.get("refused").copied().unwrap_or(0));
    assert!(refused.iter().sum::<u64>() > 0);
}
