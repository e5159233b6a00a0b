//! A server whose next generation has the fault that a file names, so that tests break and mend a
//! program whose arguments stay the same:
//! `faulty --listen ADDR --fault FILE [--probation-ms N] [--ready-timeout-ms N] [--executable PATH]`.
#![expect(clippy::disallowed_methods, reason = "stands for programs that take their time, or hang")]

use std::fs;
use std::thread::sleep;
use std::time::Duration;

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
    heirloom::handover::init()?;
    start_log();

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
    server = server.per_worker(&per_worker).listen(flag("--listen").map_or("127.0.0.1:0", |name| name));
    if let Some(path) = flag("--executable") {
        process = process.executable(path);
    }
    Ok(server.process(process).serve()?)
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
