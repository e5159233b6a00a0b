//! What a successor inherits: finds out whether this process is one, checks the descriptors, and takes them over.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};

use super::channel::Channel;
use super::child::{FIRST_FD, VARIABLE};
use super::state_file::StateFile;
use super::{FileId, Hello, Message, Owner, Passed, original_command, startup_output, unescape};
use crate::base::error::{BoxError, Chain, Error, ErrorKind};
use crate::base::log::{Escaped, info, set_generation, warn};
use crate::base::sync::lock;
use crate::base::sys;
use crate::process::supervise;
use crate::process::supervise::link::Link;
use crate::process::systemd::activation;
use litemap::LiteMap;

/// The predecessor wrote its HELLO before it started us.
const HELLO_WAIT: Duration = Duration::from_secs(5);

/// The descriptors and facts that a predecessor passes on.
pub(crate) struct Inheritance {
    pub(crate) listeners: Vec<Passed>,
    pub(crate) lifecycle: Channel,
    pub(crate) connections: OwnedFd,
    /// None: the predecessor's version has no such thing.
    pub(crate) state: Option<StateFile>,
    pub(crate) predecessor: Hello,
}

/// The result of looking for inherited descriptors.
enum Inherited {
    Nothing,
    /// A variable that is not meant for this process, and how that shows.
    Void(String),
    Left(Inheritance),
    /// systemd has started this process, or its supervisor, with these sockets.
    Activated(Vec<Passed>),
    /// It has been used.
    Taken,
}

/// None: not yet looked.
static ADOPTED: Mutex<Option<Inherited>> = Mutex::new(None);

/// The channel to the supervisor, if this process has one.
static SUPERVISOR: Mutex<Option<Link>> = Mutex::new(None);

/// The files that the program of the generation before has passed on, and this one has not yet taken.
static FILES: Mutex<LiteMap<String, OwnedFd>> = Mutex::new(LiteMap::new());

/// Takes the file that the previous generation has passed on by this name ([`Handle::pass_fd`](crate::Handle::pass_fd)).
/// `None` in a first generation, and if it was taken before. Call [`init`] first. When the server is prepared to serve,
/// files that were not taken are closed.
///
/// ```no_run
/// use heirloom::handover::{inherited_fd, init};
/// use std::fs::File;
///
/// init().unwrap();
/// let journal = inherited_fd("journal").map(File::from);
/// ```
pub fn inherited_fd(name: &str) -> Option<OwnedFd> {
    lock(&FILES).remove(name)
}

/// As [`inherited_fd`], for the first file whose name begins with `prefix`; with its name.
pub(crate) fn inherited_by_prefix(prefix: &str) -> Option<(String, OwnedFd)> {
    let mut files = lock(&FILES);
    let name = files.keys().find(|name| name.starts_with(prefix))?.clone();
    let file = files.remove(&name)?;
    Some((name, file))
}

/// The descriptor of the file whose name begins with `prefix`, before `init`; with its name. None also where the variable is
/// a copy in another process.
pub(super) fn inherited_file(prefix: &str) -> Option<(i32, String)> {
    let mut note = Variable::parse(&env::var_os(VARIABLE)?)?;
    let file = note.files.iter().position(|file| file.starts_with(prefix))?;
    // Behind the listeners, the two channels and the state.
    let at = note.listeners.len().checked_add(2)?.checked_add(note.has_state.into())?.checked_add(file)?;
    let fd = FIRST_FD.checked_add(i32::try_from(at).ok()?)?;
    let (_, inode) = sys::file_id(fd)?;
    (note.sockets.get(at) == Some(&inode)).then(|| (fd, note.files.swap_remove(file)))
}

/// Closes the files that this generation has not taken, except those that `restore_stderr` will take.
pub(crate) fn close_files() {
    let mut kept = lock(&FILES);
    let mut closed = Vec::new();
    kept.retain(|name, _| {
        let is_pipe = startup_output::is_pipe(name);
        if !is_pipe {
            closed.push(name.clone());
        }
        is_pipe
    });
    drop(kept);
    for name in closed {
        info!("handover: the inherited file {name} is not used: closed");
    }
}

/// Takes over the descriptors that a predecessor passed on, before another program can inherit them, and notes how this
/// process was started. Optional, as the first line of `main`: otherwise `serve` does it. Programs that start others
/// before they serve, or change their user, should call it.
///
/// # Errors
/// When a predecessor started this process, but the descriptors that it names are not there. A variable that is meant
/// for another process is no error.
///
/// As PID 1 the process becomes a supervisor, and this does not return: see
/// [`supervise`](crate::ProcessConfig::supervise).
pub fn init() -> Result<(), Error> {
    adopt()?;
    supervise::as_pid_1(|| match lock(&ADOPTED).take() {
        Some(Inherited::Activated(sockets)) => sockets,
        _ => Vec::new(),
    });
    Ok(())
}

/// For what fails in `main` before `serve`, such as reading a configuration: reports it to the predecessor, if there is one,
/// whose log then has it as the reason why the handover failed, as have the answer of the control socket and systemd's
/// status. It returns the error with its sources as one text, to be returned from `main`; it prints nothing and does not
/// exit.
///
/// ```no_run
/// use heirloom::handover;
/// use heirloom::prelude::*;
///
/// fn main() -> Result<(), heirloom::Error> {
///     handover::init()?;
///     let greeting = std::fs::read_to_string("greeting.txt").map_err(handover::fail)?;
///     Server::new(move |_: Request| greeting.clone()).listen("127.0.0.1:8001").serve()
/// }
/// ```
///
/// It takes errors, text, boxed errors and an [`AnyError`](crate::AnyError). `serve` reports its own errors. Once it was called,
/// this reports nothing.
#[must_use = "return it from `main`"]
pub fn fail<Kind>(error: impl Failure<Kind>) -> Error {
    let error = error.into_error();
    // If the descriptors are not there, the predecessor knows that already, or can't be reached.
    if adopt().is_ok() {
        if let Some(Inherited::Left(inheritance)) = &mut *lock(&ADOPTED) {
            inheritance.lifecycle.send(&Message::failed(&error));
        }
    }
    error
}

/// What [`fail`] takes. Of the kinds of errors none includes the others: a `Box<dyn Error>` is no `Error` itself, and does not
/// convert to one that may be sent.
#[diagnostic::on_unimplemented(message = "`{Self}` is not an error that `handover::fail` can report")]
pub trait Failure<Kind> {
    #[doc(hidden)]
    fn into_error(self) -> Error;
}

impl<E: Into<BoxError>> Failure<BoxError> for E {
    fn into_error(self) -> Error {
        match self.into().downcast::<Error>() {
            Ok(own) => *own,
            Err(other) => Error::config(Chain(&*other).to_string()),
        }
    }
}

impl Failure<Box<dyn std::error::Error>> for Box<dyn std::error::Error> {
    fn into_error(self) -> Error {
        match self.downcast::<Error>() {
            Ok(own) => *own,
            Err(other) => Error::config(Chain(&*other).to_string()),
        }
    }
}

/// As `init`, in `serve`.
pub(crate) fn adopt() -> Result<(), Error> {
    original_command::noted();
    startup_output::protect();
    let mut adopted = lock(&ADOPTED);
    if adopted.is_none() {
        *lock(&SUPERVISOR) = Link::inherited();
        *adopted = Some(match look()? {
            found @ (Inherited::Left(_) | Inherited::Activated(_)) => found,
            // Only now: a successor has copies of variables that were meant for generation 1.
            found => match activation::look()? {
                sockets if sockets.is_empty() => found,
                sockets => Inherited::Activated(sockets),
            },
        });
    }
    Ok(())
}

/// The channel to the supervisor, once.
pub(crate) fn take_supervisor() -> Option<Link> {
    lock(&SUPERVISOR).take()
}

/// The result of `init`, once, when there is a log to write to: what a predecessor has left, or the sockets that systemd
/// has passed.
pub(crate) fn take() -> (Option<Inheritance>, Vec<Passed>) {
    let mut adopted = lock(&ADOPTED);
    match adopted.replace(Inherited::Taken) {
        Some(Inherited::Left(inheritance)) => {
            let predecessor = &inheritance.predecessor;
            set_generation(predecessor.generation.saturating_add(1));
            info!(
                "handover: child of {}, which is generation {}", predecessor.pid, predecessor.generation;
                predecessor = predecessor.pid,
                predecessor_generation = predecessor.generation
            );
            (Some(inheritance), Vec::new())
        }
        Some(Inherited::Activated(sockets)) => (None, sockets),
        Some(Inherited::Void(why)) => {
            warn!("{VARIABLE} is ignored, starting as generation 1: {why}"; reason:% = Escaped(&why));
            (None, Vec::new())
        }
        Some(Inherited::Nothing | Inherited::Taken) | None => (None, Vec::new()),
    }
}

fn look() -> Result<Inherited, Error> {
    let Some(value) = env::var_os(VARIABLE) else { return Ok(Inherited::Nothing) };
    let void = |why: &str| Ok(Inherited::Void(why.to_owned()));
    let Some(note) = Variable::parse(&value) else { return void("no predecessor wrote it") };
    if note.inode == 0 {
        return activated(note);
    }
    let listeners = i32::try_from(note.listeners.len()).ok();
    let Some(channel) = listeners.and_then(|n| FIRST_FD.checked_add(n)) else {
        return void("no predecessor wrote it");
    };
    if sys::socket_inode(channel) != Some(note.inode) {
        let is_left = |(fd, inode): (i32, &u64)| sys::socket_inode(fd).is_some_and(|found| found == *inode);
        if (FIRST_FD..).zip(&note.sockets).any(is_left) {
            return Err(taken(channel, "the lifecycle channel", "something else"));
        }
        // The variable is a copy in the environment of a process below a server.
        return void(&format!("descriptor {channel} is not the channel that it names"));
    }
    let mut lifecycle = Channel::new(inherit(channel, "the lifecycle channel")?)
        .map_err(|e| Error::io(ErrorKind::Inherit, "can't use the lifecycle channel", e))?;
    let rest = take_over(&mut lifecycle, channel.saturating_add(1), note);
    // The predecessor's log has it too.
    let (listeners, connections, state, predecessor) =
        rest.inspect_err(|e| lifecycle.send(&Message::failed(e)))?;
    Ok(Inherited::Left(Inheritance { listeners, lifecycle, connections, state, predecessor }))
}

/// The sockets of a service manager, which the supervisor passes to generation 1.
fn activated(note: Variable) -> Result<Inherited, Error> {
    let is_there = |(fd, inode): (i32, &u64)| sys::socket_inode(fd) == Some(*inode);
    if !(FIRST_FD..).zip(&note.sockets).all(is_there) {
        return Ok(Inherited::Void("its descriptors are not those that it names".to_owned()));
    }
    Ok(Inherited::Activated(listeners(note)?))
}

type Rest = (Vec<Passed>, OwnedFd, Option<StateFile>, Hello);

fn take_over(lifecycle: &mut Channel, next: i32, mut note: Variable) -> Result<Rest, Error> {
    let connections = inherit(next, "the connection channel")?;
    let mut next = next.saturating_add(1);
    let mut state = None;
    if note.has_state {
        state = Some(inherit(next, "the state file")?.into());
        next = next.saturating_add(1);
    }
    for (fd, name) in (next..).zip(std::mem::take(&mut note.files)) {
        let file = inherit(fd, &format!("the file {name}"))?;
        lock(&FILES).insert(name, file);
    }
    let inherited = listeners(note)?;
    let predecessor = hello(lifecycle).map_err(|e| {
        Error::io(ErrorKind::Inherit, "no HELLO from the predecessor, whose listeners we have", e)
    })?;
    Ok((inherited, connections, state, predecessor))
}

fn listeners(note: Variable) -> Result<Vec<Passed>, Error> {
    let mut inherited = Vec::new();
    let (mut paths, mut owners) = (note.paths.into_iter(), note.owners.into_iter());
    for (fd, name) in (FIRST_FD..).zip(note.listeners) {
        let what = format!("the listener {name}");
        let listener = inherit(fd, &what)?;
        prove_listening(&listener).map_err(|e| taken(fd, &what, &e.to_string()))?;
        let (file, owner) = (paths.next().flatten(), owners.next().unwrap_or(Owner::Server));
        inherited.push(Passed { name, fd: Arc::new(listener), file, owner });
    }
    Ok(inherited)
}

fn inherit(fd: i32, what: &str) -> Result<OwnedFd, Error> {
    sys::adopt(fd).map_err(|e| taken(fd, what, &e.to_string()))
}

/// The error when a program between the predecessor and this process has used a descriptor.
fn taken(fd: i32, what: &str, found: &str) -> Error {
    let text = format!(
        "descriptor {fd} is no longer {what} ({found}): \
         a script that starts this program must leave descriptors from {FIRST_FD} on alone"
    );
    Error::new(ErrorKind::Inherit, text)
}

fn prove_listening(fd: &OwnedFd) -> io::Result<()> {
    match getsockopt(fd, sockopt::AcceptConn) {
        Ok(true) => Ok(()),
        Ok(false) => Err(io::Error::other("a socket that does not listen")),
        Err(Errno::ENOTSOCK) => Err(io::Error::other("no socket")),
        Err(e) => Err(e.into()),
    }
}

fn hello(channel: &mut Channel) -> io::Result<Hello> {
    match channel.wait(HELLO_WAIT)? {
        Message::Hello(hello) => Ok(hello),
        other => Err(io::Error::other(format!("it began with {other}"))),
    }
}

/// The content of the environment variable.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Variable {
    /// The inode of the lifecycle channel. 0: there is no predecessor.
    inode: u64,
    pub(super) listeners: Vec<String>,
    /// The listeners' files, one for each listener; empty if the predecessor's version does not send them.
    paths: Vec<Option<FileId>>,
    /// The listeners' owners, one for each listener; empty if all belong to the server.
    owners: Vec<Owner>,
    has_state: bool,
    files: Vec<String>,
    /// Inodes of everything that was passed on, in the order of the descriptors.
    pub(super) sockets: Vec<u64>,
}

impl Variable {
    pub(super) fn parse(value: &OsStr) -> Option<Variable> {
        let text = std::str::from_utf8(value.as_bytes()).ok()?;
        let mut note = Variable {
            inode: 0,
            listeners: Vec::new(),
            paths: Vec::new(),
            owners: Vec::new(),
            has_state: false,
            files: Vec::new(),
            sockets: Vec::new(),
        };
        let names = |value: &str| -> Option<Vec<String>> {
            let names = value.split(',').filter(|name| !name.is_empty());
            names.map(|escaped| String::from_utf8(unescape(escaped)?).ok()).collect()
        };
        for (key, value) in text.split(';').filter_map(|field| field.split_once('=')) {
            match key {
                "channel" => note.inode = value.parse().ok()?,
                "listeners" => note.listeners = names(value)?,
                "paths" => note.paths = value.split(',').map(FileId::parse).collect(),
                "owners" => note.owners = value.split(',').map(Owner::parse).collect(),
                "state" => note.has_state = true,
                "files" => note.files = names(value)?,
                "sockets" => note.sockets = value.split(',').filter_map(|n| n.parse().ok()).collect(),
                _ => {}
            }
        }
        // Without a predecessor everything is a listener.
        let is_alone = !note.sockets.is_empty() && note.sockets.len() == note.listeners.len();
        (note.inode != 0 || is_alone).then_some(note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_is_read_as_it_is_written() {
        let note = |inode, names: &[&str]| {
            let listeners = names.iter().map(|n| (*n).to_owned()).collect();
            Some(Variable {
                inode,
                listeners,
                paths: Vec::new(),
                owners: Vec::new(),
                has_state: false,
                files: Vec::new(),
                sockets: Vec::new(),
            })
        };
        let of_unix = |paths| note(12, &["unix:a", "b:1", "unix:c"]).map(|note| Variable { paths, ..note });
        let cases = [
            (
                "channel=12;listeners=127.0.0.1:80,unix:/run/a%20b",
                note(12, &["127.0.0.1:80", "unix:/run/a b"]),
            ),
            ("channel=12;listeners=;files=", note(12, &[])),
            (
                "channel=12;listeners=unix:a,b:1,unix:c;paths=7:21,,0:0",
                of_unix(vec![FileId::parse("7:21"), None, Some(FileId::NONE)]),
            ),
            ("channel=12;listeners=unix:a,b:1,unix:c;paths=x,7,7:x", of_unix(vec![None; 3])),
            (
                "channel=12;listeners=a:1,b:1;owners=,systemd",
                note(12, &["a:1", "b:1"])
                    .map(|note| Variable { owners: vec![Owner::Server, Owner::Systemd], ..note }),
            ),
            ("later=1;channel=7", note(7, &[])),
            ("channel=x", None),
            ("", None),
            ("listeners=a", None),
            ("listeners=a,b;sockets=7", None),
            (
                "listeners=a:1;files=;sockets=7;paths=;owners=systemd",
                note(0, &["a:1"]).map(|note| Variable {
                    paths: vec![None],
                    owners: vec![Owner::Systemd],
                    sockets: vec![7],
                    ..note
                }),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(Variable::parse(text.as_ref()), expected, "{text:?}");
        }
    }
}
