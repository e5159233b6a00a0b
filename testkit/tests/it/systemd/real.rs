//! The life of a service under systemd itself: upgrades, crashes, stops, the watchdog, sockets.

use std::fs;
use std::process::Command;
use std::time::Duration;

use testkit::{Begin, Client, Crowd, Outcome, get, until};

use super::inside::{
    ADDRESS, FOLDER, Unit, addr, ask_slowly, client_of, flags, in_flight, inside, log, parent,
    replace_program, systemctl,
};
use super::reports_status;

#[test]
fn twenty_upgrades_under_load_lose_nothing() {
    if !inside("real::twenty_upgrades_under_load_lose_nothing") {
        return;
    }
    let unit = Unit::start(&flags(), "TimeoutStopSec=20");
    let first = unit.main_pid();
    assert_eq!(get(&addr(), "/pid").ok().number(), first);
    let crowd = Crowd::of(&addr());
    for generation in 2..=21 {
        let main = unit.reload();
        assert_eq!(parent(main), "1", "systemd's own child");
        assert_eq!(unit.show("StatusText"), format!("generation {generation} (pid {main}) serves"));
        assert_eq!(get(&addr(), "/pid").ok().number(), main);
    }
    let tally = crowd.stop();
    assert_eq!(tally.failed, []);
    assert!(tally.answered > 20);
    systemctl(&["stop", "web.service"]);
    assert_eq!((unit.show("Result"), unit.show("NRestarts")), ("success".to_owned(), "0".to_owned()));
    assert!(matches!(get(&addr(), "/ok"), Outcome::Refused));
}

#[test]
fn after_a_failing_upgrade_the_status_says_why() {
    if !inside("real::after_a_failing_upgrade_the_status_says_why") {
        return;
    }
    let unit = Unit::start(&flags(), "");
    let main = unit.main_pid();
    let crowd = Crowd::of(&addr());
    let (program, good) = (format!("{FOLDER}/kitchen_sink"), format!("{FOLDER}/good"));
    fs::rename(&program, &good).unwrap();
    replace_program("#!/bin/sh\nexit 7\n");
    systemctl(&["reload", "web.service"]);
    until("it is ready again", || {
        unit.show("StatusText").contains("the last handover failed") && unit.is("running")
    });
    // systemd reaps it, and newer kernels report how it ended.
    let status = unit.show("StatusText");
    assert!(!reports_status() || status.ends_with("exited with status 7"), "{status}");
    assert_eq!((unit.main_pid(), get(&addr(), "/pid").ok().number()), (main, main));
    fs::rename(&good, &program).unwrap();
    assert_ne!(unit.reload(), main);
    assert_eq!(crowd.stop().failed, []);
    systemctl(&["stop", "web.service"]);
    assert_eq!(unit.show("Result"), "success");
}

#[test]
fn a_crash_and_restart_keep_the_backlog() {
    if !inside("real::a_crash_and_restart_keep_the_backlog") {
        return;
    }
    let unit = Unit::start(
        &format!("{} --store-listeners", flags()),
        "Restart=on-failure\nRestartSec=300ms\nFileDescriptorStoreMax=8",
    );
    for _ in 0..2 {
        let main = unit.reload();
        assert_eq!(unit.show("NFileDescriptorStore"), "1");
        Command::new("kill").args(["-KILL", &main.to_string()]).status().unwrap();
        until("systemd has seen it", || unit.main_pid() != main);
        // Nobody is there: it waits in the backlog, and is not refused.
        assert_ne!(get(&addr(), "/pid").ok().number(), main);
        until("it is restarted", || unit.is("running"));
    }
    assert_eq!(unit.show("NRestarts"), "2");
    systemctl(&["stop", "web.service"]);
    assert_eq!((&*unit.show("Result"), &*unit.show("NFileDescriptorStore")), ("success", "0"));
    assert!(matches!(get(&addr(), "/ok"), Outcome::Refused), "the store is empty");
}

#[test]
fn a_stop_completes_requests_of_every_generation() {
    if !inside("real::a_stop_completes_requests_of_every_generation") {
        return;
    }
    let unit = Unit::start(&flags(), "TimeoutStopSec=20");
    let mut clients: Vec<Client> = Vec::new();
    // Two generations that drain, and the main one: its own drain is the shortest.
    for (upgrade, ms) in [(true, 7000), (true, 6000), (false, 1000)] {
        clients.push(ask_slowly(unit.main_pid(), ms));
        if upgrade {
            unit.reload();
        }
    }
    let stop = testkit::beside("stop", || systemctl(&["stop", "web.service"]));
    for client in &mut clients {
        assert_eq!(client.answer().ok().text(), "ok\n");
    }
    stop.join().unwrap();
    assert_eq!(unit.show("Result"), "success");
}

#[test]
fn the_watchdog_finds_a_deadlock_and_spares_slow_handlers() {
    if !inside("real::the_watchdog_finds_a_deadlock_and_spares_slow_handlers") {
        return;
    }
    let unit = Unit::start(
        &format!("{} --workers 1", flags()),
        "WatchdogSec=1500ms\nRestart=on-failure\nRestartSec=100ms",
    );
    let main = unit.reload();
    let mut slow = Client::to(&addr());
    assert_eq!(slow.get("/sleep/700").ok().text(), "ok\n");
    testkit::pass(Duration::from_secs(2));
    assert_eq!((unit.main_pid(), &*unit.show("NRestarts")), (main, "0"));
    slow.ask("/sleep/60000");
    until("the watchdog bites", || unit.show("NRestarts") == "1");
    until("it is restarted", || unit.is("running"));
    assert_eq!(get(&addr(), "/generation").ok().text(), "1");
    systemctl(&["stop", "web.service"]);
}

#[test]
fn a_socket_unit_keeps_its_socket_over_upgrades_and_stops() {
    if !inside("real::a_socket_unit_keeps_its_socket_over_upgrades_and_stops") {
        return;
    }
    let socket =
        format!("[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream={ADDRESS}\nFileDescriptorName=web\n");
    fs::write("/run/systemd/system/web.socket", socket).unwrap();
    let unit = Unit::write("--listen systemd:web", "Requires=web.socket");
    systemctl(&["start", "web.socket"]);
    // The first connection starts it.
    assert_eq!(get(&addr(), "/generation").ok().text(), "1");
    let crowd = Crowd::of(&addr());
    for _ in 0..3 {
        unit.reload();
    }
    // Clients of a restart wait.
    assert_eq!(crowd.stop().failed, []);
    for _ in 0..3 {
        systemctl(&["restart", "web.service"]);
        assert_eq!(get(&addr(), "/generation").ok().text(), "1");
    }
    systemctl(&["stop", "web.service", "web.socket"]);
    assert!(matches!(get(&addr(), "/ok"), Outcome::Refused));
}

/// The main process has it extended while it drains.
#[test]
fn a_drain_may_be_longer_than_the_timeout_of_the_unit() {
    if !inside("real::a_drain_may_be_longer_than_the_timeout_of_the_unit") {
        return;
    }
    let unit = Unit::start(&flags(), "TimeoutStopSec=2");
    let mut client = ask_slowly(unit.reload(), 9000);
    systemctl(&["stop", "web.service"]);
    assert_eq!(client.answer().ok().text(), "ok\n");
    assert_eq!(unit.show("Result"), "success");
}

/// Clients of every generation get their responses, and the service ends well.
#[test]
fn a_stop_in_the_middle_of_an_upgrade_loses_nothing() {
    if !inside("real::a_stop_in_the_middle_of_an_upgrade_loses_nothing") {
        return;
    }
    let stop = |unit: &Unit, mut clients: Vec<Client>| {
        let stop = testkit::beside("stop", || systemctl(&["stop", "web.service"]));
        for client in &mut clients {
            assert_eq!(client.answer().ok().text(), "ok\n");
        }
        stop.join().unwrap();
        assert_eq!((&*unit.show("Result"), &*unit.show("ActiveState")), ("success", "inactive"));
        assert!(matches!(get(&addr(), "/ok"), Outcome::Refused));
        fs::remove_file(format!("{FOLDER}/log")).unwrap();
    };
    // The successor is on probation.
    let lines = "TimeoutStopSec=20\nFileDescriptorStoreMax=8";
    let unit = Unit::start(&format!("{} --probation-ms 8000 --store-listeners", flags()), lines);
    let first = ask_slowly(unit.main_pid(), 2500);
    systemctl(&["reload", "--no-block", "web.service"]);
    until("the successor serves", || log().contains(": SERVING"));
    let successor = started().expect("it is in the log");
    stop(&unit, vec![first, ask_slowly(successor, 1500)]);
    assert_eq!(unit.show("NFileDescriptorStore"), "0");
    // It is the main process, by a hair.
    let unit = Unit::start(&flags(), lines);
    let first = ask_slowly(unit.main_pid(), 1500);
    let main = unit.reload();
    stop(&unit, vec![first, ask_slowly(main, 500)]);
    // It is not ready, and never will be.
    let unit = Unit::start(&flags(), lines);
    let first = ask_slowly(unit.main_pid(), 1500);
    replace_program("#!/bin/sh\nexec sleep 1000\n");
    systemctl(&["reload", "--no-block", "web.service"]);
    until("it is started", || started().is_some());
    stop(&unit, vec![first]);
}

/// The pid of the last successor.
fn started() -> Option<i32> {
    log().lines().rfind(|line| line.contains(" as child "))?.rsplit(' ').next()?.parse().ok()
}

/// systemd does not know the successor yet, stops it, and starts the service again.
#[test]
fn a_crash_in_the_middle_of_an_upgrade_keeps_the_backlog() {
    if !inside("real::a_crash_in_the_middle_of_an_upgrade_keeps_the_backlog") {
        return;
    }
    let unit = Unit::start(
        &format!("{} --store-listeners --probation-ms 15000", flags()),
        "Restart=on-failure\nRestartSec=100ms\nFileDescriptorStoreMax=8\nTimeoutStopSec=60",
    );
    let main = unit.main_pid();
    systemctl(&["reload", "--no-block", "web.service"]);
    until("the successor serves", || log().contains(": SERVING"));
    let successor = started().expect("it is in the log");
    // Its drain would take as long as this.
    let mut slow = ask_slowly(successor, 60_000);
    Command::new("kill").args(["-KILL", &main.to_string()]).status().unwrap();
    // Nobody is refused meanwhile.
    until("it is started again", || get(&addr(), "/generation").ok().text() == "1");
    assert!(!slow.answer().is_ok());
    assert_eq!(unit.show("NRestarts"), "1");
    systemctl(&["stop", "web.service"]);
    assert!(matches!(get(&addr(), "/ok"), Outcome::Refused));
}

/// Filters of system calls, as in containers.
#[test]
fn without_clone_parent_a_successor_is_a_child() {
    if !inside("real::without_clone_parent_a_successor_is_a_child") {
        return;
    }
    // glibc starts threads and other programs by clone3, and by clone where there is no such call.
    for (filter, is_child) in [
        ("SystemCallFilter=~clone\nSystemCallErrorNumber=EPERM", true),
        ("SystemCallFilter=~clone3\nSystemCallErrorNumber=ENOSYS", false),
        ("SystemCallFilter=~pidfd_open\nSystemCallErrorNumber=EPERM", true),
    ] {
        let unit = Unit::start(&flags(), &format!("TimeoutStopSec=20\n{filter}"));
        let before = unit.main_pid();
        // As long as its predecessor lives.
        let mut slow = client_of(before);
        slow.begin();
        in_flight(before, 1);
        let main = unit.reload();
        assert_eq!(parent(main), if is_child { before.to_string() } else { "1".to_owned() }, "{filter}");
        assert_eq!(slow.finish().ok().text(), "ok");
        let crowd = Crowd::of(&addr());
        for _ in 0..3 {
            unit.reload();
        }
        assert_eq!(crowd.stop().failed, [], "{filter}");
        systemctl(&["stop", "web.service"]);
        // systemd does not wait for a main process that is not its child, unless another process of the service runs.
        assert!(is_child || unit.show("Result") == "success", "{filter}");
        assert!(matches!(get(&addr(), "/ok"), Outcome::Refused));
    }
}

/// As a service that notifies, and as one that does not.
#[test]
fn under_supervision_the_main_process_stays() {
    if !inside("real::under_supervision_the_main_process_stays") {
        return;
    }
    for lines in ["TimeoutStopSec=20\nWatchdogSec=3s", "Type=simple\nTimeoutStopSec=20"] {
        let unit = Unit::start(&format!("{} --supervise", flags()), lines);
        until("it serves", || get(&addr(), "/generation").is_ok());
        let main = unit.main_pid();
        let crowd = Crowd::of(&addr());
        for generation in 2..=11 {
            systemctl(&["reload", "web.service"]);
            until("the next generation serves", || {
                unit.is("running") && get(&addr(), "/generation").ok().number() == generation
            });
            assert_eq!(unit.main_pid(), main);
        }
        assert_eq!(crowd.stop().failed, []);
        // On probation its end would be that of a failed upgrade.
        until("the last one owns the service", || log().contains("serves as generation 11"));
        // A generation that crashes is no crash of the service, and refuses nobody.
        let serving = get(&addr(), "/pid").ok().number().to_string();
        Command::new("kill").args(["-KILL", &serving]).status().unwrap();
        until("another one serves", || match get(&addr(), "/generation") {
            Outcome::Refused => panic!("refused"),
            outcome => outcome.is_ok() && outcome.ok().number() == 12,
        });
        assert_eq!((unit.main_pid(), &*unit.show("NRestarts")), (main, "0"));
        let mut client = Client::to(&addr());
        client.ask("/sleep/2000");
        until("it is in its handler", || {
            let _ = Command::new("kill").args(["-USR1", &main.to_string()]).status();
            log().lines().any(|line| line.contains("generation 12 serving: 1 requests in flight"))
        });
        let stop = testkit::beside("stop", || systemctl(&["stop", "web.service"]));
        assert_eq!(client.answer().ok().text(), "ok\n");
        stop.join().unwrap();
        assert_eq!((unit.show("Result"), unit.show("NRestarts")), ("success".to_owned(), "0".to_owned()));
        assert!(matches!(get(&addr(), "/ok"), Outcome::Refused));
        fs::remove_file(format!("{FOLDER}/log")).unwrap();
    }
}
