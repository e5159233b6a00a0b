//! What the processes of a server have written, line by line.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::{DEADLINE, beside};

/// Lines of all generations, in the order in which they were written.
#[derive(Debug, Default)]
pub struct Output {
    written: Mutex<Written>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Written {
    lines: Vec<String>,
    /// No writer is left.
    ended: bool,
}

impl Output {
    /// Reads `from` to its end. `note` sees each line before any waiter does.
    pub fn of(from: OwnedFd, mut note: impl FnMut(&str) + Send + 'static) -> Arc<Output> {
        let output = Arc::new(Output::default());
        let writer = Arc::clone(&output);
        beside("output", move || {
            for line in BufReader::new(File::from(from)).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                note(&line);
                writer.lock().lines.push(line);
                writer.news.notify_all();
            }
            writer.lock().ended = true;
            writer.news.notify_all();
        });
        output
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The `n`th line with `text`, counted from 1 and from the beginning. `*` in it stands for
    /// anything.
    #[track_caller]
    pub fn wait_for_nth(&self, text: &str, n: usize) -> String {
        // Each line is looked at once: a server may write 50,000 of them.
        let (mut looked_at, mut left, mut found) = (0, n, None);
        self.wait(|lines, ended| {
            for line in lines.iter().skip(looked_at).filter(|line| has(line, text)) {
                left -= 1;
                if left == 0 {
                    found = Some(line.clone());
                    break;
                }
            }
            looked_at = lines.len();
            found.is_some() || ended
        });
        found.unwrap_or_else(|| panic!("line {n} with {text:?} was not written within {DEADLINE:?}"))
    }

    /// Waits until no writer is left.
    #[track_caller]
    pub fn wait_end(&self) {
        assert!(self.wait(|_, ended| ended), "somebody still writes after {DEADLINE:?}");
    }

    /// False at the deadline.
    pub fn wait(&self, mut done: impl FnMut(&[String], bool) -> bool) -> bool {
        let deadline = Instant::now() + DEADLINE;
        let mut written = self.lock();
        while !done(&written.lines, written.ended) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            written = self.news.wait_timeout(written, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// All lines with `text` so far.
    pub fn lines_with(&self, text: &str) -> Vec<String> {
        self.lock().lines.iter().filter(|line| has(line, text)).cloned().collect()
    }
}

fn has(line: &str, text: &str) -> bool {
    let after = |rest: &str, part: &str| rest.find(part).map(|at| at + part.len());
    let mut rest = line;
    text.split('*').all(|part| after(rest, part).map(|at| rest = &rest[at..]).is_some())
}
