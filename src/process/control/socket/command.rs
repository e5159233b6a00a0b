//! The words of the control socket. A client sends one line with one command; the answer is lines of a word and
//! `key=value` pairs, escaped as on the lifecycle channel, and its last one begins with `ok` or `error`, except that the
//! lines of a list follow `ok`. Unknown keys are to be ignored.
//!
//! ```text
//! status        ok pid=812 generation=1 phase=serving requests_in_flight=0 ...
//! upgrade       step name=spawn ms=3
//!               ...
//!               ok pid=901 generation=2 spawn_ms=3 ready_ms=40 release_ms=0 accept_ms=2 probation_ms=2000 total_ms=2045
//! drain         ok pid=812 requests_in_flight=3
//! abort         ok pid=812 requests_in_flight=3
//! connections   ok count=1 listed=1 ...
//!               connection listener=127.0.0.1:8001 peer=10.0.0.7:52114 activity=idle idle_ms=1200 requests=17
//! handlers      ok count=1 listed=1
//!               handler method=GET path=/sleep/9000 age_ms=5012 thread=heirloom-worker-3
//! anything      error code=unknown-command reason=...
//! ```

use std::fmt::Display;

use crate::process::handover::escape;

/// What a client may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::process::control) enum Command {
    Status,
    Upgrade,
    Drain,
    Abort,
    Connections,
    Handlers,
}

impl Command {
    const ALL: [Command; 6] = [
        Command::Status,
        Command::Upgrade,
        Command::Drain,
        Command::Abort,
        Command::Connections,
        Command::Handlers,
    ];

    pub(in crate::process::control) fn name(self) -> &'static str {
        match self {
            Command::Status => "status",
            Command::Upgrade => "upgrade",
            Command::Drain => "drain",
            Command::Abort => "abort",
            Command::Connections => "connections",
            Command::Handlers => "handlers",
        }
    }

    /// Reads a line, without its end. Blanks around the word do not count, nor does a carriage return.
    pub(super) fn parse(line: &[u8]) -> Option<Command> {
        let word = line.trim_ascii();
        Command::ALL.into_iter().find(|command| command.name().as_bytes() == word)
    }
}

/// One line of an answer.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::process::control) struct AnswerLine(String);

impl AnswerLine {
    pub(in crate::process::control) fn new(word: &str) -> AnswerLine {
        AnswerLine(word.to_owned())
    }

    /// A refusal or a failure. `code` is for programs, `reason` for people.
    pub(in crate::process::control) fn error(code: &str, reason: &str) -> AnswerLine {
        AnswerLine::new("error").with("code", code).with("reason", reason)
    }

    pub(in crate::process::control) fn with(self, key: &str, value: impl Display) -> AnswerLine {
        self.with_text(key, value.to_string())
    }

    fn with_text(mut self, key: &str, value: String) -> AnswerLine {
        self.0.push(' ');
        self.0.push_str(key);
        self.0.push('=');
        self.0.push_str(&escape(value.as_bytes()));
        self
    }

    pub(in crate::process::control) fn add_to(&self, output: &mut Vec<u8>) {
        output.extend_from_slice(self.0.as_bytes());
        output.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_one_word_on_a_line() {
        let cases: &[(&[u8], Option<Command>)] = &[
            (b"status", Some(Command::Status)),
            (b"upgrade", Some(Command::Upgrade)),
            (b"drain", Some(Command::Drain)),
            (b"abort", Some(Command::Abort)),
            (b"connections", Some(Command::Connections)),
            (b"handlers", Some(Command::Handlers)),
            (b"status\r", Some(Command::Status)),
            (b" \tstatus  ", Some(Command::Status)),
            (b"STATUS", None),
            (b"status now", None),
            (b"statuss", None),
            (b"stat", None),
            (b"", None),
            (b"   ", None),
            (b"\0status", None),
            (b"\xff\xfe", None),
            (b"GET / HTTP/1.1", None),
        ];
        for (line, command) in cases {
            assert_eq!(Command::parse(line), *command, "{:?}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn an_answer_is_one_line_whatever_its_values_are() {
        let line = AnswerLine::error("busy", "a b\nok pid=1").with("path", "/x y=%");
        let mut output = Vec::new();
        line.add_to(&mut output);
        let text = "error code=busy reason=a%20b%0Aok%20pid%3D1 path=/x%20y%3D%25\n";
        assert_eq!(String::from_utf8(output).unwrap(), text);
    }
}
