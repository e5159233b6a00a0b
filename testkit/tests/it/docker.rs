//! The images of `contrib/docker` without Docker. What the first stage of a Dockerfile installs is installed, by its own
//! commands, and put into an empty directory as the last stage says; for distroless the libraries of this host are added. The
//! entry point runs as in a container: as PID 1, as the user of the image, without privileges.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::geteuid;
use tempfile::TempDir;
use testkit::{Begin, Crowd, Exit, Pid, Proc, Signal, lacks, skip, unshare, until};

use crate::empty_root;

const DOCKERFILES: [&str; 2] = [
    include_str!("../../../contrib/docker/Dockerfile"),
    include_str!("../../../contrib/docker/Dockerfile.distroless"),
];

/// As contrib/kubernetes has it, and as `docker run` does it. The root is `$0`; the rest are words for `unshare`.
const READ_ONLY: &str = r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && mount -t tmpfs tmpfs "$0/tmp" &&
    mount -t proc proc "$0/proc" && exec setpriv --no-new-privs unshare --root "$0" "$@""#;
const WRITABLE: &str =
    r#"mount -t proc proc "$0/proc" && exec setpriv --no-new-privs unshare --root "$0" "$@""#;

/// What a Dockerfile says, as far as it is played here.
#[derive(Debug)]
struct Image {
    is_static: bool,
    /// The commands that make /out, by the compiled program.
    install: String,
    user: u32,
    entry_point: &'static str,
}

impl Image {
    #[track_caller]
    fn of(dockerfile: &'static str) -> Image {
        let (build, stage) = dockerfile.rsplit_once("\nFROM ").expect("two stages");
        let build = build.replace("\\\n", "");
        let run = build.lines().find_map(|line| line.strip_prefix("RUN cargo build ")).expect("a build");
        let (_, install) = run.split_once(" && ").expect("more than a build");
        let (base, rest) = stage.split_once('\n').expect("more than a base");
        let (is_static, user) = match base {
            "scratch" => (true, 0),
            "gcr.io/distroless/cc-debian12:nonroot" => (false, 65532),
            _ => panic!("not played: {base}"),
        };
        let mut image = Image { is_static, install: install.to_owned(), user, entry_point: "" };
        for line in rest.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["COPY", "--from=build", "/out/", "/"] | ["EXPOSE", _] => {}
                ["USER", user] => {
                    let (user, group) = user.split_once(':').expect("a user and a group");
                    assert_eq!(user, group);
                    image.user = user.parse().expect("a number");
                }
                ["ENTRYPOINT", words] => {
                    let word = words.strip_prefix("[\"").and_then(|words| words.strip_suffix("\"]"));
                    image.entry_point = word.expect("the exec form");
                }
                _ => panic!("not played: {line}"),
            }
        }
        image
    }

    /// The root directory of a container, with `kitchen_sink` as the program.
    fn root(&self) -> TempDir {
        let (build, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let linked = Path::new(env!("CARGO_BIN_EXE_kitchen_sink"));
        let program = if self.is_static { &empty_root::programs().join("kitchen_sink") } else { linked };
        let compiled =
            self.install.split(' ').find(|word| word.ends_with("/release/app")).expect("a program");
        let compiled = build.path().join(compiled);
        fs::create_dir_all(compiled.parent().unwrap()).unwrap();
        copy(&[], program, &compiled);
        let commands = self.install.replace(" /out/", " out/");
        let installed =
            Command::new("sh").args(["-ec", &commands]).current_dir(build.path()).status().unwrap();
        assert!(installed.success(), "{commands}");

        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        copy(&["--archive"], &build.path().join("out/."), root.path());
        // The runtime makes this one.
        fs::create_dir(root.path().join("proc")).unwrap();
        if !self.is_static {
            for library in libraries(linked) {
                copy(&["--dereference", "--parents"], &library, root.path());
            }
            let tmp = root.path().join("tmp");
            fs::create_dir(&tmp).unwrap();
            fs::set_permissions(tmp, Permissions::from_mode(0o1777)).unwrap();
        }
        root
    }
}

/// By another process: a child that another test starts would keep a descriptor of ours, and the copy busy.
fn copy(flags: &[&str], from: &Path, to: &Path) {
    assert!(Command::new("cp").args(flags).arg(from).arg(to).status().unwrap().success());
}

/// The shared libraries of a program, and what loads them.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let paths: Vec<PathBuf> =
        text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect();
    assert!(!paths.is_empty(), "{text}");
    paths
}

struct Container {
    server: Proc,
    pid_1: Pid,
    user: u32,
    _root: TempDir,
}

impl Container {
    /// None where this user has no means for it.
    fn start(image: &Image, how: &str) -> Option<Container> {
        if !geteuid().is_root() {
            skip("only root can become the user of the image");
            return None;
        }
        if ["setpriv", "ldd", "strip"].into_iter().any(lacks) {
            return None;
        }
        let words = unshare(&["--fork", "--pid", "--kill-child", "--mount"])?;
        let (root, user) = (image.root(), image.user.to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["sh", "-c", how]).arg(root.path());
        command.args(["--setgid", &user, "--setuid", &user, image.entry_point]);
        command.args(["--listen", "127.0.0.1:0", "--probation-ms", "0"]);
        let server = Proc::begin_inside(command);
        server.wait_for("serving as generation 1");
        let pid_1 = server.known(1);
        Some(Container { server, pid_1, user: image.user, _root: root })
    }

    fn hand_over_to(&self, generation: usize) {
        self.server.signal_to(self.pid_1, Signal::SIGHUP);
        self.server.wait_for(&format!("supervisor: * serves as generation {generation}"));
        until("it serves", || self.server.get("/generation").ok().text() == generation.to_string());
    }

    /// Neither the supervisor nor the generation that serves has a right of root.
    fn is_unprivileged(&self) {
        let user = self.user;
        for pid in [self.pid_1, self.server.serving()] {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let ids = format!("Uid:\t{user}\t{user}\t{user}\t{user}");
            for line in [&ids, "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
                assert!(status.contains(line), "{line}: {status}");
            }
        }
    }

    fn cannot_change_its_root(&self) {
        let refused = fs::write(format!("/proc/{}/root/new", self.pid_1), "").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    }

    /// A body that goes to a file.
    fn takes_a_long_body(&self) {
        let mut client = self.server.client();
        client.send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n");
        client.send(vec![b'b'; 1_000_000]);
        assert_eq!(client.answer().ok().status, 200);
    }

    /// The container's status is 0.
    fn stops_well(&self) {
        let mut client = self.server.client();
        client.begin();
        self.server.signal_to(self.pid_1, Signal::SIGTERM);
        self.server.wait_for("draining (stop requested)");
        assert_eq!(client.finish().ok().text(), "ok");
        drop(client);
        assert_eq!(self.server.wait_exit(self.server.pid()), Exit::Status(0));
        self.server.wait_gone();
    }
}

#[test]
fn each_image_hands_over_and_stops_as_it_is_written() {
    for (dockerfile, how) in DOCKERFILES.iter().flat_map(|file| [(file, READ_ONLY), (file, WRITABLE)]) {
        let image = Image::of(dockerfile);
        assert_ne!(image.user, 0, "{image:?}");
        let Some(container) = Container::start(&image, how) else { return };
        if how == READ_ONLY {
            container.cannot_change_its_root();
        }
        let crowd = Crowd::of(&container.server.addr());
        for generation in 2..=3 {
            container.is_unprivileged();
            container.takes_a_long_body();
            container.hand_over_to(generation);
        }
        assert_eq!(crowd.stop().failed, []);
        container.stops_well();
    }
}
