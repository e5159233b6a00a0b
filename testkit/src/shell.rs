//! An interactive shell on a terminal that can be closed under it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use crate::proc::prepare_for_children;
use crate::{Proc, skip, until};

/// Whether this host has no such program; says so, for a test that is skipped must not look passed.
pub fn lacks(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    let lacks = !found.is_ok_and(|output| output.status.success());
    if lacks {
        skip(&format!("this test needs {program}"));
    }
    lacks
}

/// Takes what Cargo says of the tested package out of the environment of a command that starts Cargo anew: build scripts that
/// read such variables, as ring's does, would run once more, and all that depends on them would be compiled again.
pub fn outside_of_cargo(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let is_of_package = ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()));
        if is_of_package {
            command.env_remove(name);
        }
    }
    command
}

/// Copies a program, by another process: a child that another test starts meanwhile would keep a descriptor of ours that is
/// open for writing, and the copy could not be executed (ETXTBSY) until that child executes its own program.
///
/// # Panics
/// When it can't be copied.
#[track_caller]
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let copied = Command::new("cp").arg(from.as_ref()).arg(to.as_ref()).status().expect("cp");
    assert!(copied.success(), "{} is not copied to {}", from.as_ref().display(), to.as_ref().display());
}

/// Puts an executable script with this text in the place of whatever is at `path`, by a rename, so that no process reads half of
/// it. By another process, as `copy_program`.
///
/// # Panics
/// When it can't be written.
#[track_caller]
pub fn put_script(path: impl AsRef<Path>, text: impl AsRef<[u8]>) {
    let mut shell = Command::new("sh")
        .args(["-ec", r#"cat > "$1.new"; chmod 755 "$1.new"; mv -f "$1.new" "$1""#, "sh"])
        .arg(path.as_ref())
        .stdin(Stdio::piped())
        .spawn()
        .expect("sh");
    shell.stdin.take().expect("a pipe").write_all(text.as_ref()).expect("a script");
    assert!(shell.wait().expect("its status").success(), "no script at {}", path.as_ref().display());
}

/// The words by which a program is started in new namespaces, such as `--pid`; None where this host
/// has no means for it or forbids it, which is said.
pub fn unshare(namespaces: &[&str]) -> Option<Vec<String>> {
    if lacks("unshare") {
        return None;
    }
    let as_root: &[&str] = if nix::unistd::geteuid().is_root() { &[] } else { &["--map-root-user"] };
    let words: Vec<String> =
        [&["unshare"], as_root, namespaces].concat().into_iter().map(str::to_owned).collect();
    let tried = Command::new(&words[0]).args(&words[1..]).arg("true").output().expect("unshare");
    if !tried.status.success() {
        skip(&format!("{namespaces:?}: {}", String::from_utf8_lossy(&tried.stderr)));
        return None;
    }
    Some(words)
}

/// A named pipe for the log of a server that another program starts.
#[derive(Debug)]
pub struct LogPipe {
    folder: TempDir,
}

impl LogPipe {
    /// Starts a shell in a new directory.
    ///
    /// # Panics
    /// If it can't be started.
    #[expect(clippy::new_without_default, reason = "it makes a file")]
    pub fn new() -> LogPipe {
        let pipe = LogPipe { folder: tempfile::tempdir().expect("a folder") };
        mkfifo(&pipe.path(), Mode::S_IRWXU).expect("a named pipe");
        pipe
    }

    /// The directory, for other files of the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The words for a shell by which `program` is started on a free port, its output going into the pipe.
    pub fn line(&self, program: &str, after: &str) -> String {
        format!("'{program}' --listen 127.0.0.1:0 >'{}' 2>&1 {after}", self.path().display())
    }

    /// Calls `start`, which has another program start the server; it serves when this returns.
    #[track_caller]
    pub fn serve<T>(&self, start: impl FnOnce() -> T) -> (T, Proc) {
        let flags = OFlag::O_NONBLOCK.bits();
        let ours = OpenOptions::new().read(true).custom_flags(flags).open(self.path()).expect("a named pipe");
        // Wait until the server has it open, too: a pipe without a writer is at its end.
        let writer = OpenOptions::new().write(true).open(self.path()).expect("a named pipe");
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::empty())).expect("a named pipe");
        prepare_for_children();
        let started = start();
        let proc = Proc::started(OwnedFd::from(ours));
        drop(writer);
        (started, proc)
    }
}

/// A shell, or another program, that leads the session of a terminal. Dropping it closes its terminal.
#[derive(Debug)]
pub struct Shell {
    terminal: Option<PtyMaster>,
    shell: Child,
    pipe: LogPipe,
}

impl Shell {
    /// Starts `shell` with `args`; None where this host lacks something for it.
    pub fn start(shell: &str, args: &[&str]) -> Option<Shell> {
        if lacks(shell) || lacks("setsid") {
            return None;
        }
        let terminal = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).expect("a terminal");
        grantpt(&terminal).expect("a terminal");
        unlockpt(&terminal).expect("a terminal");
        let side = || -> File {
            let flags = OFlag::O_NOCTTY.bits();
            let name = ptsname_r(&terminal).expect("a terminal");
            OpenOptions::new().read(true).write(true).custom_flags(flags).open(name).expect("a terminal")
        };
        prepare_for_children();
        let shell = Command::new("setsid")
            .args(["--ctty", shell])
            .args(args)
            .env("RUST_LOG", "info")
            .env("HISTFILE", "/dev/null")
            .env_remove("ENV")
            .stdin(Stdio::from(side()))
            .stdout(Stdio::from(side()))
            .stderr(Stdio::from(side()))
            .spawn()
            .expect("setsid");
        Some(Shell { terminal: Some(terminal), shell, pipe: LogPipe::new() })
    }

    /// Types the line `{before} PROGRAM --listen 127.0.0.1:0 {after}`, its output going to us.
    #[track_caller]
    pub fn serve(&mut self, before: &str, program: &str, after: &str) -> Proc {
        let line = self.pipe.line(program, after);
        let typed = format!("{before} {line}\n");
        let terminal = self.terminal.as_mut().expect("an open terminal");
        let ((), proc) = self.pipe.serve(|| terminal.write_all(typed.as_bytes()).expect("a terminal"));
        proc
    }

    /// Types `text`.
    #[track_caller]
    pub fn type_in(&mut self, text: &str) {
        let terminal = self.terminal.as_mut().expect("an open terminal");
        terminal.write_all(text.as_bytes()).expect("a terminal");
    }

    /// Makes the shell wait for its jobs. At its prompt it might see the end of its terminal's input
    /// before the signal, and would then leave them alone.
    #[track_caller]
    pub fn let_it_wait(&mut self, server: &Proc) {
        let pipe = self.pipe.path();
        self.type_in(&format!("echo the shell waits >'{}'; wait\n", pipe.display()));
        server.wait_for("the shell waits");
    }

    /// Closes the terminal, as when its window is closed or its connection breaks.
    pub fn close_terminal(&mut self) {
        self.terminal = None;
    }

    /// Waits until the shell has ended, as it does without its terminal.
    #[track_caller]
    pub fn wait(&mut self) {
        until("the shell has ended", || self.shell.try_wait().is_ok_and(|exit| exit.is_some()));
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if let (true, Some(mut terminal)) = (std::thread::panicking(), self.terminal.take()) {
            let _ = fcntl(&terminal, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
            let mut shown = vec![0; 4096];
            let n = terminal.read(&mut shown).unwrap_or(0);
            eprintln!("| terminal: {}", String::from_utf8_lossy(&shown[..n]));
        }
        self.close_terminal();
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
