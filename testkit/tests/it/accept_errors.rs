//! Errors of `accept` that no test can bring about: made by a library that is put before the
//! system's, for as long as a file says so.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::libc;
use tempfile::TempDir;
use testkit::{Client, Proc, expect_calm, lacks};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");

/// Fails with the error that the file `ACCEPT_FAULT` names, as often as it says: indefinitely if that is
/// below zero.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int accept4(int fd, struct sockaddr *address, socklen_t *len, int flags) {
    int error = 0, times = 0;
    FILE *file = fopen(getenv("ACCEPT_FAULT"), "r+");
    if (file) {
        if (fscanf(file, "%d %d", &error, &times) == 2 && times != 0) {
            rewind(file);
            fprintf(file, "%d %d\n", error, times < 0 ? times : times - 1);
            fclose(file);
            errno = error;
            return -1;
        }
        fclose(file);
    }
    int (*real)(int, struct sockaddr *, socklen_t *, int) = dlsym(RTLD_NEXT, "accept4");
    return real(fd, address, len, flags);
}
"#;

struct Faulty {
    _folder: TempDir,
    fault: PathBuf,
    server: Proc,
}

impl Faulty {
    fn start() -> Option<Faulty> {
        if lacks("cc") {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let [source, library, fault] =
            ["accept.c", "accept.so", "fault"].map(|name| folder.path().join(name));
        fs::write(&source, LIBRARY).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl");
        assert!(compiler.status().unwrap().success());
        let mut command = Command::new(PROGRAM);
        command.args(["--listen", "127.0.0.1:0"]).env("LD_PRELOAD", &library).env("ACCEPT_FAULT", &fault);
        let server = Proc::start_command(command);
        Some(Faulty { _folder: folder, fault, server })
    }

    /// Moved there, so that it is never seen half-written.
    fn fail(&self, error: i32, times: i32) {
        let new = self.fault.with_extension("new");
        fs::write(&new, format!("{error} {times}\n")).unwrap();
        fs::rename(new, &self.fault).unwrap();
    }

    fn asking(&self, clients: usize) -> Vec<Client> {
        let ask = |_| {
            let mut client = self.server.client();
            client.ask("/ok");
            client
        };
        (0..clients).map(ask).collect()
    }
}

/// The host lacks a resource: waiting clients are not reset, connected ones are served, nothing
/// spins, and all is as before when it has some again.
#[test]
fn what_is_lacking_is_waited_for() {
    let Some(faulty) = Faulty::start() else { return };
    let server = &faulty.server;
    let lacking = [
        (libc::ENFILE, "Too many open files in system"),
        (libc::EMFILE, "Too many open files (os"),
        (libc::ENOBUFS, "No buffer space available"),
        (libc::ENOMEM, "Cannot allocate memory"),
    ];
    for (error, text) in lacking {
        let mut held = server.client();
        assert!(held.get("/ok").is_ok());
        faulty.fail(error, -1);
        let waiting = faulty.asking(100);
        server.wait_for(&format!("can't accept: {text}"));
        expect_calm(server.pid());
        assert!(held.get("/ok").is_ok());
        assert!(waiting.iter().all(|client| !client.has_ended()), "nobody is reset");
        assert_eq!(server.count(&format!("can't accept: {text}")), 1, "said once");
        fs::remove_file(&faulty.fault).unwrap();
        for mut client in waiting {
            assert!(client.answer().is_ok());
        }
    }
    server.stop();
}

/// An error of one connection, or of none: the next one is accepted at once.
#[test]
fn what_has_befallen_another_is_passed_over() {
    let Some(faulty) = Faulty::start() else { return };
    let server = &faulty.server;
    for error in [libc::EINTR, libc::ECONNABORTED, libc::EPROTO, libc::EPERM] {
        faulty.fail(error, 10);
        for mut client in faulty.asking(20) {
            assert!(client.answer().is_ok());
        }
        let left = fs::read_to_string(&faulty.fault).unwrap();
        assert_eq!(left.trim_end(), format!("{error} 0"), "all of them came");
    }
    // One that took nobody from the queue, and nobody comes later: no event reports the client again.
    faulty.fail(libc::EPERM, 1);
    assert!(faulty.asking(1).remove(0).answer().is_ok());
    assert_eq!(server.count("can't accept"), 0);
    server.stop();
}
