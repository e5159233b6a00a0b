//! A server whose handlers start programs, and which stays after `serve`: `--listen ADDR
//! [--probation-ms N] [--linger] [--keep-nofile]`. As `parent describe HOW WHAT` it describes its children in the same way,
//! without being a server.

use std::fs::File;
use std::io::{self, Read};
use std::process::Command;
use std::time::Duration;

use heirloom::prelude::*;
use nix::fcntl::OFlag;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::wait::waitpid;
use nix::unistd::pipe2;
use std::ffi::CString;

use super::{MainResult, start_log};

pub(super) fn main(args: &[String]) -> MainResult {
    match args {
        [verb, how, what] if verb == "describe" => {
            return Ok(io::Write::write_all(&mut io::stdout(), &description(how, what)?)?);
        }
        _ => {}
    }
    heirloom::handover::init()?;
    start_log();
    let after = |flag: &str| args.iter().skip_while(|arg| *arg != flag).nth(1);
    let probation = after("--probation-ms").map_or(Ok(0), |ms| ms.parse())?;
    let router = Router::new()
        .get("/pid", |_: Request| std::process::id().to_string())
        .post("/echo", |req: Request| req.into_body())
        .get("/child/{how}/{what}", |req: Request| {
            let name = |name| req.param(name).unwrap_or_default();
            description(name("how"), name("what")).map_err(|e| (StatusCode::BAD_REQUEST, e.to_string()))
        });
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let process = ProcessConfig::new().raise_nofile(!has("--keep-nofile"));
    let outcome = Server::new(router)
        .listen(after("--listen").ok_or("--listen ADDR")?)
        .timeouts(Timeouts::new().probation(Duration::from_millis(probation)))
        .process(process)
        .serve();
    log::info!("serve has returned");
    while has("--linger") {
        std::thread::park();
    }
    Ok(outcome?)
}

/// A child's description of itself. It is started by std, or by the system's own call (`raw`).
fn description(how: &str, what: &str) -> io::Result<Vec<u8>> {
    let words: &[&str] = match what {
        "status" => &["cat", "/proc/self/status"],
        "fds" => &["find", "/proc/self/fd", "-mindepth", "1", "-printf", "%f %l\n"],
        "env" => &["env", "-0"],
        "limits" => &["cat", "/proc/self/limits"],
        _ => return Err(io::Error::other("status, fds, env or limits")),
    };
    match how {
        "std" => Ok(Command::new(words[0]).args(&words[1..]).output()?.stdout),
        "raw" => raw(words),
        _ => Err(io::Error::other("std or raw")),
    }
}

fn raw(words: &[&str]) -> io::Result<Vec<u8>> {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
    let words: Vec<CString> =
        ["env"].iter().chain(words).map(|word| CString::new(*word)).collect::<Result<_, _>>()?;
    let env: Vec<CString> = environment();
    let mut actions = PosixSpawnFileActions::init()?;
    actions.add_dup2(std::os::fd::AsRawFd::as_raw_fd(&theirs), 1)?;
    let child = posix_spawn(c"/usr/bin/env", &actions, &PosixSpawnAttr::init()?, &words, &env)?;
    drop(theirs);
    let mut said = Vec::new();
    File::from(ours).read_to_end(&mut said)?;
    waitpid(child, None)?;
    Ok(said)
}

fn environment() -> Vec<CString> {
    use std::os::unix::ffi::OsStringExt;
    let pair = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let bytes = [name.into_vec(), value.into_vec()].join(&b'=');
        CString::new(bytes).expect("as the system keeps them")
    };
    std::env::vars_os().map(pair).collect()
}
