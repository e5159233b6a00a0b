//! What became of each generation: how long its start took, when it served, how long it drained, which handovers failed in
//! it. Each process adds what it knows, and passes all of it on to the next one as lines of words.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::base::words::{pairs, value_of};

/// Generations that are remembered, and failures of each.
const GENERATIONS: usize = 50;
const FAILURES: usize = 10;

/// The generations, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    generations: VecDeque<Generation>,
}

/// Times are milliseconds since 1970; None for what is not known yet, or is not known of a process of an earlier version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generation {
    pub(crate) number: u32,
    pub(crate) pid: i32,
    /// The program's version, if it says it.
    pub(crate) version: Option<String>,
    /// How long each step of the handover to it took, in milliseconds.
    pub(crate) steps: Vec<(String, u64)>,
    /// The service was its own from this time on.
    pub(crate) since: Option<u64>,
    /// It handed over or stopped then.
    pub(crate) until: Option<u64>,
    /// How long its drain took, in milliseconds.
    pub(crate) drained: Option<u64>,
    /// How it crashed, at `until`, as its supervisor saw it.
    pub(crate) crash: Option<String>,
    /// The latest failed handovers that it started.
    pub(crate) failures: VecDeque<FailedHandover>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FailedHandover {
    pub(crate) at: u64,
    pub(crate) reason: String,
    pub(crate) steps: Vec<(String, u64)>,
}

/// One thing that is known of a generation, as it passes from process to process.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Note {
    Pid(i32),
    Version(String),
    Step(String, u64),
    Since(u64),
    Until(u64),
    Drained(u64),
    /// At this time, and how.
    Crashed(u64, String),
    Failed(FailedHandover),
}

pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl History {
    /// The oldest first.
    pub(crate) fn generations(&self) -> impl DoubleEndedIterator<Item = &Generation> {
        self.generations.iter()
    }

    /// Notes what is known of a generation.
    pub(crate) fn note(&mut self, number: u32, note: Note) {
        let Some(generation) = self.generation(number) else { return };
        match note {
            Note::Pid(pid) => generation.pid = pid,
            Note::Version(version) => generation.version = Some(version),
            Note::Step(name, ms) => match generation.steps.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = ms,
                None => generation.steps.push((name, ms)),
            },
            Note::Since(at) => generation.since = Some(at),
            Note::Until(at) => generation.until = Some(at),
            Note::Drained(ms) => generation.drained = Some(ms),
            Note::Crashed(at, how) => (generation.until, generation.crash) = (Some(at), Some(how)),
            Note::Failed(failed) => {
                if generation.failures.len() >= FAILURES {
                    generation.failures.pop_front();
                }
                generation.failures.push_back(failed);
            }
        }
    }

    /// Notes what another process wrote. What this version does not know is skipped.
    pub(crate) fn read(&mut self, line: &str) {
        let words = pairs(line);
        let Some((("generation", number), words)) = words.split_first() else { return };
        let Ok(number) = number.parse() else { return };
        for note in notes(words) {
            self.note(number, note);
        }
    }

    /// Lines about the latest generations that are no longer than this together.
    pub(crate) fn latest_lines(&self, bytes: usize) -> Vec<String> {
        let mut room = bytes;
        let mut lines = Vec::new();
        for generation in self.generations.iter().rev() {
            let text = generation.to_string();
            let Some(left) = room.checked_sub(text.len()) else { break };
            room = left;
            lines.extend(text.lines().map(str::to_owned));
        }
        lines
    }

    /// The row of a generation, which is added if there is none. None for one that is forgotten already.
    fn generation(&mut self, number: u32) -> Option<&mut Generation> {
        let mut at = self.generations.partition_point(|one| one.number < number);
        if self.generations.get(at).is_none_or(|one| one.number != number) {
            if self.generations.len() >= GENERATIONS {
                at = at.checked_sub(1)?;
                self.generations.pop_front();
            }
            self.generations.insert(at, Generation { number, ..Generation::default() });
        }
        self.generations.get_mut(at)
    }
}

fn notes(words: &[(&str, &str)]) -> Vec<Note> {
    let number = |value: &str| value.parse::<u64>().ok();
    let steps =
        || words.iter().filter_map(|(key, ms)| Some((key.strip_prefix("step.")?.to_owned(), number(ms)?)));
    let text = |value: &str| percent_decode_str(value).decode_utf8_lossy().into_owned();
    let of = |key: &str| value_of(words, key);
    if let Some(at) = of("failed").and_then(number) {
        let reason = text(of("reason").unwrap_or_default());
        return vec![Note::Failed(FailedHandover { at, reason, steps: steps().collect() })];
    }
    let crashed = of("crashed").and_then(number).zip(of("crash").map(text));
    let crashed = crashed.map(|(at, how)| Note::Crashed(at, how));
    let mut notes = Vec::new();
    for (key, value) in words {
        notes.extend(match *key {
            "pid" => value.parse().ok().map(Note::Pid),
            "version" => Some(Note::Version(text(value))),
            "since" => number(value).map(Note::Since),
            "until" => number(value).map(Note::Until),
            "drained" => number(value).map(Note::Drained),
            _ => None,
        });
    }
    notes.extend(crashed);
    notes.extend(steps().map(|(name, ms)| Note::Step(name, ms)));
    notes
}

/// What a value must not contain, beside what ends a line.
pub(crate) const SPECIAL: &AsciiSet = &CONTROLS.add(b' ').add(b'=').add(b'%');

/// One line about a generation, and one for each of its failed handovers.
impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &str| utf8_percent_encode(text, SPECIAL).to_string();
        let steps = |steps: &[(String, u64)]| -> String {
            steps.iter().map(|(name, ms)| format!(" step.{}={ms}", text(name))).collect()
        };
        write!(f, "generation={} pid={}", self.number, self.pid)?;
        if let Some(version) = &self.version {
            write!(f, " version={}", text(version))?;
        }
        let times = [("since", self.since), ("until", self.until), ("drained", self.drained)];
        for (name, time) in times {
            time.map_or(Ok(()), |time| write!(f, " {name}={time}"))?;
        }
        if let (Some(at), Some(crash)) = (self.until, &self.crash) {
            write!(f, " crashed={at} crash={}", text(crash))?;
        }
        writeln!(f, "{}", steps(&self.steps))?;
        self.failures.iter().try_for_each(|failed| {
            let (reason, steps) = (text(&failed.reason), steps(&failed.steps));
            writeln!(f, "generation={} failed={} reason={reason}{steps}", self.number, failed.at)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> History {
        let mut history = History::default();
        let steps = || vec![("spawn".to_owned(), 3), ("ready".to_owned(), 40)];
        let reason = "can't listen on 127.0.0.1:80: 100 % = \"no\"\nü".to_owned();
        for (number, note) in [
            (2, Note::Pid(901)),
            (1, Note::Pid(812)),
            (1, Note::Version("1.2 beta".to_owned())),
            (1, Note::Since(1_000)),
            (1, Note::Failed(FailedHandover { at: 1_500, reason, steps: steps() })),
            (1, Note::Failed(FailedHandover { at: 1_600, ..FailedHandover::default() })),
            (1, Note::Until(2_000)),
            (1, Note::Drained(70)),
            (2, Note::Step("spawn".to_owned(), 3)),
            (2, Note::Step("spawn".to_owned(), 4)),
            (2, Note::Since(2_000)),
            (2, Note::Crashed(2_500, "was killed by SIGKILL".to_owned())),
        ] {
            history.note(number, note);
        }
        history
    }

    #[test]
    fn a_history_passes_from_process_to_process() {
        let (history, mut copy) = (filled(), History::default());
        let lines: String = history.generations().map(Generation::to_string).collect();
        assert_eq!(lines.lines().count(), 4, "{lines}");
        lines.lines().for_each(|line| copy.read(line));
        assert_eq!(copy, history);
        let numbers: Vec<u32> = copy.generations().map(|one| one.number).collect();
        assert_eq!(
            (numbers, copy.generations[1].steps.as_slice()),
            (vec![1, 2], [("spawn".to_owned(), 4)].as_slice())
        );
    }

    #[test]
    fn the_latest_lines_have_whole_generations() {
        let history = filled();
        let [first, second] = [0, 1].map(|n| history.generations[n].to_string());
        assert_eq!(history.latest_lines(usize::MAX).len(), 4);
        assert_eq!(history.latest_lines(first.len() + second.len() - 1), [second.trim_end()]);
        assert_eq!(history.latest_lines(second.len() - 1), [""; 0]);
    }

    #[test]
    fn unknown_words_are_skipped() {
        let mut history = History::default();
        for line in ["", "colour=blue", "generation=x pid=1", "pid=1 generation=1"] {
            history.read(line);
            assert_eq!(history, History::default(), "{line}");
        }
        history.read("generation=3 colour=blue pid=x since=7 until=");
        assert_eq!((history.generations[0].number, history.generations[0].since), (3, Some(7)));
    }

    #[test]
    fn old_generations_are_forgotten() {
        let mut history = History::default();
        for number in 1..=60 {
            history.note(number, Note::Pid(1));
            for at in 0..12 {
                history.note(number, Note::Failed(FailedHandover { at, ..FailedHandover::default() }));
            }
        }
        history.note(2, Note::Drained(1));
        let numbers: Vec<u32> = history.generations().map(|one| one.number).collect();
        assert_eq!((numbers.len(), numbers[0], numbers[49]), (50, 11, 60));
        assert_eq!((history.generations[0].failures.len(), history.generations[0].failures[0].at), (10, 2));
        assert_eq!(history.generations[0].drained, None, "that was another generation");
    }
}
