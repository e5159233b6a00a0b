//! A static program in a root directory with nothing else, or with BusyBox: no /proc, /tmp, /dev, /etc, and no shell.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;
use testkit::{Exit, Proc, Signal, copy_program, outside_of_cargo, skip, unshare};

/// The directory with `slow_ok` and `kitchen_sink`, linked to no library; built once, unless `HEIRLOOM_BUILT` says that they
/// are there.
pub(crate) fn programs() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target");
        if std::env::var_os("HEIRLOOM_BUILT").is_none() {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/static-programs");
            let mut build = Command::new(script);
            let output = outside_of_cargo(build.env("CARGO_TARGET_DIR", target)).output().expect("a script");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        target.join("static/bin")
    })
}

/// A root directory for a server.
struct Root {
    folder: TempDir,
    /// Starts what follows in it.
    words: Vec<String>,
}

impl Root {
    /// With these programs and nothing else. None where this user has no means to change the root.
    fn with(programs: &[&Path]) -> Option<Root> {
        if testkit::lacks("chroot") {
            return None;
        }
        let mut words = unshare(&["--mount"])?;
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        for program in programs {
            // By another process: a child that another test starts would keep a descriptor of ours, and the copy busy.
            copy_program(program, folder.path());
        }
        words.extend(["chroot".to_owned(), folder.path().to_str().unwrap().to_owned()]);
        Some(Root { folder, words })
    }

    fn command(&self, program: &[&str]) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(program);
        command
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Requests in flight and new ones across two upgrades of `slow_ok`.
fn upgrades_itself(server: &Proc, hup: impl Fn()) {
    for generation in 2..=3 {
        let old = server.newest();
        let mut in_flight = server.client();
        in_flight.ask("/ok");
        server.wait_for(&format!("{old} handling request 1"));
        hup();
        let new = server.child(generation - 1);
        server.committed(new);
        server.wait_for(&format!("serving as generation {generation}"));
        assert_eq!(in_flight.answer().ok().text(), "ok\n");
        drop(in_flight);
        assert_eq!(server.wait_exit(old), Exit::Status(0));
        assert_eq!(server.get("/ok").ok().text(), "ok\n");
        server.wait_for(&format!("{new} handling request 1"));
    }
    assert!(server.lines("WARN").is_empty() && server.lines("ERROR").is_empty());
}

#[test]
fn a_static_program_upgrades_itself_where_nothing_else_is() {
    let Some(root) = Root::with(&[&programs().join("slow_ok")]) else { return };
    assert_eq!(root.names(), ["slow_ok"]);
    let server =
        Proc::start_command(root.command(&["/slow_ok", "--listen", "127.0.0.1:0", "--seconds", "1"]));
    assert_eq!(fs::read_link(format!("/proc/{}/root", server.pid())).unwrap(), root.folder.path());
    upgrades_itself(&server, || server.signal(Signal::SIGHUP));
    // The sender has no name without /proc.
    server.wait_for(&format!("SIGHUP from pid {}, uid ", std::process::id()));
    server.stop();
    assert_eq!(root.names(), ["slow_ok"], "it needed no file");
}

#[test]
fn a_static_program_upgrades_itself_beside_busybox() {
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].map(Path::new).into_iter().find(|path| path.exists());
    let Some(busybox) = busybox.filter(|_| !testkit::lacks("busybox")) else { return };
    let Some(root) = Root::with(&[&programs().join("slow_ok"), busybox]) else { return };
    symlink("busybox", root.folder.path().join("sh")).unwrap();
    if !root.command(&["/sh", "-c", "true"]).status().unwrap().success() {
        return skip("this host's busybox is not static");
    }
    // BusyBox starts it, signals it and asks it.
    let script = "exec /slow_ok --listen 127.0.0.1:0 --seconds 1";
    let server = Proc::start_command(root.command(&["/sh", "-c", script]));
    let applet = |words: &[&str]| root.command(&[&["/busybox"], words].concat()).output().unwrap();
    let testkit::Addr::Tcp(address) = server.addr() else { panic!("not TCP") };
    let url = format!("http://{address}/ok");
    let kill = |signal: &str| {
        let pid = server.newest().to_string();
        assert!(applet(&["kill", signal, &pid]).status.success());
    };
    upgrades_itself(&server, || kill("-HUP"));
    let asked = applet(&["wget", "-q", "-O", "-", &url]);
    assert_eq!(String::from_utf8_lossy(&asked.stdout), "ok\n", "{}", String::from_utf8_lossy(&asked.stderr));
    kill("-TERM");
    assert_eq!(server.wait_exit(server.newest()), Exit::Status(0));
    server.wait_gone();
}

/// A request that needs a file is refused if there is no directory for it; everything else is served.
#[test]
fn without_a_temp_dir_only_long_bodies_are_refused() {
    let Some(root) = Root::with(&[&programs().join("kitchen_sink")]) else { return };
    let flags = ["/kitchen_sink", "--listen", "127.0.0.1:0", "--probation-ms", "0"];
    let server = Proc::start_command(root.command(&flags));
    for _ in 0..2 {
        for (bytes, status) in [(10, 200), (60 << 10, 200), (1 << 20, 507)] {
            let mut client = server.client();
            let head = format!("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {bytes}\r\n\r\n");
            client.send(head);
            client.send(vec![b'b'; bytes]);
            let response = client.answer().ok();
            assert_eq!((response.status, response.closes()), (status, status == 507), "{bytes}");
        }
        server.wait_for("can't write a request body to a temporary file: No such file or directory");
        server.handover();
    }
    server.stop();
}
