//! systemd itself, as PID 1 of namespaces of its own: pids, mounts, cgroups, IPC, host name and network, with a /run and a
//! /tmp of its own. Each test runs itself again inside, where it is the client and the administrator. It is skipped only where
//! there are no such namespaces.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use testkit::{Addr, Client, DEADLINE, lacks, put_script, skip, until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");
/// Set inside.
const INSIDE: &str = "HEIRLOOM_INSIDE_SYSTEMD";
/// What is in the folder for both: the server and this test.
pub(super) const FOLDER: &str = "/run/heirloom";
pub(super) const ADDRESS: &str = "127.0.0.1:8080";

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
pub(super) fn inside(name: &str) -> bool {
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
    command.arg(this).arg(format!("systemd::{name}"));
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

/// A service, as its unit file says.
pub(super) struct Unit {
    name: &'static str,
}

impl Unit {
    /// Writes the unit with these lines, and starts it.
    pub(super) fn start(flags: &str, lines: &str) -> Unit {
        let unit = Unit::write(flags, lines);
        systemctl(&["start", "web.service"]);
        unit
    }

    pub(super) fn write(flags: &str, lines: &str) -> Unit {
        let text = format!(
            "[Unit]\nDefaultDependencies=no\nStartLimitIntervalSec=0\n[Service]\nType=notify\nEnvironment=RUST_LOG=info\n\
             ExecStart={FOLDER}/kitchen_sink --probation-ms 50 {flags}\nExecReload=kill -HUP $MAINPID\n\
             StandardError=append:{FOLDER}/log\n{lines}\n"
        );
        fs::write("/run/systemd/system/web.service", text).unwrap();
        Unit::installed("web.service")
    }

    /// One whose file is there.
    pub(super) fn installed(name: &'static str) -> Unit {
        systemctl(&["daemon-reload"]);
        Unit { name }
    }

    pub(super) fn show(&self, property: &str) -> String {
        let shown = systemctl(&["show", "--value", "--property", property, self.name]);
        shown.trim_end().to_owned()
    }

    pub(super) fn main_pid(&self) -> i32 {
        self.show("MainPID").parse().unwrap()
    }

    pub(super) fn is(&self, state: &str) -> bool {
        let shown = systemctl(&["show", "--value", "--property=ActiveState,SubState", self.name]);
        shown.lines().any(|line| line == state)
    }

    /// `systemctl reload`, which returns early before version 253: until the next generation is the main process.
    pub(super) fn reload(&self) -> i32 {
        let before = self.main_pid();
        systemctl(&["reload", self.name]);
        until("another process is main", || self.main_pid() != before && self.is("running"));
        self.main_pid()
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", log());
            let status = Command::new("systemctl").args(["status", "--no-pager", self.name]).output();
            eprintln!("{}", String::from_utf8_lossy(&status.unwrap().stdout));
        }
    }
}

#[track_caller]
pub(super) fn systemctl(words: &[&str]) -> String {
    let output = Command::new("systemctl").args(words).output().expect("systemctl");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(super) fn log() -> String {
    fs::read_to_string(format!("{FOLDER}/log")).unwrap_or_default()
}

pub(super) fn addr() -> Addr {
    Addr::from(ADDRESS)
}

pub(super) fn parent(pid: i32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned()
}

pub(super) fn flags() -> String {
    format!("--listen {ADDRESS}")
}

/// Waits until `pid` has so many requests in flight, as it says itself.
#[track_caller]
pub(super) fn in_flight(pid: i32, requests: usize) {
    let report = format!(" {requests} requests in flight");
    until("it is in its handler", || {
        let _ = Command::new("kill").args(["-USR1", &pid.to_string()]).status();
        log()
            .lines()
            .rfind(|line| line.contains(&format!("] pid {pid} generation ")))
            .is_some_and(|line| line.contains(&report))
    });
}

/// A client on a connection of `pid`, which accepts, perhaps not alone.
#[track_caller]
pub(super) fn client_of(pid: i32) -> Client {
    let mut client = Client::to(&addr());
    until("it accepts the connection", || {
        let is_there = client.get("/pid").ok().number() == pid;
        if !is_there {
            client = Client::to(&addr());
        }
        is_there
    });
    client
}

/// A request that takes so long, in the handler of `pid`.
#[track_caller]
pub(super) fn ask_slowly(pid: i32, ms: u32) -> Client {
    let mut client = client_of(pid);
    client.ask(&format!("/sleep/{ms}"));
    in_flight(pid, 1);
    client
}

/// `text` takes the place of the program.
pub(super) fn replace_program(text: &str) {
    put_script(format!("{FOLDER}/kitchen_sink"), text);
}
