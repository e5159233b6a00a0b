//! The output for people and programs: progress on a terminal, plain lines elsewhere, or one JSON object.

use std::io::{self, IsTerminal, Write};

use rustix::termios::tcgetwinsize;
use serde_json::{Map, Value};

use crate::failure::Failure;

#[derive(Debug)]
pub struct Output {
    command: &'static str,
    kind: Kind,
    /// A line of progress is on the terminal.
    has_progress: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Terminal,
    Lines,
    Json,
}

impl Output {
    pub fn new(command: &'static str, json: bool) -> Output {
        let kind = match json {
            true => Kind::Json,
            false if io::stdout().is_terminal() => Kind::Terminal,
            false => Kind::Lines,
        };
        Output { command, kind, has_progress: false }
    }

    pub fn is_terminal(&self) -> bool {
        self.kind == Kind::Terminal
    }

    /// Shows the progress of a command.
    pub fn progress(&mut self, text: &str) {
        match self.kind {
            Kind::Terminal => {
                let line = format!("{}: {text}", self.command);
                // A line that wraps could not be replaced.
                print(&format!("\r\x1b[K{}", cut(&line, Size::of_terminal().columns.saturating_sub(1))));
                self.has_progress = true;
            }
            Kind::Lines => print(&format!("{text}\n")),
            Kind::Json => {}
        }
    }

    /// Reports a success: `text` for people, `fields` for programs.
    pub fn done(&mut self, text: &str, fields: Map<String, Value>) {
        self.clear();
        match self.kind {
            Kind::Json => self.object(true, fields),
            _ => print(text),
        }
    }

    pub fn failed(&mut self, failure: &Failure) {
        self.clear();
        if self.kind == Kind::Json {
            let mut fields = failure.details.clone();
            fields.insert("error".to_owned(), Value::from(failure.code.as_str()));
            fields.insert("message".to_owned(), Value::from(failure.message.as_str()));
            self.object(false, fields);
        } else {
            let _ = writeln!(io::stderr(), "heirloomctl: {}: {}", self.command, failure.message);
        }
    }

    fn object(&self, ok: bool, fields: Map<String, Value>) {
        let mut object = Map::new();
        object.insert("ok".to_owned(), Value::from(ok));
        object.insert("command".to_owned(), Value::from(self.command));
        object.extend(fields);
        print(&format!("{}\n", Value::Object(object)));
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.has_progress) {
            print("\r\x1b[K");
        }
    }
}

/// Of the terminal; what is not known has no limit.
struct Size {
    rows: usize,
    columns: usize,
}

impl Size {
    fn of_terminal() -> Size {
        let known = |n: u16| if n == 0 { usize::MAX } else { n.into() };
        match tcgetwinsize(io::stdout()) {
            Ok(size) => Size { rows: known(size.ws_row), columns: known(size.ws_col) },
            Err(_) => Size { rows: usize::MAX, columns: usize::MAX },
        }
    }
}

fn cut(line: &str, columns: usize) -> String {
    line.chars().take(columns).collect()
}

/// Shows the beginning of `text` on the terminal, as much of it as fits, in place of what is there.
///
/// # Errors
/// When the terminal has gone.
pub fn show_screen(text: &str) -> io::Result<()> {
    let Size { rows, columns } = Size::of_terminal();
    let lines = text.lines().take(rows.saturating_sub(1)).map(|line| format!("{}\n", cut(line, columns)));
    let mut out = io::stdout().lock();
    out.write_all(format!("\x1b[H\x1b[2J{}", lines.collect::<String>()).as_bytes())?;
    out.flush()
}

/// Prints a line. A reader that has closed the pipe is no error, because the command has been carried out.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
