//! A soak: clients of all modes on plain, unix and TLS listeners at once, hostile clients, an upgrade every 5 s, a bad
//! program every minute, and now and then a successor that is killed on probation, for minutes or hours. Nothing may be
//! lost, and nothing may grow.

mod hostile;
mod pages;
mod plot;
mod timeline;
mod trend;
mod vitals;

pub(crate) use hostile::{Attack, Counts, Got, Kind, faults};

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::asking::Mode;
use super::binaries::Bad;
use super::halt::{Clock, Halt};
use super::report::Report;
use super::rounds::{AROUND, PARTS, Rounds};
use super::server::Server;
use super::socket::Way;
use super::tally::Tally;
use timeline::Timeline;
use trend::Trend;
use vitals::{Quantity, Vitals};

const UPGRADE_EVERY: Duration = Duration::from_secs(5);
/// Of the upgrades: the bad program comes first.
const BAD_EVERY: u32 = 12;
const CRASH_EVERY: u32 = 36;
/// The first of each, so that a short soak has both.
const FIRST_BAD: u32 = 2;
const FIRST_CRASH: u32 = 4;
/// A generation is looked at so long after it has become the one that serves.
const AGE: Duration = Duration::from_millis(2500);
/// More failed rounds are not waited for.
const MOST_PROBLEMS: u32 = 3;

/// Clients of each mode: a third of them each by TCP, by a unix socket and by TLS.
pub(crate) const CLIENTS: [(Mode, usize); Mode::ALL.len()] = [
    (Mode::Keepalive, 12),
    (Mode::Close, 6),
    (Mode::Pipelined, 3),
    (Mode::Slow, 6),
    (Mode::Upload, 3),
    (Mode::Reader, 3),
    (Mode::Stream, 3),
    (Mode::Idle, 30),
    (Mode::Preconnect, 12),
    (Mode::Halves, 6),
    (Mode::Rekey, 6),
    (Mode::WebSocket, 9),
    (Mode::Events, 9),
];
/// Between two requests of a client.
pub(crate) const THINK: Duration = Duration::from_millis(250);
pub(crate) const PROBATION_MS: u64 = 1000;

/// What the server gets besides its listeners: limits that hostile clients reach soon, and a grace that the idle clients
/// with TLS don't reach, so that each of their closes is announced.
pub(crate) const SERVER_FLAGS: [&str; 6] =
    ["--ready-timeout-ms", "5000", "--head-timeout-ms", "5000", "--idle-grace-ms", "10000"];

#[derive(Debug)]
pub(crate) struct Soak {
    length: Duration,
    probation: Duration,
    /// What the server keeps its files in.
    folder: PathBuf,
    server: Arc<Server>,
    vitals: Vec<Vitals>,
    handovers: Vec<Handover>,
    timeline: Timeline,
    counts: Arc<Mutex<Counts>>,
    attackers: Vec<JoinHandle<()>>,
}

/// When it began, and the times from the signal.
#[derive(Debug)]
struct Handover {
    at: Duration,
    to_commit: Duration,
    to_first_answer: Option<Duration>,
}

impl Soak {
    /// Starts the hostile clients, and counts what the others do.
    pub(crate) fn start(
        [length, probation]: [Duration; 2],
        folder: PathBuf,
        server: &Arc<Server>,
        ways: &[Way],
        tallies: Vec<(Mode, Arc<Mutex<Tally>>)>,
        (clock, halt): (&Arc<Clock>, &Arc<Halt>),
    ) -> Soak {
        let counts = Arc::new(Mutex::new(Counts::new()));
        Soak {
            length,
            probation,
            folder,
            server: Arc::clone(server),
            vitals: Vec::new(),
            handovers: Vec::new(),
            timeline: Timeline::start(length, tallies, clock),
            attackers: hostile::start(ways, &counts, clock, halt),
            counts,
        }
    }

    /// The rounds, until the time is over.
    pub(crate) fn run(&mut self, rounds: &mut Rounds<'_>) {
        rounds.pause(AROUND);
        let (begin, mut problems) = (Instant::now(), 0);
        let mut next = begin;
        for n in 0.. {
            rounds.pause(next.saturating_duration_since(Instant::now()));
            let passed = begin.elapsed();
            if passed >= self.length || Instant::now() >= rounds.deadline {
                break;
            }
            rounds.clock.set_part(part_of(passed, self.length));
            if let Err(problem) = self.round(n, rounds) {
                let at = rounds.clock.began().elapsed().as_secs_f64();
                rounds.report.problems.push(format!("upgrade {n} at {at:.1} s: {problem}"));
                problems += 1;
                if problems == MOST_PROBLEMS {
                    break;
                }
            }
            next = Instant::now().max(next + UPGRADE_EVERY);
        }
        rounds.pause(AROUND);
    }

    fn round(&mut self, n: u32, rounds: &mut Rounds<'_>) -> Result<(), String> {
        rounds.report.handovers_asked += 1;
        if let Some(bad) = bad_before(n) {
            rounds.fail_to_hand_over(bad).map_err(|problem| format!("{}: {problem}", bad.name()))?;
            rounds.pause(Duration::from_millis(100));
        }
        let begin = rounds.clock.began().elapsed();
        let seen = rounds.report.first_answers.len();
        rounds.hand_over(n)?;
        self.handovers.push(Handover {
            at: begin,
            to_commit: rounds.report.handovers.last().copied().unwrap_or_default(),
            to_first_answer: rounds.report.first_answers.get(seen).copied(),
        });
        rounds.pause(AGE);
        rounds.report.under_load.push(self.server.holdings());
        let addr = self.server.addrs().swap_remove(0);
        let at = rounds.clock.began().elapsed();
        self.vitals.extend(Vitals::take(&self.server, &addr, &self.folder, at));
        Ok(())
    }

    /// Waits for the hostile clients and adds what has gone wrong to the report.
    pub(crate) fn end(&mut self, report: &mut Report) {
        for attacker in self.attackers.drain(..) {
            if attacker.join().is_err() {
                report.problems.push("a hostile client panicked".to_owned());
            }
        }
        self.timeline.end();
        report.problems.extend(faults(&self.counts()));
        for (quantity, trend) in self.trends() {
            if let Some(trend) = trend.filter(|trend| trend.grows) {
                let [first, last] = trend.peaks;
                report.problems.push(format!(
                    "{} grow: median {}, {:+.1} over the run, highest at first {first}, at last {last}",
                    quantity.name(),
                    trend.median,
                    trend.growth
                ));
            }
        }
    }

    fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Of all quantities that were seen; None: not often enough.
    fn trends(&self) -> Vec<(Quantity, Option<Trend>)> {
        let trend = |quantity: Quantity| {
            let settled = self.vitals.iter().filter(|vitals| vitals.generation >= quantity.settles());
            let samples: Vec<(f64, f64)> =
                settled.filter_map(|vitals| Some((vitals.at.as_secs_f64(), vitals.of(quantity)?))).collect();
            trend::judge(&samples, quantity.bound())
        };
        let is_seen = |quantity: &Quantity| self.vitals.iter().any(|vitals| vitals.of(*quantity).is_some());
        Quantity::ALL.into_iter().filter(is_seen).map(|quantity| (quantity, trend(quantity))).collect()
    }

    /// Writes tables and plots.
    pub(crate) fn write(&self, folder: &std::path::Path, report: &Report) -> std::io::Result<()> {
        pages::write(self, folder, report)
    }
}

/// The failed handover before upgrade `n`.
fn bad_before(n: u32) -> Option<Bad> {
    let turn = |n: u32, every: u32, first: u32| (n % every == first).then_some(n / every);
    if turn(n, CRASH_EVERY, FIRST_CRASH).is_some() {
        return Some(Bad::DiesOnProbation);
    }
    let kinds: Vec<Bad> = Bad::ALL.into_iter().filter(|bad| *bad != Bad::DiesOnProbation).collect();
    turn(n, BAD_EVERY, FIRST_BAD).map(|turn| kinds[turn as usize % kinds.len()])
}

fn part_of(passed: Duration, length: Duration) -> usize {
    let parts = u32::try_from(PARTS).unwrap_or(1);
    let done = passed * parts;
    usize::try_from(done.as_nanos() / length.as_nanos().max(1)).unwrap_or(0).min(PARTS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_has_every_failure_several_times() {
        let bads: Vec<Bad> = (0..720).filter_map(bad_before).collect();
        let count = |bad| bads.iter().filter(|other| **other == bad).count();
        assert_eq!(count(Bad::DiesOnProbation), 20);
        for bad in Bad::ALL {
            assert!(count(bad) >= 8, "{bad:?}");
        }
        assert_eq!((bad_before(0), bad_before(1)), (None, None));
        // Half a minute.
        assert_eq!((0..6).filter_map(bad_before).count(), 2);
    }

    #[test]
    fn the_parts_of_a_run_are_tenths() {
        let part = |ms| part_of(Duration::from_millis(ms), Duration::from_secs(10));
        assert_eq!([0, 999, 1000, 9999, 20_000].map(part), [0, 0, 1, 9, 9]);
    }
}
