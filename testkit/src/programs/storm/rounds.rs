//! The actions on the server while clients send requests: handovers, bad ones, several at once, stops.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use testkit::Addr;

use super::binaries::{Bad, Binaries};
use super::flags::Flags;
use super::halt::{Clock, Halt};
use super::link::Link;
use super::report::Report;
use super::server::{Server, Side};
use super::socket::Way;

/// A handover takes some ten milliseconds and its probation; one that takes this long has failed.
const HANDOVER_WITHIN: Duration = Duration::from_secs(30);
/// A stop takes what the slowest request takes, at most the drain timeout of a minute.
pub(crate) const STOP_WITHIN: Duration = Duration::from_secs(75);
/// The load continues for this long before the first round and after the last, to see late effects.
pub(crate) const AROUND: Duration = Duration::from_millis(500);
/// The load is compared, near signals and far from them, in so many parts.
pub(crate) const PARTS: usize = 10;
/// The milliseconds from the commit to a kill: connections move within some of them.
const KILLED_AFTER: [u64; 8] = [0, 1, 2, 3, 5, 8, 13, 30];
/// The prober connects from addresses that no client has.
const PROBERS: usize = 50_000;

pub(crate) struct Rounds<'a> {
    pub(crate) flags: &'a Flags,
    pub(crate) server: &'a Arc<Server>,
    /// How it is started again.
    pub(crate) binaries: &'a Binaries,
    pub(crate) args: Vec<String>,
    pub(crate) clock: &'a Clock,
    pub(crate) deadline: Instant,
    pub(crate) report: &'a mut Report,
    /// No client calls this address: it is only waited for.
    pub(crate) quiet: Halt,
}

impl Rounds<'_> {
    /// The part with the load: all rounds, or a time without any.
    pub(crate) fn run(&mut self) {
        self.pause(self.flags.pause.max(AROUND));
        if self.flags.handovers == 0 {
            self.pause(self.flags.seconds);
        }
        for n in 0..self.flags.handovers {
            if self.deadline <= Instant::now() {
                self.report.problems.push(format!("out of time after {n} rounds"));
                return;
            }
            self.clock.set_part(n as usize * PARTS / self.flags.handovers as usize);
            self.report.under_load.push(self.server.holdings());
            if let Err(problem) = self.round(n) {
                self.report.problems.push(problem);
                return;
            }
            self.pause(self.flags.pause);
        }
        self.pause(AROUND);
    }

    pub(crate) fn pause(&self, pause: Duration) {
        self.quiet.pause(pause.min(self.deadline.saturating_duration_since(Instant::now())));
    }

    /// The deadline of something that takes at most so long.
    fn within(&self, most: Duration) -> Instant {
        self.deadline.min(Instant::now() + most)
    }

    fn round(&mut self, n: u32) -> Result<(), String> {
        self.binaries.alternate().map_err(|e| format!("no copy: {e}"))?;
        if self.flags.stops {
            return self.stop_and_start();
        }
        if self.flags.kills {
            return self.kill_and_start(n);
        }
        if self.flags.bad_binaries {
            // Without a probation no successor dies on it.
            let kinds = Bad::ALL.len() - usize::from(self.flags.probation_ms == 0);
            let bad = Bad::ALL[n as usize % kinds];
            self.fail_to_hand_over(bad).map_err(|problem| format!("{}: {problem}", bad.name()))?;
            self.pause(self.flags.pause);
        }
        self.hand_over(n)
    }

    pub(crate) fn hand_over(&mut self, n: u32) -> Result<(), String> {
        let (addr, old) = (self.server.addrs().swap_remove(0), self.server.serving());
        let (moved, deadline) = (self.server.departures().len(), self.within(HANDOVER_WITHIN));
        let (over, first, problem) = (Halt::default(), Mutex::new(None), Mutex::new(None));
        self.clock.mark();
        let begin = Instant::now();
        let handed = std::thread::scope(|scope| {
            scope.spawn(|| match first_answer(&addr, PROBERS + n as usize % 500, old, &over) {
                Ok(at) => *held(&first) = at,
                Err(what) => *held(&problem) = Some(what),
            });
            let handed = self.server.hand_over(deadline, self.flags.hups_at_once, &self.quiet);
            if handed.is_err() {
                over.call();
            }
            handed
        });
        self.report.problems.extend(held(&problem).take().map(|what| format!("probe of round {n}: {what}")));
        self.report.handovers.push(handed?);
        self.report.first_answers.extend(held(&first).map(|at| at - begin));
        if self.flags.hups_at_once > 1 {
            self.server.settle(deadline, &self.quiet)?;
        }
        self.report.generations += u64::from(self.server.serving() - old);
        if self.flags.idle_connections > 0 {
            let departed = self.server.departed(moved, deadline)?;
            self.report.moved.push((departed.connections, departed.at.saturating_duration_since(begin)));
        }
        Ok(())
    }

    /// A handover that must come to nothing, at no cost.
    pub(crate) fn fail_to_hand_over(&mut self, bad: Bad) -> Result<(), String> {
        let deadline = self.within(HANDOVER_WITHIN);
        self.binaries.spoil(bad).map_err(|e| e.to_string())?;
        self.clock.mark();
        let failed = match bad {
            Bad::DiesOnProbation => self.server.crash_on_probation(deadline, &self.clock.crashes),
            _ => self.server.refuse(deadline),
        };
        self.binaries.restore().map_err(|e| e.to_string())?;
        self.report.bad.push(bad);
        failed
    }

    /// One of the two processes of a handover is killed while connections move. Without the successor nobody serves: the
    /// predecessor drains.
    fn kill_and_start(&mut self, n: u32) -> Result<(), String> {
        let (side, pause) =
            ([Side::Predecessor, Side::Successor][n as usize % 2], KILLED_AFTER[n as usize / 2 % 8]);
        let deadline = self.within(HANDOVER_WITHIN);
        let (quiet, stops) = (&self.quiet, &self.clock.stops);
        let pause = || {
            quiet.pause(Duration::from_millis(pause));
            if side == Side::Successor {
                stops.open();
                stops.strike();
            }
        };
        self.clock.mark();
        let begin = Instant::now();
        let serves = self.server.kill_in_handover(side, deadline, &self.clock.kills, pause)?;
        self.report.handovers.push(begin.elapsed());
        if !serves {
            self.server.stop(self.within(STOP_WITHIN))?;
            let started = self.server.start_again(self.binaries.path(), &self.args, self.deadline);
            self.clock.stops.close();
            started?;
        }
        self.clock.kills.close();
        Ok(())
    }

    fn stop_and_start(&mut self) -> Result<(), String> {
        self.clock.mark();
        self.clock.stops.open();
        self.clock.stops.strike();
        let begin = Instant::now();
        self.server.stop(self.within(STOP_WITHIN))?;
        self.report.stops.push(begin.elapsed());
        let started = self.server.start_again(self.binaries.path(), &self.args, self.deadline);
        self.clock.stops.close();
        started
    }
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks, on a new connection each time, until a later generation than `old` answers: when it has.
fn first_answer(addr: &Addr, number: usize, old: u32, over: &Halt) -> Result<Option<Instant>, String> {
    let way = Way::new(addr.clone(), number, Duration::from_secs(10));
    while !over.is_called() {
        if generation(&way)? > old {
            return Ok(Some(Instant::now()));
        }
    }
    Ok(None)
}

/// The generation that answers on a new connection.
pub(crate) fn generation(way: &Way) -> Result<u32, String> {
    let halt = Halt::default();
    let mut link = Link::open(way, None).map_err(|e| format!("connect: {e}"))?;
    let asked = b"GET /generation HTTP/1.1\r\nHost: storm\r\nConnection: close\r\n\r\n";
    link.send(asked, usize::MAX, Duration::ZERO, &halt);
    let answer = link.answer(&halt).map_err(|loss| format!("{}: {}", loss.outcome.name(), loss.detail))?;
    let text = String::from_utf8_lossy(&answer.body);
    text.parse().map_err(|_| format!("answered {} with {text:?}", answer.status))
}
