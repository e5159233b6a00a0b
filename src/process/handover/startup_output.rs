//! What a successor writes to standard error until it is ready: if it fails, the predecessor's log has its last lines, as
//! have the answer of the control socket and systemd's status.
//!
//! The successor's standard error stays what it is, for whatever starts it. Before its `main` the library there puts a pipe
//! in its place, and takes the pipe away again before PREPARED. The predecessor copies what comes through the pipe to that
//! same standard error at once. What this rests on:
//!
//! - A successor of a version that does not know of the pipe, and a script in between, write where they always did.
//! - **The successor can read the pipe, too.** A predecessor that is killed breaks nothing: what it has not copied, the
//!   successor copies when it takes the pipe away. Only what exceeds the pipe (1 MiB) until then makes it wait, without end. A
//!   pipe that the successor can't read would end that wait, and lose what is in it.
//! - The process that copies holds a lock on the pipe from the read to the end of the write. So nothing that the successor writes later
//!   comes before what it has written earlier.
//! - A program that the successor has started before may go on writing to the pipe: the successor copies that as well, for as
//!   long as it lives.
//! - It is done only where the successor's standard error is the file of the predecessor's, and where no program looks at what
//!   kind of file that is. Not on a terminal, where a program decides on colours for its whole life; a second terminal in
//!   between would lose what is in it when the predecessor is killed. Not where it is the journal's stream: a program that
//!   finds JOURNAL_STREAM to name another file than its standard error would not log to the journal for its whole life, and
//!   that variable can't be changed and restored for a process with threads and for the programs that it starts. There the
//!   messages are beside the error anyway, and the error says so.
//!
//! It takes one descriptor, since a script may use those behind the ones that are passed on: the pipe, open for reading and
//! writing, which only /proc can do. What a script or the dynamic linker writes before the program runs is not seen here.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{dup2_stderr, pipe2};

use super::FileId;
use super::inherit::{inherited_by_prefix, inherited_file};
use super::pid_file::range;
use crate::base::error::{BETWEEN_LINES, lines_of};
use crate::base::log::debug;
use crate::base::sync::lock;
use crate::base::sys;
use crate::base::threads::spawn;

/// The name by which the pipe is passed on, before the identity of the predecessor's standard error.
const FILE: &str = "heirloom:stderr:";

/// As much as any user may have in a pipe.
const PIPE_BYTES: i32 = 1 << 20;
/// What is kept of it: a panic's message comes before its backtrace.
const TAIL_BYTES: usize = 32 << 10;
const TAIL_LINES: usize = 5;
/// Time for the last lines of a process that has ended.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Where the standard error that the pipe has replaced is kept.
static ORIGINAL: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Whether a file is the pipe.
pub(super) fn is_pipe(name: &str) -> bool {
    name.starts_with(FILE)
}

/// The pipe with which a successor is started. To be dropped when it has been.
pub(crate) struct OutputPipe {
    both: File,
    stderr: FileId,
}

impl OutputPipe {
    /// Starts to copy what comes through the pipe. No pipe where standard error is to be left alone.
    pub(crate) fn start() -> (Option<OutputPipe>, StartupMessages) {
        let stderr = io::stderr();
        let Some(id) = FileId::of(stderr.as_fd()) else { return (None, StartupMessages::At(STDERR)) };
        if stderr.is_terminal() {
            return (None, StartupMessages::At("on the terminal"));
        }
        if env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == id.to_string()) {
            return (None, StartupMessages::At("in the journal"));
        }
        match OutputPipe::copied(id) {
            Ok((pipe, output)) => (Some(pipe), StartupMessages::Copied(output)),
            Err(e) => {
                debug!("handover: no pipe for standard error: {e}");
                (None, StartupMessages::At(STDERR))
            }
        }
    }

    fn copied(stderr: FileId) -> io::Result<(OutputPipe, StartupOutput)> {
        let (reader, _writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let both = OpenOptions::new().read(true).write(true).open(by_proc(&reader))?;
        let _ = fcntl(&both, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        let (output, reader) = (StartupOutput::default(), File::from(reader));
        let noted = output.clone();
        start_thread(move || {
            copy_until_end(&reader, &|piece| noted.note(piece));
            noted.end();
        })?;
        Ok((OutputPipe { both, stderr }, output))
    }

    /// The file to pass on.
    pub(crate) fn file(&self) -> (String, BorrowedFd<'_>) {
        (format!("{FILE}{}", self.stderr), self.both.as_fd())
    }
}

/// Where the messages are that a successor writes until it is ready.
pub(crate) enum StartupMessages {
    Copied(StartupOutput),
    /// Only there.
    At(&'static str),
}

const STDERR: &str = "on standard error";

fn by_proc(fd: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The end of what a successor has written.
#[derive(Clone, Default)]
pub(crate) struct StartupOutput(Arc<(Mutex<Tail>, Condvar)>);

#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
    has_ended: bool,
}

impl StartupOutput {
    fn note(&self, piece: &[u8]) {
        let bytes = &mut lock(&self.0.0).bytes;
        bytes.extend_from_slice(piece);
        let excess = bytes.len().saturating_sub(TAIL_BYTES);
        bytes.drain(..excess);
    }

    fn end(&self) {
        lock(&self.0.0).has_ended = true;
        self.0.1.notify_all();
    }

    /// The last lines of a process that has ended. None: there are none. Ends the very last one on standard error, because the
    /// error that follows there is a line of its own.
    pub(crate) fn last_lines(&self) -> Option<String> {
        let tail = lock(&self.0.0);
        let tail = self.0.1.wait_timeout_while(tail, LAST_LINES, |tail| !tail.has_ended);
        let (tail, _) = tail.unwrap_or_else(PoisonError::into_inner);
        if tail.bytes.last().is_some_and(|byte| *byte != b'\n') {
            write_all(b"\n");
        }
        last_lines(&String::from_utf8_lossy(&tail.bytes))
    }
}

/// The last lines: those before a backtrace, and from the message of a panic or of `main` on, which Rust writes last.
fn last_lines(text: &str) -> Option<String> {
    let is_backtrace = |line: &str| line.eq_ignore_ascii_case("stack backtrace:");
    let is_message = |line: &str| {
        line.starts_with("Error: ") || line.starts_with("thread '") && line.contains(" panicked at ")
    };
    let lines = || lines_of(text);
    let after_backtrace = lines().rev().position(is_backtrace).map_or(0, |at| at.saturating_add(1));
    let before = || lines().rev().skip(after_backtrace);
    let most = before().position(is_message).map_or(TAIL_LINES, |at| at.saturating_add(1));
    let mut last: Vec<&str> = before().take(most).collect();
    last.reverse();
    last.truncate(TAIL_LINES);
    (!last.is_empty()).then(|| last.join(BETWEEN_LINES))
}

/// Before `main`, in a successor: puts the pipe in the place of standard error.
pub(crate) extern "C" fn before_main() {
    let Some((pipe, name)) = inherited_file(FILE) else { return };
    let Some(predecessors) = name.strip_prefix(FILE).and_then(FileId::parse) else { return };
    let id = |fd| sys::file_id(fd).map(|(device, inode)| FileId { device, inode });
    let own = id(libc::STDERR_FILENO);
    // A program may run another one, or itself once more, in its own place: the copy is open in that, too.
    let was_replaced = own.is_some() && own == id(pipe);
    let original = match own == Some(predecessors) {
        true => sys::copy_of(libc::STDERR_FILENO),
        false if was_replaced => {
            (sys::FIRST_COPY..1024).find(|fd| id(*fd) == Some(predecessors)).and_then(sys::take)
        }
        false => None,
    };
    let Some(original) = original else { return };
    if was_replaced || sys::redirect_stderr(pipe).is_ok() {
        *lock(&ORIGINAL) = Some(original);
    }
}
sys::before_main!(before_main);

/// `init` was called: programs that are started from now on do not inherit it.
pub(super) fn protect() {
    if let Some(original) = &*lock(&ORIGINAL) {
        let _ = fcntl(original, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    }
}

/// In a successor: takes the pipe away again.
pub(crate) fn restore_stderr() {
    let (Some(original), Some((_, pipe))) = (lock(&ORIGINAL).take(), inherited_by_prefix(FILE)) else {
        return;
    };
    // The program may have put another file there.
    if FileId::of(io::stderr().as_fd()) == FileId::of(pipe.as_fd()) && dup2_stderr(&original).is_err() {
        return;
    }
    // Until the predecessor has written what it has read.
    let whole = range(libc::F_WRLCK, 0, 0);
    while fcntl(&pipe, FcntlArg::F_SETLKW(&whole)) == Err(Errno::EINTR) {}
    let later = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(by_proc(&pipe));
    let pipe = File::from(pipe);
    let is_ready = || {
        poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)
            .is_ok_and(|ready| ready > 0)
    };
    while is_ready() && matches!(copy_unlocked(&pipe, &|_| ()), Ok(Piece::Copied)) {}
    drop(pipe);
    // Unless this is the end, it is the standard error of another process, too.
    if let Some(later) = later.ok().filter(|later| !matches!(copy_piece(later, &|_| ()), Ok(Piece::End))) {
        let _ = start_thread(move || copy_until_end(&later, &|_| ()));
    }
}

/// The result of looking for more.
#[derive(PartialEq, Eq)]
enum Piece {
    Copied,
    /// There is nothing now.
    None,
    /// There will be nothing more.
    End,
}

/// Copies what is there to standard error, under a lock. A process that waits for the lock writes after this one.
fn copy_piece(reader: &File, note: &dyn Fn(&[u8])) -> io::Result<Piece> {
    let lock = |kind| fcntl(reader, FcntlArg::F_SETLKW(&range(kind, 0, 0)));
    while lock(libc::F_RDLCK) == Err(Errno::EINTR) {}
    let copied = copy_unlocked(reader, note);
    let _ = lock(libc::F_UNLCK);
    copied
}

fn copy_unlocked(mut reader: &File, note: &dyn Fn(&[u8])) -> io::Result<Piece> {
    let mut buffer = [0; 8 << 10];
    let piece = match reader.read(&mut buffer) {
        Ok(0) => return Ok(Piece::End),
        Ok(n) => buffer.get(..n).unwrap_or_default(),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            return Ok(Piece::None);
        }
        Err(e) => return Err(e),
    };
    note(piece);
    write_all(piece);
    Ok(Piece::Copied)
}

/// What can't be written is lost, as it would have been for the successor.
fn write_all(mut piece: &[u8]) {
    let stderr = io::stderr();
    while !piece.is_empty() {
        match nix::unistd::write(&stderr, piece) {
            Ok(n) => piece = piece.get(n..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            // Its status flags are shared with other processes.
            Err(Errno::EAGAIN) => {
                let _ = poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
            }
            Err(_) => return,
        }
    }
}

/// Copies for as long as a process has the other end of the pipe.
fn copy_until_end(reader: &File, note: &dyn Fn(&[u8])) {
    loop {
        match poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
        if !matches!(copy_piece(reader, note), Ok(Piece::Copied | Piece::None)) {
            return;
        }
    }
}

fn start_thread(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let work = move || {
        // If the program has given SIGPIPE its default action, a reader of our log that has gone must not end us.
        let _ = [Signal::SIGPIPE].into_iter().collect::<SigSet>().thread_block();
        work();
    };
    spawn(thread::Builder::new().name("heirloom-stderr".into()), work).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_those_before_a_backtrace() {
        let cases = [
            ("", None),
            ("\n \n", None),
            ("a", Some("a")),
            ("a\n\n  b \nc", Some("a | b | c")),
            ("1\n2\n3\n4\n5\n6\n", Some("2 | 3 | 4 | 5 | 6")),
            (
                "thread 'main' panicked at a.rs:1:1:\nno\nstack backtrace:\n   0: main\n",
                Some("thread 'main' panicked at a.rs:1:1: | no"),
            ),
            (
                "Error: no\n\nCaused by:\n    0: b\n\nStack backtrace:\n   0: c\n",
                Some("Error: no | Caused by: | 0: b"),
            ),
            ("stack backtrace:\n0: a", None),
            ("pid 7\nlistening\nError: no\n  line 3\n", Some("Error: no | line 3")),
            ("Error: 1\n2\n3\n4\n5\n6\n", Some("Error: 1 | 2 | 3 | 4 | 5")),
            (
                "pid 7\nthread 'main' (7) panicked at a.rs:1:1:\nno\n",
                Some("thread 'main' (7) panicked at a.rs:1:1: | no"),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(last_lines(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn only_the_end_is_kept() {
        let output = StartupOutput::default();
        for n in 0..10_000 {
            output.note(format!("line {n}\n").as_bytes());
        }
        assert!(lock(&output.0.0).bytes.len() <= TAIL_BYTES);
        output.end();
        assert!(output.last_lines().unwrap().ends_with("| line 9998 | line 9999"));
    }
}
