//! The messages between the supervisor and its generations: one packet each, a word and `key=value` pairs as on the
//! lifecycle channel, with descriptors beside it. Unknown words and keys are skipped.

use std::ffi::{CString, OsString};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use crate::base::sys::{self, Session};
use crate::base::words::{pairs, value_of};
use crate::process::handover::{FileId, Owner, escape, unescape};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// A packet without its descriptors.
const PACKET_BYTES: usize = 64 << 10;

/// A message and its sender (G: a generation, S: the supervisor).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SupervisorMessage {
    /// G: it serves or will serve as this process, which is not the child if that is a script.
    Here { pid: i32 },
    /// G: the service is this generation's. With its listeners.
    Serving { generation: u32, listeners: Vec<NamedListener> },
    /// G: the service ends within this time, and this is not a crash.
    Stopping { within: Duration },
    /// S: end the service.
    Stop,
    /// G: the service is the child's, which may not know of supervision.
    Committed { pid: i32 },
    /// G: it starts a handover.
    HandoverBegins,
    /// G: that has failed, and it serves as before.
    HandoverFailed,
    /// G: the file at this path names the supervisor, which is to lock it. With the file.
    PidFile { path: PathBuf },
    /// G: to the service manager, of which the supervisor is the main process. With the descriptors that belong to it.
    Notify { text: String },
    /// G: what is known of all generations. With a file of lines of `base::history`.
    History,
    /// G: start a successor. With a file that describes it, and what it finds from descriptor 3 on.
    Spawn,
    /// S: it was started.
    Spawned { pid: i32 },
    /// S: it can't be started.
    NotSpawned { errno: i32 },
}

/// A listener whose descriptor comes beside the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedListener {
    pub(crate) name: String,
    pub(crate) file: Option<FileId>,
    pub(crate) owner: Owner,
}

impl SupervisorMessage {
    pub(crate) fn encode(&self) -> String {
        match self {
            SupervisorMessage::Serving { generation, listeners } => {
                let list = |value: &dyn Fn(&NamedListener) -> String| -> String {
                    listeners.iter().map(value).collect::<Vec<_>>().join(",")
                };
                let names = list(&|named| escape(named.name.as_bytes()));
                let paths = list(&|named| named.file.map(|file| file.to_string()).unwrap_or_default());
                let owners = list(&|named| named.owner.word().to_owned());
                format!("SERVING generation={generation} listeners={names} paths={paths} owners={owners}")
            }
            SupervisorMessage::Here { pid } => format!("HERE pid={pid}"),
            SupervisorMessage::Committed { pid } => format!("COMMITTED pid={pid}"),
            SupervisorMessage::Stopping { within } => format!("STOPPING within_ms={}", within.as_millis()),
            SupervisorMessage::Stop => "STOP".to_owned(),
            SupervisorMessage::HandoverBegins => "HANDOVER-BEGINS".to_owned(),
            SupervisorMessage::HandoverFailed => "HANDOVER-FAILED".to_owned(),
            SupervisorMessage::PidFile { path } => {
                format!("PID-FILE path={}", escape(path.as_os_str().as_bytes()))
            }
            SupervisorMessage::Notify { text } => format!("NOTIFY text={}", escape(text.as_bytes())),
            SupervisorMessage::History => "HISTORY".to_owned(),
            SupervisorMessage::Spawn => "SPAWN".to_owned(),
            SupervisorMessage::Spawned { pid } => format!("SPAWNED pid={pid}"),
            SupervisorMessage::NotSpawned { errno } => format!("NOT-SPAWNED errno={errno}"),
        }
    }

    /// None: a message of another version.
    pub(crate) fn decode(packet: &[u8]) -> Option<SupervisorMessage> {
        let line = std::str::from_utf8(packet).ok()?;
        let word = line.split(' ').next()?;
        let fields = pairs(line);
        let field = |key: &str| value_of(&fields, key);
        Some(match word {
            "SERVING" => {
                let names = field("listeners")?.split(',').filter(|name| !name.is_empty());
                let mut paths = field("paths").unwrap_or("").split(',').map(FileId::parse);
                let mut owners = field("owners").unwrap_or("").split(',').map(Owner::parse);
                let mut listeners = Vec::new();
                for name in names {
                    let name = String::from_utf8(unescape(name)?).ok()?;
                    let (file, owner) = (paths.next().flatten(), owners.next().unwrap_or(Owner::Server));
                    listeners.push(NamedListener { name, file, owner });
                }
                SupervisorMessage::Serving { generation: field("generation")?.parse().ok()?, listeners }
            }
            "HERE" => SupervisorMessage::Here { pid: field("pid")?.parse().ok()? },
            "COMMITTED" => SupervisorMessage::Committed { pid: field("pid")?.parse().ok()? },
            "STOPPING" => SupervisorMessage::Stopping {
                within: Duration::from_millis(field("within_ms")?.parse().ok()?),
            },
            "STOP" => SupervisorMessage::Stop,
            "HANDOVER-BEGINS" => SupervisorMessage::HandoverBegins,
            "HANDOVER-FAILED" => SupervisorMessage::HandoverFailed,
            "PID-FILE" => {
                SupervisorMessage::PidFile { path: OsString::from_vec(unescape(field("path")?)?).into() }
            }
            "NOTIFY" => {
                SupervisorMessage::Notify { text: String::from_utf8(unescape(field("text")?)?).ok()? }
            }
            "HISTORY" => SupervisorMessage::History,
            "SPAWN" => SupervisorMessage::Spawn,
            "SPAWNED" => SupervisorMessage::Spawned { pid: field("pid")?.parse().ok()? },
            "NOT-SPAWNED" => SupervisorMessage::NotSpawned { errno: field("errno")?.parse().ok()? },
            _ => return None,
        })
    }

    /// # Errors
    /// When the other side is gone, or there is no room.
    pub(crate) fn send(&self, to: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = self.encode();
        let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(text.as_bytes())], rights, flags, None)?;
        Ok(())
    }
}

/// What was received.
pub(crate) enum MessageRead {
    Message(SupervisorMessage, Vec<OwnedFd>),
    /// A message of another version, or a part of a packet.
    Unknown,
    /// Nothing more now.
    Nothing,
    /// The other side is gone.
    End,
}

pub(crate) fn read_message(from: BorrowedFd<'_>) -> MessageRead {
    let mut packet = vec![0; PACKET_BYTES];
    match sys::receive(from, &mut packet) {
        Ok((0, _, _)) => MessageRead::End,
        Ok((_, _, true)) => MessageRead::Unknown,
        Ok((n, fds, false)) => match packet.get(..n).and_then(SupervisorMessage::decode) {
            Some(message) => MessageRead::Message(message, fds),
            None => MessageRead::Unknown,
        },
        // A reset is not the end: packets may be queued behind it.
        Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionReset) => {
            MessageRead::Unknown
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => MessageRead::Nothing,
        Err(_) => MessageRead::End,
    }
}

/// How a program is started, so that it can be started again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recipe {
    pub(crate) path: PathBuf,
    pub(crate) cwd: Option<PathBuf>,
    /// Blocked signals.
    pub(crate) mask: Vec<i32>,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
}

impl Recipe {
    pub(crate) fn encode(&self) -> String {
        let os = |bytes: &[u8]| escape(bytes);
        let mask: Vec<String> = self.mask.iter().map(i32::to_string).collect();
        let mut lines = vec![
            format!("path={}", os(self.path.as_os_str().as_bytes())),
            format!("mask={}", mask.join(",")),
        ];
        lines.extend(self.cwd.iter().map(|cwd| format!("cwd={}", os(cwd.as_os_str().as_bytes()))));
        lines.extend(self.argv.iter().map(|arg| format!("arg={}", os(arg.as_bytes()))));
        lines.extend(self.env.iter().map(|pair| format!("env={}", os(pair.as_bytes()))));
        lines.join("\n")
    }

    pub(crate) fn decode(text: &str) -> Option<Recipe> {
        let mut recipe = Recipe::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let bytes = unescape(value)?;
            match key {
                "path" => recipe.path = OsString::from_vec(bytes).into(),
                "cwd" => recipe.cwd = Some(OsString::from_vec(bytes).into()),
                "mask" => recipe.mask = value.split(',').filter_map(|n| n.parse().ok()).collect(),
                "arg" => recipe.argv.push(CString::new(bytes).ok()?),
                "env" => recipe.env.push(CString::new(bytes).ok()?),
                _ => {}
            }
        }
        (!recipe.path.as_os_str().is_empty()).then_some(recipe)
    }

    /// Its mask, with the signals of `more`, which may be real-time signals.
    pub(crate) fn mask(&self, mut more: SigSet) -> SigSet {
        let named = self.mask.iter().filter_map(|n| Signal::try_from(*n).ok());
        named.for_each(|signal| more.add(signal));
        more
    }

    /// Without these variables.
    pub(crate) fn without(mut self, names: &[&str]) -> Recipe {
        let head = |name: &&str| [name.as_bytes(), b"="].concat();
        let heads: Vec<Vec<u8>> = names.iter().map(head).collect();
        self.env.retain(|pair| !heads.iter().any(|head| pair.as_bytes().starts_with(head)));
        self
    }

    /// Has `start` start it, with `fds` from 3 on and these variables.
    pub(crate) fn start<T>(
        &self,
        fds: &[BorrowedFd<'_>],
        variables: &[CString],
        (session, mask): (Session, &SigSet),
        start: impl FnOnce(&sys::Spawn<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let (path, cwd) = self.paths()?;
        let (argv, env) = (&self.argv, &self.env_with(variables));
        let mut defaults = SigSet::empty();
        // Rust's runtime ignores SIGPIPE; a program that we start was not asked about it.
        defaults.add(Signal::SIGPIPE);
        let (cwd, defaults) = (cwd.as_deref(), &defaults);
        start(&sys::Spawn { path: &path, argv, env, cwd, fds, mask, defaults, session })
    }

    fn paths(&self) -> io::Result<(CString, Option<CString>)> {
        let path = CString::new(self.path.as_os_str().as_bytes())?;
        let cwd = self.cwd.as_ref().map(|cwd| CString::new(cwd.as_os_str().as_bytes())).transpose()?;
        Ok((path, cwd))
    }

    fn env_with(&self, variables: &[CString]) -> Vec<CString> {
        let named = |pair: &CString, other: &CString| {
            let name = other.as_bytes().split_inclusive(|byte| *byte == b'=').next().unwrap_or_default();
            pair.as_bytes().starts_with(name)
        };
        let mut env = self.env.clone();
        env.retain(|pair| !variables.iter().any(|variable| named(pair, variable)));
        env.extend_from_slice(variables);
        env
    }
}

/// Descriptors of a packet, to be sent on.
pub(crate) fn borrowed(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}

#[cfg(test)]
mod tests {
    use arbtest::arbitrary::{Result, Unstructured};

    use super::*;
    use crate::base::property::{BYTES, CASES, bytes, check, list, printable, text};

    fn any_named(u: &mut Unstructured<'_>) -> Result<NamedListener> {
        Ok(NamedListener {
            name: text(u, 1..=20, &[' '..='~', 'é'..='é', '\n'..='\n'])?,
            file: if u.arbitrary()? { FileId::parse("7:21") } else { None },
            owner: *u.choose(&[Owner::Server, Owner::Systemd])?,
        })
    }

    fn any_path(u: &mut Unstructured<'_>) -> Result<PathBuf> {
        Ok(OsString::from_vec(bytes(u, 1..=8)?).into())
    }

    fn any_message(u: &mut Unstructured<'_>) -> Result<SupervisorMessage> {
        let pid = |u: &mut Unstructured<'_>| u.int_in_range(1..=i32::MAX);
        Ok(match u.int_in_range(0..=12)? {
            0 => SupervisorMessage::Serving {
                generation: u.arbitrary()?,
                listeners: list(u, 0..=3, any_named)?,
            },
            1 => SupervisorMessage::Here { pid: pid(u)? },
            2 => SupervisorMessage::Committed { pid: pid(u)? },
            3 => SupervisorMessage::Stopping { within: Duration::from_millis(u.arbitrary::<u32>()?.into()) },
            4 => SupervisorMessage::Stop,
            5 => SupervisorMessage::HandoverBegins,
            6 => SupervisorMessage::HandoverFailed,
            7 => SupervisorMessage::PidFile { path: any_path(u)? },
            8 => SupervisorMessage::Notify { text: text(u, 0..=20, &[' '..='~', 'é'..='é', '\n'..='\n'])? },
            9 => SupervisorMessage::Spawned { pid: pid(u)? },
            10 => SupervisorMessage::NotSpawned { errno: u.int_in_range(1..=200)? },
            11 => SupervisorMessage::History,
            _ => SupervisorMessage::Spawn,
        })
    }

    fn any_recipe(u: &mut Unstructured<'_>) -> Result<Recipe> {
        let string = |u: &mut Unstructured<'_>| {
            let text = bytes(u, 1..=8)?.into_iter().map(|byte| byte.max(1)).collect();
            Ok(CString::new::<Vec<u8>>(text).unwrap())
        };
        Ok(Recipe {
            path: any_path(u)?,
            cwd: if u.arbitrary()? { Some(any_path(u)?) } else { None },
            mask: list(u, 0..=2, |u| u.int_in_range(1..=63))?,
            argv: list(u, 0..=3, string)?,
            env: list(u, 0..=3, string)?,
        })
    }

    #[test]
    fn a_message_survives_its_packet() {
        check(CASES, BYTES, |u| {
            let message = any_message(u)?;
            assert_eq!(SupervisorMessage::decode(message.encode().as_bytes()), Some(message));
            Ok(())
        });
    }

    #[test]
    fn a_recipe_survives_its_text() {
        check(CASES, BYTES, |u| {
            let recipe = any_recipe(u)?;
            assert_eq!(Recipe::decode(&recipe.encode()), Some(recipe));
            Ok(())
        });
    }

    #[test]
    fn no_packet_panics() {
        check(CASES, BYTES, |u| {
            let _ = SupervisorMessage::decode(printable(u)?.as_bytes());
            let _ = SupervisorMessage::decode(&bytes(u, 0..=60)?);
            Ok(())
        });
    }

    #[test]
    fn later_versions_may_add_words_and_keys() {
        assert_eq!(
            SupervisorMessage::decode(b"SPAWNED colour=blue pid=7"),
            Some(SupervisorMessage::Spawned { pid: 7 })
        );
        assert_eq!(SupervisorMessage::decode(b"SALUTE"), None);
    }
}
