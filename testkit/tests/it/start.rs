//! The way a server was started is the way its successors are started: path, directory, arguments
//! and environment, as bytes.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use testkit::{Pid, Proc};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");
const FLAGS: &str = "--listen 127.0.0.1:0 --probation-ms 0";

/// Runs `line` in a shell, with `$0` for `argument`; its last command is the server.
#[track_caller]
fn by_shell(shell: &str, line: &str, argument: &Path) -> Proc {
    let line = format!("{line} {FLAGS}");
    Proc::start_as_said(shell, &["-c", &line, argument.to_str().unwrap()])
}

fn cwd(pid: Pid) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/cwd")).unwrap()
}

fn exe(pid: Pid) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

#[test]
fn a_relative_path_is_relative_to_where_the_first_one_started() {
    let folder = tempfile::tempdir().unwrap();
    symlink(PROGRAM, folder.path().join("program")).unwrap();
    let server = by_shell("sh", r#"cd "$0" && exec ./program"#, folder.path());
    for _ in 0..2 {
        let new = server.handover();
        assert_eq!(cwd(new), folder.path().canonicalize().unwrap());
        assert_eq!(exe(new), Path::new(PROGRAM));
    }
}

#[test]
fn a_name_in_argv_that_is_no_path_does_no_harm() {
    let argv = |pid: Pid| fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    if testkit::lacks("bash") {
        return;
    }
    let server = by_shell("bash", r#"exec -a "any name" "$0""#, Path::new(PROGRAM));
    let first = argv(server.pid());
    assert!(first.starts_with(b"any name\0--listen\0"));
    let new = server.handover();
    assert_eq!(argv(new), first);
}

#[test]
fn a_working_directory_named_by_a_symlink_follows_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for release in ["one", "two"] {
        fs::create_dir(at(release)).unwrap();
        symlink(PROGRAM, at(release).join("program")).unwrap();
    }
    symlink("one", at("current")).unwrap();
    let server = by_shell("sh", r#"cd "$0" && exec ./program"#, &at("current"));
    assert_eq!(cwd(server.pid()), at("one").canonicalize().unwrap());

    symlink("two", at("next")).unwrap();
    fs::rename(at("next"), at("current")).unwrap();
    for _ in 0..2 {
        assert_eq!(cwd(server.handover()), at("two").canonicalize().unwrap());
    }
}

#[test]
fn a_working_directory_that_has_vanished_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let server = by_shell("sh", &format!(r#"cd "$0" && exec {PROGRAM}"#), folder.path());
    drop(folder);
    for generation in 2..4 {
        server.handover();
        assert_eq!(server.get("/generation").ok().number(), generation);
    }
}

#[test]
fn a_path_is_bytes() {
    if testkit::lacks("bash") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(OsStr::from_bytes(b"no \xff text"));
    symlink(PROGRAM, &path).unwrap();
    let line = format!(r#"exec -a text "$0" {FLAGS}"#);
    let server = Proc::start_as_said("bash", &["-c".as_ref(), line.as_ref(), path.as_os_str()]);
    server.handover();
    server.handover();
    assert_eq!(server.get("/generation").ok().number(), 3);
}

#[test]
fn an_argument_is_bytes() {
    let folder = tempfile::tempdir().unwrap();
    // The program makes text of it; its successor gets what it got.
    let odd = folder.path().join(OsStr::from_bytes(b"\xff\xfe"));
    let flags = FLAGS.split(' ').map(OsStr::new).chain([OsStr::new("--pid-file"), odd.as_os_str()]);
    let server = Proc::start_as_said(PROGRAM, &flags.collect::<Vec<_>>());
    let argv = |pid: Pid| fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let first = argv(server.pid());
    assert!(first.ends_with(b"/\xff\xfe\0"));
    for _ in 0..2 {
        assert_eq!(argv(server.handover()), first);
    }
}

#[test]
fn the_environment_survives_as_bytes() {
    let odd = [&b"ODD=\xff\xfe"[..], b"LINES=a\nb", b"EMPTY=", b"SPACE= x "];
    let odd: Vec<OsString> = odd.iter().map(|pair| OsString::from_vec(pair.to_vec())).collect();
    let words = [PROGRAM, "--listen", "127.0.0.1:0", "--probation-ms", "0"].map(OsString::from);
    let arguments: Vec<OsString> = odd.into_iter().chain(words).collect();
    let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
    let server = Proc::start_as_said("env", &arguments);
    let first = server.facts(server.pid()).environ;
    assert!(first.iter().any(|pair| pair.as_slice() == b"ODD=\xff\xfe"));
    for _ in 0..3 {
        let new = server.handover();
        assert_eq!(server.facts(new).environ, first);
    }
}

#[test]
fn a_stale_note_of_a_handover_is_void() {
    let note = "HEIRLOOM_HANDOVER=channel=123456;listeners=127.0.0.1:0";
    let server =
        Proc::start_as_said("env", &[note, PROGRAM, "--listen", "127.0.0.1:0", "--probation-ms", "0"]);
    assert_eq!(server.get("/generation").ok().number(), 1);
    server.handover();
    assert_eq!(server.get("/generation").ok().number(), 2);
}
