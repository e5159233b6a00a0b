//! A small server that commits each fault storm has a name for, and the demand that each is counted
//! where it belongs, and nowhere else. An instrument that can't see a fault is worthless.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use testkit::{Addr, beside};

use super::asking::{Mode, Sizes};
use super::client::Client;
use super::halt::{Clock, Halt};
use super::socket::Way;
use super::tally::{End, Outcome, Tally};

mod bad;

use bad::{Bad, Fault};

/// So often each fault is committed.
const TIMES: u64 = 3;
/// How long a client waits for the answer that never comes; all others come long before.
const PATIENCE: Duration = Duration::from_secs(3);

/// What one fault must be counted as.
#[derive(Clone, Debug)]
struct Case {
    name: String,
    mode: Mode,
    fault: Fault,
    /// The request of a connection, counted from 0, at which it is committed.
    at: u64,
    clients: u64,
    requests: u64,
    think: Duration,
    outcomes: Vec<(Outcome, u64)>,
    ends: Vec<(End, u64)>,
}

impl Case {
    fn new(mode: Mode, fault: Fault, at: u64) -> Case {
        let depth = mode.depth() as u64;
        Case {
            name: format!("{}: {fault:?} at request {at} of a connection", mode.name()),
            mode,
            fault,
            at,
            clients: 1,
            requests: depth * 12,
            think: Duration::ZERO,
            outcomes: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// So many requests come to this.
    fn outcome(mut self, outcome: Outcome, n: u64) -> Case {
        self.outcomes.push((outcome, n));
        self
    }

    /// So many connections end so.
    fn end(mut self, end: End, n: u64) -> Case {
        self.ends.push((end, n));
        self
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in Mode::ALL {
        let depth = mode.depth() as u64;
        // With what was sent at once, all that follows is lost.
        let lost = TIMES * depth;
        cases.push(Case::new(mode, Fault::None, 0));
        let mut each = |at: u64| {
            let case = |fault| Case::new(mode, fault, at);
            cases.push(case(Fault::Reset).outcome(Outcome::Reset, lost).end(End::Lost, TIMES));
            cases.push(case(Fault::ResetWithin).outcome(Outcome::Reset, lost).end(End::Lost, TIMES));
            cases.push(case(Fault::Cut).outcome(Outcome::Cut, lost).end(End::Lost, TIMES));
            cases.push(case(Fault::CutWithin).outcome(Outcome::Cut, lost).end(End::Lost, TIMES));
            cases.push(case(Fault::Status).outcome(Outcome::Wrong, TIMES));
            cases.push(case(Fault::Never).outcome(Outcome::Timeout, depth).end(End::Lost, 1));
        };
        each(0);
        if mode != Mode::Close {
            each(2 * depth);
            let announced = Case::new(mode, Fault::Announce, 2 * depth - 1);
            cases.push(announced.end(End::Announced, TIMES));
        }
        cases.push(refused(mode));
    }
    let keepalive = |fault| Case::new(Mode::Keepalive, fault, 2);
    // Seen in the idle time; and by who sends at once, at the price of the request.
    let mut silent = keepalive(Fault::SilentClose).end(End::Silent, TIMES);
    silent.think = Duration::from_millis(20);
    cases.push(silent);
    cases.push(keepalive(Fault::SilentClose).outcome(Outcome::Cut, TIMES).end(End::Lost, TIMES));
    cases.push(keepalive(Fault::Twice).end(End::Stray, TIMES));
    cases.push(Case::new(Mode::Close, Fault::Twice, 0).end(End::Stray, TIMES));
    cases.push(keepalive(Fault::Former).outcome(Outcome::Wrong, TIMES));
    let mut swapped = keepalive(Fault::Swap).outcome(Outcome::Wrong, 2);
    swapped.clients = 2;
    cases.push(swapped);
    // The fourth of the second eight is the last to be answered.
    let dismissed = Case::new(Mode::Pipelined, Fault::Announce, 11).outcome(Outcome::Dismissed, TIMES * 4);
    cases.push(dismissed.end(End::Announced, TIMES));
    let mut limit = keepalive(Fault::OwnLimit);
    limit.outcomes.push((Outcome::OwnLimit, limit.requests));
    cases.push(limit);
    cases
}

fn refused(mode: Mode) -> Case {
    let mut case = Case::new(mode, Fault::Refuse, 0);
    case.requests = 5;
    case.outcome(Outcome::Refused, 5)
}

/// Commits every fault. What was not counted as it should is the error.
pub(crate) fn run() -> Result<String, String> {
    let cases = cases();
    let count = cases.len();
    // Most of their time is waiting.
    let running: Vec<_> =
        cases.into_iter().map(|case| (case.name.clone(), beside("case", move || case.run()))).collect();
    let mut faults = String::new();
    for (name, case) in running {
        if let Err(problem) = case.join().unwrap_or_else(|_| Err("panicked".to_owned())) {
            let _ = writeln!(faults, "{name}: {problem}");
        }
    }
    match faults.as_str() {
        "" => Ok(format!("{{\"selftest\":\"good\",\"cases\":{count}}}")),
        _ => Err(format!("the selftest failed:\n{faults}")),
    }
}

impl Case {
    fn run(&self) -> Result<(), String> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
        let addr = Addr::Tcp(listener.local_addr().map_err(|e| e.to_string())?);
        let most = match self.fault {
            Fault::Never => 1,
            Fault::Swap => 2,
            _ => TIMES,
        };
        let bad = Bad::new(self.fault, self.at, most);
        let serving = (self.fault != Fault::Refuse).then(|| bad.serve(listener));

        let (halt, clock) = (Arc::new(Halt::default()), Arc::new(Clock::start()));
        let mut sum = Tally::default();
        let mut threads = Vec::new();
        for number in 1..=self.clients {
            let tally = Arc::new(Mutex::new(Tally::default()));
            let client = self.client(number, &addr, &tally, &clock, &halt);
            threads.push((beside("client", move || client.run()), tally));
        }
        for (thread, tally) in threads {
            thread.join().map_err(|_| "a client panicked")?;
            sum.merge(&tally.lock().unwrap_or_else(PoisonError::into_inner));
        }
        bad.stop();
        serving.map_or(Ok(()), |thread| thread.join().map_err(|_| "the bad server panicked"))?;
        self.judge(&sum, bad.committed(), most)
    }

    fn client(
        &self,
        number: u64,
        addr: &Addr,
        tally: &Arc<Mutex<Tally>>,
        clock: &Arc<Clock>,
        halt: &Arc<Halt>,
    ) -> Client {
        let patience = if self.fault == Fault::Never { PATIENCE } else { PATIENCE * 10 };
        let mut way = Way::new(addr.clone(), usize::try_from(number).unwrap_or(0), patience);
        way.room = self.mode.room();
        if self.fault == Fault::OwnLimit {
            // An address for documentation: nobody has it.
            way.from = Some(Ipv4Addr::new(192, 0, 2, 1));
        }
        Client {
            mode: self.mode,
            number,
            way,
            sizes: Sizes { sleep_ms: 5, big: 100_000, upload: 64_000 },
            think: self.think,
            budget: Some(self.requests),
            tally: Arc::clone(tally),
            clock: Arc::clone(clock),
            halt: Arc::clone(halt),
        }
    }

    fn judge(&self, sum: &Tally, committed: u64, most: u64) -> Result<(), String> {
        if let Some(contradiction) = sum.contradiction() {
            return Err(contradiction);
        }
        let by_us = matches!(self.fault, Fault::None | Fault::Refuse | Fault::OwnLimit);
        if !by_us && committed != most {
            return Err(format!("{committed} of {most} faults were committed"));
        }
        let expected = |of: Outcome| self.outcomes.iter().find(|(it, _)| *it == of).map_or(0, |(_, n)| *n);
        for outcome in Outcome::ALL.into_iter().filter(|outcome| *outcome != Outcome::Ok) {
            // A fault at a connection's first request is one on a fresh connection.
            let seen = if self.at == 0 { sum.on_fresh(outcome) } else { sum.on_reused(outcome) };
            let seen = if self.fault == Fault::OwnLimit { sum.of(outcome) } else { seen };
            if seen != expected(outcome) || sum.of(outcome) != seen {
                let (fresh, reused) = (sum.on_fresh(outcome), sum.on_reused(outcome));
                let name = outcome.name();
                return Err(format!(
                    "{name}: {} expected, {fresh} fresh, {reused} reused",
                    expected(outcome)
                ));
            }
        }
        let expected = |of: End| self.ends.iter().find(|(it, _)| *it == of).map_or(0, |(_, n)| *n);
        for end in [End::Announced, End::Silent, End::Stray, End::Lost] {
            if sum.ended(end) != expected(end) {
                return Err(format!("{}: {} expected, {}", end.name(), expected(end), sum.ended(end)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_known_fault_is_counted_exactly() {
        if let Err(faults) = super::run() {
            panic!("{faults}");
        }
    }
}
