//! What a process knows of the service's past, and passes on at a handover: counts, the history of the generations,
//! samples of the last ten minutes, and the last closes.

use std::fmt::Write;
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

use crate::base::history::{Generation, History, Note, unix_ms};
use crate::base::recent::{Minute, Point, Recent};
use crate::base::status::{AllCounters, Stats};
use crate::base::sync::lock;

/// How a line about a closed connection begins.
const CLOSE: &str = "close ";
/// All lines that are sent at one time over a channel, whose reader takes at most 64 KiB.
const MESSAGES_BYTES: usize = 16 << 10;

#[derive(Default)]
pub(crate) struct Records {
    pub(crate) counters: AllCounters,
    history: Mutex<History>,
    recent: Mutex<Recent>,
}

impl Records {
    pub(crate) fn history(&self) -> History {
        lock(&self.history).clone()
    }

    pub(crate) fn recent(&self) -> Recent {
        lock(&self.recent).clone()
    }

    pub(crate) fn note(&self, generation: u32, note: Note) {
        lock(&self.history).note(generation, note);
    }

    /// This process is a generation, of this version of the program.
    pub(crate) fn begins(&self, generation: u32, version: Option<String>) {
        self.note(generation, Note::Pid(i32::try_from(std::process::id()).unwrap_or(0)));
        if let Some(version) = version {
            self.note(generation, Note::Version(version));
        }
    }

    /// The service is this generation's, from now on if it was not before.
    pub(crate) fn serves(&self, generation: u32) {
        if self.about(generation).is_none_or(|one| one.since.is_none()) {
            self.note(generation, Note::Since(unix_ms(SystemTime::now())));
        }
    }

    /// It is no more, since now if it was before.
    pub(crate) fn served(&self, generation: u32) {
        if self.about(generation).is_some_and(|one| one.since.is_some() && one.until.is_none()) {
            self.note(generation, Note::Until(unix_ms(SystemTime::now())));
        }
    }

    /// Its drain is over.
    pub(crate) fn has_drained(&self, generation: u32) {
        if let Some(until) = self.about(generation).and_then(|one| one.until) {
            self.note(generation, Note::Drained(unix_ms(SystemTime::now()).saturating_sub(until)));
        }
    }

    /// Notes what another process has written of a generation, or of a connection that it has closed.
    pub(crate) fn read_history(&self, line: &str) {
        match line.strip_prefix(CLOSE) {
            Some(close) => self.counters.last_closes.read(close),
            None => lock(&self.history).read(line),
        }
    }

    /// Lines about the connections that were closed since the successor got the records; what would be too much for one
    /// reading of its channel is left out.
    pub(crate) fn lines_about_closes(&self) -> Vec<String> {
        let mut room = MESSAGES_BYTES;
        let lines = self.counters.last_closes.pass_rest().into_iter().map(|close| format!("{CLOSE}{close}"));
        lines.take_while(|line| room.checked_sub(line.len()).inspect(|left| room = *left).is_some()).collect()
    }

    /// What is known of all generations, as lines.
    pub(crate) fn lines_about_all(&self) -> String {
        lock(&self.history).generations().map(Generation::to_string).collect()
    }

    /// What is known of a generation now, as lines.
    pub(crate) fn lines_about(&self, generation: u32) -> Vec<String> {
        let found = self.about(generation);
        found.map(|one| one.to_string().lines().map(str::to_owned).collect()).unwrap_or_default()
    }

    /// The program's version in a generation, if it says it.
    pub(crate) fn version_of(&self, generation: u32) -> Option<String> {
        self.about(generation)?.version
    }

    fn about(&self, generation: u32) -> Option<Generation> {
        lock(&self.history).generations().find(|one| one.number == generation).cloned()
    }

    /// When a sample is to be taken. None if nobody wants any.
    pub(crate) fn sample_due(&self, now: Instant) -> Option<Instant> {
        self.counters.requests.is_wanted().then(|| lock(&self.recent).due().unwrap_or(now))
    }

    /// Takes a sample, if it is time for one.
    pub(crate) fn sample(&self, now: Instant) {
        if self.sample_due(now).is_none_or(|due| due > now) {
            return;
        }
        let stats = self.counters.totals();
        let point = Point { at: now, requests: stats.requests, errors: errors(&stats) };
        let closes = stats.closes_by_reason();
        lock(&self.recent).add(point, || {
            let totals = self.counters.requests.totals();
            self.counters.requests.forget_longest();
            Minute { totals, closes }
        });
    }

    /// All of it, for a successor. Its counts are sent with that.
    pub(crate) fn pass_on(&self) -> String {
        let mut text = String::new();
        for (name, n) in self.counters.send_all() {
            let _ = writeln!(text, "count {name}={n}");
        }
        for generation in lock(&self.history).generations() {
            for line in generation.to_string().lines() {
                let _ = writeln!(text, "history {line}");
            }
        }
        for close in self.counters.last_closes.pass_all() {
            let _ = writeln!(text, "{CLOSE}{close}");
        }
        lock(&self.recent).write(Instant::now(), &mut text);
        text
    }

    /// Takes over what the predecessor has passed on. What this version does not know is skipped.
    pub(crate) fn inherit(&self, text: &str) {
        let now = Instant::now();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("count", count)) => {
                    let count =
                        count.rsplit_once('=').and_then(|(name, n)| Some((name.to_owned(), n.parse().ok()?)));
                    self.counters.inherit(count.into_iter().collect());
                }
                Some(("history", line)) => lock(&self.history).read(line),
                Some(("close", line)) => self.counters.last_closes.read(line),
                _ => lock(&self.recent).read(line, now),
            }
        }
    }
}

/// Responses of the class 5xx.
pub(crate) fn errors(stats: &Stats) -> u64 {
    let [.., errors] = stats.responses;
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_knows_the_past() {
        let (before, after) = (Records::default(), Records::default());
        before.counters.requests.want();
        let counters = before.counters.register();
        counters.accepted();
        counters.response(503);
        before.begins(1, Some("1.2".to_owned()));
        before.serves(1);
        before.served(1);
        before.has_drained(1);
        assert_eq!(before.lines_about(1).len(), 1);
        before.sample(Instant::now());
        before.sample(Instant::now());
        assert_eq!(before.recent().points().count(), 1, "the next one is due in ten seconds");

        after.inherit(&before.pass_on());
        after.inherit("colour blue\ncount requests=x\n\n");
        let stats = after.counters.totals();
        assert_eq!((stats.accepted, stats.requests, errors(&stats)), (1, 1, 1));
        assert_eq!(after.history(), before.history());
        assert_eq!(after.recent().points().map(|point| point.requests).collect::<Vec<_>>(), [1]);

        // What is counted from then on is sent later.
        counters.response(200);
        let mut news = before.counters.unsent();
        news.sort();
        assert_eq!(news, [("requests".to_owned(), 1), ("responses.2xx".to_owned(), 1)]);
        before.counters.mark_sent(&news);
        assert_eq!(before.counters.unsent(), []);
        before.counters.send_all_anew();
        assert_eq!(before.counters.unsent().len(), 4, "for another successor, which knows nothing");
    }
}
