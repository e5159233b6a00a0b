//! Recorded messages between processes of an earlier version at handovers, and the replay of one side of them to a process
//! of today.
//!
//! A recording is a text with a line for each event: `1>2 lifecycle SERVING` for a message of generation 1 to generation 2
//! on that channel, `END` for the end of its side; `+2` before a packet with two descriptors; `note` for the variable that a
//! predecessor writes, with the descriptors it passes; `!` for an action on the processes from outside. Bytes are escaped as
//! in Rust. A generation that has passed its predecessor's channel on sends nothing there any more: from then on its
//! successor uses that end.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::handover::{Ends, Lifecycle, Packet, Packets, channels, names};

/// What is done to the processes from outside. "The clients" are those of [`done::CLIENTS`] or [`done::UPLOAD`].
pub mod done {
    /// Clients that have asked `/ok` once and are idle, by TCP and by the unix socket, and one that has sent
    /// [`HALF`](super::HALF).
    pub const CLIENTS: &str =
        "clients: one idle by TCP, one idle by the unix socket, one with half of a request";
    /// As those, without a half request; and one that has sent more of an upload than may be transferred.
    pub const UPLOAD: &str =
        "clients: one idle by TCP, one idle by the unix socket, one with half of an upload";
    pub const COMPLETED: &str = "the half of a request is completed, and answered by generation 1";
    pub const UPLOADED: &str = "the upload is completed, and answered by generation 1";
    /// Each of them asks `/generation`.
    pub const ASK: &str = "each client asks which generation serves it: ";
    pub const HUP: &str = "HUP to generation ";
    pub const TERM: &str = "TERM to generation ";
    pub const KILL: &str = "KILL to generation ";
    /// The directory of its pid file was removed.
    pub const NO_PID_FILE: &str = "the folder of the pid file is removed";
    /// The state that `hooked` releases has this size.
    pub const STATE: &str = "the state has so many bytes: ";
}

/// The response to a request for `/generation`.
pub const HALF: &str = "GET /generation HTTP/1.1\r\nHost: te";
pub const OTHER_HALF: &str = "st\r\n\r\n";
/// More of an upload than may travel, and the rest.
pub const UPLOADS_HALVES: [usize; 2] = [10_000, 10_000];

/// The head of that upload.
pub fn upload_head() -> String {
    format!(
        "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n",
        UPLOADS_HALVES.iter().sum::<usize>()
    )
}

/// The recordings, each with the flags of its `kitchen_sink`; without flags, the server is `testkit hooked`.
pub const RECORDINGS: [(&str, &[&str]); 8] = [
    ("ordinary", &["--probation-ms", "200"]),
    ("state", &[]),
    ("refused", &["--pid-file", "run/pid"]),
    ("rolled_back", &["--probation-ms", "60000"]),
    ("predecessor_killed", &["--probation-ms", "60000"]),
    ("stopped_by_predecessor", &["--probation-ms", "60000", "--idle-grace-ms", "300"]),
    ("stopped_by_successor", &["--probation-ms", "60000", "--idle-grace-ms", "300"]),
    ("passed_on", &["--probation-ms", "200"]),
];

/// The arguments of `kitchen_sink` in a new directory, with these flags; without flags, those of `testkit`.
pub fn args(flags: &[&str]) -> Vec<String> {
    let all: &[&str] = match flags {
        [] => &["hooked", ".", "127.0.0.1:0", "200"],
        _ => &["--listen", "127.0.0.1:0", "--unix", "socket"],
    };
    all.iter().chain(flags).map(|word| (*word).to_owned()).collect()
}

/// One line of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Done from outside.
    Done(String),
    Said {
        from: u32,
        to: u32,
        what: Said,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// The variable, with so many descriptors.
    Note {
        text: String,
        fds: usize,
    },
    Line(String),
    LifecycleEnd,
    Packet {
        bytes: Vec<u8>,
        fds: usize,
    },
    ConnectionsEnd,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to, what) = match self {
            Entry::Done(text) => return write!(f, "! {text}"),
            Entry::Said { from, to, what } => (from, to, what),
        };
        match what {
            Said::Note { text, fds } => write!(f, "{from}>{to} note +{fds} {text}"),
            Said::Line(line) => write!(f, "{from}>{to} lifecycle {line}"),
            Said::LifecycleEnd => write!(f, "{from}>{to} lifecycle END"),
            Said::Packet { bytes, fds: 0 } => write!(f, "{from}>{to} connections {}", bytes.escape_ascii()),
            Said::Packet { bytes, fds } => {
                write!(f, "{from}>{to} connections +{fds} {}", bytes.escape_ascii())
            }
            Said::ConnectionsEnd => write!(f, "{from}>{to} connections END"),
        }
    }
}

impl Entry {
    fn parse(line: &str) -> Option<Entry> {
        if let Some(text) = line.strip_prefix("! ") {
            return Some(Entry::Done(text.to_owned()));
        }
        let (way, rest) = line.split_once(' ')?;
        let (from, to) = way.split_once('>')?;
        let (channel, text) = rest.split_once(' ')?;
        let (fds, text) = match text.strip_prefix('+') {
            Some(text) => text.split_once(' ').and_then(|(fds, text)| Some((fds.parse().ok()?, text)))?,
            None => (0, text),
        };
        let what = match (channel, text) {
            ("note", text) => Said::Note { text: text.to_owned(), fds },
            ("lifecycle", "END") => Said::LifecycleEnd,
            ("lifecycle", line) => Said::Line(line.to_owned()),
            ("connections", "END") => Said::ConnectionsEnd,
            ("connections", bytes) => Said::Packet { bytes: unescape(bytes)?, fds },
            _ => return None,
        };
        Some(Entry::Said { from: from.parse().ok()?, to: to.parse().ok()?, what })
    }
}

/// Undoes `escape_ascii`.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next()? {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => {
                    let digits = [rest.next()?, rest.next()?];
                    u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
                }
                other => other,
            },
            other => other,
        });
    }
    Some(bytes)
}

/// Reads a recording; lines that begin with `#` are comments.
///
/// # Panics
/// When it is none.
pub fn read(path: &Path) -> Vec<Entry> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| Entry::parse(line).unwrap_or_else(|| panic!("{}: {line}", path.display()))).collect()
}

/// A connection in transfer: its line, the bytes that were read of it, and the connection itself.
#[derive(Debug)]
pub struct Traveller {
    pub line: String,
    pub bytes: Vec<u8>,
    pub fd: OwnedFd,
}

/// What the test does about the parts of a recording that are no messages.
pub trait Stage {
    /// Performs one of [`done`], if it concerns the real generation or its clients.
    fn act(&mut self, what: &str, arrived: &mut Vec<Traveller>);
    /// Starts the real generation, with what its predecessor leaves.
    fn start(&mut self, note: &str, listeners: usize, channels: [OwnedFd; 2]);
    /// The next successor of the real generation: what it was left, with the ends of its channels.
    fn step_in(&mut self) -> (String, usize, Ends);
    /// The connection that goes to the real generation in place of the one of this line, and its peer if that shows.
    fn leaver(&mut self, line: &str) -> (OwnedFd, Option<String>);
    /// The command line of the real generation.
    fn command(&self) -> (String, Vec<String>);
}

/// The ends of a link between two generations, as far as they are ours.
#[derive(Debug, Default)]
struct Link {
    /// The predecessor's and the successor's.
    lifecycle: [Option<Lifecycle>; 2],
    connections: [Option<Packets>; 2],
    /// For each end: batches that were received there and are not yet acknowledged, and batches that were sent to it
    /// and wait for their acknowledgement.
    unacknowledged: [Vec<(String, usize)>; 2],
    awaited: [Vec<String>; 2],
    /// The counts, in the recording and in reality.
    counts: [BTreeMap<String, u64>; 2],
}

/// Plays `recording`, in which generation `real` is a process of today: says what the others said, with the numbers
/// of today in it, and demands that what the process says is understood by them.
///
/// # Panics
/// When it is not.
pub fn play(recording: &[Entry], real: u32, stage: &mut dyn Stage) {
    let mut play = Play { real, stage, links: BTreeMap::new(), arrived: Vec::new() };
    for (n, entry) in recording.iter().enumerate() {
        let _said = OnPanic(n, entry);
        match entry {
            Entry::Done(what) => play.stage.act(what, &mut play.arrived),
            Entry::Said { from, to, what } => play.said(*from, *to, what),
        }
    }
}

/// Says how far it went.
struct OnPanic<'a>(usize, &'a Entry);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the recording went wrong at its entry {}: {}", self.0 + 1, self.1);
        }
    }
}

struct Play<'a> {
    real: u32,
    stage: &'a mut dyn Stage,
    /// Sent by the older of the two.
    links: BTreeMap<u32, Link>,
    arrived: Vec<Traveller>,
}

impl Play<'_> {
    #[track_caller]
    fn said(&mut self, from: u32, to: u32, what: &Said) {
        let older = from.min(to);
        // The sender's end and the receiver's end.
        let (mouth, ear) = if from < to { (0, 1) } else { (1, 0) };
        let real = self.real;
        let link = self.links.entry(older).or_default();
        match what {
            Said::Note { text, fds } => self.note(from, to, text, *fds),
            Said::Line(line) => match &mut link.lifecycle {
                _ if from == real => {
                    let heard = link.lifecycle[ear].as_mut().expect("it is open").hear();
                    understand(line, &heard.expect("it is not at its end"));
                }
                lifecycle if to == real => {
                    let (path, argv) = self.stage.command();
                    let values = |key: &str| match key {
                        "pid" => Some(std::process::id().to_string()),
                        "path" => Some(path.clone()),
                        "argv" => Some(argv.join(",")),
                        _ => None,
                    };
                    lifecycle[mouth].as_mut().expect("it is open").say(&with_values(line, values));
                }
                _ => {}
            },
            Said::LifecycleEnd if from == real => {
                let heard = link.lifecycle[ear].as_mut().and_then(Lifecycle::hear);
                assert_eq!(heard, None, "it has nothing more to say");
            }
            Said::LifecycleEnd => link.lifecycle[mouth] = None,
            Said::Packet { bytes, fds } => {
                match (link.connections[mouth].is_some(), link.connections[ear].is_some()) {
                    (true, false) => self.send(older, mouth, bytes),
                    (false, true) => self.receive(older, mouth, bytes, *fds),
                    _ => {}
                }
            }
            Said::ConnectionsEnd => {
                let (ours, its) = (link.connections[mouth].is_some(), link.connections[ear].is_some());
                if ours {
                    link.connections[mouth] = None;
                } else if its {
                    while let Some(packet) = receive_next(link, mouth) {
                        take_aside(link, packet);
                    }
                    let [recorded, counted] = &link.counts;
                    for name in recorded.keys() {
                        assert!(counted.contains_key(name), "{name} is not among the counts: {counted:?}");
                    }
                    link.connections[ear] = None;
                }
            }
        }
    }

    fn note(&mut self, from: u32, to: u32, text: &str, fds: usize) {
        let link = self.links.entry(from).or_default();
        if from == self.real {
            let (note, left, ends) = self.stage.step_in();
            for field in text.split(';') {
                let key = field.split_once('=').map_or(field, |(key, _)| key);
                let said = note.split(';').find(|said| said.split_once('=').is_some_and(|(k, _)| k == key));
                let said = said.unwrap_or_else(|| panic!("no {key} in {note}"));
                match key {
                    "channel" | "sockets" => {}
                    // One more, which that version closes as it does every file that it does not know.
                    "files" => {
                        let mut files = names(&note, "files=");
                        let pipe = files.pop().unwrap_or_default();
                        assert!(pipe.starts_with("heirloom:stderr:"), "{note}");
                        assert_eq!(files, names(text, "files="));
                    }
                    _ => assert_eq!(said, field),
                }
            }
            assert_eq!(left, fds + 1, "descriptors");
            assert_eq!(names(&note, "sockets=").len(), fds + 1, "{note}");
            link.lifecycle[1] = Some(ends.lifecycle);
            link.connections[1] = Some(ends.connections);
        } else if to == self.real {
            let (ends, its) = channels();
            link.lifecycle[0] = Some(ends.lifecycle);
            link.connections[0] = Some(ends.connections);
            self.stage.start(text, names(text, "listeners=").len(), its);
        } else {
            let (ends, [_, its]) = channels();
            link.connections = [Some(ends.connections), Some(Packets::new(its))];
        }
    }

    /// Sends to the process what was sent to a recorded one.
    fn send(&mut self, older: u32, mouth: usize, bytes: &[u8]) {
        let (head, rest) = split_line(bytes);
        let word = head.split(' ').next().unwrap_or_default();
        match word {
            "CONNECTIONS" => {
                let (lines, contents) = records(rest);
                let (mut packet, mut leaving) = (format!("{head}\n"), Vec::new());
                for line in lines {
                    let (fd, peer) = self.stage.leaver(line);
                    let _ = writeln!(
                        packet,
                        "{}",
                        with_values(line, |key| peer.clone().filter(|_| key == "peer"))
                    );
                    leaving.push(fd);
                }
                packet.push('\n');
                let packet = [packet.as_bytes(), contents].concat();
                let link = self.links.get_mut(&older).expect("a link");
                link.awaited[1 - mouth].push(value(head, "batch").to_owned());
                let fds: Vec<BorrowedFd<'_>> = leaving.iter().map(AsFd::as_fd).collect();
                link.connections[mouth].as_ref().expect("it is ours").send(&packet, &fds);
            }
            "CHANNEL" => {
                // From now on the real one has its predecessor's connections.
                let passed = self.links.get_mut(&(older - 1)).and_then(|upper| upper.connections[1].take());
                let passed = passed.expect("it has a predecessor");
                let link = self.links.get_mut(&older).expect("a link");
                link.awaited[1 - mouth].push(value(head, "batch").to_owned());
                link.connections[mouth].as_ref().expect("it is ours").send(bytes, &[passed.as_fd()]);
            }
            "ACK" => {
                let link = self.links.get_mut(&older).expect("a link");
                // Its numbers differ, and it may send in one packet what the recorded one sent in several.
                for (batch, came) in std::mem::take(&mut link.unacknowledged[mouth]) {
                    let text = format!("ACK batch={batch} credit={came}\n");
                    link.connections[mouth].as_ref().expect("it is ours").send(text.as_bytes(), &[]);
                }
            }
            _ => {
                let link = &self.links[&older];
                link.connections[mouth].as_ref().expect("it is ours").send(bytes, &[]);
            }
        }
    }

    /// Demands that the process says what a recorded one said.
    #[track_caller]
    fn receive(&mut self, older: u32, mouth: usize, bytes: &[u8], fds: usize) {
        let (head, rest) = split_line(bytes);
        let word = head.split(' ').next().unwrap_or_default();
        let link = self.links.get_mut(&older).expect("a link");
        match word {
            "COUNTS" => add_counts(&mut link.counts[0], head),
            "CONNECTIONS" => {
                let (lines, contents) = records(rest);
                let mut wanted = travellers(&lines, contents, (0..fds).map(|_| None).collect());
                let mut came = Vec::new();
                while came.len() < wanted.len() {
                    let packet = receive_word(link, mouth, word);
                    let (head, rest) = split_line(&packet.bytes);
                    let (lines, contents) = records(rest);
                    link.unacknowledged[1 - mouth].push((value(head, "batch").to_owned(), lines.len()));
                    came.extend(travellers(&lines, contents, packet.fds.into_iter().map(Some).collect()));
                }
                assert_eq!(came.len(), wanted.len(), "connections");
                let by = |a: &(String, Vec<u8>, Option<OwnedFd>)| {
                    (value(&a.0, "listener").to_owned(), a.1.clone())
                };
                wanted.sort_by_key(by);
                came.sort_by_key(by);
                for ((wanted, bytes, _), (line, said, fd)) in wanted.into_iter().zip(came) {
                    assert_eq!(said.escape_ascii().to_string(), bytes.escape_ascii().to_string(), "{line}");
                    understand(&wanted, &line);
                    self.arrived.push(Traveller {
                        line,
                        bytes: said,
                        fd: fd.expect("a descriptor for each"),
                    });
                }
            }
            "CHANNEL" => {
                let mut packet = receive_word(link, mouth, word);
                let head = String::from_utf8_lossy(split_line(&packet.bytes).0.as_bytes()).into_owned();
                understand(split_line(bytes).0, &head);
                link.unacknowledged[1 - mouth].push((value(&head, "batch").to_owned(), 0));
                let channel = packet.fds.pop().expect("the channel is along");
                let upper = self.links.get_mut(&(older - 1)).expect("a link");
                upper.connections[1] = Some(Packets::new(channel));
            }
            "ACK" => {
                while !link.awaited[mouth].is_empty() {
                    let packet = receive_word(link, mouth, word);
                    let head = split_line(&packet.bytes).0;
                    let batch = value(head, "batch").to_owned();
                    let before = link.awaited[mouth].len();
                    link.awaited[mouth].retain(|awaited| *awaited != batch);
                    assert!(link.awaited[mouth].len() < before, "nobody has sent batch {batch}");
                    assert!(value(head, "credit").parse::<usize>().is_ok(), "{head}");
                }
            }
            "CREDIT" => {
                let packet = receive_word(link, mouth, word);
                let head = split_line(&packet.bytes).0;
                assert!(value(head, "n").parse::<usize>().is_ok_and(|n| n > 0), "{head}");
            }
            _ => panic!("an unknown word: {head}"),
        }
    }
}

/// The next packet with this word; what has no fixed place between the others is taken aside.
#[track_caller]
fn receive_word(link: &mut Link, mouth: usize, word: &str) -> Packet {
    loop {
        let packet = receive_next(link, mouth).expect("it is not at its end");
        let head = split_line(&packet.bytes).0;
        match head.split(' ').next() {
            Some(said) if said == word => return packet,
            // More of it may be granted at any tick, and totals come whenever they are known.
            Some("CREDIT" | "COUNTS") => take_aside(link, packet),
            _ => panic!("{word} was wanted, and {head} came"),
        }
    }
}

#[track_caller]
fn receive_next(link: &Link, mouth: usize) -> Option<Packet> {
    link.connections[1 - mouth].as_ref().expect("it is ours").receive()
}

fn take_aside(link: &mut Link, packet: Packet) {
    let head = split_line(&packet.bytes).0;
    if head.starts_with("COUNTS ") {
        add_counts(&mut link.counts[1], head);
    } else {
        assert!(head.starts_with("CREDIT "), "{head}");
    }
}

fn add_counts(counts: &mut BTreeMap<String, u64>, head: &str) {
    for (name, n) in head.split(' ').filter_map(|field| field.split_once('=')) {
        *counts.entry(name.to_owned()).or_default() += n.parse::<u64>().expect("a number");
    }
}

/// Keys whose values are another run's own, in the messages of every channel.
const OWN: [&str; 10] =
    ["pid", "path", "argv", "peer", "batch", "credit", "idle_ms", "begun_ms", "within_ms", "reason"];

/// Demands that `said` has the word of `recorded`, and each of its keys, with the same value where that is no number
/// of one run alone. Additional keys are allowed: a process that does not know them skips them.
#[track_caller]
fn understand(recorded: &str, said: &str) {
    let (mut wanted, mut words) = (recorded.split(' ').peekable(), said.split(' '));
    if wanted.peek().is_some_and(|word| !word.contains('=')) {
        assert_eq!(words.next(), wanted.next(), "{said}");
    }
    let fields: Vec<(&str, &str)> = words.filter_map(|field| field.split_once('=')).collect();
    for (key, value) in wanted.filter_map(|field| field.split_once('=')) {
        let found = fields.iter().find(|(k, _)| *k == key);
        let (_, found) = found.unwrap_or_else(|| panic!("no {key} in: {said}"));
        if !OWN.contains(&key) {
            assert_eq!(*found, value, "{key} in: {said}");
        }
    }
}

/// The same line, with these values in place of the recorded ones.
fn with_values(line: &str, values: impl Fn(&str) -> Option<String>) -> String {
    let fields = line.split(' ').map(|field| match field.split_once('=') {
        Some((key, value)) => format!("{key}={}", values(key).unwrap_or_else(|| value.to_owned())),
        None => field.to_owned(),
    });
    fields.collect::<Vec<_>>().join(" ")
}

fn value<'a>(line: &'a str, key: &str) -> &'a str {
    let mut fields = line.split(' ').filter_map(|field| field.split_once('='));
    fields.find(|(k, _)| *k == key).unwrap_or_else(|| panic!("no {key} in: {line}")).1
}

fn split_line(bytes: &[u8]) -> (&str, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').expect("a line");
    (std::str::from_utf8(&bytes[..end]).expect("text"), &bytes[end + 1..])
}

/// The lines of a packet of connections, and the bytes behind them.
fn records(mut rest: &[u8]) -> (Vec<&str>, &[u8]) {
    let mut lines = Vec::new();
    loop {
        let (line, after) = split_line(rest);
        rest = after;
        if line.is_empty() {
            return (lines, rest);
        }
        lines.push(line);
    }
}

fn travellers<T>(lines: &[&str], mut contents: &[u8], fds: Vec<T>) -> Vec<(String, Vec<u8>, T)> {
    assert_eq!(fds.len(), lines.len(), "a descriptor for each");
    let take = |(line, fd): (&&str, T)| {
        let (bytes, rest) = contents.split_at(value(line, "bytes").parse().expect("a number"));
        contents = rest;
        ((*line).to_owned(), bytes.to_vec(), fd)
    };
    lines.iter().zip(fds).map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_survives_its_line() {
        let said = |what| Entry::Said { from: 2, to: 1, what };
        let entries = [
            Entry::Done("HUP to generation 1".to_owned()),
            said(Said::Note { text: "channel=7;listeners=a".to_owned(), fds: 4 }),
            said(Said::Line("GO probation_ms=7".to_owned())),
            said(Said::LifecycleEnd),
            said(Said::Packet { bytes: b"a b\n\r\t\\\"'\x00\xff".to_vec(), fds: 0 }),
            said(Said::Packet { bytes: b"a\n".to_vec(), fds: 2 }),
            said(Said::ConnectionsEnd),
        ];
        for entry in entries {
            let line = entry.to_string();
            assert!(!line.contains('\n'));
            assert_eq!(Entry::parse(&line), Some(entry), "{line}");
        }
    }

    #[test]
    fn a_recording_may_be_extended_and_not_shortened() {
        understand("GO probation_ms=7", "GO later=1 probation_ms=7");
        understand("HELLO version=1 pid=3", "HELLO version=1 pid=4");
        understand("listener=a bytes=0", "listener=a bytes=0 later=1");
        for said in ["GO", "GO probation_ms=8", "STOP probation_ms=7"] {
            let understood = std::panic::catch_unwind(|| understand("GO probation_ms=7", said));
            assert!(understood.is_err(), "{said}");
        }
    }
}
