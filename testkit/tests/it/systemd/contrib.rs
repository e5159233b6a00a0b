//! The units in contrib/systemd are what they promise: systemd knows each line, and a service runs and is upgraded by them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::geteuid;
use testkit::{Addr, Crowd, Outcome, get, lacks, until};

use super::PROGRAM;
use super::inside::{FOLDER, Unit, inside, log, parent, systemctl};

const UNITS: [&str; 3] = ["app.service", "app-hardened.service", "app.socket"];
const EXECUTABLE: &str = "/usr/local/bin/app";

/// Compiled in: the working copy may be out of sight below the systemd that is under test.
fn unit_file(name: &str) -> &'static str {
    match name {
        "app.service" => include_str!("../../../../contrib/systemd/app.service"),
        "app-hardened.service" => include_str!("../../../../contrib/systemd/app-hardened.service"),
        "app.socket" => include_str!("../../../../contrib/systemd/app.socket"),
        other => panic!("no unit {other}"),
    }
}

#[test]
fn systemd_analyze_finds_nothing_wrong() {
    if lacks("systemd-analyze") {
        assert!(!geteuid().is_root(), "as root this test must run: apt-get install systemd");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = UNITS.iter().map(|name| folder.path().join(name)).collect();
    for (name, file) in UNITS.iter().zip(&files) {
        // It looks for the executable, too.
        fs::write(file, unit_file(name).replace(EXECUTABLE, PROGRAM)).unwrap();
    }
    let verified = Command::new("systemd-analyze").arg("verify").args(&files).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && said.is_empty(), "{said}");
}

#[track_caller]
fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Puts the program and the user `app` where the units expect them, and the unit itself. `lines` are for this test alone.
fn install(name: &'static str, lines: &str) -> Unit {
    for folder in ["/usr/local/bin", "/var/lib"] {
        run("mount", &["-t", "tmpfs", "tmpfs", folder]);
    }
    run("cp", &[&format!("{FOLDER}/kitchen_sink"), EXECUTABLE]);
    for (file, line) in [("/etc/passwd", "app:x:4711:4711::/:/bin/false\n"), ("/etc/group", "app:x:4711:\n")]
    {
        let copy = format!("{FOLDER}{}", file.replace('/', "-"));
        fs::write(&copy, fs::read_to_string(file).unwrap() + line).unwrap();
        run("mount", &["--bind", &copy, file]);
    }
    let folder = Path::new("/run/systemd/system");
    let test = format!(
        "[Unit]\nDefaultDependencies=no\n[Service]\nEnvironment=RUST_LOG=info\nStandardError=append:{FOLDER}/log\n{lines}\n"
    );
    fs::create_dir(folder.join(format!("{name}.d"))).unwrap();
    fs::write(folder.join(format!("{name}.d/test.conf")), test).unwrap();
    fs::write(folder.join(name), unit_file(name)).unwrap();
    Unit::installed(name)
}

/// Upgrades under load, and a stop.
fn is_upgraded(unit: &Unit, addr: &Addr, upgrades: usize) {
    let crowd = Crowd::of(addr);
    for _ in 0..upgrades {
        let main = unit.reload();
        assert_eq!(parent(main), "1", "systemd's own child");
        until("it has the service", || get(addr, "/pid").ok().number() == main);
    }
    let tally = crowd.stop();
    assert_eq!(tally.failed, []);
    assert!(tally.answered > 20);
    // Nothing that a handover or a stop needs is forbidden.
    let is_bad = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
    assert_eq!(log().lines().filter(is_bad).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn the_hardened_service_is_started_and_upgraded() {
    if !inside("contrib::the_hardened_service_is_started_and_upgraded") {
        return;
    }
    let start = format!("ExecStart=\nExecStart={EXECUTABLE} --listen 0.0.0.0:80 --probation-ms 50");
    let unit = install("app-hardened.service", &start);
    systemctl(&["start", "app-hardened.service"]);
    let addr = Addr::from("127.0.0.1:80");
    is_upgraded(&unit, &addr, 5);
    systemctl(&["stop", "app-hardened.service"]);
    assert_eq!(unit.show("Result"), "success");
    assert!(!log().contains("can't filter"), "{}", log());
    assert!(matches!(get(&addr, "/ok"), Outcome::Refused));
}

/// The program gets no flags at all.
#[test]
fn the_service_with_its_socket_needs_no_flags() {
    if !inside("contrib::the_service_with_its_socket_needs_no_flags") {
        return;
    }
    fs::write("/run/systemd/system/app.socket", unit_file("app.socket")).unwrap();
    fs::create_dir("/run/systemd/system/app.socket.d").unwrap();
    fs::write("/run/systemd/system/app.socket.d/test.conf", "[Unit]\nDefaultDependencies=no\n").unwrap();
    let unit = install("app.service", "[Unit]\nRequires=app.socket");
    systemctl(&["start", "app.socket"]);
    let addr = Addr::from("127.0.0.1:80");
    // The first client starts it.
    assert_eq!(get(&addr, "/generation").ok().text(), "1");
    is_upgraded(&unit, &addr, 2);
    // Clients of a restart wait.
    systemctl(&["restart", "app.service"]);
    assert_eq!(get(&addr, "/generation").ok().text(), "1");
    systemctl(&["stop", "app.socket", "app.service"]);
    assert_eq!(unit.show("Result"), "success");
    assert!(matches!(get(&addr, "/ok"), Outcome::Refused));
}
