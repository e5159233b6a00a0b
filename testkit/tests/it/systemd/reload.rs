//! `Type=notify-reload` of systemd 253 and later, played by a test: `systemctl reload` sends HUP, waits for RELOADING with a
//! time that is not before its signal, and then for READY. Only the main process is listened to, and MAINPID names another.

use testkit::{Exit, Notice, NotifySocket, Pid, Proc, Signal, monotonic_usec};

use super::{Installed, PROGRAM, command};

/// What systemd knows of the service.
struct Unit<'a> {
    socket: &'a NotifySocket,
    server: &'a Proc,
    main: Pid,
    status: String,
}

impl Unit<'_> {
    /// Returns as `systemctl reload` does.
    #[track_caller]
    fn reload(&mut self) {
        let signalled = monotonic_usec();
        self.server.signal_to(self.main, Signal::SIGHUP);
        let mut reloads = false;
        loop {
            let notice = self.socket.next();
            if notice.pid != self.main {
                continue;
            }
            let is = |line: &str| notice.lines.iter().any(|own| own == line);
            if is("RELOADING=1") {
                let since: u64 = notice.value("MONOTONIC_USEC").unwrap().parse().unwrap();
                assert!(since >= signalled, "systemd would take it for an earlier reload: {notice:?}");
                reloads = true;
            }
            self.note(&notice);
            if is("READY=1") {
                assert!(reloads, "READY=1 without RELOADING=1 ends no reload: {notice:?}");
                return;
            }
        }
    }

    fn note(&mut self, notice: &Notice) {
        if let Some(pid) = notice.value("MAINPID") {
            self.main = Pid::from_raw(pid.parse().unwrap());
            assert!(self.server.alive().contains(&self.main), "a main process must be alive");
        }
        if let Some(status) = notice.value("STATUS") {
            self.status = status.to_owned();
        }
    }
}

#[test]
fn a_reload_returns_when_the_handover_is_decided() {
    let (installed, socket) = (Installed::new(), NotifySocket::new());
    let server = Proc::start_command(command(&installed.path(), &socket, &[]));
    socket.next_with("READY=1");
    let mut unit = Unit { socket: &socket, server: &server, main: server.pid(), status: String::new() };
    for generation in 2..=4 {
        let before = unit.main;
        unit.reload();
        assert_ne!(unit.main, before);
        assert_eq!(unit.status, format!("generation {generation} (pid {}) serves", unit.main));
        server.committed(unit.main);
        assert_eq!(server.get("/pid").ok().number(), unit.main.as_raw());
        // What the predecessor says now comes from a process that is not main.
        drop(socket.next_with("BARRIER=1"));
        assert_eq!(server.wait_exit(before), Exit::Status(0));
    }
    let before = unit.main;
    for text in ["#!/bin/sh\nexit 3\n", "no program"] {
        installed.write(text);
        unit.reload();
        assert_eq!(unit.main, before);
        assert!(unit.status.contains("the last handover failed: "), "{}", unit.status);
    }
    installed.put(PROGRAM.as_ref());
    unit.reload();
    assert_ne!(unit.main, before);
    server.committed(unit.main);
    server.stop();
}
