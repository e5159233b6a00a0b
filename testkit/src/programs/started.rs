//! A server that is started in odd ways and changes what it was started with: `started --listen ADDR [--pid-file F]
//! [--set NAME=VALUE] [--pass NAME=VALUE] [--remove NAME] [--uid N] [--init]`. As `started by KIND PROGRAM ARGS...` it becomes that
//! program by a descriptor: of a `file`, of one that was `removed`, of a `memfd`.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use heirloom::prelude::*;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Gid, Uid, fexecve, setgroups, setresgid, setresuid};

use super::{MainResult, start_log};

pub(super) fn main(args: &[String]) -> MainResult {
    match args {
        [by, kind, command @ ..] if by == "by" => return become_it(kind, command),
        _ => {}
    }
    let all = |flag: &'static str| {
        let given = args.windows(2).filter(move |pair| pair[0] == flag);
        given.map(|pair| pair[1].as_str())
    };
    let halves = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_owned(), value.to_owned())
    };
    for line in all("--set") {
        dotenvy::from_read_override(line.as_bytes())?;
    }
    if args.iter().any(|arg| arg == "--init") {
        heirloom::handover::init()?;
    }
    start_log();
    let router = Router::new()
        .get("/pid", |_: Request| std::process::id().to_string())
        .get("/ok", |_: Request| "ok\n")
        .get("/var/{name}", |req: Request| {
            std::env::var(req.param("name").unwrap_or_default()).unwrap_or_else(|_| "not set".to_owned())
        });
    let mut process = ProcessConfig::new();
    for (name, value) in all("--pass").map(halves) {
        process = process.pass_env(name, value);
    }
    for name in all("--remove") {
        process = process.remove_env(name);
    }
    if let Some(path) = all("--pid-file").next() {
        process = process.pid_file(path);
    }
    if let Some(id) = all("--uid").next() {
        let id: u32 = id.parse()?;
        process = process.before_ready(move || become_user(id));
    }
    let server = Server::new(router)
        .listen(all("--listen").next().ok_or("--listen ADDR")?)
        .timeouts(Timeouts::new().probation(Duration::ZERO))
        .process(process);
    Ok(server.serve()?)
}

fn become_user(id: u32) -> nix::Result<()> {
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    if Uid::effective() == user {
        return Ok(());
    }
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)
}

fn become_it(kind: &str, command: &[String]) -> MainResult {
    let program = &command[0];
    let fd: OwnedFd = match kind {
        "file" => File::open(program)?.into(),
        "removed" => {
            let copy = tempfile::NamedTempFile::new()?.into_temp_path();
            fs::copy(program, &copy)?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
            File::open(&copy)?.into()
        }
        "memfd" => {
            let mut file = File::from(memfd_create("program", MFdFlags::MFD_CLOEXEC)?);
            file.write_all(&fs::read(program)?)?;
            file.into()
        }
        _ => return Err("file, removed or memfd".into()),
    };
    let text = |bytes: Vec<u8>| CString::new(bytes);
    let argv: Vec<CString> =
        command.iter().map(|arg| text(arg.clone().into_bytes())).collect::<Result<_, _>>()?;
    let env: Vec<CString> = std::env::vars_os()
        .map(|(name, value)| text([name.into_vec(), value.into_vec()].join(&b'=')))
        .collect::<Result<_, _>>()?;
    fexecve(fd.as_fd(), &argv, &env)?;
    Ok(())
}
