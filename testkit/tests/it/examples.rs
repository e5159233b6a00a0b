//! Each example does what its header says.
//!
//! An example opens with what it shows, and then has one session at a terminal, or several, that a
//! reader can repeat line by line:
//!
//! ````text
//! //! The smallest server.
//! //!
//! //! ```text
//! //! $ cargo run --example hello -- 127.0.0.1:8001
//! //! $ curl -i http://127.0.0.1:8001/
//! //! HTTP/1.1 200 OK
//! //! ...
//! //! Hello, World!
//! //! ```
//! ````
//!
//! This test repeats them. A new example is a file here, `examples/NAME.rs` or
//! `examples/NAME/main.rs`, whose header is right; nothing else names it. If it needs a feature,
//! Cargo.toml has its `required-features`, and its header `--features` with the same. One that is a package of
//! its own is `examples/NAME/src/main.rs`, and is run by `cargo run -p NAME -- 127.0.0.1:8001`.
//!
//! - The first argument is the address, and the header gives it: `-- 127.0.0.1:8001` (`--listen
//!   127.0.0.1:8001` where there are more flags). An example that is given none takes that one.
//!   Each is run on a different loopback address instead of 127.0.0.1, so ports don't collide;
//!   the target of `curl` is not changed, so names, certificates and `Host` are as written.
//! - The example logs by `env_logger`; this test sets `RUST_LOG=info`, waits for
//!   `serving as generation 1` in the log, and finds the listeners there.
//! - A line that begins with `$ ` is a command for `sh`; one that ends with `\` continues in the next line. The lines after
//!   it, up to the next command or the end of the block, are its output: `...` stands for anything within a line, and alone
//!   in a line for any number of lines. After `cargo run` these are lines that the log has at the end, after `kill` lines
//!   that the signal causes. A command must succeed, unless its output ends with its error, such as `curl: (7) ...`.
//! - `curl` is `curl -sS`, without a meter. A command that ends with `&` runs beside those after it, which start when its
//!   request is in flight; its output is compared at the end.
//! - `kill -HUP PID` (the word PID) signals the newest generation, and the next command starts when the new one owns the
//!   service and the old one accepts no more; after `kill PID` when the process has ended, after `kill -USR1 PID` when the
//!   log has its report, after `kill -USR2 PID` when it has the signal.
//! - A command that only reads files (`cat`, `tail`, `grep`, `ls`, `wc`) is repeated until its output is right, under a
//!   deadline.
//! - All of it happens in an empty directory, into which the repository's `examples` is linked.
//! - What still serves at the end is stopped by TERM, and must end with status 0.
//!
//! `EXAMPLE=hello,forms cargo test -p testkit --test examples` runs those alone. With `HEIRLOOM_BUILT` set nothing is built:
//! for a user without write access to `target`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testkit::{DEADLINE, Proc, Signal, beside, lacks, outside_of_cargo, pass, until};

/// The number that run at once: they wait more than they compute.
const AT_ONCE: usize = 4;
/// What a reader may look for. There may be more.
const PROMISED: &[&str] = &[
    "admin",
    "behind_proxy",
    "broadcast",
    "config_reload",
    "deadlines",
    "embed",
    "error_pages",
    "exclusive_lock",
    "files",
    "forms",
    "guestbook",
    "hello",
    "json",
    "json_log",
    "kitchen_sink",
    "line_server",
    "log_reopen",
    "login",
    "middleware",
    "protection",
    "rate_limit",
    "routing",
    "shortener",
    "slow_ok",
    "sse",
    "state",
    "status_board",
    "streaming",
    "tiny_http_service",
    "tls",
    "traced",
    "two_listeners",
    "unix_socket",
    "uploads",
    "websocket_chat",
];
/// Commands that change nothing.
const LOOKS: [&str; 5] = ["cat ", "tail ", "grep ", "ls ", "wc "];

struct Example {
    name: String,
    source: PathBuf,
    /// Cargo's, instead of an example of heirloom's.
    is_package: bool,
}

/// A command and what it prints.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    command: String,
    output: Vec<String>,
}

#[test]
fn each_example_does_what_its_header_shows() {
    if lacks("curl") {
        return;
    }
    let wanted = std::env::var("EXAMPLE").ok();
    let is_wanted = |name: &str| wanted.as_ref().is_none_or(|list| list.split(',').any(|one| one == name));
    let wanted: Vec<Example> = examples().into_iter().filter(|example| is_wanted(&example.name)).collect();
    assert!(!wanted.is_empty(), "no such example");
    let profile = built(wanted.iter().filter(|example| example.is_package));
    let (left, failed) = (Arc::new(Mutex::new(wanted)), Arc::new(Mutex::new(Vec::new())));
    let runners: Vec<_> = (0..AT_ONCE)
        .map(|n| {
            let (left, failed, profile) = (left.clone(), failed.clone(), profile.clone());
            beside(&format!("examples {n}"), move || {
                loop {
                    let Some(Example { name, source, is_package }) = left.lock().expect("a list").pop()
                    else {
                        break;
                    };
                    // The name for a failure.
                    let program = profile.join(if is_package { "" } else { "examples" }).join(&name);
                    let steps = steps(&fs::read_to_string(&source).expect("an example"));
                    let tried = beside(&name, move || repeat(&program, &steps));
                    if tried.join().is_err() {
                        failed.lock().expect("a list").push(name);
                    }
                }
            })
        })
        .collect();
    for runner in runners {
        runner.join().expect("a runner");
    }
    let failed = failed.lock().expect("a list");
    assert!(failed.is_empty(), "not what the header says, see above: {failed:?}");
}

/// What the test above relies on, without running anything.
#[test]
fn each_example_has_a_header_to_be_repeated() {
    let features = required_features();
    for Example { name, source, is_package } in examples() {
        let text = fs::read_to_string(&source).expect("an example");
        let opening = text.lines().next().unwrap_or_default();
        assert!(
            opening.strip_prefix("//! ").is_some_and(|what| !what.starts_with('`')),
            "{name}: what does it show?"
        );
        let steps = steps(&text);
        let runs: Vec<&Step> = steps.iter().filter(|step| run(&step.command).is_some()).collect();
        assert_eq!(
            runs.len(),
            1,
            "{name}: its header runs it once: `$ cargo run --example {name} -- ADDRESS` (or `-p {name}`)"
        );
        let command = &runs[0].command;
        let words: Vec<&str> = command.split_whitespace().collect();
        let after = |flag: &str| words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1));
        let flag = if is_package { "-p" } else { "--example" };
        assert_eq!(after(flag), Some(&&*name), "{name}: {command}");
        assert_eq!(after("--features").copied(), features.get(&name).map(|all| &**all), "{name}: {command}");
        assert!(command.contains(" -- "), "{name}: the address is said: {command}");
        assert!(steps.len() > 1, "{name}: and then?");
    }
    let names: Vec<String> = examples().into_iter().map(|example| example.name).collect();
    for name in features.keys() {
        assert!(names.contains(name), "{name} has required-features, and is no example");
    }
    let missing: Vec<_> = PROMISED.iter().filter(|name| !names.iter().any(|there| there == *name)).collect();
    assert!(missing.is_empty(), "no example: {missing:?}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").to_owned()
}

/// In the order of their names.
fn examples() -> Vec<Example> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("examples")).expect("examples") {
        let path = entry.expect("examples").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let is_package = path.join("Cargo.toml").exists();
        let source = match path.is_dir() {
            true if is_package => path.join("src/main.rs"),
            true => path.join("main.rs"),
            false => path,
        };
        if source.extension().is_some_and(|e| e == "rs") {
            assert!(source.exists(), "{}: is it an example?", source.display());
            found.push(Example { name, source, is_package });
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// As Cargo.toml has them, joined by commas, without those that the package's dependency on itself gives to each example.
fn required_features() -> BTreeMap<String, String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let itself =
        manifest.lines().find(|line| line.starts_with("heirloom = {")).expect("a dependency on itself");
    let (_, given) = itself.split_once("features = ").expect("features");
    let mut found = BTreeMap::new();
    for table in manifest.split("[[example]]").skip(1) {
        let value = |key: &str| {
            let mut lines = table.lines().take_while(|line| !line.starts_with('['));
            lines.find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix('=').map(str::trim))
        };
        let name = value("name").expect("a name").trim_matches('"').to_owned();
        if let Some(list) = value("required-features") {
            let list = list.trim_matches(['[', ']']).replace(['"', ' '], "");
            let asked = |one: &&str| !given.contains(&format!("\"{one}\""));
            let list: Vec<&str> = list.split(',').filter(asked).collect();
            if !list.is_empty() {
                found.insert(name, list.join(","));
            }
        }
    }
    found
}

/// Builds all of heirloom's, and these packages, as this test was built; returns their directory. The programs of
/// testkit are built by Cargo before its tests, examples are not. With the whole workspace's features, by which a test of the
/// workspace has built them: with those of one package its dependencies, heirloom and all examples would be compiled anew.
fn built<'a>(packages: impl Iterator<Item = &'a Example>) -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let profile = test.parent().and_then(Path::parent).expect("target/PROFILE/deps");
    let name = match profile.file_name().expect("a name").to_str().expect("text") {
        "debug" => "dev",
        other => other,
    };
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    if std::env::var_os("HEIRLOOM_BUILT").is_some() {
        return profile.to_owned();
    }
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--workspace", "--examples", "--all-features", "--profile", name]);
    for package in packages {
        command.args(["--bin", &package.name]);
    }
    command.arg("--target-dir").arg(profile.parent().expect("target")).current_dir(root());
    assert!(outside_of_cargo(&mut command).status().expect("cargo").success(), "the examples can't be built");
    profile.to_owned()
}

/// The commands of a header.
fn steps(text: &str) -> Vec<Step> {
    let header = text.lines().map_while(|line| line.strip_prefix("//!"));
    let mut steps: Vec<Step> = Vec::new();
    let (mut inside, mut continued) = (false, false);
    for line in header.map(|line| line.strip_prefix(' ').unwrap_or(line)) {
        if line.starts_with("```") {
            (inside, continued) = (!inside && line == "```text", false);
        } else if let (true, Some(command)) = (inside, line.strip_prefix("$ ")) {
            steps.push(Step { command: command.to_owned(), output: Vec::new() });
            continued = line.ends_with('\\');
        } else if let (true, Some(step)) = (inside, steps.last_mut()) {
            if continued {
                step.command += &format!("\n{line}");
                continued = line.ends_with('\\');
            } else {
                step.output.push(line.to_owned());
            }
        }
    }
    steps
}

/// The environment and the arguments of a command that starts the example.
fn run(command: &str) -> Option<(&str, &str)> {
    let at = command.find("cargo run ")?;
    Some((&command[..at], command[at..].split_once(" -- ").map_or("", |(_, args)| args)))
}

/// A loopback address that no other process uses, for this process and this run.
fn own_address() -> String {
    static RUNS: Mutex<u8> = Mutex::new(0);
    let mut runs = RUNS.lock().expect("a number");
    *runs += 1;
    let [.., high, low] = std::process::id().to_be_bytes();
    format!("127.{}.{low}.{}", high | 128, *runs)
}

struct Session {
    host: String,
    folder: TempDir,
    server: Option<Proc>,
    beside: Vec<(Step, Child)>,
}

fn repeat(program: &Path, steps: &[Step]) {
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink(root().join("examples"), folder.path().join("examples")).expect("a link");
    let mut session = Session { host: own_address(), folder, server: None, beside: Vec::new() };
    let mut stopped = false;
    for step in steps {
        if let Some((env, args)) = run(&step.command) {
            let args = args.replace("127.0.0.1", &session.host);
            let mut command = session.shell(&format!("exec env {env} \"$0\" {args}"), program);
            command.env("RUST_LOG", "info");
            session.server = Some(Proc::start_command(command));
        } else if let Some(signal) = step.command.strip_prefix("kill ").and_then(|s| s.strip_suffix("PID")) {
            session.kill(signal.trim(), step);
            stopped |= signal.is_empty();
        } else if let Some(command) = step.command.strip_suffix('&') {
            session.begin(step, command);
        } else {
            session.check(step);
        }
    }
    for (step, child) in std::mem::take(&mut session.beside) {
        let output = child.wait_with_output().expect("its output");
        assert_eq!(difference(&step.output, &printed(&output)), None, "$ {}", step.command);
    }
    for step in steps.iter().filter(|step| run(&step.command).is_some()) {
        session.expect_logged(step, &BTreeMap::new());
    }
    match (session.server.take(), stopped) {
        (Some(server), false) => server.stop(),
        (Some(server), true) => server.wait_gone(),
        (None, _) => panic!("no server"),
    }
}

impl Session {
    fn server(&self) -> &Proc {
        self.server.as_ref().expect("`cargo run` comes first")
    }

    fn shell(&self, script: &str, zero: &Path) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(zero).current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// `curl` goes where the server is, under the name that is written.
    fn command(&self, text: &str) -> Command {
        let host = &self.host;
        let script = match text.contains("curl ") {
            true => {
                let curl = format!("command curl -sS --max-time 60 --connect-to '::{host}:' \"$@\"");
                format!("curl() {{ {curl}; }}\n{text}")
            }
            false => text.replace("127.0.0.1", host),
        };
        let mut command = self.shell(&script, Path::new("sh"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts what runs beside the commands after it, and waits until its request is in flight: those after it may
    /// rely on that.
    #[track_caller]
    fn begin(&mut self, step: &Step, command: &str) {
        let server = self.server();
        let newest = server.newest();
        // A client may see the end of its response before the server counts it.
        let mut before = self.beside.len();
        until("what has ended is not in flight", || {
            let now = server.requests_in_flight(newest);
            std::mem::replace(&mut before, now) >= now
        });
        let mut child = self.command(command).spawn().expect("sh");
        let has_ended = |child: &mut Child| child.try_wait().is_ok_and(|exit| exit.is_some());
        until("its request is in flight", || {
            has_ended(&mut child) || server.requests_in_flight(newest) > before
        });
        self.beside.push((step.clone(), child));
    }

    #[track_caller]
    fn check(&self, step: &Step) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let output = self.command(&step.command).output().expect("sh");
            let Some(difference) = difference(&step.output, &printed(&output)) else { return };
            let looks = LOOKS.iter().any(|look| step.command.starts_with(look));
            if !looks || Instant::now() > deadline {
                panic!("$ {}\n{difference}", step.command);
            }
            pass(Duration::from_millis(20));
        }
    }

    fn kill(&self, signal: &str, step: &Step) {
        let server = self.server();
        let (newest, before) = (server.newest(), self.counts(step));
        match signal {
            "-HUP" => drop(server.handover()),
            "" => {
                server.signal(Signal::SIGTERM);
                server.wait_exit(newest);
            }
            "-USR1" => drop(server.phase(newest)),
            "-USR2" => {
                let text = "SIGUSR2 from ";
                let n = server.count(text);
                server.signal(Signal::SIGUSR2);
                server.wait_for_nth(text, n + 1);
            }
            _ => panic!("$ {}: this signal has no meaning here", step.command),
        }
        self.expect_logged(step, &before);
    }

    fn counts(&self, step: &Step) -> BTreeMap<String, usize> {
        step.output
            .iter()
            .map(|line| (line.clone(), self.server().count(&line.replace("...", "*"))))
            .collect()
    }

    #[track_caller]
    fn expect_logged(&self, step: &Step, before: &BTreeMap<String, usize>) {
        for line in step.output.iter().filter(|line| *line != "...") {
            let n = before.get(line).unwrap_or(&0) + 1;
            self.server().wait_for_nth(&line.replace("...", "*"), n);
        }
    }
}

/// With its errors if it has failed.
fn printed(output: &Output) -> Vec<String> {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        text += if errors.is_empty() { "it failed without a word\n" } else { &errors };
    }
    text.lines().map(|line| line.trim_end_matches('\r').to_owned()).collect()
}

/// The expected and the actual output, unless they agree.
fn difference(expected: &[String], printed: &[String]) -> Option<String> {
    let shown = |lines: &[String]| lines.iter().map(|line| format!("  | {line}\n")).collect::<String>();
    let text = || format!("expected:\n{}printed:\n{}", shown(expected), shown(printed));
    (!lines_agree(expected, printed)).then(text)
}

fn lines_agree(expected: &[String], printed: &[String]) -> bool {
    match (expected, printed) {
        ([], []) => true,
        ([dots, rest @ ..], _) if dots == "..." => {
            (0..=printed.len()).any(|skipped| lines_agree(rest, &printed[skipped..]))
        }
        ([line, rest @ ..], [first, others @ ..]) => line_agrees(line, first) && lines_agree(rest, others),
        _ => false,
    }
}

fn line_agrees(expected: &str, printed: &str) -> bool {
    match expected.split_once("...") {
        None => expected == printed,
        Some((before, after)) => printed.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| line_agrees(after, &rest[at..]))
        }),
    }
}

#[test]
fn headers_are_understood() {
    let text = "//! What.\n//!\n//! $ no\n//! ```text\n//! $ a\n//! 1\n//!\n//! 2\n//! $ b \\\n//!   c\n//! ```\n\
                //! 3\n//! ```\n//! $ no\n//! ```\n//! ```text\n//! $ d\n//! ```\n\n//! ```text\n//! $ no\n";
    let step = |command: &str, output: &[&str]| Step {
        command: command.to_owned(),
        output: output.iter().map(|line| (*line).to_owned()).collect(),
    };
    assert_eq!(steps(text), [step("a", &["1", "", "2"]), step("b \\\n  c", &[]), step("d", &[])]);
    assert_eq!(run("cargo run --example a -- 1 2"), Some(("", "1 2")));
    assert_eq!(run("A=b cargo run --example a"), Some(("A=b ", "")));
    assert_eq!(run("cargo test"), None);
    for (expected, printed, agree) in [
        ("a", "a", true),
        ("a", "b", false),
        ("a", "a\na", false),
        ("", "", true),
        ("...", "", true),
        ("a\n...\nz", "a\nz", true),
        ("a\n...\nz", "a\nb\nc\nz", true),
        ("a\n...\nz", "a\nb\nz\nc", false),
        ("a...c", "abc", true),
        ("a...c...", "a€c€", true),
        ("a...c", "abd", false),
        ("a...", "b", false),
    ] {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let differs = difference(&lines(expected), &lines(printed)).is_some();
        assert_eq!(!differs, agree, "{expected:?} {printed:?}");
    }
}
