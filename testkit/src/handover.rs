//! Both roles of a handover, played by a test: it starts a successor as a predecessor does, and is started as a
//! successor is, by the program `testkit puppet`; and it holds the ends of both channels.

use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use rustix::fs::fstat;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use crate::{DEADLINE, Proc};

/// The variable by which a successor knows what it inherits.
pub const VARIABLE: &str = "HEIRLOOM_HANDOVER";
/// The largest packet of the connection channel, and the longest line of the lifecycle channel.
const MOST_BYTES: usize = 256 << 10;
/// The kernel's own bound for one packet.
const MOST_FDS: usize = 253;

/// One end of the two channels of a handover.
#[derive(Debug)]
pub struct Ends {
    pub lifecycle: Lifecycle,
    pub connections: Packets,
}

/// One end of a lifecycle channel: lines.
#[derive(Debug)]
pub struct Lifecycle {
    socket: UnixStream,
    /// The puppet writes for us: the other side asks the kernel for the pid of the sender.
    mouth: Option<UnixStream>,
    input: Vec<u8>,
}

/// One end of a connection channel: packets with descriptors.
#[derive(Debug)]
pub struct Packets(OwnedFd);

/// A packet from the connection channel.
#[derive(Debug)]
pub struct Packet {
    pub bytes: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl Lifecycle {
    fn new(socket: UnixStream, mouth: Option<UnixStream>) -> Lifecycle {
        Lifecycle { socket, mouth, input: Vec::new() }
    }

    /// Sends `line` and a newline. It is lost if the other side is gone.
    pub fn say(&mut self, line: &str) {
        let _ = self.mouth.as_mut().unwrap_or(&mut self.socket).write_all(format!("{line}\n").as_bytes());
    }

    /// The next line, without its end; None: the other side is gone.
    ///
    /// # Panics
    /// At the deadline.
    #[track_caller]
    pub fn hear(&mut self) -> Option<String> {
        loop {
            if let Some(line) = self.heard() {
                return Some(line);
            }
            readable(self.socket.as_fd(), "the next line of the lifecycle channel");
            if !self.read() {
                return None;
            }
        }
    }

    /// A line that has arrived completely.
    pub fn heard(&mut self) -> Option<String> {
        let end = self.input.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.input.drain(..=end).collect();
        Some(String::from_utf8(line[..end].to_vec()).expect("lines of text"))
    }

    /// Reads the bytes that have arrived; false at the end. A reset is not the end: lines may be queued behind it.
    pub fn read(&mut self) -> bool {
        let mut buf = vec![0; MOST_BYTES];
        match self.socket.read(&mut buf) {
            Ok(0) => false,
            Ok(n) => {
                self.input.extend_from_slice(&buf[..n]);
                true
            }
            Err(e) => {
                let later = [ErrorKind::WouldBlock, ErrorKind::Interrupted, ErrorKind::ConnectionReset];
                assert!(later.contains(&e.kind()), "the lifecycle channel: {e}");
                true
            }
        }
    }
}

impl AsFd for Lifecycle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Packets {
    /// The end of such a channel, as it was received.
    pub fn new(fd: OwnedFd) -> Packets {
        Packets(fd)
    }

    /// Sends a packet. It is lost if the other side is gone.
    ///
    /// # Panics
    /// When it can't be sent although the other side is there.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        match send_with(self.as_fd(), bytes, fds) {
            Ok(()) => {}
            Err(e) => assert_eq!(e.kind(), ErrorKind::BrokenPipe, "a packet of {} bytes: {e}", bytes.len()),
        }
    }

    /// The next packet; None: no process has the other end any more.
    ///
    /// # Panics
    /// At the deadline.
    #[track_caller]
    pub fn receive(&self) -> Option<Packet> {
        loop {
            readable(self.as_fd(), "the next packet of the connection channel");
            match receive_from(self.as_fd()) {
                Ok(packet) if packet.bytes.is_empty() => return None,
                Ok(packet) => return Some(packet),
                // A reset is not the end.
                Err(e) if [ErrorKind::WouldBlock, ErrorKind::ConnectionReset].contains(&e.kind()) => {}
                Err(e) => panic!("the connection channel: {e}"),
            }
        }
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A pair of each of the two channels: the predecessor's ends, and the successor's.
///
/// # Panics
/// When the kernel has none.
pub fn channels() -> (Ends, [OwnedFd; 2]) {
    let (ours, its) = UnixStream::pair().expect("a channel");
    ours.set_nonblocking(true).expect("a channel");
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (packets, its_packets) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("a channel");
    let ends = Ends { lifecycle: Lifecycle::new(ours, None), connections: Packets(packets) };
    (ends, [its.into(), its_packets])
}

/// A file for the user's state, as a predecessor makes it.
///
/// # Panics
/// When the kernel has none.
pub fn state_file() -> File {
    memfd_create("heirloom-state", MFdFlags::MFD_CLOEXEC).expect("a file in memory").into()
}

/// Starts `program` as a predecessor does that has written `note` and leaves `fds`; the note is made to say which
/// they are. `testkit` is the program with `puppet` in it.
///
/// # Panics
/// When it can't be started.
pub fn start_successor(
    testkit: &Path,
    program: &Path,
    args: &[String],
    note: &str,
    fds: &[OwnedFd],
    more: Setup,
) -> Proc {
    let inodes: Vec<u64> = fds.iter().map(|fd| fstat(fd).expect("a descriptor").st_ino).collect();
    let listeners = names(note, "listeners=").len();
    let sockets: Vec<String> = inodes.iter().map(u64::to_string).collect();
    let fields = note.split(';').map(|field| match field.split_once('=') {
        Some(("channel", _)) => format!("channel={}", inodes[listeners]),
        Some(("sockets", _)) => format!("sockets={}", sockets.join(",")),
        _ => field.to_owned(),
    });
    let note = fields.collect::<Vec<_>>().join(";");

    let (ours, its) = UnixStream::pair().expect("a socket");
    let mut command = Command::new(testkit);
    command
        .args(["puppet", "launch"])
        .arg(program)
        .args(args)
        .env(VARIABLE, note)
        .current_dir(more.folder)
        .env("PWD", more.folder);
    command.env("TESTKIT_PUPPET", more.socket);
    let all: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    send_with(ours.as_fd(), b"!", &all).expect("room for a few descriptors");
    Proc::begin(command, Stdio::from(OwnedFd::from(its)))
}

/// The environment of a server.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// Its working directory.
    pub folder: &'a Path,
    /// An [`Understudy`]'s.
    pub socket: &'a Path,
}

/// The values of a note's field.
pub fn names<'a>(note: &'a str, key: &str) -> Vec<&'a str> {
    let value = note.split(';').find_map(|field| field.strip_prefix(key)).unwrap_or_default();
    value.split(',').filter(|name| !name.is_empty()).collect()
}

/// Plays the successors of servers for whose program it takes over.
#[derive(Debug)]
pub struct Understudy {
    socket: UnixListener,
    path: PathBuf,
}

/// A successor's part, with everything that its predecessor left to it.
#[derive(Debug)]
pub struct Part {
    /// The value of the variable.
    pub note: String,
    pub ends: Ends,
    /// In the order of the variable.
    pub listeners: Vec<OwnedFd>,
    /// The file with the user's state, and the user's files.
    pub rest: Vec<OwnedFd>,
}

impl Understudy {
    /// Waits in the directory `folder`; the servers must be started with TESTKIT_PUPPET set to `socket`.
    ///
    /// # Panics
    /// When there can be no socket.
    pub fn new(folder: &Path) -> Understudy {
        let path = folder.join("puppet");
        Understudy { socket: UnixListener::bind(&path).expect("a socket"), path }
    }

    pub fn socket(&self) -> &Path {
        &self.path
    }

    /// Puts a puppet in the place of a server's program: every later successor is played. It is a script that becomes
    /// `testkit puppet`, since a successor has the arguments of its predecessor.
    ///
    /// # Errors
    /// When the script can't be written.
    pub fn take_over(&self, testkit: &Path, place: &Path) -> io::Result<()> {
        let new = place.with_extension("new");
        fs::write(&new, format!("#!/bin/sh\nexec '{}' puppet\n", testkit.display()))?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
        fs::rename(new, place)
    }

    /// The part of the next successor that is started.
    ///
    /// # Panics
    /// At the deadline.
    #[track_caller]
    pub fn step_in(&self) -> Part {
        readable(self.socket.as_fd(), "a successor");
        let (mouth, _) = self.socket.accept().expect("a puppet");
        readable(mouth.as_fd(), "what is left to a successor");
        let Packet { bytes, mut fds } = receive_from(mouth.as_fd()).expect("what is left to a successor");
        let note = String::from_utf8(bytes).expect("a text");
        let mut rest = fds.split_off(names(&note, "listeners=").len());
        let after = rest.split_off(2);
        let [lifecycle, connections] = <[OwnedFd; 2]>::try_from(rest).expect("two channels");
        let lifecycle = Lifecycle::new(lifecycle.into(), Some(mouth));
        let ends = Ends { lifecycle, connections: Packets(connections) };
        Part { note, ends, listeners: fds, rest: after }
    }
}

impl AsFd for Understudy {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Waits until something can be read.
///
/// # Panics
/// Fails at the deadline, and names the event that it waited for.
#[track_caller]
pub fn readable(fd: BorrowedFd<'_>, what: &str) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "not within {DEADLINE:?}: {what}");
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout).is_ok_and(|ready| ready > 0) {
            return;
        }
    }
}

fn send_with(to: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = vec![std::mem::MaybeUninit::uninit(); 8192];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)), "room for {} descriptors", fds.len());
    }
    let sent = sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
    sent.map(drop).map_err(io::Error::from)
}

fn receive_from(from: BorrowedFd<'_>) -> io::Result<Packet> {
    let mut bytes = vec![0; MOST_BYTES];
    let mut space = vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let read =
        recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags).map_err(io::Error::from)?;
    bytes.truncate(read.bytes);
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(Packet { bytes, fds })
}
