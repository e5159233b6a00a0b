//! The key-values of the lifecycle's lines, as a logger gets them that writes JSON: `examples/json_log/json.rs`. And that
//! example itself.

use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use heirloom_testkit::{Client, Program, Request};
use serde_json::{Map, Value};
use testkit::{Exit, Pid, Proc, Signal, until};

use crate::TESTKIT;

/// These are numbers, or null; all others are texts, or null.
const NUMBERS: [&str; 19] = [
    "child",
    "connections",
    "crashes",
    "duration_ms",
    "ended",
    "generation",
    "limit_ms",
    "listeners",
    "named_pid",
    "pid",
    "predecessor",
    "predecessor_generation",
    "requests",
    "sender",
    "server",
    "status",
    "successor",
    "supervisor",
    "uid",
];

struct Line {
    message: String,
    target: String,
    fields: Map<String, Value>,
}

impl Line {
    fn read(text: &str) -> Line {
        let Ok(Value::Object(mut line)) = serde_json::from_str(text) else { panic!("no object: {text}") };
        let (Some(Value::String(message)), Some(Value::String(target)), Some(Value::Object(fields))) =
            (line.remove("message"), line.remove("target"), line.remove("fields"))
        else {
            panic!("a part is missing: {text}")
        };
        let others: Vec<&String> = line.keys().collect();
        assert_eq!(others, ["level", "timestamp"], "{text}");
        Line { message, target, fields }
    }

    fn field(&self, name: &str) -> &Value {
        self.fields
            .get(name)
            .unwrap_or_else(|| panic!("{name} is missing: {} {:?}", self.message, self.fields))
    }

    /// It has `generation`, `pid` and these fields, and no others.
    #[track_caller]
    fn has(&self, names: &[&str]) {
        let mut expected = [&["generation", "pid"], names].concat();
        expected.sort_unstable();
        let found: Vec<&String> = self.fields.keys().collect();
        assert_eq!(found, expected, "{}", self.message);
    }
}

struct Log(Vec<Line>);

impl Log {
    /// All lines of the logger, of which heirloom's have fields of the documented kinds.
    fn of(lines: &[String]) -> Log {
        // The error that `main` returns is written in pieces, between which the predecessor may write a line.
        let lines = lines.iter().map(|line| line.strip_prefix("Error: ").unwrap_or(line));
        // What a program writes by itself.
        let lines: Vec<Line> = lines.filter(|line| line.starts_with('{')).map(Line::read).collect();
        for line in lines.iter().filter(|line| line.target.starts_with("heirloom::")) {
            assert!(line.fields.contains_key("generation"), "{}", line.message);
            for (name, value) in line.fields.iter().filter(|(_, value)| !value.is_null()) {
                let is_number = NUMBERS.contains(&name.as_str());
                let fits = if is_number { value.is_u64() } else { value.is_string() };
                assert!(fits || line.target == "heirloom::access", "{}: {name}: {value}", line.message);
            }
        }
        Log(lines)
    }

    /// The first line whose message begins so.
    #[track_caller]
    fn line(&self, message: &str) -> &Line {
        let found = self.0.iter().find(|line| line.message.starts_with(message));
        found.unwrap_or_else(|| {
            let all: Vec<&String> = self.0.iter().map(|line| &line.message).collect();
            panic!("no line {message:?} in {all:#?}")
        })
    }
}

fn json(program: &[&str]) -> Command {
    let mut command = Command::new(TESTKIT);
    command.args(program).env("TESTKIT_LOG", "json").env("HEIRLOOM_SUPERVISOR_LOG", "json");
    command
}

fn number(pid: Pid) -> Value {
    pid.as_raw().into()
}

#[test]
fn handovers_and_commands() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (fault, control, pid_file) = (path("fault"), path("control"), path("pid"));
    let upgrade = || {
        let mut socket = UnixStream::connect(&control).unwrap();
        socket.write_all(b"upgrade\n").unwrap();
        io::read_to_string(socket).unwrap()
    };
    let flags = ["faulty", "--fault", &fault, "--control", &control, "--pid-file", &pid_file];
    let server = Proc::start_command(json(&flags));
    let first = server.pid();
    fs::write(&fault, "exit-with-words").unwrap();
    assert!(upgrade().contains("it%20wrote"));
    fs::write(&fault, "fail-before-ready").unwrap();
    assert!(upgrade().contains("schema"));
    fs::remove_file(&fault).unwrap();
    let second = server.handover();
    assert_eq!(server.wait_exit(first), Exit::Status(0));
    server.phase(second);
    server.stop();

    let log = Log::of(&server.lines(""));
    log.line("listening on ").has(&["listener"]);
    log.line(&format!("pid file {pid_file} names")).has(&["named_pid", "path"]);
    log.line("control socket ").has(&["path"]);
    let serves = log.line("serving as generation 1");
    serves.has(&["phase"]);
    assert_eq!((serves.field("phase"), serves.field("pid")), (&"serving".into(), &number(first)));

    let command = log.line("control: upgrade from ");
    command.has(&["command", "sender", "uid"]);
    assert_eq!(*command.field("sender"), std::process::id());
    log.line("handover: started ").has(&["path", "successor"]);
    let failed: Vec<&Line> = log.0.iter().filter(|line| line.message.contains("; still serving")).collect();
    failed[0].has(&["output", "reason", "successor"]);
    assert_eq!(*failed[0].field("output"), r"one | two: \u{1b}[31mred | the last");
    assert!(failed[0].field("reason").as_str().unwrap().ends_with("exited with status 3"));
    failed[1].has(&["reason", "successor"]);

    let signal = log.line("SIGHUP from ");
    signal.has(&["action", "sender", "signal", "uid"]);
    assert_eq!((signal.field("signal"), signal.field("action")), (&"SIGHUP".into(), &"handover".into()));
    let child = log.line("handover: child of ");
    child.has(&["predecessor", "predecessor_generation"]);
    assert_eq!(*child.field("predecessor"), number(first));
    for (message, direction, of) in [
        (format!("handover: to child {second}: COMMIT"), "sent", "successor"),
        (format!("handover: child {second}: SERVING"), "received", "successor"),
        ("handover: to predecessor ".to_owned(), "sent", "predecessor"),
        (format!("handover: predecessor {first}: COMMIT"), "received", "predecessor"),
    ] {
        let line = log.line(&message);
        line.has(&["direction", "handover_message", of]);
        assert_eq!(*line.field("direction"), direction);
    }
    let drain = log.line("draining (handed over to ");
    drain.has(&["connections", "duration_ms", "phase", "reason", "requests", "successor"]);
    assert_eq!((drain.field("reason"), drain.field("successor")), (&"handed over".into(), &number(second)));
    assert!(drain.field("duration_ms").is_u64());
    log.line("0 connections open; ").has(&["connections", "duration_ms"]);
    let end = log.line("end of generation 1");
    end.has(&["duration_ms", "phase"]);
    assert!(end.field("duration_ms").is_u64());
    log.line(&format!("handover: predecessor {first} is gone")).has(&["predecessor"]);
    let serves = log.line("serving as generation 2");
    assert_eq!((serves.field("generation"), serves.field("pid")), (&2.into(), &number(second)));

    log.line(&format!("pid {second} generation 2 ")).has(&["connections", "phase", "requests"]);
    let drain = log.line("draining (stop requested): ");
    assert_eq!((drain.field("duration_ms"), drain.field("successor")), (&Value::Null, &Value::Null));
    log.line("listener ").has(&["listener"]);
    log.line(&format!("removed {control}")).has(&["path"]);
}

#[test]
fn hooks_and_an_abort() {
    let folder = tempfile::tempdir().unwrap();
    let server = Proc::start_command(json(&["hooked", folder.path().to_str().unwrap(), "127.0.0.1:0", "0"]));
    fs::write(folder.path().join("release-fails"), "").unwrap();
    server.hup();
    server.wait_for("the release hook failed: as asked; still serving");
    fs::rename(folder.path().join("release-fails"), folder.path().join("release-panics")).unwrap();
    server.hup();
    server.wait_for_nth("the release hook failed: ", 2);
    let mut client = server.client();
    client.ask("/never");
    server.in_flight(server.pid(), 1);
    server.signal(Signal::SIGTERM);
    assert!(matches!(server.wait_exit(server.pid()), Exit::Status(status) if status != 0));
    server.wait_gone();

    let log = Log::of(&server.lines(""));
    let failed = log.line("handover: the release hook failed: ");
    failed.has(&["hook", "reason"]);
    assert_eq!((failed.field("hook"), failed.field("reason")), (&"release".into(), &"as asked".into()));
    let cut = log.line("abort: cut ");
    cut.has(&["duration_ms", "request"]);
    assert_eq!(*cut.field("request"), "GET /never");
    assert!(cut.field("duration_ms").is_u64());
    let panicked = log.line("release panicked");
    panicked.has(&["hook", "reason"]);
    assert_eq!(*panicked.field("hook"), "release");
}

#[test]
fn the_supervisor() {
    let folder = tempfile::tempdir().unwrap();
    let fault = folder.path().join("fault");
    let flags = ["faulty", "--fault", fault.to_str().unwrap(), "--supervise"];
    let server = Proc::begin(json(&flags), Stdio::null());
    server.wait_for("serves as generation 1");
    let supervisor = server.pid();
    let first = server.child(1);
    server.signal_to(supervisor, Signal::SIGHUP);
    server.wait_for("serves as generation 2");
    let second = server.child(2);
    server.wait_exit(first);
    server.signal_to(second, Signal::SIGKILL);
    server.wait_for("and no process serves");
    server.wait_for("serves as generation 3");
    server.signal_to(supervisor, Signal::SIGTERM);
    assert_eq!(server.wait_exit(supervisor), Exit::Status(0));
    server.wait_gone();

    let log = Log::of(&server.lines(""));
    for (message, names) in [
        ("supervisor: pid ", &[][..]),
        ("supervisor: started ", &["child", "path"]),
        ("supervisor: SIGHUP goes to ", &["child", "signal"]),
        ("supervisor: SIGTERM: the service ends", &["reason"]),
        ("supervisor: the service has ended ", &["status"]),
        ("the supervisor ends the service", &["reason"]),
    ] {
        log.line(message).has(names);
    }
    let serves = log.line(&format!("supervisor: {second} serves as generation 2"));
    serves.has(&["child"]);
    assert_eq!((serves.field("generation"), serves.field("pid")), (&2.into(), &number(supervisor)));
    let ended = log.line(&format!("supervisor: {second} has ended with status "));
    ended.has(&["child", "status"]);
    assert_eq!((ended.field("status"), ended.field("generation")), (&137.into(), &2.into()));
}

/// The client had its 503 at the deadline.
#[test]
fn an_error_past_the_deadline_is_in_one_line() {
    let server = testkit::kitchen_sink!();
    assert_eq!(server.get("/gives-up").ok().status, 503);
    server.wait_for("GET /gives-up: has returned past its deadline, *, with an error: gave up");
    assert_eq!(server.count("gave up"), 1);
    server.stop();
}

/// `examples/json_log`.
#[test]
fn an_example_writes_json_lines() {
    let mut server = Program::new(env!("CARGO_BIN_EXE_json_log")).arg("127.0.0.1:0").start().unwrap();
    let ask = |mut client: Client, id: &str| {
        client.request(&Request::get("/orders/7").header("X-Request-Id", id)).ok();
    };
    ask(server.client(), "a-1");
    let first = server.pid();
    let second = server.upgrade().unwrap().pid;
    ask(server.client(), "\u{22}<b>");
    let has_both = |server: &heirloom_testkit::Server| {
        server.output().iter().filter(|line| line.contains("heirloom::access")).count() == 2
    };
    until("both lines of the access log", || has_both(&server));

    let log = Log::of(&server.output());
    let of = |target: &str, pid: u32| {
        let lines = log.0.iter().filter(move |line| line.target == target);
        let generation = if pid == first { 1 } else { 2 };
        lines
            .filter(move |line| line.fields.get("generation").is_none_or(|it| *it == generation))
            .collect::<Vec<_>>()
    };
    let access = of("heirloom::access", first)[0];
    assert_eq!((access.field("id"), access.field("status")), (&"a-1".into(), &200.into()));
    assert_eq!((access.field("pattern"), access.field("via")), (&"/orders/{id}".into(), &Value::Null));
    assert!(access.field("ms").is_f64() && access.field("bytes").is_u64());
    let other = of("heirloom::access", second)[0].field("id").clone();
    let handlers: Vec<&Line> = log.0.iter().filter(|line| line.message == "order looked up").collect();
    let ids: Vec<&Value> = handlers.iter().map(|line| line.field("id")).collect();
    assert_eq!(ids, [&Value::from("a-1"), &other]);
    assert_eq!(*handlers[0].field("order"), "7");
    assert_eq!(*log.line("draining (handed over to ").field("successor"), second);
    server.stop().unwrap();
}
