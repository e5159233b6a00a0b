//! Under systemd: a service manager that a test plays, `systemd-socket-activate`, and systemd itself as PID 1.

mod activation;
mod contrib;
mod drains;
mod inside;
mod notify;
mod real;
mod reload;
mod watchdog;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use testkit::{NotifySocket, Proc, put_script};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");

fn command(program: &Path, socket: &NotifySocket, flags: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["--listen", "127.0.0.1:0", "--probation-ms", "0"]).args(flags);
    command.env("NOTIFY_SOCKET", socket.path());
    command
}

/// It serves, and has said so.
fn start(socket: &NotifySocket, flags: &[&str], variables: &[(&str, &str)]) -> Proc {
    let mut command = command(Path::new(PROGRAM), socket, flags);
    command.envs(variables.iter().copied());
    let server = Proc::start_command(command);
    let ready = socket.next();
    assert_eq!((ready.pid, &*ready.keys()), (server.pid(), "READY=1 STATUS"));
    server
}

/// A program that can be replaced.
struct Installed {
    folder: TempDir,
}

impl Installed {
    fn new() -> Installed {
        let installed = Installed { folder: tempfile::tempdir().unwrap() };
        installed.put(Path::new(PROGRAM));
        installed
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("server")
    }

    /// `program` takes its place.
    fn put(&self, program: &Path) {
        let new = self.folder.path().join("new");
        symlink(program, &new).unwrap();
        fs::rename(&new, self.path()).unwrap();
    }

    /// What is written here takes its place.
    fn write(&self, text: &str) {
        put_script(self.path(), text);
    }
}

/// Whether the kernel reports the end of a process to others than its parent: from Linux 6.15 on.
fn reports_status() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}
