//! The pid file: never missing, never incomplete, and never the number of a process that does not own the service.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;
use testkit::{Exit, Pid, Proc, Signal, beside, put_script};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");

/// A server with a pid file, whose program can be replaced.
struct Bench {
    server: Proc,
    pid_file: PathBuf,
    folder: TempDir,
}

impl Bench {
    fn start(probation_ms: &str) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("run")).unwrap();
        let (program, pid_file) = (folder.path().join("program"), folder.path().join("run/pid"));
        symlink(PROGRAM, &program).unwrap();
        // One test waits for this timeout; a good successor is ready within it even on a busy machine.
        let flags = ["--probation-ms", probation_ms, "--ready-timeout-ms", "10000"];
        let flags = [&flags[..], &["--pid-file", pid_file.to_str().unwrap()]].concat();
        let server = Proc::start(&program, &flags);
        let bench = Bench { server, pid_file, folder };
        bench.names(bench.server.pid());
        bench
    }

    #[track_caller]
    fn names(&self, pid: Pid) {
        assert_eq!(fs::read_to_string(&self.pid_file).unwrap(), format!("{pid}\n"));
    }

    /// The next successor is this script.
    fn next_is(&self, script: &str) {
        put_script(self.folder.path().join("program"), script);
    }

    fn next_is_good(&self) {
        symlink(PROGRAM, self.folder.path().join("next")).unwrap();
        fs::rename(self.folder.path().join("next"), self.folder.path().join("program")).unwrap();
    }

    /// The files beside the pid file, or instead of it.
    fn left(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.pid_file.parent().unwrap()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

/// Reads the file each millisecond.
struct Sampler {
    done: Sender<()>,
    looking: JoinHandle<(BTreeSet<String>, usize)>,
}

impl Sampler {
    fn of(path: &Path) -> Sampler {
        let (done, end) = mpsc::channel::<()>();
        let path = path.to_owned();
        let looking = beside("looking", move || {
            let (mut seen, mut looks) = (BTreeSet::new(), 0);
            while end.recv_timeout(Duration::from_millis(1)) == Err(RecvTimeoutError::Timeout) {
                looks += 1;
                let read = || fs::read_to_string(&path).unwrap_or_else(|e| e.to_string());
                let named = read();
                // A process that has ended since the file was read is no longer named by it.
                let lives = named.trim().parse().is_ok_and(is_alive) || read() != named;
                seen.insert(if lives { named } else { format!("{named:?}, and nobody has that pid") });
            }
            (seen, looks)
        });
        Sampler { done, looking }
    }

    /// Every value that was read was the pid of one of `owners`, at a time when it was alive.
    #[track_caller]
    fn saw_only(self, owners: &[Pid]) {
        drop(self.done);
        let (seen, looks) = self.looking.join().unwrap();
        assert_eq!(seen, owners.iter().map(|pid| format!("{pid}\n")).collect());
        assert!(looks > 100, "{looks} looks");
    }
}

/// Whether it is alive and no zombie.
fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

#[test]
fn over_good_upgrades_it_names_the_owner_at_every_moment() {
    let bench = Bench::start("200");
    let sampler = Sampler::of(&bench.pid_file);
    let mut owners = vec![bench.server.pid()];
    for _ in 0..5 {
        // The next test looks at it on probation, which is over soon here.
        let (old, new) = (bench.server.newest(), bench.server.hup_to_probation());
        bench.server.wait_for(&format!("to child {new}: COMMIT"));
        bench.names(new);
        bench.server.committed(new);
        assert_eq!(bench.server.wait_exit(old), Exit::Status(0));
        bench.names(new);
        owners.push(new);
    }
    sampler.saw_only(&owners);
    bench.server.stop();
    assert!(bench.left().is_empty());
}

#[test]
fn over_failed_upgrades_it_names_the_old_process() {
    let bench = Bench::start("600000");
    let (server, old) = (&bench.server, bench.server.pid());
    let sampler = Sampler::of(&bench.pid_file);
    for (failure, end) in [
        ("exit 3", "exited with status 3"),
        ("kill -SEGV $$", "was killed by SIGSEGV"),
        ("exec sleep 1000", "was killed by SIGKILL"),
        ("exec 3<&- 4<&- 5<&-; exec sleep 1000", "was killed by SIGKILL"),
    ] {
        bench.next_is(&format!("#!/bin/sh\n{failure}\n"));
        let child = server.hup();
        server.wait_for(&format!("child {child} {end}"));
        bench.names(old);
    }
    for (text, end) in
        [("#!/nowhere/at/all\n", "#! line"), ("no program\n", "not a program for this machine")]
    {
        bench.next_is(text);
        server.signal(Signal::SIGHUP);
        server.wait_for(&format!("{end}; still serving"));
    }
    bench.next_is_good();
    for signal in [Signal::SIGKILL, Signal::SIGABRT] {
        let new = server.hup_to_probation();
        bench.names(old);
        server.signal_to(new, signal);
        server.wait_for(&format!("child {new} was killed by {signal}; still serving"));
    }
    assert_eq!(server.settled(), Some(old));
    sampler.saw_only(&[old]);
    server.stop();
    assert!(bench.left().is_empty());
}

#[test]
fn a_file_that_somebody_else_has_taken_is_left_alone() {
    let bench = Bench::start("0");
    fs::write(&bench.pid_file, "1\n").unwrap();
    bench.server.stop();
    assert_eq!(fs::read_to_string(&bench.pid_file).unwrap(), "1\n");
}

/// The process that owns the service writes the file, also if it named another process before.
#[test]
fn a_lost_pid_file_is_ours_again_after_a_handover() {
    let bench = Bench::start("0");
    fs::write(&bench.pid_file, "1\n").unwrap();
    bench.names(bench.server.handover());
    fs::remove_file(&bench.pid_file).unwrap();
    let old = bench.server.newest();
    bench.names(bench.server.handover());
    assert_eq!(bench.server.wait_exit(old), Exit::Status(0));
    bench.names(bench.server.newest());
    bench.server.stop();
    assert!(bench.left().is_empty());
}

#[test]
fn a_file_that_was_deleted_is_not_missed_at_the_end() {
    let bench = Bench::start("0");
    fs::remove_file(&bench.pid_file).unwrap();
    bench.server.stop();
    assert!(bench.left().is_empty());
}

/// As with every file that is written by rename.
#[test]
fn a_symlink_is_replaced_and_what_it_points_to_is_left_alone() {
    let bench = Bench::start("0");
    let target = bench.folder.path().join("target");
    fs::write(&target, "not ours\n").unwrap();
    fs::remove_file(&bench.pid_file).unwrap();
    symlink(&target, &bench.pid_file).unwrap();
    bench.names(bench.server.handover());
    assert!(!bench.pid_file.is_symlink());
    assert_eq!(fs::read_to_string(&target).unwrap(), "not ours\n");
    bench.server.stop();
    assert!(bench.left().is_empty() && target.exists());
}

#[test]
fn without_its_directory_a_handover_fails() {
    let bench = Bench::start("0");
    let run = bench.pid_file.parent().unwrap().to_owned();
    fs::remove_dir_all(&run).unwrap();
    bench.server.hup();
    let line = bench.server.wait_for("failed: can't write the pid file");
    assert!(line.contains("No such file") && line.contains("still serving"), "{line}");
    assert_eq!(bench.server.get("/pid").ok().number(), bench.server.pid().as_raw());
    // It is written again once the directory exists again.
    fs::create_dir(&run).unwrap();
    bench.names(bench.server.handover());
    bench.server.stop();
    assert!(bench.left().is_empty());
}

#[test]
fn a_crash_in_probation_moves_it_to_the_survivor() {
    let bench = Bench::start("600000");
    let (old, new) = (bench.server.pid(), bench.server.hup_to_probation());
    bench.server.signal_to(old, Signal::SIGKILL);
    bench.server.wait_for(&format!("pid file * names {new}"));
    bench.names(new);
    assert_eq!(bench.server.settled(), Some(new));
    bench.server.stop();
    assert!(bench.left().is_empty());
}
