//! A server whose next generation has the fault that a file names, so that tests break and mend a
//! program whose arguments stay the same:
//! `faulty --listen ADDR --fault FILE [--probation-ms N] [--ready-timeout-ms N] [--executable PATH] [--no-logger]
//! [--control PATH] [--admin ADDR] [--pid-file PATH] [--supervise]`.
#![expect(clippy::disallowed_methods, reason = "stands for programs that take their time, or hang")]

use std::fs;
use std::os::unix::process::CommandExt;
use std::thread::sleep;
use std::time::Duration;

use heirloom::handover;
use heirloom::prelude::*;

use super::{MainResult, start_log};

/// Longer than any test.
const INDEFINITELY: Duration = Duration::from_secs(600);

pub(super) fn main(args: &[String]) -> MainResult {
    let flag = |name: &str| Some(args.iter().position(|arg| arg == name)? + 1).and_then(|at| args.get(at));
    let fault = flag("--fault").and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    if fault == "exit-100ms-before" {
        sleep(Duration::from_millis(100));
        exit(3);
    }
    if fault == "run-itself-again" && std::env::var_os("RUN_AGAIN").is_none() {
        let mut again = std::process::Command::new(std::env::current_exe()?);
        return Err(again.arg("faulty").args(args).env("RUN_AGAIN", "1").exec().into());
    }
    handover::init()?;
    early_words(&fault);
    if !args.iter().any(|arg| arg == "--no-logger") {
        start_log();
    }
    if fault == "fail-in-main" {
        let kind = std::io::ErrorKind::InvalidData;
        let failed = std::io::Error::new(kind, "app.conf, line 3:\nno such \"key\"");
        return Err(handover::fail(failed).into());
    }

    let ms = |name: &str| flag(name).and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
    let mut timeouts = Timeouts::new().probation(ms("--probation-ms").unwrap_or(Duration::ZERO));
    if let Some(ready) = ms("--ready-timeout-ms") {
        timeouts = timeouts.ready(ready);
    }
    let (hook, own) = (fault.clone(), fault.clone());
    let mut server = Server::new(router(&fault)).timeouts(timeouts);
    let mut process = ProcessConfig::new().before_ready(move || before_ready(&hook));
    let per_worker = PerWorker::new(move || match own.as_str() {
        "fail-in-a-worker" if is_in("heirloom-worker-3") => Err("the database has no more connections"),
        "panic-in-workers" => panic!("as asked"),
        _ => Ok(()),
    });
    if let Some(admin) = flag("--admin") {
        server = server.admin(admin);
    }
    server = server.per_worker(&per_worker).listen(flag("--listen").map_or("127.0.0.1:0", |name| name));
    if let Some(path) = flag("--executable") {
        process = process.executable(path);
    }
    if let Some(path) = flag("--control") {
        process = process.control_socket(path);
    }
    if let Some(path) = flag("--pid-file") {
        process = process.pid_file(path);
    }
    if args.iter().any(|arg| arg == "--supervise") {
        process = process.supervise();
    }
    Ok(server.process(process).serve()?)
}

/// Writes to standard error before the server is ready.
fn early_words(fault: &str) {
    let lines =
        |range: std::ops::Range<u32>| range.for_each(|n| eprintln!("filler {n:08} {}", "x".repeat(40)));
    match fault {
        "exit-with-words" => {
            eprintln!("one\n\n  two: \u{1b}[31mred");
            eprint!("the last");
            exit(3);
        }
        "hang-with-words" => {
            eprintln!("waiting for a lock");
            sleep(INDEFINITELY);
        }
        "write-megabytes" => lines(0..50_000),
        "run-itself-again" => lines(0..1_000),
        // Its predecessor may be killed meanwhile.
        "write-around-a-stop" => {
            lines(0..1_000);
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP).unwrap();
            lines(1_000..5_000);
        }
        // It inherits our standard error, and writes when the file exists.
        "start-a-writer" => {
            let script = "until [ -e \"$0\" ]; do sleep 0.05; done; echo late words >&2";
            let path = std::env::var("WRITER_WAITS_FOR").unwrap();
            // A shell between us and it, which does not wait.
            let args = ["-c", "sh -c \"$0\" \"$1\" &", script, &path];
            assert!(std::process::Command::new("sh").args(args).status().unwrap().success());
        }
        _ => {}
    }
}

fn is_in(thread: &str) -> bool {
    std::thread::current().name() == Some(thread)
}

fn before_ready(fault: &str) -> Result<(), String> {
    match fault {
        "exit-100ms-after-inheriting" => {
            sleep(Duration::from_millis(100));
            exit(4);
        }
        "fail-before-ready" => return Err("the database has another schema".to_owned()),
        "panic-before-ready" => panic!("as asked"),
        "hang-before-ready" => sleep(INDEFINITELY),
        _ => {}
    }
    Ok(())
}

fn router(fault: &str) -> Router {
    let (dies_at_once, dies_when_asked) = (fault == "die-on-first-request", fault == "abort-when-asked");
    let pid = move |_: Request| {
        if dies_at_once {
            die();
        }
        std::process::id().to_string()
    };
    let abort = move |_: Request| if dies_when_asked { die() } else { "not that fault" };
    Router::new()
        .get("/pid", pid)
        .get("/abort", abort)
        .get("/generation", |req: Request| req.generation().to_string())
}

/// A crash: nothing is finished, closed or logged.
fn die() -> ! {
    std::process::abort()
}

#[expect(clippy::exit, reason = "one of the faults")]
fn exit(status: i32) -> ! {
    std::process::exit(status)
}
