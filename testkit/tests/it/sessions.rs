//! Programs that give a server a new terminal, and take it away when the process that they have started ends: an
//! upgrade is not the end of the service there, and a terminal that is closed is.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use nix::unistd::geteuid;
use testkit::{Begin, Exit, LogPipe, Proc, Shell, lacks, skip};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");
const NOT_CLOSED: &str = "the session's leader has ended";
const CLOSED: &str = "the terminal was closed: drain and exit";

/// The process that leads the session is the server, or a shell that waits for it and ends after it.
const LEADS: &str = "exec";
const WAITS: &str = "";

/// What holds the other side of the server's terminal. Dropping it closes that.
enum Host {
    Tmux(LogPipe),
    Screen(LogPipe),
    /// Killed with no chance to do anything about its child.
    Process(Child),
    Shell(Shell),
}

impl Host {
    fn close(&mut self) {
        match self {
            Host::Tmux(pipe) => drop(tmux(pipe).arg("kill-server").output()),
            Host::Screen(pipe) => drop(screen(pipe).args(["-X", "quit"]).output()),
            Host::Process(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Host::Shell(shell) => shell.close_terminal(),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.close();
    }
}

/// The line by which a shell starts the server.
fn line(pipe: &LogPipe, how: &str) -> String {
    let after = if how == LEADS { "--probation-ms 0" } else { "--probation-ms 0; exit $?" };
    format!("{how} {}", pipe.line(PROGRAM, after))
}

fn tmux(pipe: &LogPipe) -> Command {
    let mut command = Command::new("tmux");
    command.args(["-f", "/dev/null", "-S"]).arg(pipe.folder().join("tmux"));
    command
}

fn screen(pipe: &LogPipe) -> Command {
    let mut command = Command::new("screen");
    command.env("SCREENDIR", pipe.folder().join("screen")).args(["-c", "/dev/null", "-S", "server"]);
    command
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.env("SHELL", "/bin/sh").output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn in_tmux(how: &str) -> Option<(Host, Proc)> {
    if lacks("tmux") {
        return None;
    }
    let pipe = LogPipe::new();
    let ((), server) = pipe.serve(|| run(tmux(&pipe).args(["new-session", "-d"]).arg(line(&pipe, how))));
    Some((Host::Tmux(pipe), server))
}

fn in_screen(how: &str) -> Option<(Host, Proc)> {
    if lacks("screen") {
        return None;
    }
    let pipe = LogPipe::new();
    let folder = pipe.folder().join("screen");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
    let ((), server) = pipe.serve(|| run(screen(&pipe).args(["-dm", "sh", "-c"]).arg(line(&pipe, how))));
    Some((Host::Screen(pipe), server))
}

fn in_script(how: &str) -> Option<(Host, Proc)> {
    if lacks("script") {
        return None;
    }
    let pipe = LogPipe::new();
    let mut script = Command::new("script");
    script.args(["-qc", &line(&pipe, how), "/dev/null"]).env("SHELL", "/bin/sh");
    script.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let (child, server) = pipe.serve(|| script.spawn().unwrap());
    Some((Host::Process(child), server))
}

/// With the test's own daemon and keys, without a port.
fn in_ssh(how: &str) -> Option<(Host, Proc)> {
    let sshd = "/usr/sbin/sshd";
    if lacks("ssh") || lacks("ssh-keygen") || lacks(sshd) {
        return None;
    }
    if geteuid().is_root() {
        // What the package's service makes before it starts.
        fs::create_dir_all("/run/sshd").unwrap();
    }
    let pipe = LogPipe::new();
    let path = |name: &str| pipe.folder().join(name).to_str().unwrap().to_owned();
    for key in ["host", "user"] {
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path(key)));
    }
    let options = [
        "UsePAM=no".to_owned(),
        "StrictModes=no".to_owned(),
        "PermitRootLogin=yes".to_owned(),
        format!("HostKey={}", path("host")),
        format!("AuthorizedKeysFile={}", path("user.pub")),
    ];
    let options = options.map(|option| format!("-o {option}")).join(" ");
    let ssh = || {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
            .args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-i", &path("user")])
            .args(["-o", &format!("ProxyCommand={sshd} -i -e -f /dev/null {options}")]);
        ssh
    };
    let tried = ssh().args(["here", "true"]).stdin(Stdio::null()).output().unwrap();
    if !tried.status.success() {
        let why = String::from_utf8_lossy(&tried.stderr);
        skip(&format!("this test needs a user who may log in: {why}"));
        return None;
    }
    let mut ssh = ssh();
    ssh.args(["-tt", "here"]).arg(line(&pipe, how));
    let shown = fs::File::create(path("shown")).unwrap();
    ssh.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(shown);
    let (child, server) = pipe.serve(|| ssh.spawn().unwrap());
    Some((Host::Process(child), server))
}

/// Whether `sudo` needs no password here and runs its command on a new terminal.
fn in_sudo(how: &str) -> Option<(Host, Proc)> {
    if lacks("sudo") {
        return None;
    }
    let listed = Command::new("sudo").args(["-n", "-l"]).stdin(Stdio::null()).output().unwrap();
    if !String::from_utf8_lossy(&listed.stdout).contains("use_pty") {
        skip("this test needs a sudo that asks for no password and has use_pty");
        return None;
    }
    let pipe = LogPipe::new();
    let line = line(&pipe, how);
    let (shell, server) = pipe.serve(|| Shell::start("sudo", &["-n", "sh", "-c", &line]));
    Some((Host::Shell(shell?), server))
}

fn serves(server: &Proc) {
    assert_eq!(server.get("/pid").ok().number(), server.newest().as_raw());
}

type Start = fn(&str) -> Option<(Host, Proc)>;

fn outlives_upgrades(start: Start) {
    for how in [LEADS, WAITS] {
        let Some((_host, server)) = start(how) else { return };
        serves(&server);
        for _ in 0..2 {
            let old = server.newest();
            server.handover();
            serves(&server);
            assert!(matches!(server.wait_exit(old), Exit::Status(0) | Exit::Untold));
        }
        server.wait_for(NOT_CLOSED);
        server.handover();
        serves(&server);
        assert_eq!(server.count(CLOSED), 0);
        server.stop();
    }
}

/// The terminal goes when the first generation has answered all it has, and by then there are three.
fn outlives_upgrades_with_slow_requests(start: Start) {
    for how in [LEADS, WAITS] {
        let Some((_host, server)) = start(how) else { return };
        let mut slow = server.client();
        slow.begin();
        server.in_flight(server.pid(), 1);
        server.handover();
        let mut slower = server.client();
        slower.begin();
        server.in_flight(server.newest(), 1);
        server.handover();
        assert_eq!(slow.finish().ok().text(), "ok");
        drop(slow);
        assert!(matches!(server.wait_exit(server.pid()), Exit::Status(0) | Exit::Untold));
        server.wait_for_nth(NOT_CLOSED, 2);
        serves(&server);
        assert_eq!(slower.finish().ok().text(), "ok");
        drop(slower);
        server.handover();
        serves(&server);
        assert_eq!(server.count(CLOSED), 0);
        server.stop();
    }
}

fn ends_with_its_terminal(start: Start) {
    for how in [LEADS, WAITS] {
        let Some((mut host, server)) = start(how) else { return };
        serves(&server);
        host.close();
        server.wait_for(CLOSED);
        server.wait_gone();
    }
}

/// The first generation, which has the terminal, still has to answer.
fn ends_with_its_terminal_between_commit_and_exit(start: Start) {
    for how in [LEADS, WAITS] {
        let Some((mut host, server)) = start(how) else { return };
        let mut slow = server.client();
        slow.begin();
        server.in_flight(server.pid(), 1);
        let new = server.handover();
        host.close();
        server.wait_for(CLOSED);
        assert!(matches!(server.wait_exit(new), Exit::Status(0) | Exit::Untold));
        assert_eq!(slow.finish().ok().text(), "ok");
        drop(slow);
        server.wait_gone();
    }
}

macro_rules! tests {
    ($($host:ident: $start:path;)*) => {
        $(mod $host {
            #[test]
            fn outlives_upgrades() {
                super::outlives_upgrades($start);
            }

            #[test]
            fn outlives_upgrades_with_slow_requests() {
                super::outlives_upgrades_with_slow_requests($start);
            }

            #[test]
            fn ends_with_its_terminal() {
                super::ends_with_its_terminal($start);
            }

            #[test]
            fn ends_with_its_terminal_between_commit_and_exit() {
                super::ends_with_its_terminal_between_commit_and_exit($start);
            }
        })*
    };
}

tests! {
    tmux: super::in_tmux;
    screen: super::in_screen;
    script: super::in_script;
    ssh: super::in_ssh;
    sudo: super::in_sudo;
}
