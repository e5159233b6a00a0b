//! A process that is remote-controlled by a test, for both roles of a handover. See `testkit::handover`.
//!
//! - `testkit puppet launch PROGRAM ARGS...`: becomes PROGRAM as a predecessor starts it. Its standard input is a socket,
//!   by which it receives the descriptors that PROGRAM finds from 3 on.
//! - `testkit puppet`, started by a predecessor: passes everything it inherits to the test, by the socket that TESTKIT_PUPPET names; from then
//!   on it copies the bytes of that socket to the lifecycle channel, and ends with the socket.

use std::env;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{ControlMessage, MsgFlags, recvmsg, send, sendmsg};
use nix::unistd::close;

use super::MainResult;

/// The first descriptor that is left to a successor.
const FIRST: i32 = 3;
const MOST: usize = 64;

pub(super) fn main(args: &[String]) -> MainResult {
    match args {
        [launch, program, args @ ..] if launch == "launch" => {
            Err(become_it(Command::new(program).args(args)).into())
        }
        _ => Ok(stand_in()?),
    }
}

fn become_it(program: &mut Command) -> io::Error {
    // What a test's own parent has left open would take their places.
    for fd in FIRST..256 {
        let _ = close(fd);
    }
    let mut space = nix::cmsg_space!([i32; MOST]);
    let mut byte = [0];
    // Received in order, each at the lowest number that is free, and kept over exec.
    let mut parts = [IoSliceMut::new(&mut byte)];
    if let Err(e) = recvmsg::<()>(0, &mut parts, Some(&mut space), MsgFlags::empty()) {
        return e.into();
    }
    // Every version starts its successor like this.
    let waiting: SigSet = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2].into_iter().collect();
    match waiting.thread_block() {
        Ok(()) => program.stdin(Stdio::null()).exec(),
        Err(e) => e.into(),
    }
}

fn stand_in() -> io::Result<()> {
    let note = env::var("HEIRLOOM_HANDOVER").expect("a predecessor");
    let field = |key: &str| note.split(';').find_map(|field| field.strip_prefix(key));
    let listeners =
        field("listeners=").expect("listeners").split(',').filter(|name| !name.is_empty()).count();
    let all = field("sockets=").expect("sockets").split(',').count();
    let last = FIRST + i32::try_from(all).expect("few descriptors");
    let lifecycle = FIRST + i32::try_from(listeners).expect("few listeners");

    let mut test = UnixStream::connect(env::var_os("TESTKIT_PUPPET").expect("the socket of a test"))?;
    let fds: Vec<i32> = (FIRST..last).collect();
    let (rights, bytes) = ([ControlMessage::ScmRights(&fds)], [IoSlice::new(note.as_bytes())]);
    sendmsg::<()>(test.as_raw_fd(), &bytes, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    for fd in (FIRST..last).filter(|fd| *fd != lifecycle) {
        let _ = close(fd);
    }
    let mut buf = [0; 4096];
    loop {
        match test.read(&mut buf)? {
            0 => return Ok(()),
            n => send(lifecycle, &buf[..n], MsgFlags::MSG_NOSIGNAL)?,
        };
    }
}
