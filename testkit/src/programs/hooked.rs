//! A server whose hooks are controlled by files in the directory that it is started with: they make hooks fail or hang,
//! and the log reports what the hooks do.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use heirloom::handover::{HandoverState, inherited_fd};
use heirloom::prelude::*;
use heirloom::signals::{Signal, SignalAction, Signals};
use std::time::Duration;

use super::{MainResult, start_log};

pub(super) fn main(args: &[String]) -> MainResult {
    heirloom::handover::init()?;
    start_log();
    let folder = PathBuf::from(&args[0]);

    let handle = Handle::new();
    let socket: UdpSocket = match inherited_fd("udp") {
        Some(fd) => fd.into(),
        None => UdpSocket::bind("127.0.0.1:0").expect("a socket"),
    };
    let mut file: File = match inherited_fd("file") {
        Some(fd) => fd.into(),
        None => {
            File::options().read(true).append(true).create(true).open(folder.join("log")).expect("a file")
        }
    };
    writeln!(file, "{}", std::process::id()).expect("room");
    handle.pass_fd("udp", socket.try_clone().expect("a descriptor"));
    handle.pass_fd("file", file.try_clone().expect("a descriptor"));
    handle.pass_fd("a name, odd=1;", file.try_clone().expect("a descriptor"));
    let odd = inherited_fd("a name, odd=1;").is_some();
    let udp = socket.local_addr().expect("an address");
    let router = Router::new()
        .get("/pid", |_: Request| std::process::id().to_string())
        .get("/never", |_: Request| hang())
        .get("/udp", move |_: Request| udp.to_string())
        .get("/odd", move |_: Request| odd.to_string())
        .get("/file", move |_: Request| {
            let mut text = String::new();
            let mut file = file.try_clone().expect("a descriptor");
            file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("to read");
            text
        });

    let signals = match fs::read_to_string(folder.join("signals")).unwrap_or_default().as_str() {
        "nginx" => Signals::nginx(),
        "endless" => Signals::endless(),
        "quiet" => Signals::default().with(Signal::Hup, SignalAction::Nothing),
        _ => Signals::default(),
    };
    let (release, acquire, exit, term) = (folder.clone(), folder.clone(), folder.clone(), folder.clone());
    let process = ProcessConfig::new()
        .exclusive(
            move || -> Result<_, String> {
                log::info!("hook: release");
                obey(&release, "release")?;
                let size = fs::read_to_string(release.join("size")).ok().and_then(|n| n.trim().parse().ok());
                Ok(HandoverState { version: 7, bytes: vec![b'x'; size.unwrap_or(0)] })
            },
            move |state| {
                log::info!("hook: acquire version {} bytes {}", state.version, state.bytes.len());
                obey(&acquire, "acquire")
            },
        )
        .on_phase(|phase| log::info!("hook: phase {phase}"))
        .on_drain(|| log::info!("hook: drain"))
        .signals(signals)
        .on_signal(Signal::Usr1, || log::info!("hook: before USR1"))
        .after_signal(Signal::Usr1, || log::info!("hook: after USR1"))
        .on_signal(Signal::Term, move || {
            let _ = obey(&term, "term");
        })
        .on_exit(move || {
            log::info!("hook: exit");
            let _ = obey(&exit, "exit");
        });
    Ok(Server::new(router)
        .with_handle(handle)
        .listen(&args[1])
        .timeouts(
            Timeouts::new()
                .probation(Duration::from_millis(args[2].parse().expect("a number")))
                // Some tests wait for this timeout; a good successor is ready within it even on a busy machine.
                .ready(Duration::from_secs(10))
                .drain(Duration::from_secs(if folder.join("patient").exists() { 3600 } else { 2 })),
        )
        .process(process)
        .serve()?)
}

fn obey(folder: &Path, hook: &str) -> Result<(), String> {
    let is_asked = |what: &str| {
        let path = folder.join(format!("{hook}-{what}"));
        // Once: after a rollback the predecessor acquires again.
        if hook == "acquire" { std::fs::remove_file(path).is_ok() } else { path.exists() }
    };
    if is_asked("hangs") {
        log::info!("hook: {hook} hangs");
        hang();
    }
    if is_asked("panics") {
        panic!("as asked");
    }
    if is_asked("fails") { Err("as asked".to_owned()) } else { Ok(()) }
}

fn hang() {
    let (_keep, never) = mpsc::channel::<()>();
    let _ = never.recv();
}
