//! The supervisor's log lines, on standard error, because the program's logger does not exist here. A line that can't be
//! written at once is lost: the reader of a pipe may have stopped reading.
//!
//! The program can't configure it either, so a variable decides whether its lines are JSON, as those of a program whose logger
//! writes JSON to the same place.

use std::env;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::SystemTime;

use ::log::kv::{Error, Key, Value, VisitSource};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::base::log::JsonText;
use crate::base::time::Rfc3339;

const VARIABLE: &str = "HEIRLOOM_SUPERVISOR_LOG";

enum Lines {
    Text,
    Json,
}

impl Lines {
    fn line(&self, record: &::log::Record<'_>) -> String {
        let (level, target) = (record.level(), record.target());
        let mut line = match self {
            Lines::Text => return format!("[{level} {target}] {}\n", record.args()),
            Lines::Json => format!(
                "{{\"timestamp\":\"{}\",\"level\":\"{level}\",\"target\":{},\"message\":{},\"fields\":{{",
                Rfc3339(SystemTime::now()),
                JsonText(Some(target)),
                JsonText(Some(&record.args().to_string()))
            ),
        };
        let _ = record.key_values().visit(&mut Fields { line: &mut line, comma: "" });
        line + "}}\n"
    }
}

/// Writes numbers as numbers and all else as text.
struct Fields<'a> {
    line: &'a mut String,
    comma: &'static str,
}

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let comma = std::mem::replace(&mut self.comma, ",");
        match value.to_i64() {
            Some(number) => write!(self.line, "{comma}\"{key}\":{number}"),
            None => write!(self.line, "{comma}\"{key}\":{}", JsonText(Some(&value.to_string()))),
        }
        .map_err(Error::from)
    }
}

impl ::log::Log for Lines {
    fn enabled(&self, metadata: &::log::Metadata<'_>) -> bool {
        metadata.level() <= ::log::LevelFilter::Info
    }

    fn log(&self, record: &::log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = self.line(record);
            let stderr = io::stderr();
            // A pipe that is ready has room for a page, and takes a line in one piece.
            let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
                let _ = stderr.lock().write_all(line.as_bytes());
            }
        }
    }

    fn flush(&self) {}
}

pub(super) fn start() {
    let is_json = env::var_os(VARIABLE).is_some_and(|value| value == "json");
    if ::log::set_logger(if is_json { &Lines::Json } else { &Lines::Text }).is_ok() {
        ::log::set_max_level(::log::LevelFilter::Info);
    }
}
