//! The client of a control socket.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::answer::Line;
use crate::failure::Failure;
use crate::output::Output;
use crate::process::Process;

/// How long to wait for a server whose queue of clients is full.
const CONNECT: Duration = Duration::from_secs(2);
/// The pause between two checks of a state.
pub const PAUSE: Duration = Duration::from_millis(100);
/// Time for a server to answer a question about itself.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// How long a process may live after its socket has ended.
const LAST_MOMENTS: Duration = Duration::from_secs(10);
/// More than the longest answer.
const MOST_BYTES: usize = 4 << 20;

/// A server, by the path of its control socket.
#[derive(Debug)]
pub struct Control<'a> {
    path: &'a Path,
    deadline: Instant,
}

/// The connection of one command.
struct Conversation {
    stream: UnixStream,
    input: Vec<u8>,
    /// The start of `input` that has no end of a line.
    scanned: usize,
    received: usize,
    deadline: Instant,
}

impl<'a> Control<'a> {
    pub fn new(path: &'a Path, deadline: Instant) -> Control<'a> {
        Control { path, deadline }
    }

    fn failure(&self, code: &str, text: impl std::fmt::Display) -> Failure {
        Failure::new(code, format!("{}: {text}", self.path.display()))
    }

    fn connect(&self) -> Result<UnixStream, Failure> {
        let address =
            UnixAddr::new(self.path).map_err(|_| self.failure("bad-path", "too long for a socket"))?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let failed = |e: Errno| match e {
            Errno::ENOENT => self.failure("no-socket", "there is no such socket: is the server running?"),
            Errno::ECONNREFUSED if is_socket(self.path) => {
                self.failure("no-server", "no server listens there: it has ended")
            }
            Errno::ECONNREFUSED | Errno::ENOTSOCK => self.failure("not-a-socket", "not a socket"),
            Errno::EPROTOTYPE => self.failure("not-a-control-socket", "a socket of another kind"),
            Errno::EACCES | Errno::EPERM => {
                self.failure("no-permission", "permission denied: only the server's user and root may use it")
            }
            Errno::EAGAIN => self.failure("not-accepting", "the server accepts no client: is it stopped?"),
            e => self.failure("no-connection", e.desc()),
        };
        let until = self.deadline.min(Instant::now() + CONNECT);
        loop {
            let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed)?;
            match connect(fd.as_raw_fd(), &address) {
                Ok(()) => return Ok(UnixStream::from(fd)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if Instant::now() < until => pause(),
                Err(e) => return Err(failed(e)),
            }
        }
    }

    fn begin(&self, command: &str, deadline: Instant) -> Result<Conversation, Failure> {
        let mut stream = self.connect()?;
        // The buffer of a new connection has room for it. The read shows whether the server has gone.
        let _ = stream.write_all(format!("{command}\n").as_bytes());
        Ok(Conversation { stream, input: Vec::new(), scanned: 0, received: 0, deadline })
    }

    /// All lines of the answer, of which the first begins with `ok`.
    pub fn ask(&self, command: &str) -> Result<Vec<Line>, Failure> {
        loop {
            let mut conversation = self.begin(command, self.deadline)?;
            let mut lines = Vec::new();
            while let Some(line) = conversation.line().map_err(|e| self.no_answer(&e))? {
                lines.push(line);
            }
            match lines.first().map(|line| line.word.as_str()) {
                Some("ok") => return self.complete(lines),
                Some("error") if lines[0].get("code") == Some("moved") && Instant::now() < self.deadline => {
                    pause();
                }
                Some("error") => return Err(self.refused(&lines[0])),
                Some(_) => return Err(self.strange()),
                None => return Err(self.failure("no-answer", "the server closed the connection")),
            }
        }
    }

    /// Checks that a list has as many lines as it announces.
    fn complete(&self, lines: Vec<Line>) -> Result<Vec<Line>, Failure> {
        let listed = lines[0].number("listed").unwrap_or(0);
        if lines.len() as u64 > listed {
            Ok(lines)
        } else {
            Err(self.failure("no-answer", "the server closed the connection within its answer"))
        }
    }

    fn no_answer(&self, e: &io::Error) -> Failure {
        match e.kind() {
            ErrorKind::TimedOut => self.failure("timeout", "no answer in time: is the server stopped?"),
            ErrorKind::InvalidData => self.strange(),
            _ => self.failure("no-answer", format!("the connection broke: {e}")),
        }
    }

    fn strange(&self) -> Failure {
        self.failure("not-a-control-socket", "what answers there is not a heirloom server")
    }

    /// The failure with the server's own text.
    fn refused(&self, line: &Line) -> Failure {
        let code = line.get("code").unwrap_or("error");
        let mut failure = self.failure(code, line.get("reason").unwrap_or("refused"));
        failure.details = line.to_json();
        failure.details.remove("code");
        failure.details.remove("reason");
        failure
    }

    /// Upgrades the server. The result is the last line of its answer.
    pub fn upgrade(&self, output: &mut Output) -> Result<Line, Failure> {
        // A server that is stopped would start an upgrade when it continues, which may be after our deadline.
        let soon = self.deadline.min(Instant::now() + FIRST_ANSWER);
        let before = Control::new(self.path, soon).ask("status")?[0].number("generation");
        let mut waits = false;
        loop {
            let mut conversation = self.begin("upgrade", self.deadline)?;
            let line = loop {
                let line = conversation.line().map_err(|e| match e.kind() {
                    ErrorKind::TimedOut => {
                        self.failure("timeout", "the upgrade is not decided yet, and may still succeed")
                    }
                    _ => self.no_answer(&e),
                })?;
                let Some(line) = line else {
                    output.progress("the old process has ended before the upgrade was decided");
                    return self.survivor(before);
                };
                if line.word != "step" {
                    break line;
                }
                let (name, ms) = (line.get("name").unwrap_or("?"), line.get("ms").unwrap_or("?"));
                output.progress(&format!("{name}: {ms} ms"));
            };
            match (line.word.as_str(), line.get("code")) {
                ("ok", _) => return self.confirmed(line),
                ("error", Some("busy" | "moved")) if Instant::now() < self.deadline => {
                    if !std::mem::replace(&mut waits, true) {
                        output.progress("waiting for the upgrade in progress");
                    }
                    pause();
                }
                ("error", Some("failed")) => {
                    let mut failure = self.refused(&line);
                    if let Some(pid) = line.get("pid") {
                        failure.message = format!("{}; process {pid} still serves", failure.message);
                    }
                    return Err(failure);
                }
                ("error", _) => return Err(self.refused(&line)),
                _ => return Err(self.strange()),
            }
        }
    }

    /// The predecessor has said that the new generation owns the service. So does that one itself; without a control
    /// socket it is at least there.
    fn confirmed(&self, line: Line) -> Result<Line, Failure> {
        let expected = line.number("generation").unwrap_or(0);
        let pid = line.number("pid").unwrap_or(0);
        let until = Instant::now() + FIRST_ANSWER;
        let control = Control { path: self.path, deadline: until };
        loop {
            match control.ask("status") {
                Ok(lines) if lines[0].number("generation") >= Some(expected) => return Ok(line),
                Err(failure) if matches!(failure.code.as_str(), "no-socket" | "no-server") => {
                    let process = i32::try_from(pid).ok().and_then(Process::open);
                    if process.is_some_and(|process| !process.has_ended()) {
                        return Ok(line);
                    }
                    let text = format!("the service was handed over to {pid}, which has ended since");
                    return Err(self.failure("server-ended", text));
                }
                _ if Instant::now() < until => pause(),
                _ => {
                    let text = format!("the service was handed over to {pid}, which does not answer");
                    return Err(self.failure("no-answer", text));
                }
            }
        }
    }

    /// The generation after `before`, which serves alone if it can.
    fn survivor(&self, before: Option<u64>) -> Result<Line, Failure> {
        let failed = |_| self.failure("no-answer", "the server ended before the result was known");
        loop {
            let line = self.ask("status").map_err(failed)?.swap_remove(0);
            if line.number("generation") > before {
                return Ok(line);
            }
            if Instant::now() >= self.deadline {
                return Err(self.failure("timeout", "the upgrade is not decided yet, and may still succeed"));
            }
            pause();
        }
    }

    /// Waits for the end of a server that drains, and of its supervisor.
    pub fn wait_end(&self, pid: u64, supervisor: Option<u64>, output: &mut Output) -> Result<(), Failure> {
        let process = i32::try_from(supervisor.unwrap_or(pid)).ok().and_then(Process::open);
        self.wait_gone(pid, output)?;
        // Its socket is gone, and the process itself is about to end. A supervisor waits for earlier generations that drain.
        let soon = supervisor.is_none().then(|| Instant::now() + LAST_MOMENTS);
        let until = soon.map_or(self.deadline, |soon| soon.min(self.deadline));
        while process.as_ref().is_some_and(|process| !process.has_ended()) && Instant::now() < until {
            pause();
        }
        Ok(())
    }

    fn wait_gone(&self, pid: u64, output: &mut Output) -> Result<(), Failure> {
        let mut before = None;
        while Instant::now() < self.deadline {
            let lines = match self.ask("status") {
                Ok(lines) => lines,
                Err(failure) if ["no-socket", "no-server", "no-answer"].contains(&failure.code.as_str()) => {
                    return Ok(());
                }
                Err(failure) if failure.code == "timeout" => break,
                Err(failure) => return Err(failure),
            };
            if lines[0].number("pid") != Some(pid) {
                return Ok(());
            }
            let in_flight = lines[0].number("requests_in_flight");
            if before != in_flight {
                before = in_flight;
                output.progress(&format!("{} requests in flight", in_flight.unwrap_or(0)));
            }
            pause();
        }
        Err(self.failure("timeout", format!("process {pid} still drains")))
    }
}

impl Conversation {
    /// Reads a line. None at the end.
    fn line(&mut self) -> io::Result<Option<Line>> {
        loop {
            let end = self.input[self.scanned..].iter().position(|byte| *byte == b'\n');
            if let Some(end) = end.map(|end| self.scanned + end) {
                self.scanned = 0;
                let line: Vec<u8> = self.input.drain(..=end).collect();
                let line = String::from_utf8(line).map_err(|_| ErrorKind::InvalidData)?;
                return Ok(Some(Line::parse(line.trim_end())));
            }
            self.scanned = self.input.len();
            if self.received > MOST_BYTES {
                return Err(ErrorKind::InvalidData.into());
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)], left) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            let mut buf = [0; 16 << 10];
            match self.stream.read(&mut buf) {
                Ok(0) if self.input.is_empty() => return Ok(None),
                // The answer ended within a line.
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.received += n;
                    self.input.extend_from_slice(&buf[..n]);
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset && self.input.is_empty() => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// Waits for [`PAUSE`].
pub fn pause() {
    let pause = PollTimeout::try_from(PAUSE).unwrap_or(PollTimeout::ZERO);
    let _ = poll(&mut [], pause);
}
