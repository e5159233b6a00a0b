//! The path of a unix socket that changes while a server runs: it is bound anew, or left alone.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use testkit::{Addr, Client, Exit, Proc, Signal, get, kitchen_sink, until};

fn serve_at(path: &Path) -> Proc {
    kitchen_sink!("--probation-ms", "0", "--idle-grace-ms", "300", "--unix", path.to_str().unwrap())
}

#[test]
fn a_removed_path_is_bound_again_without_a_close() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let (server, unix) = (serve_at(&path), Addr::Unix(path.clone()));
    let mut idle = Client::to(&unix);
    idle.get("/ok").ok();
    fs::remove_file(&path).unwrap();
    for _ in 0..3 {
        let old = server.newest();
        let new = server.handover();
        // Until then it may have the connection, and accept.
        assert_eq!(server.wait_exit(old), Exit::Status(0));
        assert_eq!(get(&unix, "/pid").ok().number(), new.as_raw());
        let answer = idle.get("/pid").ok();
        assert_eq!(answer.number(), new.as_raw());
        assert!(!answer.closes());
    }
    assert_eq!(server.count(" was removed while the server ran: bound again"), 1);
    server.stop();
    assert!(!path.exists(), "the new one is removed at the end, as the first one is");
}

#[test]
fn the_path_of_a_successor_that_was_killed_is_bound_anew_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let server = kitchen_sink!("--probation-ms", "60000", "--unix", path.to_str().unwrap());
    fs::remove_file(&path).unwrap();
    let killed = server.hup_to_probation();
    server.signal_to(killed, Signal::SIGKILL);
    server.wait_for("was killed by SIGKILL; still serving");
    let new = server.hup_to_probation();
    assert_eq!(get(&Addr::Unix(path), "/pid").ok().number(), new.as_raw());
}

#[test]
fn a_path_of_another_program_stays_and_blocks_no_handover() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let socket = |path: &Path| Some(UnixListener::bind(path).unwrap());
    let file = |path: &Path| {
        fs::write(path, "not yours").unwrap();
        None
    };
    let link = |path: &Path| {
        std::os::unix::fs::symlink("nowhere", path).unwrap();
        None
    };
    type Put<'a> = &'a dyn Fn(&Path) -> Option<UnixListener>;
    let puts: [Put<'_>; 3] = [&socket, &file, &link];
    for put in puts {
        let server = serve_at(&path);
        let mut idle = Client::to(&Addr::Unix(path.clone()));
        idle.get("/ok").ok();
        fs::remove_file(&path).unwrap();
        let other = put(&path);
        let before = fs::symlink_metadata(&path).unwrap();
        for n in 1..3 {
            let old = server.newest();
            let new = server.handover();
            assert_eq!(server.wait_exit(old), Exit::Status(0));
            let text = format!("{} is no longer this server's socket", path.display());
            assert!(server.wait_for_nth(&text, n).contains(" WARN "));
            assert_eq!(server.get("/pid").ok().number(), new.as_raw());
            assert_eq!(idle.get("/pid").ok().number(), new.as_raw(), "its own clients are served on");
        }
        server.stop();
        let after = fs::symlink_metadata(&path).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!((after.dev(), after.ino()), (before.dev(), before.ino()));
        if let Some(other) = other {
            let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
            other.accept().unwrap();
        }
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn of_two_servers_started_on_one_path_one_is_reached() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    for round in 0..10 {
        if round % 2 == 0 {
            drop(UnixListener::bind(&path).unwrap());
        }
        let start = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_kitchen_sink"));
            command.args(["--unix", path.to_str().unwrap()]);
            Proc::begin(command, std::process::Stdio::null())
        };
        let both = [start(), start()];
        until("one serves, the other has ended", || {
            both.iter().filter(|server| server.count("serving as generation 1") == 1).count() == 1
                && both.iter().filter(|server| server.alive().is_empty()).count() == 1
        });
        let serves = both.iter().find(|server| !server.alive().is_empty()).unwrap();
        assert_eq!(get(&Addr::Unix(path.clone()), "/pid").ok().number(), serves.pid().as_raw());
        let other = both.iter().find(|server| server.pid() != serves.pid()).unwrap();
        other.wait_for("another process uses it");
        serves.stop();
        assert!(!path.exists());
    }
}
