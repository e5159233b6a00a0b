//! heirloomctl: the exit status says whether the new generation serves, and each failure is a message that names what it
//! is about. It never signals a process that is not known to be the server.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use testkit::{Proc, Signal, beside, copy_program, lacks, put_script, skip, until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");
const CTL: &str = env!("CARGO_BIN_EXE_ctl");
/// Time for a failure that needs no server.
const AT_ONCE: Duration = Duration::from_secs(3);

struct Bench {
    server: Proc,
    control: PathBuf,
    pid_file: PathBuf,
    folder: TempDir,
}

impl Bench {
    fn start(flags: &[&str]) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (program, control, pid_file) = (at("program"), at("control"), at("pid"));
        symlink(PROGRAM, &program).unwrap();
        let own = ["--control", control.to_str().unwrap(), "--pid-file", pid_file.to_str().unwrap()];
        let server = Proc::start(&program, &[&own, flags].concat());
        Bench { server, control, pid_file, folder }
    }

    fn next_is(&self, script: &str) {
        put_script(self.folder.path().join("program"), script);
    }

    /// The two ways to reach it.
    fn targets(&self) -> [[&str; 2]; 2] {
        [["--control", self.control.to_str().unwrap()], ["--pid-file", self.pid_file.to_str().unwrap()]]
    }
}

fn ctl(args: &[&str]) -> Output {
    Command::new(CTL).args(args).output().unwrap()
}

/// Its one JSON object, and whether it exited with 0.
#[track_caller]
fn json(args: &[&str]) -> (Value, bool) {
    let output = ctl(&[args, &["--json"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
    assert_eq!(value["ok"], output.status.success(), "{value}");
    assert_eq!(text.lines().count(), 1, "{text}");
    (value, output.status.success())
}

/// It fails at once, in both forms, with a message that has these texts.
#[track_caller]
fn fails(args: &[&str], texts: &[&str]) {
    let begin = Instant::now();
    let output = ctl(args);
    assert!(begin.elapsed() < AT_ONCE, "{:?}: {args:?}", begin.elapsed());
    assert!(!output.status.success());
    let message = String::from_utf8(output.stderr).unwrap();
    let (value, _) = json(args);
    let in_json = value["message"].as_str().unwrap();
    for text in texts {
        assert!(message.contains(text) && in_json.contains(text), "{text} in {message} and {in_json}");
    }
    assert!(value["error"].is_string(), "{value}");
}

#[test]
fn an_upgrade_that_succeeds_names_the_new_process() {
    let bench = Bench::start(&["--probation-ms", "200"]);
    for (n, target) in bench.targets().iter().chain(&bench.targets()).enumerate() {
        let args = [&["upgrade"], &target[..]].concat();
        let new = if n < 2 {
            let (value, ok) = json(&args);
            assert!(ok, "{value}");
            value["pid"].as_i64().unwrap()
        } else {
            let output = ctl(&args);
            assert!(output.status.success(), "{output:?}");
            let text = String::from_utf8(output.stdout).unwrap();
            let last = text.lines().last().unwrap();
            let pid = last.strip_prefix("upgraded: process ").expect(last).split(' ').next().unwrap();
            assert!(!text.contains('\x1b') && !text.contains('\r'), "plain lines: {text:?}");
            pid.parse().unwrap()
        };
        let child = bench.server.child(n + 1);
        assert_eq!(new, i64::from(child.as_raw()));
        bench.server.committed(child);
        assert_eq!(bench.server.get("/pid").ok().number(), child.as_raw());
    }
    let (value, _) = json(&["upgrade", "--control", bench.control.to_str().unwrap()]);
    for step in ["spawn_ms", "ready_ms", "release_ms", "accept_ms", "probation_ms", "total_ms"] {
        assert!(value[step].is_u64(), "{step} in {value}");
    }
    bench.server.committed(bench.server.child(5));
    bench.server.stop();
}

#[test]
fn a_failed_upgrade_is_a_failure_and_the_old_process_serves() {
    let bench = Bench::start(&["--ready-timeout-ms", "1000"]);
    let pid = bench.server.pid().to_string();
    for (script, cause) in [
        ("#!/bin/sh\nexit 3\n", "exited with status 3"),
        ("#!/bin/sh\nexec sleep 1000\n", "not ready in time"),
        ("#!/nowhere\n", "No such file"),
    ] {
        bench.next_is(script);
        let [control, pid_file] = bench.targets();
        let (value, ok) = json(&[&["upgrade"], &control[..]].concat());
        let message = value["message"].as_str().unwrap();
        assert!(!ok && message.contains(cause) && message.contains(control[1]), "{value}");
        assert_eq!(value["error"], "failed");
        assert_eq!(value["pid"].to_string(), pid);
        let (value, ok) = json(&[&["upgrade"], &pid_file[..]].concat());
        let message = value["message"].as_str().unwrap();
        assert!(!ok && message.contains(&pid) && message.contains(pid_file[1]), "{value}");
        assert_eq!(value["error"], "failed");
        assert_eq!(value["pid"].to_string(), pid);
    }
    assert_eq!(bench.server.get("/pid").ok().number(), bench.server.pid().as_raw());
    bench.server.stop();
}

#[test]
fn a_new_process_that_survives_the_old_one_is_the_result() {
    let bench = Bench::start(&["--probation-ms", "600000"]);
    for target in bench.targets().map(|target| target.map(str::to_owned)) {
        let old = bench.server.newest();
        let generation = bench.server.count("serving as generation");
        let upgrade = beside("upgrading", move || json(&["upgrade", &target[0], &target[1]]));
        bench.server.wait_for_nth(": SERVING", 2 * generation);
        let new = bench.server.child(generation);
        bench.server.signal_to(old, Signal::SIGKILL);
        let (value, ok) = upgrade.join().unwrap();
        assert!(ok && value["pid"] == new.as_raw(), "{value}");
        assert_eq!(bench.server.settled(), Some(new));
    }
    bench.server.stop();
}

#[test]
fn two_upgrades_at_once_are_one_after_the_other() {
    let bench = Bench::start(&["--probation-ms", "200"]);
    let [control, pid_file] = bench.targets().map(|target| target.map(str::to_owned));
    let upgrade =
        |target: [String; 2]| beside("upgrading", move || json(&["upgrade", &target[0], &target[1]]));
    let both = [control.clone(), pid_file, control].map(upgrade);
    let mut pids: Vec<i64> = both.map(|upgrade| upgrade.join().unwrap().0["pid"].as_i64().unwrap()).to_vec();
    pids.sort_unstable();
    pids.dedup();
    let expected: Vec<i64> = (1..=pids.len()).map(|n| i64::from(bench.server.child(n).as_raw())).collect();
    assert!(pids.iter().all(|pid| expected.contains(pid)), "{pids:?} of {expected:?}");
    assert!(bench.server.settled().is_some());
    bench.server.stop();
}

#[test]
fn without_a_server_each_failure_names_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let here = folder.path().to_str().unwrap();
    let upgrade = |option: &str, path: &str, why: &str| fails(&["upgrade", option, path], &[path, why]);
    upgrade("--control", &at("none"), "no such socket");
    upgrade("--control", here, "not a socket");
    drop(UnixListener::bind(folder.path().join("stale")).unwrap());
    upgrade("--control", &at("stale"), "no server listens there");
    upgrade("--control", &at(&"x".repeat(200)), "too long");
    upgrade("--pid-file", &at("none"), "no such file");
    upgrade("--pid-file", here, "not a file");
    for (n, nonsense) in ["", "hello\n", "-1\n", "0\n", "12 13\n", "99999999999\n"].iter().enumerate() {
        let path = at(&format!("nonsense-{n}"));
        fs::write(&path, nonsense).unwrap();
        upgrade("--pid-file", &path, "not a pid");
    }
    let path = at("dead");
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    fs::write(&path, format!("{}\n", child.id())).unwrap();
    upgrade("--pid-file", &path, &child.id().to_string());
    for (args, why) in [(&["upgrade"][..], "--pid-file"), (&["restart", "--control", "/x"], "restart")] {
        fails(args, &[why]);
        assert_eq!(ctl(args).status.code(), Some(2));
    }
    // `--json` stands where a path should, as behind a variable of a shell that is empty.
    let (value, _) = json(&["upgrade", "--control"]);
    assert!(
        value["error"] == "usage" && value["message"].as_str().unwrap().starts_with("--json: "),
        "{value}"
    );
}

#[test]
fn a_stranger_is_never_signalled() {
    let bench = Bench::start(&[]);
    let path = bench.folder.path().join("copied");
    let path = path.to_str().unwrap();
    // HUP would end it.
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(path, format!("{}\n", stranger.id())).unwrap();
    fails(
        &["upgrade", "--pid-file", path],
        &[path, &stranger.id().to_string(), "not known to be the server"],
    );
    fails(&["upgrade", "--pid-file", path, "--executable", PROGRAM], &["not known to be the server"]);
    // The server's own file, overwritten in place: its lock shows that another process is named.
    fs::write(&bench.pid_file, format!("{}\n", stranger.id())).unwrap();
    let pid_file = bench.pid_file.to_str().unwrap();
    let server = bench.server.pid().to_string();
    fails(&["upgrade", "--pid-file", pid_file], &[pid_file, &stranger.id().to_string(), &server]);
    assert!(stranger.try_wait().unwrap().is_none(), "it still runs");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    // A copy of the file is not locked, but the program is known.
    fs::write(path, format!("{server}\n")).unwrap();
    fails(&["upgrade", "--pid-file", path], &["holds no lock"]);
    assert_eq!(bench.server.count("SIGHUP from"), 0);
    bench.server.stop();
}

#[test]
fn the_file_of_a_server_that_was_killed_is_stale() {
    let bench = Bench::start(&[]);
    bench.server.signal(Signal::SIGKILL);
    bench.server.wait_gone();
    let [control, pid_file] = bench.targets();
    until("it is reaped", || {
        !fs::exists(format!("/proc/{}", bench.server.pid())).unwrap() || bench.server.alive().is_empty()
    });
    fails(&[&["upgrade"], &control[..]].concat(), &[control[1], "no server listens there"]);
    fails(&[&["upgrade"], &pid_file[..]].concat(), &[pid_file[1], &bench.server.pid().to_string()]);
}

#[test]
fn an_upgrade_that_takes_longer_than_the_timeout_says_so() {
    let bench = Bench::start(&["--probation-ms", "600000"]);
    for target in bench.targets() {
        let (value, ok) = json(&["upgrade", target[0], target[1], "--timeout", "0.5"]);
        assert!(!ok && value["error"] == "timeout", "{value}");
        assert!(value["message"].as_str().unwrap().contains(target[1]), "{value}");
    }
    bench.server.stop();
}

/// Root alone may become another user.
#[test]
fn without_permission_it_says_so() {
    if !nix::unistd::geteuid().is_root() || lacks("setpriv") {
        skip("needs root and setpriv");
        return;
    }
    let bench = Bench::start(&[]);
    fs::set_permissions(bench.folder.path(), Permissions::from_mode(0o755)).unwrap();
    let program = bench.folder.path().join("ctl");
    copy_program(CTL, &program);
    for target in bench.targets() {
        let begin = Instant::now();
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .args([&["upgrade"], &target[..]].concat())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && text.contains(target[1]), "{text}");
        assert!(text.contains("permission denied") || text.contains("may not be signalled"), "{text}");
        assert!(begin.elapsed() < AT_ONCE);
    }
    assert_eq!(bench.server.count("SIGHUP from"), 0);
    bench.server.stop();
}

/// It starts no upgrade when it continues: nobody waits for that one any more.
#[test]
fn a_server_that_is_stopped_is_reported() {
    let bench = Bench::start(&["--probation-ms", "0"]);
    let [control, pid_file] = bench.targets();
    bench.server.signal(Signal::SIGSTOP);
    for command in ["status", "upgrade"] {
        let (value, ok) = json(&[&[command, "--timeout", "0.5"], &control[..]].concat());
        assert!(!ok && value["error"] == "timeout", "{value}");
        assert!(value["message"].as_str().unwrap().ends_with("is the server stopped?"), "{value}");
    }
    bench.server.signal(Signal::SIGCONT);
    let (value, ok) = json(&[&["status"], &control[..]].concat());
    assert!(ok && value["generation"] == 1, "{value}");
    bench.server.signal(Signal::SIGSTOP);
    let (value, ok) = json(&[&["upgrade", "--timeout", "0.5"], &pid_file[..]].concat());
    assert!(!ok && value["error"] == "no-reaction", "{value}");
    let message =
        format!("process {} is stopped, and starts the upgrade when it continues", bench.server.pid());
    assert!(value["message"].as_str().unwrap().ends_with(&message), "{value}");
    bench.server.signal(Signal::SIGCONT);
    bench.server.committed(bench.server.child(1));
    assert_eq!(bench.server.count("control: upgrade"), 0);
    bench.server.stop();
}

/// Who asks again each moment is not logged each time.
#[test]
fn waiting_for_another_upgrade_is_not_logged() {
    let bench = Bench::start(&["--probation-ms", "1000"]);
    let [control, _] = bench.targets().map(|target| target.map(str::to_owned));
    bench.server.hup_to_probation();
    let (value, ok) = json(&["upgrade", &control[0], &control[1]]);
    assert!(ok && value["generation"] == 3, "{value}");
    assert_eq!(bench.server.count("control: upgrade"), 1);
    bench.server.committed(bench.server.child(2));
    bench.server.stop();
}

#[test]
fn a_stop_is_no_success_and_nobody_is_said_to_serve() {
    let bench = Bench::start(&["--probation-ms", "600000"]);
    let [control, _] = bench.targets().map(|target| target.map(str::to_owned));
    let upgrade = beside("upgrading", move || json(&["upgrade", &control[0], &control[1]]));
    bench.server.wait_for(": SERVING");
    bench.server.signal(Signal::SIGTERM);
    let (value, ok) = upgrade.join().unwrap();
    assert!(
        !ok && value["message"].as_str().unwrap().ends_with("the service was stopped meanwhile"),
        "{value}"
    );
    assert!(value["pid"].is_null(), "{value}");
    bench.server.wait_gone();
}

/// Serves a client for each of these answers, and ends.
fn played(path: &Path, answers: Vec<Vec<u8>>) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    beside("played server", move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            // It may have had enough.
            let _ = stream.write_all(&answer);
        }
    })
}

#[test]
fn a_new_generation_that_has_ended_is_no_success() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let decided = format!("step name=spawn ms=1\nok pid={} generation=2 total_ms=1\n", dead.id());
    let server = played(&path, vec![b"ok pid=1 generation=1\n".to_vec(), decided.into_bytes()]);
    let (value, ok) = json(&["upgrade", "--control", path.to_str().unwrap()]);
    assert!(!ok && value["error"] == "server-ended", "{value}");
    assert!(value["message"].as_str().unwrap().contains(&dead.id().to_string()), "{value}");
    server.join().unwrap();
}

#[test]
fn other_programs_are_not_taken_for_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let long = format!("ok pid=1 more={}\n", "x".repeat(1000)).repeat(9 << 10).into_bytes();
    let cases: [&[u8]; 5] =
        [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff\xfe\n", b"\n", &long, &[b'x'; 5 << 20]];
    for (n, answer) in cases.into_iter().enumerate() {
        let path = folder.path().join(n.to_string());
        let server = played(&path, vec![answer.to_vec()]);
        let (value, ok) = json(&["status", "--control", path.to_str().unwrap()]);
        assert!(!ok && value["error"] == "not-a-control-socket", "{n}: {value}");
        server.join().unwrap();
    }
}

/// heirloomctl on a terminal of this size, which Ctrl-C interrupts.
fn on_terminal((rows, columns): (u16, u16), args: &[&str]) -> (Child, File) {
    let size = nix::libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = nix::pty::openpty(Some(&size), None).unwrap();
    let side = |fd: &OwnedFd| fd.try_clone().unwrap();
    let mut command = Command::new("setsid");
    // Tests may have been started by a shell in the background, where Ctrl-C is ignored.
    command.args(["--ctty", "env", "--default-signal=INT", CTL]).args(args);
    command.stdin(side(&pty.slave)).stdout(side(&pty.slave)).stderr(side(&pty.slave));
    let child = command.spawn().unwrap();
    (child, File::from(pty.master))
}

/// What is shown until `enough`, or until the program ends.
#[track_caller]
fn shown(terminal: &mut File, enough: impl Fn(&str) -> bool) -> String {
    let flags = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
    nix::fcntl::fcntl(&*terminal, flags).unwrap();
    let (mut text, mut buf) = (Vec::new(), [0; 4096]);
    until("it is shown", || match terminal.read(&mut buf) {
        Err(e) if e.kind() == ErrorKind::WouldBlock => false,
        // EIO: nobody has the other side any more.
        Ok(0) | Err(_) => true,
        Ok(n) => {
            text.extend_from_slice(&buf[..n]);
            enough(&String::from_utf8_lossy(&text))
        }
    });
    String::from_utf8(text).unwrap()
}

/// How it ends.
#[track_caller]
fn ended(child: &mut Child) -> ExitStatus {
    let mut status = None;
    until("it has ended", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

#[test]
fn top_fits_its_terminal_and_ctrl_c_ends_it() {
    if lacks("setsid") {
        return;
    }
    let bench = Bench::start(&[]);
    let mut clients: Vec<_> = (0..20).map(|_| bench.server.client()).collect();
    clients.iter_mut().for_each(|client| client.send("GET /until-drain HTTP/1.1\r\nHost: x\r\n\r\n"));
    bench.server.in_flight(bench.server.pid(), 20);
    let (mut ctl, mut terminal) =
        on_terminal((20, 30), &["top", "--control", bench.control.to_str().unwrap()]);
    let clear = "\x1b[H\x1b[2J";
    let text = shown(&mut terminal, |text| text.matches(clear).count() > 2);
    let screens: Vec<&str> = text.split(clear).skip(1).take(2).collect();
    for screen in screens {
        assert_eq!(screen.lines().count(), 19, "{screen}");
        assert!(screen.lines().all(|line| line.len() <= 30), "{screen}");
        assert!(screen.contains("20 handlers run") && screen.contains("GET     /until"), "{screen}");
        assert!(!screen.contains('\x1b'), "no mode of the terminal is changed");
    }
    terminal.write_all(b"\x03").unwrap();
    assert_eq!(ended(&mut ctl).signal(), Some(nix::libc::SIGINT));
    bench.server.stop();
}

#[test]
fn progress_is_one_line_of_a_terminal() {
    if lacks("setsid") {
        return;
    }
    let bench = Bench::start(&["--probation-ms", "0"]);
    let args = ["upgrade", "--control", bench.control.to_str().unwrap()];
    let (mut ctl, mut terminal) = on_terminal((24, 20), &args);
    let text = shown(&mut terminal, |text| text.ends_with(")\r\n"));
    assert!(ended(&mut ctl).success(), "{text}");
    let lines: Vec<&str> = text.split("\r\x1b[K").collect();
    let [first, progress @ .., last] = &lines[..] else { panic!("{text}") };
    assert!(first.is_empty() && last.starts_with("upgraded: process "), "{text}");
    assert!(progress.len() == 5 && progress.iter().all(|line| line.len() < 20), "{text}");
    bench.server.committed(bench.server.child(1));
    bench.server.stop();
}

/// contrib/deploy, as docs/deployment.md has it.
#[test]
fn the_deploy_script_upgrades_or_puts_the_old_program_back() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (program, control) = (at("app"), at("control"));
    copy_program(PROGRAM, &program);
    fs::create_dir(at("bin")).unwrap();
    symlink(CTL, at("bin/heirloomctl")).unwrap();
    let server = Proc::start(&program, &["--control", control.to_str().unwrap(), "--probation-ms", "100"]);
    let deploy = |new: &Path| {
        let path = format!("{}:{}", at("bin").display(), std::env::var("PATH").unwrap());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/deploy");
        Command::new(script).args([new, &program, &control]).env("PATH", path).output().unwrap()
    };
    let output = deploy(Path::new(PROGRAM));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("upgraded: process "), "{output:?}");
    assert!(text.contains("generation            2\n"), "the status is shown: {text}");
    server.committed(server.child(1));
    fs::write(at("bad"), "#!/bin/sh\nexit 3\n").unwrap();
    let output = deploy(&at("bad"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("exited with status 3"), "{output:?}");
    assert_eq!(fs::metadata(&program).unwrap().len(), fs::metadata(PROGRAM).unwrap().len(), "it is put back");
    // The one before, which the script keeps, is deployed by the same command.
    copy_program(PROGRAM, at("app.previous"));
    let output = deploy(&at("app.previous"));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(server.get("/generation").ok().number(), 3);
    server.committed(server.child(3));
    server.stop();
}

#[test]
fn what_the_server_does_is_shown() {
    let bench = Bench::start(&[]);
    let pid = bench.server.pid();
    let control = ["--control", bench.control.to_str().unwrap()];
    let mut client = bench.server.client();
    client.send("GET /until-drain HTTP/1.1\r\nHost: x\r\n\r\n");
    bench.server.in_flight(pid, 1);
    let (value, _) = json(&[&["status"], &control[..]].concat());
    assert_eq!((&value["pid"], &value["phase"]), (&Value::from(pid.as_raw()), &Value::from("serving")));
    for command in ["handlers", "top"] {
        let (value, _) = json(&[&[command], &control[..]].concat());
        let handler = &value["handlers"][0];
        assert_eq!(
            (&handler["method"], &handler["path"]),
            (&Value::from("GET"), &Value::from("/until-drain"))
        );
        let text = String::from_utf8(ctl(&[&[command], &control[..]].concat()).stdout).unwrap();
        assert!(text.contains("GET     /until-drain  [heirloom-worker-"), "{text}");
    }
    let (value, _) = json(&[&["connections"], &control[..]].concat());
    assert!(value["count"] == 1 && value["connections"].is_array(), "{value}");
    let (value, ok) = json(&[&["drain"], &control[..]].concat());
    assert!(ok && value["pid"] == pid.as_raw(), "{value}");
    assert!(!bench.server.alive().contains(&pid), "it has ended");
    let (value, ok) = json(&[&["abort"], &control[..]].concat());
    assert!(!ok && value["error"] == "no-socket", "{value}");
}
