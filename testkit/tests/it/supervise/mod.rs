//! The supervisor: one pid for the whole life of the service, as PID 1 and elsewhere.

mod ctl;
#[cfg(feature = "systemd")]
mod notify;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use tempfile::TempDir;
use testkit::{
    Addr, Client, Crowd, DEADLINE, Exit, Outcome, Pid, Proc, Signal, copy_program, get, lacks, unshare, until,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");
const FLAGS: [&str; 4] = ["--listen", "127.0.0.1:0", "--probation-ms", "0"];
const OWN_PIDS: [&str; 4] = ["--fork", "--pid", "--kill-child", "--mount-proc"];

/// After a crash it serves again within this time.
const BACK: Duration = Duration::from_secs(2);

/// A program that can be replaced, in a folder that also has the pid file.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        place.put(PROGRAM);
        place
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("program")
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.path().join("pid")
    }

    /// Makes `file` the program from now on.
    fn put(&self, file: &str) {
        let new = self.folder.path().join("new");
        symlink(file, &new).unwrap();
        fs::rename(new, self.program()).unwrap();
    }

    /// As another file, whose content is the same.
    fn put_copy(&self) {
        let new = self.folder.path().join("new");
        copy_program(PROGRAM, &new);
        fs::rename(new, self.program()).unwrap();
    }

    fn command(&self, words: &[&str], flags: &[&str]) -> Command {
        let program = self.program();
        let all: Vec<&str> = words.iter().copied().chain([program.to_str().unwrap()]).collect();
        let mut command = Command::new(all[0]);
        command.args(&all[1..]).args(FLAGS).arg("--pid-file").arg(self.pid_file()).args(flags);
        command
    }

    fn supervised(&self, words: &[&str], flags: &[&str]) -> Supervised {
        let mut command = self.command(words, flags);
        command.arg("--supervise");
        let server = Proc::begin(command, Stdio::null());
        server.wait_for("serving as generation 1");
        let supervisor = server.pid();
        Supervised { server, supervisor }
    }

    /// As PID 1 of a pid namespace, where no flag is needed.
    fn as_pid_1(&self, words: &[&str]) -> Option<Supervised> {
        let unshared = unshare(&OWN_PIDS)?;
        let words: Vec<&str> = unshared.iter().map(String::as_str).chain(words.iter().copied()).collect();
        let server = Proc::begin_inside(self.command(&words, &[]));
        server.wait_for("serving as generation 1");
        let supervisor = server.known(1);
        Some(Supervised { server, supervisor })
    }

    fn named(&self) -> String {
        fs::read_to_string(self.pid_file()).unwrap()
    }
}

struct Supervised {
    server: Proc,
    supervisor: Pid,
}

impl Supervised {
    fn signal(&self, signal: Signal) {
        self.server.signal_to(self.supervisor, signal);
    }

    fn generation(&self) -> usize {
        self.server.get("/generation").ok().text().parse().unwrap()
    }

    /// Signals the supervisor; generation `n` serves when this returns.
    fn hand_over_to(&self, n: usize) {
        self.signal(Signal::SIGHUP);
        self.serves(n);
    }

    fn serves(&self, n: usize) {
        self.server.wait_for(&format!("supervisor: * serves as generation {n}"));
        until("it serves", || self.generation() == n);
    }

    /// Runs a command in its namespaces; false if there are no means for that.
    fn inside(&self, words: &[&str]) -> bool {
        if lacks("nsenter") {
            return false;
        }
        let as_root: &[&str] = if geteuid().is_root() { &[] } else { &["--user", "--preserve-credentials"] };
        let mut command = Command::new("nsenter");
        command.args(as_root).args(["--pid", "--mount", "--target", &self.supervisor.to_string()]);
        assert!(command.args(words).status().unwrap().success());
        true
    }

    /// TERM to the supervisor, with a request in flight: it is answered, and the status is 0.
    fn stops_well(&self) {
        let mut client = self.server.client();
        client.ask("/sleep/500");
        // Its log has the pids of its namespace. USR1 goes to the generation that serves.
        until("the request is in flight", || {
            self.signal(Signal::SIGUSR1);
            self.server.count(" serving: 1 requests in flight") > 0
        });
        self.signal(Signal::SIGTERM);
        assert_eq!(client.answer().ok().text(), "ok\n");
        self.server.wait_for("supervisor: the service has ended with status 0");
        self.server.wait_gone();
    }
}

#[test]
fn the_pid_stays_and_each_generation_serves() {
    let place = Place::new();
    let supervised = place.supervised(&[], &[]);
    let named = format!("{}\n", supervised.supervisor);
    assert_eq!(place.named(), named);
    let crowd = Crowd::of(&supervised.server.addr());
    let mut kept = supervised.server.client();
    for n in 2..=6 {
        supervised.hand_over_to(n);
        assert_eq!(place.named(), named);
        // On one connection all the time.
        until("the connection has moved", || kept.get("/generation").ok().text() == n.to_string());
    }
    let tally = crowd.stop();
    assert_eq!(tally.failed, []);
    drop(kept);
    supervised.stops_well();
    assert_eq!(supervised.server.wait_exit(supervised.supervisor), Exit::Status(0));
    assert!(!place.pid_file().exists());
}

#[test]
fn as_pid_1_it_hands_over_and_ends_with_0() {
    let place = Place::new();
    let Some(supervised) = place.as_pid_1(&[]) else { return };
    assert_eq!(place.named(), "1\n");
    let crowd = Crowd::of(&supervised.server.addr());
    supervised.hand_over_to(2);
    if supervised.inside(&["kill", "-HUP", "1"]) {
        supervised.serves(3);
    }
    assert_eq!(crowd.stop().failed, []);
    supervised.stops_well();
    assert!(!place.pid_file().exists());
}

#[test]
fn a_failed_upgrade_costs_nothing_under_supervision() {
    let place = Place::new();
    for supervised in [Some(place.supervised(&[], &[])), place.as_pid_1(&[])].into_iter().flatten() {
        let crowd = Crowd::of(&supervised.server.addr());
        for (n, file) in ["/bin/false", "/nonexistent"].into_iter().enumerate() {
            place.put(file);
            supervised.signal(Signal::SIGHUP);
            supervised.server.wait_for_nth("; still serving", n + 1);
            assert_eq!(supervised.generation(), 1);
        }
        place.put(PROGRAM);
        supervised.hand_over_to(2);
        assert_eq!(crowd.stop().failed, []);
        supervised.stops_well();
    }
}

/// Costs the requests that it held, and nothing else.
#[test]
fn a_generation_that_is_killed_is_replaced_at_once() {
    let place = Place::new();
    for supervised in [Some(place.supervised(&[], &[])), place.as_pid_1(&[])].into_iter().flatten() {
        let addr = supervised.server.addr();
        supervised.hand_over_to(2);
        for n in 3..=5 {
            let (serving, crowd) = (supervised.server.serving(), Crowd::of(&addr));
            supervised.server.signal_to(serving, Signal::SIGKILL);
            let killed = Instant::now();
            // No connect is refused meanwhile: a connection that nobody has accepted yet waits.
            loop {
                let outcome = get(&addr, "/generation");
                assert!(!matches!(outcome, Outcome::Refused));
                if matches!(outcome, Outcome::Ok(response) if response.text() == n.to_string()) {
                    break;
                }
                assert!(killed.elapsed() < DEADLINE);
            }
            assert!(killed.elapsed() < BACK, "{:?}", killed.elapsed());
            supervised.serves(n);
            let failed = crowd.stop().failed;
            let is_refused = failed.iter().any(|(outcome, _)| matches!(outcome, Outcome::Refused));
            assert!(failed.len() <= Crowd::ALL && !is_refused, "{failed:?}");
        }
        supervised.stops_well();
    }
}

/// Of the process that replaces it.
#[test]
fn a_crash_is_in_the_history_of_the_next_generation() {
    let place = Place::new();
    let supervised = place.supervised(&[], &["--admin", "127.0.0.1:0"]);
    let admin = supervised.server.addrs().swap_remove(1);
    let generations = || -> Vec<serde_json::Value> {
        let status: serde_json::Value =
            serde_json::from_str(get(&admin, "/status.json").ok().text()).unwrap();
        status["generations"].as_array().unwrap().clone()
    };
    supervised.hand_over_to(2);
    // The supervisor has it from generation 2, which knows it from generation 1.
    until("the drain of the first is over", || generations()[1]["drain_ms"].is_u64());
    let (first, second) = (generations().remove(1), supervised.server.serving());
    supervised.server.signal_to(second, Signal::SIGKILL);
    supervised.serves(3);
    until("the past is known", || generations().len() == 3);
    let history = generations();
    let crashed = &history[1];
    assert_eq!(crashed["crash"], "was killed by SIGKILL", "{crashed}");
    assert_eq!(crashed["pid"], second.as_raw(), "{crashed}");
    assert!(crashed["until_ms"].as_u64() >= crashed["since_ms"].as_u64() && crashed["since_ms"].is_u64());
    assert!(history[0]["crash"].is_null() && history[0]["until_ms"].is_null(), "{}", history[0]);
    assert_eq!(history[2]["since_ms"], first["since_ms"], "{first} and {}", history[2]);
    let page = get(&admin, "/status").ok();
    assert!(page.text().contains("crashed</span>: was killed by SIGKILL"), "{}", page.text());
    // And over a handover.
    supervised.hand_over_to(4);
    until("the page is the next generation's", || generations().len() == 4);
    assert_eq!(generations()[2]["crash"], "was killed by SIGKILL");
    supervised.stops_well();
}

#[test]
fn orphans_are_reaped() {
    let place = Place::new();
    let Some(supervised) = place.as_pid_1(&[]) else { return };
    for _ in 0..3 {
        supervised.inside(&["sh", "-c", "(true &) & exit"]);
    }
    supervised.server.reaped_all(supervised.supervisor);
    supervised.stops_well();
}

#[test]
fn a_first_generation_that_does_not_start_ends_the_supervisor() {
    let place = Place::new();
    for words in [&[][..], &["unshare"]] {
        let unshared = if words.is_empty() { Some(Vec::new()) } else { unshare(&OWN_PIDS) };
        let Some(unshared) = unshared else { continue };
        let words: Vec<&str> = unshared.iter().map(String::as_str).collect();
        let mut command = place.command(&words, &["--listen", "256.0.0.1:1"]);
        let output = command.arg("--supervise").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("the service has ended with status 1"));
    }
}

#[test]
fn a_program_that_always_crashes_is_given_up() {
    let place = Place::new();
    let supervised = place.supervised(&[], &[]);
    place.put("/bin/false");
    supervised.server.signal_to(supervised.server.serving(), Signal::SIGKILL);
    // Five at once, then after a pause that grows.
    supervised.server.wait_for("supervisor: the next one is started in 1 s");
    assert_eq!(supervised.server.count("and no process serves"), 6);
    place.put(PROGRAM);
    supervised.serves(2);
    supervised.stops_well();
}

/// A stop that reaches everybody, as Ctrl-C and a service manager's do, and comes again, is one stop.
#[test]
fn a_stop_counts_once_however_often_it_arrives() {
    let place = Place::new();
    let supervised = place.supervised(&["setsid"], &[]);
    let mut client = supervised.server.client();
    client.ask("/sleep/2500");
    let serving = supervised.server.serving();
    supervised.server.in_flight(serving, 1);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGTERM, Signal::SIGINT] {
        supervised.signal(signal);
        supervised.server.signal_to(serving, signal);
        // More than that apart they would abort a server without a supervisor.
        testkit::pass(Duration::from_millis(600));
    }
    assert_eq!(client.answer().ok().text(), "ok\n");
    supervised.server.wait_for("supervisor: the service has ended with status 0");
}

#[test]
fn a_stop_of_the_generation_alone_ends_the_service() {
    let place = Place::new();
    let supervised = place.supervised(&[], &[]);
    supervised.server.signal_to(supervised.server.serving(), Signal::SIGTERM);
    supervised.server.wait_for("supervisor: the service has ended with status 0");
    supervised.server.wait_gone();
    assert!(!place.pid_file().exists());
}

#[test]
fn the_supervisor_replaces_itself_by_a_new_version() {
    let place = Place::new();
    for supervised in [Some(place.supervised(&[], &[])), place.as_pid_1(&[])].into_iter().flatten() {
        let exe = || fs::read_link(format!("/proc/{}/exe", supervised.supervisor)).unwrap();
        place.put_copy();
        let crowd = Crowd::of(&supervised.server.addr());
        let before = exe();
        supervised.hand_over_to(2);
        supervised.server.wait_for("supervisor: continues as the new version of");
        until("it runs the new version", || exe() != before);
        supervised.hand_over_to(3);
        assert_eq!(crowd.stop().failed, []);
        // It has the listeners, and knows its generations.
        supervised.server.signal_to(supervised.server.serving(), Signal::SIGKILL);
        supervised.serves(4);
        supervised.stops_well();
        place.put(PROGRAM);
    }
}

#[test]
fn two_signals_at_once_are_no_obstacle() {
    let place = Place::new();
    let supervised = place.supervised(&[], &[]);
    let crowd = Crowd::of(&supervised.server.addr());
    for _ in 0..5 {
        supervised.signal(Signal::SIGHUP);
        supervised.signal(Signal::SIGHUP);
    }
    supervised.server.wait_for_nth("supervisor: * serves as generation ", 2);
    supervised.signal(Signal::SIGTERM);
    supervised.server.wait_for("supervisor: the service has ended with status 0");
    let tally = crowd.stop();
    drop(tally);
    supervised.server.wait_gone();
}

/// As Docker's default profile does on older hosts.
#[test]
fn where_clone3_openat2_and_pidfd_open_are_refused_it_works() {
    if lacks("python3") {
        return;
    }
    // A filter of seccomp: clone3 is unknown (ENOSYS), the others are forbidden (EPERM).
    let script = "import ctypes, os, struct, sys\n\
        rules = [(0x20, 0, 0, 0)]\n\
        for number, error in (435, 38), (437, 1), (434, 1):\n \
            rules += [(0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | error)]\n\
        rules += [(0x06, 0, 0, 0x7fff0000)]\n\
        code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *rule) for rule in rules))\n\
        class Program(ctypes.Structure):\n _fields_ = [('length', ctypes.c_ushort), ('code', ctypes.c_void_p)]\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        program = Program(len(rules), ctypes.cast(code, ctypes.c_void_p))\n\
        zero = ctypes.c_ulong(0)\n\
        assert libc.prctl(38, ctypes.c_ulong(1), zero, zero, zero) == 0\n\
        assert libc.prctl(22, ctypes.c_ulong(2), ctypes.byref(program), zero, zero) == 0\n\
        os.execv(sys.argv[1], sys.argv[1:])\n";
    let place = Place::new();
    let words = ["python3", "-c", script];
    for supervised in [Some(place.supervised(&words, &[])), place.as_pid_1(&words)].into_iter().flatten() {
        let status = fs::read_to_string(format!("/proc/{}/status", supervised.supervisor)).unwrap();
        assert!(status.contains("Seccomp:\t2"), "{status}");
        let crowd = Crowd::of(&supervised.server.addr());
        supervised.hand_over_to(2);
        place.put("/bin/false");
        supervised.signal(Signal::SIGHUP);
        supervised.server.wait_for("; still serving");
        place.put(PROGRAM);
        supervised.hand_over_to(3);
        assert_eq!(crowd.stop().failed, []);
        supervised.server.signal_to(supervised.server.serving(), Signal::SIGKILL);
        supervised.serves(4);
        supervised.stops_well();
    }
}

/// Under a supervisor the process above sees one that stays.
#[test]
fn under_any_parent_a_supervised_service_hands_over() {
    let place = Place::new();
    let runsv = place.folder.path().join("runsv");
    symlink(fs::canonicalize("/bin/sh").unwrap(), &runsv).unwrap();
    let line = r#""$0" "$@"; exit"#;
    for words in [
        &[runsv.to_str().unwrap(), "-c", line][..],
        &["sh", "-c", r#"SYSTEMD_EXEC_PID=$$ exec "$0" "$@""#],
        &["sh", "-c", r#"NOTIFY_SOCKET=/nonexistent exec "$0" "$@""#],
        &["sh", "-c", line],
        &["timeout", "600"],
    ] {
        let mut supervised = place.supervised(words, &[]);
        supervised.supervisor = Pid::from_raw(place.named().trim().parse().unwrap());
        supervised.server.known(supervised.supervisor.as_raw());
        let crowd = Crowd::of(&supervised.server.addr());
        (2..=6).for_each(|n| supervised.hand_over_to(n));
        assert_eq!(crowd.stop().failed, []);
        assert_eq!(place.named(), format!("{}\n", supervised.supervisor));
        supervised.stops_well();
    }
}

#[test]
fn a_unix_socket_survives_a_crash_and_goes_with_the_service() {
    let place = Place::new();
    let path = place.folder.path().join("socket");
    let supervised = place.supervised(&[], &["--unix", path.to_str().unwrap()]);
    supervised.server.signal_to(supervised.server.serving(), Signal::SIGKILL);
    supervised.serves(2);
    assert_eq!(Client::to(&Addr::Unix(path.clone())).get("/generation").ok().text(), "2");
    supervised.stops_well();
    assert!(!path.exists());
}
