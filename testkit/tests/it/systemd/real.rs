//! systemd itself, as PID 1 of namespaces of its own: pids, mounts, cgroups, IPC, host name and network, with a /run and a
//! /tmp of its own. Each test runs itself again inside, where it is the client and the administrator.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use testkit::{Addr, Client, Crowd, DEADLINE, Outcome, get, lacks, skip, until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");
/// Set inside.
const INSIDE: &str = "HEIRLOOM_INSIDE_SYSTEMD";
/// What is in the folder for both: the server and this test.
const FOLDER: &str = "/run/heirloom";
const ADDRESS: &str = "127.0.0.1:8080";

/// Makes the namespaces' own file systems, starts the test inside, and becomes systemd. `$1` is the server, `$2` this program,
/// `$3` the name of the test.
const SETUP: &str = r#"set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/lock /run/heirloom
cp "$1" /run/heirloom/kitchen_sink
cp "$2" /run/heirloom/test
mount -t tmpfs tmpfs /tmp
mount -t proc proc /proc
mount -t cgroup2 cgroup2 /sys/fs/cgroup
hostname heirloom-test
cat >/run/systemd/system/heirloom-test.target <<END
[Unit]
DefaultDependencies=no
END
unset NOTIFY_SOCKET LISTEN_FDS LISTEN_PID
HEIRLOOM_INSIDE_SYSTEMD=1 TMPDIR=/tmp /run/heirloom/test --exact "$3" --nocapture --include-ignored &
exec env -i container=heirloom-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /usr/lib/systemd/systemd --system --unit=heirloom-test.target --show-status=0 --log-target=null >/dev/null 2>&1 </dev/null
"#;

/// A cgroup of this test: a systemd that is PID 1 takes over the one that is its root.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Cgroup {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let unified = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let unified = unified.filter(|words| words[2] == "cgroup2").map(|words| words[1].to_owned()).next();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
        let thread = format!("{:?}", std::thread::current().id());
        let number: String = thread.chars().filter(char::is_ascii_digit).collect();
        let name = format!("heirloom-test-{}-{number}", std::process::id());
        let path = Path::new(&unified.expect("a cgroup2 mount")).join(own).join(name);
        fs::create_dir(&path).expect("a cgroup of its own");
        Cgroup(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fn remove(folder: &Path) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove(&entry.path());
                }
            }
            let _ = fs::remove_dir(folder);
        }
        let empty = || {
            !fs::read_to_string(self.0.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"))
        };
        let deadline = Instant::now() + DEADLINE;
        while !empty() && Instant::now() < deadline {
            testkit::pass(Duration::from_millis(5));
        }
        remove(&self.0);
    }
}

/// True inside. Outside it runs the test `name` inside, with its outcome.
fn inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        until("systemd runs", || Path::new("/run/systemd/private").exists());
        let units = ["is-system-running", "--wait"];
        let _ = Command::new("systemctl").args(units).output().expect("systemctl");
        return true;
    }
    if !geteuid().is_root() {
        skip("systemd as PID 1 needs root");
        return false;
    }
    let namespaces = ["--fork", "--kill-child", "--pid", "--mount", "--cgroup", "--ipc", "--uts", "--net"];
    let tried = Command::new("unshare").args(namespaces).arg("true").output().expect("unshare");
    if !tried.status.success() {
        skip(&format!("unshare {namespaces:?}: {}", String::from_utf8_lossy(&tried.stderr)));
        return false;
    }
    assert!(!lacks("/usr/lib/systemd/systemd"), "as root this test must run: apt-get install systemd");
    let cgroup = Cgroup::new();
    let this = std::env::current_exe().unwrap();
    let enter = r#"echo $$ >"$0/cgroup.procs" && exec unshare "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", enter]).arg(&cgroup.0).args(namespaces).args(["sh", "-c", SETUP, "sh", PROGRAM]);
    command.arg(this).arg(format!("systemd::real::{name}"));
    let mut outside =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let errors = outside.stderr.take().unwrap();
    let errors = testkit::beside("errors", move || {
        BufReader::new(errors).lines().map_while(Result::ok).for_each(|line| eprintln!("| {line}"));
    });
    let (mut result, mut all) = (None, Vec::new());
    for line in BufReader::new(outside.stdout.take().unwrap()).lines().map_while(Result::ok) {
        result = line.starts_with("test result: ").then(|| line.clone());
        all.push(line);
        if result.is_some() {
            break;
        }
    }
    let _ = outside.kill();
    let _ = outside.wait();
    drop(cgroup);
    let _ = errors.join();
    let passed = result.is_some_and(|line| line.starts_with("test result: ok. 1 passed"));
    assert!(passed, "inside:\n{}", all.join("\n"));
    false
}

/// The service `web`, as its unit file says.
struct Unit;

impl Unit {
    /// Writes the unit with these lines, and starts it.
    fn start(flags: &str, lines: &str) -> Unit {
        let unit = Unit::write(flags, lines);
        systemctl(&["start", "web.service"]);
        unit
    }

    fn write(flags: &str, lines: &str) -> Unit {
        let text = format!(
            "[Unit]\nDefaultDependencies=no\nStartLimitIntervalSec=0\n[Service]\nType=notify\nEnvironment=RUST_LOG=info\n\
             ExecStart={FOLDER}/kitchen_sink --probation-ms 50 {flags}\nExecReload=kill -HUP $MAINPID\n\
             StandardError=append:{FOLDER}/log\n{lines}\n"
        );
        fs::write("/run/systemd/system/web.service", text).unwrap();
        systemctl(&["daemon-reload"]);
        Unit
    }

    fn show(&self, property: &str) -> String {
        let shown = systemctl(&["show", "--value", "--property", property, "web.service"]);
        shown.trim_end().to_owned()
    }

    fn main_pid(&self) -> i32 {
        self.show("MainPID").parse().unwrap()
    }

    fn is(&self, state: &str) -> bool {
        let shown = systemctl(&["show", "--value", "--property=ActiveState,SubState", "web.service"]);
        shown.lines().any(|line| line == state)
    }

    /// `systemctl reload`, which returns early before version 253: until the next generation is the main process.
    fn reload(&self) -> i32 {
        let before = self.main_pid();
        systemctl(&["reload", "web.service"]);
        until("another process is main", || self.main_pid() != before && self.is("running"));
        self.main_pid()
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", log());
            let status = Command::new("systemctl").args(["status", "--no-pager", "web.service"]).output();
            eprintln!("{}", String::from_utf8_lossy(&status.unwrap().stdout));
        }
    }
}

#[track_caller]
fn systemctl(words: &[&str]) -> String {
    let output = Command::new("systemctl").args(words).output().expect("systemctl");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn log() -> String {
    fs::read_to_string(format!("{FOLDER}/log")).unwrap_or_default()
}

fn addr() -> Addr {
    Addr::from(ADDRESS)
}

fn parent(pid: i32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned()
}

fn flags() -> String {
    format!("--listen {ADDRESS}")
}

#[test]
fn twenty_upgrades_under_load_lose_nothing() {
    if !inside("twenty_upgrades_under_load_lose_nothing") {
        return;
    }
    let unit = Unit::start(&flags(), "TimeoutStopSec=20");
    let first = unit.main_pid();
    assert_eq!(get(&addr(), "/pid").ok().number(), first);
    let crowd = Crowd::of(&addr());
    for generation in 2..=21 {
        let main = unit.reload();
        assert_eq!(parent(main), "1", "systemd's own child");
        assert_eq!(unit.show("StatusText"), format!("generation {generation} (pid {main}) serves"));
        assert_eq!(get(&addr(), "/pid").ok().number(), main);
    }
    let tally = crowd.stop();
    assert_eq!(tally.failed, []);
    assert!(tally.answered > 20);
    systemctl(&["stop", "web.service"]);
    assert_eq!((unit.show("Result"), unit.show("NRestarts")), ("success".to_owned(), "0".to_owned()));
    assert!(matches!(get(&addr(), "/ok"), Outcome::Refused));
}

#[test]
fn after_a_failing_upgrade_the_status_says_why() {
    if !inside("after_a_failing_upgrade_the_status_says_why") {
        return;
    }
    let unit = Unit::start(&flags(), "");
    let main = unit.main_pid();
    let crowd = Crowd::of(&addr());
    let (program, good) = (format!("{FOLDER}/kitchen_sink"), format!("{FOLDER}/good"));
    fs::rename(&program, &good).unwrap();
    fs::write(format!("{FOLDER}/bad"), "#!/bin/sh\nexit 7\n").unwrap();
    fs::set_permissions(format!("{FOLDER}/bad"), Permissions::from_mode(0o755)).unwrap();
    fs::rename(format!("{FOLDER}/bad"), &program).unwrap();
    systemctl(&["reload", "web.service"]);
    until("it is ready again", || {
        unit.show("StatusText").contains("the last handover failed") && unit.is("running")
    });
    assert_eq!((unit.main_pid(), get(&addr(), "/pid").ok().number()), (main, main));
    fs::rename(&good, &program).unwrap();
    assert_ne!(unit.reload(), main);
    assert_eq!(crowd.stop().failed, []);
    systemctl(&["stop", "web.service"]);
    assert_eq!(unit.show("Result"), "success");
}

#[test]
fn a_crash_and_restart_keep_the_backlog() {
    if !inside("a_crash_and_restart_keep_the_backlog") {
        return;
    }
    let unit = Unit::start(
        &format!("{} --store-listeners", flags()),
        "Restart=on-failure\nRestartSec=300ms\nFileDescriptorStoreMax=8",
    );
    for _ in 0..2 {
        let main = unit.reload();
        assert_eq!(unit.show("NFileDescriptorStore"), "1");
        Command::new("kill").args(["-KILL", &main.to_string()]).status().unwrap();
        until("systemd has seen it", || unit.main_pid() != main);
        // Nobody is there: it waits in the backlog, and is not refused.
        assert_ne!(get(&addr(), "/pid").ok().number(), main);
        until("it is restarted", || unit.is("running"));
    }
    assert_eq!(unit.show("NRestarts"), "2");
    systemctl(&["stop", "web.service"]);
    assert_eq!((&*unit.show("Result"), &*unit.show("NFileDescriptorStore")), ("success", "0"));
    assert!(matches!(get(&addr(), "/ok"), Outcome::Refused), "the store is empty");
}

#[test]
fn a_stop_completes_requests_of_every_generation() {
    if !inside("a_stop_completes_requests_of_every_generation") {
        return;
    }
    let unit = Unit::start(&flags(), "TimeoutStopSec=20");
    let mut clients: Vec<Client> = Vec::new();
    // Two generations that drain, and the main one: its own drain is the shortest.
    for (upgrade, ms) in [(true, 7000), (true, 6000), (false, 1000)] {
        let mut client = Client::to(&addr());
        client.ask(&format!("/sleep/{ms}"));
        let main = unit.main_pid();
        until("it is in its handler", || {
            let _ = Command::new("kill").args(["-USR1", &main.to_string()]).status();
            log().contains(&format!(
                "pid {main} generation {} serving: 1 requests in flight",
                clients.len() + 1
            ))
        });
        clients.push(client);
        if upgrade {
            unit.reload();
        }
    }
    let stop = testkit::beside("stop", || systemctl(&["stop", "web.service"]));
    for client in &mut clients {
        assert_eq!(client.answer().ok().text(), "ok\n");
    }
    stop.join().unwrap();
    assert_eq!(unit.show("Result"), "success");
}

#[test]
fn the_watchdog_finds_a_deadlock_and_spares_slow_handlers() {
    if !inside("the_watchdog_finds_a_deadlock_and_spares_slow_handlers") {
        return;
    }
    let unit = Unit::start(
        &format!("{} --workers 1", flags()),
        "WatchdogSec=1500ms\nRestart=on-failure\nRestartSec=100ms",
    );
    let main = unit.reload();
    let mut slow = Client::to(&addr());
    assert_eq!(slow.get("/sleep/700").ok().text(), "ok\n");
    testkit::pass(Duration::from_secs(2));
    assert_eq!((unit.main_pid(), &*unit.show("NRestarts")), (main, "0"));
    slow.ask("/sleep/60000");
    until("the watchdog bites", || unit.show("NRestarts") == "1");
    until("it is restarted", || unit.is("running"));
    assert_eq!(get(&addr(), "/generation").ok().text(), "1");
    systemctl(&["stop", "web.service"]);
}

#[test]
fn a_socket_unit_keeps_its_socket_over_upgrades_and_stops() {
    if !inside("a_socket_unit_keeps_its_socket_over_upgrades_and_stops") {
        return;
    }
    let socket =
        format!("[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream={ADDRESS}\nFileDescriptorName=web\n");
    fs::write("/run/systemd/system/web.socket", socket).unwrap();
    let unit = Unit::write("--listen systemd:web", "Requires=web.socket");
    systemctl(&["start", "web.socket"]);
    // The first connection starts it.
    assert_eq!(get(&addr(), "/generation").ok().text(), "1");
    let crowd = Crowd::of(&addr());
    for _ in 0..3 {
        unit.reload();
    }
    // Clients of a restart wait.
    assert_eq!(crowd.stop().failed, []);
    for _ in 0..3 {
        systemctl(&["restart", "web.service"]);
        assert_eq!(get(&addr(), "/generation").ok().text(), "1");
    }
    systemctl(&["stop", "web.service", "web.socket"]);
    assert!(matches!(get(&addr(), "/ok"), Outcome::Refused));
}
