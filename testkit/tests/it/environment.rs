//! How a successor is started: with the environment of the first generation, and the same program, however that was started.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::geteuid;
use testkit::{Exit, Pid, Proc, copy_program, skip, unshare};

use crate::TESTKIT;

const LISTEN: [&str; 3] = ["started", "--listen", "127.0.0.1:0"];

fn environment(server: &Proc, pid: Pid) -> BTreeSet<String> {
    let pairs = server.facts(pid).environ;
    let pairs = pairs.iter().map(|pair| String::from_utf8_lossy(pair).into_owned());
    pairs.filter(|pair| !pair.is_empty() && !pair.starts_with("HEIRLOOM_HANDOVER=")).collect()
}

fn start(flags: &[&str], variables: &[(&str, &str)]) -> Proc {
    let mut command = Command::new(TESTKIT);
    command.args(LISTEN).args(flags).envs(variables.iter().copied());
    Proc::start_command(command)
}

fn variable(server: &Proc, name: &str) -> String {
    server.get(&format!("/var/{name}")).ok().text().to_owned()
}

#[test]
fn what_the_program_sets_stays_its_own() {
    for init in [&[][..], &["--init"]] {
        let flags = [init, &["--set", "LOADED=1", "--set", "GIVEN=changed"]].concat();
        let server = start(&flags, &[("GIVEN", "at the start")]);
        let first = environment(&server, server.pid());
        assert!(first.contains("GIVEN=at the start"));
        for _ in 0..3 {
            assert_eq!(
                (variable(&server, "LOADED"), variable(&server, "GIVEN")),
                ("1".into(), "changed".into())
            );
            let new = server.handover();
            assert_eq!(environment(&server, new), first);
        }
        server.stop();
    }
}

#[test]
fn what_is_addressed_to_one_process_is_not_passed_on() {
    let addressed =
        ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "LISTEN_PIDFDID", "WATCHDOG_PID", "WATCHDOG_USEC"];
    let variables: Vec<_> =
        addressed.into_iter().map(|name| (name, "1")).chain([("LISTEN_ADDR", "1")]).collect();
    let server = start(&["--set", "WATCHDOG_USEC=2"], &variables);
    let mut expected = environment(&server, server.pid());
    expected.retain(|pair| !addressed.contains(&pair.split('=').next().unwrap()));
    assert!(expected.contains("LISTEN_ADDR=1"), "which is nobody's convention");
    for _ in 0..2 {
        let new = server.handover();
        assert_eq!(environment(&server, new), expected);
    }
}

#[test]
fn variables_are_passed_on_and_removed_by_intention() {
    let flags = ["--pass", "NEW=a=b", "--pass", "OLD=2", "--remove", "GONE"];
    let server = start(&flags, &[("OLD", "1"), ("GONE", "1")]);
    assert_eq!((variable(&server, "NEW"), variable(&server, "OLD")), ("not set".into(), "1".into()));
    for _ in 0..2 {
        server.handover();
        let found = ["NEW", "OLD", "GONE"].map(|name| variable(&server, name));
        assert_eq!(found, ["a=b", "2", "not set"]);
    }
}

#[test]
fn variables_that_can_not_be_passed_on_are_refused_at_the_start() {
    for (flag, words) in [
        ("LISTEN_FDS=1", "can't pass on the variable LISTEN_FDS: it is addressed to one process"),
        (
            "HEIRLOOM_HANDOVER=1",
            "can't pass on the variable HEIRLOOM_HANDOVER: it is addressed to one process",
        ),
        ("=1", "its name must not contain ="),
    ] {
        let output = Command::new(TESTKIT).args(LISTEN).args(["--pass", flag]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(words), "{said}");
    }
}

/// Then the kernel can't be asked, and what the program has now must do.
#[test]
fn without_proc_the_environment_is_passed_on_all_the_same() {
    let Some(words) = unshare(&["--mount"]) else { return };
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["sh", "-c", "mount -t tmpfs none /proc && exec \"$@\"", "sh", TESTKIT]);
    command.args(LISTEN).args(["--set", "LOADED=1"]).env("GIVEN", "1").stdin(Stdio::null());
    let server = Proc::start_command(command);
    for _ in 0..2 {
        server.handover();
        assert_eq!((variable(&server, "LOADED"), variable(&server, "GIVEN")), ("1".into(), "1".into()));
    }
}

fn by_descriptor(kind: &str, program: &Path) -> Proc {
    let mut command = Command::new(TESTKIT);
    command.args(["started", "by", kind]).arg(program).args(LISTEN);
    Proc::start_command(command)
}

#[test]
fn started_by_a_descriptor_it_is_looked_up_by_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    copy_program(TESTKIT, &program);
    let server = by_descriptor("file", &program);
    let before = fs::metadata(format!("/proc/{}/exe", server.pid())).unwrap();
    // A new version.
    let next = folder.path().join("next");
    copy_program(TESTKIT, &next);
    fs::rename(&next, &program).unwrap();
    for _ in 0..2 {
        let new = server.handover();
        assert_eq!(server.get("/pid").ok().number(), new.as_raw());
        assert_eq!(fs::read_link(format!("/proc/{new}/exe")).unwrap(), program);
        assert_ne!(fs::metadata(format!("/proc/{new}/exe")).unwrap().ino(), before.ino());
    }
}

#[test]
fn started_by_a_shells_descriptor() {
    for path in ["/dev/fd/9", "/proc/self/fd/9"] {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec {path} \"$@\" 9<'{TESTKIT}'"), "sh"]).args(LISTEN);
        let server = Proc::start_command(command);
        for _ in 0..2 {
            let new = server.handover();
            assert_eq!(fs::read_link(format!("/proc/{new}/exe")).unwrap(), Path::new(TESTKIT));
        }
    }
}

#[test]
fn started_from_what_has_no_path_it_starts_itself() {
    for kind in ["removed", "memfd"] {
        let server = by_descriptor(kind, Path::new(TESTKIT));
        for _ in 0..2 {
            let new = server.handover();
            assert_eq!(server.get("/pid").ok().number(), new.as_raw(), "{kind}");
        }
        server.stop();
    }
}

/// Only root can change the user of a process.
fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        skip("this test must be run by root");
    }
    is_root
}

const USER: u32 = 65534;

/// A directory that all users can read, with the program in it.
fn shared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    copy_program(TESTKIT, folder.path().join("program"));
    folder
}

fn as_user(folder: &Path, pid_file: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(folder.join("program"));
    command.args(LISTEN).args(["--uid", &USER.to_string(), "--pid-file"]).arg(pid_file).args(flags);
    command
}

#[test]
fn a_pid_file_that_can_not_be_replaced_is_refused_at_start() {
    if !is_root() {
        return;
    }
    let folder = shared();
    let run = folder.path().join("run");
    let sticky = folder.path().join("sticky");
    fs::create_dir(&run).unwrap();
    fs::create_dir(&sticky).unwrap();
    fs::set_permissions(&sticky, Permissions::from_mode(0o1777)).unwrap();
    fs::write(sticky.join("pid"), "1\n").unwrap();
    symlink("/nowhere", sticky.join("link")).unwrap();
    for file in [run.join("pid"), sticky.join("pid"), sticky.join("link")] {
        let output = as_user(folder.path(), &file, &[]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let words = format!("can't replace the pid file {} as uid {USER}, which will serve", file.display());
        assert!(said.contains(&words) && said.contains("directory of that user"), "{said}");
    }
    assert_eq!(fs::read_dir(&run).unwrap().count(), 0);
}

#[test]
fn a_pid_file_in_the_users_directory_names_each_generation() {
    if !is_root() {
        return;
    }
    let folder = shared();
    let own = folder.path().join("own");
    let sticky = folder.path().join("sticky");
    for (path, mode) in [(&own, 0o755), (&sticky, 0o1777)] {
        fs::create_dir(path).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    chown(&own, Some(USER), Some(USER)).unwrap();
    // Left by root, in a directory of the user.
    fs::write(own.join("pid"), "1\n").unwrap();
    for file in [own.join("pid"), sticky.join("pid")] {
        let flags = ["--set", "LOADED=1", "--init"];
        let server = Proc::start_command(as_user(folder.path(), &file, &flags));
        for _ in 0..2 {
            let old = server.newest();
            let new = server.handover();
            assert_eq!(fs::read_to_string(&file).unwrap(), format!("{new}\n"));
            assert!(!environment(&server, new).contains("LOADED=1"));
            assert!(matches!(server.wait_exit(old), Exit::Status(0) | Exit::Untold));
        }
        server.stop();
        assert!(!file.exists());
    }
}
