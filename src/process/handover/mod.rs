//! The messages of two generations on the lifecycle channel: one a line, with a word and `key=value` pairs. Unknown words
//! and keys are skipped, so that versions can differ.

pub(crate) mod above;
pub(crate) mod channel;
pub(crate) mod child;
pub(crate) mod inherit;
pub(crate) mod later_generation;
pub(crate) mod original_command;
pub(crate) mod pid_file;
pub(crate) mod startup_output;
pub(crate) mod state_file;

use std::borrow::Cow;
use std::fmt;
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use self::above::Above;
use crate::base::error::{Error, in_one_line};
use crate::base::words::{pairs, value_of};
use crate::base::{percent, sys};

/// Variables by which the supervisor and its generations find each other.
pub(crate) const SUPERVISION: [&str; 2] = ["HEIRLOOM_SUPERVISOR", "HEIRLOOM_SUPERVISE"];

/// The version of the protocol that this crate speaks. HELLO carries it both ways; the lower one is
/// spoken.
pub(crate) const VERSION: u32 = 1;

/// A message and its sender (P: predecessor, S: successor).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    /// P and S, first of all.
    Hello(Hello),
    /// S: listeners proven or bound, `before_ready` passed; nothing accepted. Names what it adopted, and the streams that it
    /// can continue.
    Prepared { adopted: Vec<String>, takes_records: bool, resumes: Vec<String> },
    /// P: accept; you are on probation for so long. With the user's state, if there is any, and the number of bytes of P's
    /// records behind it in the file.
    Go { probation: Duration, state: Option<StateHead>, records: Option<u64> },
    /// S: accepting.
    Serving,
    /// S: probation has ended, and acceptor and workers responded.
    StillGood,
    /// P: the service is yours.
    Commit,
    /// S: take the service back.
    Failed { reason: String },
    /// P or S: stopping; the receiver must stop too. The drain ends within this time.
    Stopping { within: Duration },
    /// P: my listeners are closed.
    Closed,
    /// P: it has handed over and has received a HUP.
    HandoverPlease,
    /// P, to an S that takes records: what has become of a generation since, as a line of `base::history`.
    History { line: String },
}

/// The description of a user's state; its bytes are in the file that the successor was started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StateHead {
    pub(crate) version: u32,
    pub(crate) bytes: u64,
}

/// What each side reports about itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Hello {
    pub(crate) version: u32,
    pub(crate) generation: u32,
    pub(crate) pid: i32,
    /// SIGHUP was ignored when the first generation was started (nohup).
    pub(crate) nohup: bool,
    /// Signals blocked when the first generation was started.
    pub(crate) blocked: Vec<i32>,
    /// What ends the service with the first generation. None also where the predecessor's version does not say it.
    pub(crate) above: Option<Above>,
    /// P: how it started S. A script may stand between, and must be run at the next handover too.
    pub(crate) command: Option<CommandLine>,
}

/// A program's path and its arguments, from the name of the program on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CommandLine {
    pub(crate) path: Vec<u8>,
    pub(crate) argv: Vec<Vec<u8>>,
}

impl CommandLine {
    fn encode(&self) -> String {
        let argv = self.argv.iter().map(|arg| escape(arg)).collect::<Vec<_>>().join(",");
        format!(" path={} argv={argv}", escape(&self.path))
    }
}

/// The length of a reason in a message; a byte takes up to three, a line has 64 KiB.
const REASON_BYTES: usize = 16 << 10;

impl Message {
    /// The successor can't serve. The reason is one line, because it becomes part of lines: of the log and of systemd's status.
    pub(crate) fn failed(error: &Error) -> Message {
        let mut reason = in_one_line(&error.to_string());
        let end = (0..=REASON_BYTES).rev().find(|end| reason.is_char_boundary(*end));
        reason.truncate(end.unwrap_or_default());
        Message::Failed { reason }
    }

    /// The message as a line, without its end.
    pub(crate) fn encode(&self) -> String {
        let ms = |d: &Duration| d.as_millis().to_string();
        match self {
            Message::Hello(hello) => {
                let blocked = hello.blocked.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
                let above = hello
                    .above
                    .and_then(Above::word)
                    .map(|word| format!(" above={word}"))
                    .unwrap_or_default();
                let command = hello.command.as_ref().map(CommandLine::encode).unwrap_or_default();
                format!(
                    "HELLO version={} generation={} pid={} nohup={} blocked={blocked}{above}{command}",
                    hello.version,
                    hello.generation,
                    hello.pid,
                    u8::from(hello.nohup)
                )
            }
            Message::Prepared { adopted, takes_records, resumes } => {
                let list = |names: &[String]| {
                    names.iter().map(|name| escape(name.as_bytes())).collect::<Vec<_>>().join(",")
                };
                let records = if *takes_records { " records=1" } else { "" };
                let resumes = match &resumes[..] {
                    [] => String::new(),
                    names => format!(" resumes={}", list(names)),
                };
                format!("PREPARED adopted={}{records}{resumes}", list(adopted))
            }
            Message::Go { probation, state, records } => {
                let state = state.map(|s| format!(" state_version={} state_bytes={}", s.version, s.bytes));
                let records = records.map(|bytes| format!(" records_bytes={bytes}"));
                format!(
                    "GO probation_ms={}{}{}",
                    ms(probation),
                    state.unwrap_or_default(),
                    records.unwrap_or_default()
                )
            }
            Message::Serving => "SERVING".to_owned(),
            Message::StillGood => "STILL-GOOD".to_owned(),
            Message::Commit => "COMMIT".to_owned(),
            Message::Failed { reason } => format!("FAILED reason={}", escape(reason.as_bytes())),
            Message::Stopping { within } => format!("STOPPING within_ms={}", ms(within)),
            Message::Closed => "CLOSED".to_owned(),
            Message::HandoverPlease => "HANDOVER-PLEASE".to_owned(),
            Message::History { line } => format!("HISTORY {line}"),
        }
    }

    /// None: not a message of a version we know; to be skipped.
    pub(crate) fn decode(line: &str) -> Option<Message> {
        let word = line.split(' ').next()?;
        let fields = pairs(line);
        let field = |key: &str| value_of(&fields, key);
        let ms = |key: &str| field(key)?.parse().ok().map(Duration::from_millis);
        let text = |value: &str| String::from_utf8(unescape(value)?).ok();
        Some(match word {
            "HELLO" => Message::Hello(Hello {
                version: field("version")?.parse().ok()?,
                generation: field("generation")?.parse().ok()?,
                pid: field("pid")?.parse().ok()?,
                nohup: field("nohup") == Some("1"),
                blocked: field("blocked").unwrap_or("").split(',').filter_map(|n| n.parse().ok()).collect(),
                above: field("above").and_then(Above::from_word),
                command: field("path").zip(field("argv")).and_then(|(path, argv)| {
                    let argv = argv.split(',').map(unescape).collect::<Option<_>>()?;
                    Some(CommandLine { path: unescape(path)?, argv })
                }),
            }),
            "PREPARED" => {
                let list = |key| {
                    let names = field(key).unwrap_or("").split(',').filter(|name| !name.is_empty());
                    names.map(text).collect::<Option<Vec<String>>>()
                };
                let takes_records = field("records") == Some("1");
                Message::Prepared { adopted: list("adopted")?, takes_records, resumes: list("resumes")? }
            }
            "GO" => {
                let number = |key: &str| field(key)?.parse::<u64>().ok();
                let version = number("state_version").and_then(|n| u32::try_from(n).ok());
                let state = version.zip(number("state_bytes"));
                let state = state.map(|(version, bytes)| StateHead { version, bytes });
                Message::Go { probation: ms("probation_ms")?, state, records: number("records_bytes") }
            }
            "SERVING" => Message::Serving,
            "STILL-GOOD" => Message::StillGood,
            "COMMIT" => Message::Commit,
            "FAILED" => Message::Failed { reason: text(field("reason").unwrap_or(""))? },
            "STOPPING" => Message::Stopping { within: ms("within_ms")? },
            "CLOSED" => Message::Closed,
            "HANDOVER-PLEASE" => Message::HandoverPlease,
            "HISTORY" => {
                Message::History { line: line.get("HISTORY ".len()..).unwrap_or_default().to_owned() }
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.encode())
    }
}

/// The bytes that are encoded in a value: separators, spaces, control bytes, and all non-ASCII.
const SPECIAL: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b',').add(b';').add(b'=');

/// Which file a path leads to: two files that exist at the same time never have equal ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// No file.
    pub(crate) const NONE: FileId = FileId { device: 0, inode: 0 };

    /// The file at `path`, which may itself be a symlink.
    pub(crate) fn at(path: &Path) -> Option<FileId> {
        let found = fs::symlink_metadata(path).ok()?;
        Some(FileId { device: found.dev(), inode: found.ino() })
    }

    /// The open file.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> Option<FileId> {
        let (device, inode) = sys::file_id(fd.as_raw_fd())?;
        Some(FileId { device, inode })
    }

    /// In the format of the handover variable, and to a supervisor.
    pub(crate) fn parse(text: &str) -> Option<FileId> {
        let (device, inode) = text.split_once(':')?;
        Some(FileId { device: device.parse().ok()?, inode: inode.parse().ok()? })
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.device, self.inode)
    }
}

/// A listener on its way to the next generation.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    /// The text given to `listen`.
    pub(crate) name: String,
    pub(crate) fd: Arc<OwnedFd>,
    /// The file of a unix socket, `NONE` if that is gone. None: another socket, or a predecessor that does not say.
    pub(crate) file: Option<FileId>,
    pub(crate) owner: Owner,
}

/// The owner of a listening socket, which decides how long it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// This server and the generations before it.
    Server,
    /// systemd, which has passed it at the start and keeps it at a stop.
    Systemd,
}

impl Owner {
    /// In the format of the handover variable, and to a supervisor.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Owner::Server => "",
            Owner::Systemd => "systemd",
        }
    }

    pub(crate) fn parse(word: &str) -> Owner {
        if word == Owner::Systemd.word() { Owner::Systemd } else { Owner::Server }
    }
}

/// Percent-encodes what is not plain in a value.
pub(crate) fn escape(bytes: &[u8]) -> String {
    percent_encode(bytes, SPECIAL).to_string()
}

/// Undoes [`escape`].
pub(crate) fn unescape(text: &str) -> Option<Vec<u8>> {
    percent::decoded(text).map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use arbtest::arbitrary::{Result, Unstructured};

    use super::*;
    use crate::base::property::{BYTES, CASES, bytes, check, list, printable, text};

    fn any_hello(u: &mut Unstructured<'_>) -> Result<Hello> {
        let command = |u: &mut Unstructured<'_>| {
            Ok(CommandLine { path: bytes(u, 0..=8)?, argv: list(u, 1..=3, |u| bytes(u, 0..=8))? })
        };
        Ok(Hello {
            version: u.int_in_range(1..=8)?,
            generation: u.int_in_range(1..=9_998)?,
            pid: u.int_in_range(1..=i32::MAX)?,
            nohup: u.arbitrary()?,
            blocked: list(u, 0..=3, |u| u.int_in_range(1..=63))?,
            above: *u.choose(&[None, Some(Above::Systemd), Above::from_word("tini")])?,
            command: if u.arbitrary()? { Some(command(u)?) } else { None },
        })
    }

    fn any_message(u: &mut Unstructured<'_>) -> Result<Message> {
        let duration = |u: &mut Unstructured<'_>| Ok(Duration::from_millis(u.int_in_range(0..=9_999_999)?));
        let any_text = |u: &mut Unstructured<'_>, len| text(u, len, &[' '..='~', 'é'..='é', '\n'..='\n']);
        let state =
            |u: &mut Unstructured<'_>| Ok(StateHead { version: u.arbitrary()?, bytes: u.arbitrary()? });
        Ok(match u.int_in_range(0..=10)? {
            0 => Message::Hello(any_hello(u)?),
            1 => Message::Prepared {
                adopted: list(u, 0..=3, |u| any_text(u, 1..=20))?,
                takes_records: u.arbitrary()?,
                resumes: list(u, 0..=2, |u| any_text(u, 1..=20))?,
            },
            2 => Message::Go {
                probation: duration(u)?,
                state: if u.arbitrary()? { Some(state(u)?) } else { None },
                records: u.arbitrary()?,
            },
            3 => Message::Stopping { within: duration(u)? },
            4 => Message::Failed { reason: any_text(u, 0..=20)? },
            5 => Message::Serving,
            6 => Message::StillGood,
            7 => Message::Commit,
            8 => Message::Closed,
            9 => Message::History { line: any_text(u, 0..=20)?.replace('\n', "") },
            _ => Message::HandoverPlease,
        })
    }

    #[test]
    fn a_message_survives_its_line() {
        check(CASES, BYTES, |u| {
            let message = any_message(u)?;
            let line = message.encode();
            assert!(!line.contains('\n'), "{line:?}");
            assert_eq!(Message::decode(&line), Some(message), "{line:?}");
            Ok(())
        });
    }

    #[test]
    fn no_line_panics() {
        check(CASES, BYTES, |u| {
            let _ = Message::decode(&printable(u)?);
            Ok(())
        });
    }

    #[test]
    fn bytes_survive_escaping() {
        check(CASES, BYTES, |u| {
            let bytes = bytes(u, 0..=39)?;
            assert_eq!(unescape(&escape(&bytes)), Some(bytes));
            Ok(())
        });
    }

    /// Every version writes it so, and reads nothing else.
    #[test]
    fn escapes_have_one_form() {
        assert_eq!(escape(b"a+b c,;=%\n\x7f\xff"), "a+b%20c%2C%3B%3D%25%0A%7F%FF");
        assert_eq!(unescape("a%2c%2C"), Some(b"a,,".to_vec()));
        for malformed in ["%", "%2", "%+F", "%-1", "%0x", "% 1"] {
            assert_eq!(unescape(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn a_long_reason_fits_in_a_line() {
        for (unit, expected) in [("a", REASON_BYTES), ("€", REASON_BYTES - 1), ("\u{7f}", REASON_BYTES)] {
            let Message::Failed { reason } = Message::failed(&Error::config(unit.repeat(30_000))) else {
                unreachable!()
            };
            assert_eq!((reason.len(), reason.replace(unit, "")), (expected, String::new()));
        }
        assert_eq!(Message::failed(&Error::config("short")), Message::Failed { reason: "short".into() });
        let toml =
            "a.toml: at line 1, column 8\n  |\n1 | port = x\n  |        ^\nstring values must be quoted\n";
        let reason = "a.toml: at line 1, column 8 | 1 | port = x | string values must be quoted".into();
        assert_eq!(Message::failed(&Error::config(toml)), Message::Failed { reason });
    }

    #[test]
    fn later_versions_may_add_words_and_keys() {
        assert_eq!(
            Message::decode("GO colour=blue probation_ms=7"),
            Some(Message::Go { probation: Duration::from_millis(7), state: None, records: None })
        );
        assert_eq!(Message::decode("COMMIT at=noon"), Some(Message::Commit));
        assert_eq!(Message::decode("SALUTE"), None);
    }
}
