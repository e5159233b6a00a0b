//! `heirloom-testkit`, as the tests of a user have it: what it reports of servers that are good, that fail and that lose requests.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use heirloom_testkit::{Addr, Load, Process, Program, Request, Server};
use testkit::{Signal, lacks, until};

use crate::TESTKIT;

const KITCHEN_SINK: &str = env!("CARGO_BIN_EXE_kitchen_sink");
const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];

fn kitchen_sink(flags: &[&str]) -> Program {
    Program::new(KITCHEN_SINK).args(LISTEN).args(flags).env("RUST_LOG", "info")
}

fn load(server: &Server) -> heirloom_testkit::RunningLoad {
    Load::new().get("/pid").identify(|response| Some(response.text().to_owned())).start(server)
}

fn is_gone(pid: u32) -> bool {
    !fs::exists(format!("/proc/{pid}")).unwrap()
}

#[test]
fn upgrades_are_counted_and_nothing_is_lost() {
    let mut server = kitchen_sink(&["--probation-ms", "0"]).start().unwrap();
    let load = load(&server);
    let mut pids = vec![server.pid().to_string()];
    for generation in 2..=3 {
        load.wait_for(50);
        let upgrade = server.upgrade().unwrap();
        assert_eq!((server.pid(), server.generation()), (upgrade.pid, generation));
        assert_eq!(server.get("/pid").ok().text(), upgrade.pid.to_string());
        pids.push(upgrade.pid.to_string());
    }
    load.wait_for(50);
    let report = load.stop();
    report.assert_unnoticed();
    pids.sort();
    assert!(report.answered_by.keys().eq(&pids), "{report}");
    let pid = server.pid();
    server.stop().unwrap();
    assert!(is_gone(pid));
}

#[test]
fn addresses_are_found_in_the_order_of_the_listeners() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let server = kitchen_sink(&["--unix", path.to_str().unwrap()]).start().unwrap();
    let [Addr::Tcp(tcp), Addr::Unix(unix)] = server.addresses() else { panic!("{:?}", server.addresses()) };
    assert!(tcp.ip().is_loopback() && *unix == path);
    for addr in server.addresses() {
        assert!(heirloom_testkit::get(addr, "/ok").is_ok());
    }
}

#[test]
fn the_program_finds_its_files_in_its_directory() {
    let script = r#"exec "$0" --listen "$(cat conf/address)""#;
    let program = || Program::new("/bin/sh").args(["-c", script, KITCHEN_SINK]);
    let server = program().file("./conf/address", "127.0.0.1:0").start().unwrap();
    assert_eq!(fs::read(server.dir().join("conf/address")).unwrap(), b"127.0.0.1:0");
    assert!(server.get("/ok").is_ok());
    server.stop().unwrap();
    for outside in ["../address", "/address", "conf/../../address"] {
        let e = program().file(outside, "").start().unwrap_err();
        assert!(e.to_string().contains("not a path below the directory"), "{e}");
    }
}

/// The supervisor gets the signal, and stays.
#[test]
fn a_supervised_server_is_upgraded_by_its_supervisor() {
    let mut server = kitchen_sink(&["--supervise", "--probation-ms", "0"]).start().unwrap();
    let load = load(&server);
    load.wait_for(50);
    server.upgrade().unwrap();
    load.wait_for(50);
    load.stop().assert_unnoticed();
    server.stop().unwrap();
}

#[test]
fn an_upgrade_that_fails_is_an_error_with_the_output() {
    let folder = tempfile::tempdir().unwrap();
    let fault = folder.path().join("fault");
    let args = ["faulty", "--listen", "127.0.0.1:0", "--fault", fault.to_str().unwrap()];
    let mut server = Program::new(TESTKIT).args(args).env("RUST_LOG", "info").start().unwrap();
    let load = load(&server);
    fs::write(&fault, "fail-before-ready").unwrap();
    let error = server.upgrade().unwrap_err().to_string();
    assert!(error.starts_with("the upgrade has failed, and the old process serves"), "{error}");
    assert!(error.contains("the database has another schema"), "{error}");
    fs::remove_file(&fault).unwrap();
    server.upgrade().unwrap();
    load.stop().assert_nothing_lost();
}

/// Only the end of the new process shows it. No test waits for this timeout.
#[test]
fn a_failed_upgrade_of_a_silent_server_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let fault = folder.path().join("fault");
    let args = ["faulty", "--listen", "127.0.0.1:0", "--ready-timeout-ms", "10000", "--fault"];
    let program = Program::new(TESTKIT).args(args).arg(&fault).env("RUST_LOG", "off");
    let mut server = program.timeout(Duration::from_secs(3600)).start().unwrap();
    server.upgrade().unwrap();
    fs::write(&fault, "hang-before-ready").unwrap();
    let error = server.upgrade().unwrap_err().to_string();
    assert!(error.starts_with("the upgrade has failed, and the old process serves"), "{error}");
    assert!(!error.contains("still serving"), "it logs nothing: {error}");
}

#[test]
fn a_program_that_does_not_start_is_an_error_with_the_output() {
    let error = Program::new("/nonexistent").start().unwrap_err().to_string();
    assert!(error.starts_with("can't start /nonexistent: "), "{error}");
    let error = kitchen_sink(&["--nonsense"]).start().unwrap_err();
    let text = format!("{error:?}");
    assert!(text.starts_with("it has ended with exit status: ") && text.contains("\n| "), "{text}");
    let silent = Program::new("/bin/sh")
        .args(["-c", "echo waits; exec sleep 1000"])
        .timeout(Duration::from_millis(300));
    let text = silent.start().unwrap_err().to_string();
    assert!(text.starts_with("no listener within 300ms; the server has written"), "{text}");
}

#[test]
fn wrong_and_missing_responses_are_failures_of_their_class() {
    let server = kitchen_sink(&[]).start().unwrap();
    let wrong = Request::get("/ok").check(|response| response.text() == "no");
    let load = Load::new().keep_alive(1).close(1).get("/ok").request(wrong).start(&server);
    load.wait_for(10);
    let addr = server.address().clone();
    drop(server);
    // Nobody answers any more; the load goes on.
    until("nobody listens", || heirloom_testkit::get(&addr, "/ok") == heirloom_testkit::Outcome::Refused);
    let report = load.stop();
    assert!(report.losses["wrong"] >= 10 && report.losses.len() > 1, "{report}");
    assert_eq!(report.losses.values().sum::<u64>(), report.failed);
    let lost = catch_unwind(AssertUnwindSafe(|| report.assert_nothing_lost()));
    assert!(lost.is_err());
}

/// After a panic, with two generations, and with a program that a handler has started.
#[test]
fn no_process_is_left_behind() {
    if lacks("sleep") {
        return;
    }
    let script = format!("sleep 1000 & exec '{KITCHEN_SINK}' --listen 127.0.0.1:0 --probation-ms 60000");
    let mut pids = Vec::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let server = Program::new("/bin/sh").args(["-c", &script]).env("RUST_LOG", "info").start().unwrap();
        Process::of(server.pid()).signal(Signal::SIGHUP as i32);
        until("two generations", || server.output().iter().any(|line| line.ends_with(": SERVING")));
        let mark = fs::read(format!("/proc/{}/environ", server.pid())).unwrap();
        let mark = mark.split(|byte| *byte == 0).find(|pair| pair.starts_with(b"HEIRLOOM_TESTKIT=")).unwrap();
        pids = heirloom_testkit::internal::processes_with(mark);
        panic!("as it happens in tests");
    }));
    assert!(panicked.is_err());
    assert_eq!(pids.len(), 3, "two generations and sleep");
    until("all are gone", || pids.iter().all(|pid| is_gone(*pid)));
}

#[test]
fn clients_of_a_load_log_in_once() {
    use heirloom::prelude::{Request as Asked, Router, StatusCode};

    let logins = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&logins);
    let has = |req: &Asked, field: &str, text: &str| {
        req.headers().get(field).is_some_and(|value| value.to_str().unwrap().contains(text))
    };
    let inside =
        move |req: Asked| match has(&req, "cookie", "user=7") && has(&req, "authorization", "Bearer tea") {
            // A cookie that is renewed.
            true => (StatusCode::OK, [("set-cookie", "user=77; Path=/")], ()),
            false => (StatusCode::UNAUTHORIZED, [("set-cookie", "user=0")], ()),
        };
    let router = Router::new().get("/inside", inside).post("/login", move |_: Asked| {
        counted.fetch_add(1, Ordering::SeqCst);
        ([("set-cookie", "user=7; HttpOnly")], "tea")
    });
    let server = heirloom::Server::new(router).listen("127.0.0.1:0").spawn().unwrap();
    let login = || Request::new("POST", "/login");
    let fields = |response: &heirloom_testkit::Response| {
        vec![("Authorization".to_owned(), format!("Bearer {}", response.text()))]
    };
    let load = Load::new().keep_alive(2).close(2).get("/inside").login_with(login(), fields);
    let load = load.start(server.addresses()[0]);
    load.wait_for(200);
    until("each client has logged in", || logins.load(Ordering::SeqCst) >= 4);
    let report = load.stop();
    report.assert_unnoticed();
    assert_eq!(logins.load(Ordering::SeqCst), 4, "{report}");

    // Cookies alone are not enough here. A request that is refused is lost, and no reason to log in again.
    let before = server.handle().stats().requests;
    let load = Load::new().keep_alive(1).close(0).get("/inside").login(login()).start(server.addresses()[0]);
    until("requests are refused", || server.handle().stats().requests >= before + 4);
    let report = load.stop();
    assert!(report.answered == 1 && report.failed >= 3, "{report}");
    assert_eq!(logins.load(Ordering::SeqCst), 5, "{report}");
    server.stop().unwrap();
}
