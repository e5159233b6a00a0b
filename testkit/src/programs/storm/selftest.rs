//! A small server that commits each fault storm has a name for, and the demand that each is counted
//! where it belongs, and nowhere else. An instrument that can't see a fault is worthless.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
};
use testkit::{Addr, Pid, beside};

use super::asking::{Mode, Pauses, Sizes};
use super::client::Client;
use super::halt::{Clock, Halt};
use super::herd::Herd;
use super::socket::Way;
use super::tally::{End, Outcome, Tally};
use super::tls::Secrecy;

mod bad;
mod hostile;
mod streams;

use bad::{Bad, Fault};

/// How often each fault is committed.
const TIMES: u64 = 3;
/// How long a client waits for an answer that never arrives; all others arrive long before.
const PATIENCE: Duration = Duration::from_secs(3);

/// Short, so that a case takes no longer than necessary.
const SHORT: Pauses = Pauses {
    think: Duration::ZERO,
    away: Duration::ZERO,
    idle: [Duration::from_millis(1), Duration::from_millis(20)],
    before_first: Duration::from_millis(20),
    one_way: Duration::from_millis(1),
    signal: Duration::from_millis(1),
};

/// A pause in which the bad server has acted before the check.
const SEEN: [Duration; 2] = [Duration::from_millis(800); 2];

/// The client checks before an end that is 200 ms after the answer, and sends the request after it; and the number of
/// requests.
const LATE_END: ([Duration; 2], Duration, u64) =
    ([Duration::from_millis(20); 2], Duration::from_millis(600), 7);

/// The action of storm itself meanwhile, real or only reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Excuse {
    None,
    /// A signal, before the first connection.
    Signal,
    /// A stop, from before the first connection on.
    Stop,
    /// A handover whose successor will be killed, and was not yet.
    Probation,
    /// It was killed.
    Crash,
    /// It was, and was gone before any connection was made.
    CrashBefore,
}

/// The count that one fault must produce.
#[derive(Clone, Debug)]
struct Case {
    name: String,
    mode: Mode,
    fault: Fault,
    /// The request of a connection, counted from 0, at which it is committed.
    at: u64,
    clients: u64,
    requests: u64,
    pauses: Pauses,
    excuse: Excuse,
    /// The client speaks TLS, which the bad server does not.
    by_tls: bool,
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
            // Its connections are short, and few of them come to the request that counts.
            requests: if mode == Mode::Preconnect { 60 } else { depth * 12 },
            pauses: SHORT,
            excuse: Excuse::None,
            by_tls: false,
            outcomes: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// The number of requests with this outcome.
    fn outcome(mut self, outcome: Outcome, n: u64) -> Case {
        self.outcomes.push((outcome, n));
        self
    }

    /// The number of connections with this end.
    fn end(mut self, end: End, n: u64) -> Case {
        self.ends.push((end, n));
        self
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in Mode::ALL.into_iter().filter(|mode| !mode.streams()) {
        let depth = mode.depth() as u64;
        // Everything after the requests that were sent at once is lost.
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
        if mode == Mode::Preconnect {
            each(1);
        }
        if !mode.leaves() {
            each(2 * depth);
            let announced = Case::new(mode, Fault::Announce, 2 * depth - 1);
            cases.push(announced.end(End::Announced, TIMES));
        }
        cases.push(refused(mode));
    }
    let keepalive = |fault| Case::new(Mode::Keepalive, fault, 2);
    // Noticed in the idle time; a client that sends at once notices it by the loss of its request.
    let mut silent = keepalive(Fault::SilentClose).end(End::Silent, TIMES);
    silent.pauses.think = Duration::from_millis(20);
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
    cases.extend(races());
    cases.extend(excuses());
    cases.extend(streams::cases());
    cases
}

/// Ends that come between two requests: before the look at the connection, and after it.
fn races() -> Vec<Case> {
    let idle = |fault| {
        let mut case = Case::new(Mode::Idle, fault, 0);
        (case.pauses.idle, case.pauses.one_way, case.requests) = LATE_END;
        case
    };
    let seen = |fault, end| {
        let mut case = idle(fault).end(end, TIMES);
        (case.pauses.idle, case.pauses.one_way) = (SEEN, SHORT.one_way);
        case
    };
    let early = |fault, wait: [u64; 2]| {
        let mut case = Case::new(Mode::Preconnect, fault, 0);
        case.requests = 6;
        let [before_first, one_way] = wait.map(Duration::from_millis);
        (case.pauses.before_first, case.pauses.one_way) = (before_first, one_way);
        case
    };
    vec![
        idle(Fault::LateClose).outcome(Outcome::Cut, TIMES).end(End::Lost, TIMES),
        idle(Fault::LateReset).outcome(Outcome::Reset, TIMES).end(End::Lost, TIMES),
        seen(Fault::LateClose, End::Silent),
        seen(Fault::LateReset, End::Silent),
        seen(Fault::SilentClose, End::Silent),
        seen(Fault::Twice, End::Stray),
        early(Fault::NeverReads, [0, 600]).outcome(Outcome::Cut, TIMES).end(End::Lost, TIMES),
        early(Fault::NeverReadsReset, [0, 600]).outcome(Outcome::Reset, TIMES).end(End::Lost, TIMES),
    ]
}

/// Losses that storm has caused itself are counted separately; similar ones that it has not caused are not.
fn excuses() -> Vec<Case> {
    let case = |excuse, mode, fault| {
        let mut case = Case::new(mode, fault, if mode == Mode::Idle { 0 } else { 2 });
        case.name = format!("{excuse:?}: {}", case.name);
        case.excuse = excuse;
        case
    };
    let keepalive = |excuse, fault| case(excuse, Mode::Keepalive, fault);
    let idle = |excuse, fault| {
        let mut case = case(excuse, Mode::Idle, fault);
        (case.pauses.idle, case.requests) = (SEEN, 5);
        case
    };
    let refused = |excuse, outcome| {
        let mut case = keepalive(excuse, Fault::Refuse).outcome(outcome, 5);
        (case.at, case.requests) = (0, 5);
        case
    };
    let lost =
        |excuse, fault, outcome| keepalive(excuse, fault).outcome(outcome, TIMES).end(End::Lost, TIMES);
    let crossed = |excuse, fault, outcome| {
        let mut case = case(excuse, Mode::Idle, fault).outcome(outcome, TIMES).end(End::Lost, TIMES);
        (case.pauses.idle, case.pauses.one_way, case.requests) = LATE_END;
        case
    };
    let in_handshake = |excuse, outcome| {
        let mut case = keepalive(excuse, Fault::NeverReads).outcome(outcome, TIMES);
        (case.name, case.at) = (format!("{excuse:?}: an end within a TLS handshake"), 0);
        (case.by_tls, case.requests) = (true, TIMES);
        case
    };
    vec![
        in_handshake(Excuse::None, Outcome::Reset),
        in_handshake(Excuse::Probation, Outcome::Reset),
        in_handshake(Excuse::Crash, Outcome::Crashed),
        in_handshake(Excuse::CrashBefore, Outcome::Reset),
        refused(Excuse::Stop, Outcome::Away),
        refused(Excuse::Crash, Outcome::Refused),
        lost(Excuse::Stop, Fault::Reset, Outcome::Reset),
        lost(Excuse::Stop, Fault::Cut, Outcome::Cut),
        lost(Excuse::Crash, Fault::Reset, Outcome::Crashed),
        lost(Excuse::Crash, Fault::CutWithin, Outcome::Crashed),
        lost(Excuse::Probation, Fault::Reset, Outcome::Reset),
        lost(Excuse::CrashBefore, Fault::Reset, Outcome::Reset),
        lost(Excuse::CrashBefore, Fault::Cut, Outcome::Cut),
        keepalive(Excuse::Crash, Fault::Status).outcome(Outcome::Wrong, TIMES),
        crossed(Excuse::Stop, Fault::LateClose, Outcome::Crossed),
        crossed(Excuse::Stop, Fault::LateReset, Outcome::Reset),
        crossed(Excuse::Stop, Fault::Cut, Outcome::Cut),
        crossed(Excuse::Probation, Fault::LateClose, Outcome::Cut),
        crossed(Excuse::CrashBefore, Fault::LateClose, Outcome::Cut),
        idle(Excuse::Stop, Fault::SilentClose).end(End::Gone, TIMES),
        idle(Excuse::Crash, Fault::SilentClose).end(End::Gone, TIMES),
        idle(Excuse::Probation, Fault::SilentClose).end(End::Silent, TIMES),
        idle(Excuse::CrashBefore, Fault::SilentClose).end(End::Silent, TIMES),
    ]
}

fn refused(mode: Mode) -> Case {
    let mut case = Case::new(mode, Fault::Refuse, 0);
    case.requests = 5;
    case.outcome(Outcome::Refused, 5)
}

/// Commits every fault. What was not counted as it should is the error.
pub(crate) fn run() -> Result<String, String> {
    let cases = cases();
    // Most of their time is waiting.
    let mut running: Vec<_> =
        cases.into_iter().map(|case| (case.name.clone(), beside("case", move || case.run()))).collect();
    running.extend(HERD.map(|(fault, at, outcome, end)| {
        (format!("herd: {fault:?} at {at}"), beside("herd", move || herd_sees(fault, at, outcome, end)))
    }));
    running.extend(hostile::names().map(|(n, name)| (name, beside("hostile", move || hostile::run(n)))));
    let count = running.len();
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

impl Excuse {
    fn set_up(self, clock: &Clock) {
        match self {
            Excuse::None => {}
            Excuse::Signal => clock.mark(),
            Excuse::Stop => {
                clock.stops.open();
                clock.stops.strike();
            }
            Excuse::Probation => clock.crashes.open(),
            Excuse::Crash | Excuse::CrashBefore => {
                clock.crashes.open();
                clock.crashes.strike();
            }
        }
        if self == Excuse::CrashBefore {
            clock.crashes.close();
        }
    }
}

/// What parked connections must see: an end, an end at the last request, and which process answers there.
const HERD: [(Fault, u64, Option<Outcome>, Option<End>); 7] = [
    (Fault::None, 0, None, None),
    (Fault::Reset, 0, Some(Outcome::Reset), Some(End::Lost)),
    (Fault::SilentClose, 0, None, Some(End::Silent)),
    (Fault::Twice, 0, None, Some(End::Stray)),
    (Fault::Announce, 1, None, Some(End::Announced)),
    (Fault::Cut, 1, Some(Outcome::Cut), Some(End::Lost)),
    // Another process answers than should: all of them.
    (Fault::OtherPid, u64::MAX, Some(Outcome::Wrong), None),
];

fn herd_sees(fault: Fault, at: u64, outcome: Option<Outcome>, end: Option<End>) -> Result<(), String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
    let addr = Addr::Tcp(listener.local_addr().map_err(|e| e.to_string())?);
    let bad = Bad::new(fault, at, TIMES);
    let serving = bad.serve(listener);
    let clock = Clock::start();
    let herd = Herd::gather(&[addr], usize::try_from(TIMES).unwrap_or(0) + 1, PATIENCE * 10, &clock);
    let own = Pid::this();
    let pid = if fault == Fault::OtherPid { Pid::from_raw(1) } else { own };
    let sum = herd.call(pid, SEEN[0], &clock);
    bad.stop();
    serving.join().map_err(|_| "the bad server panicked")?;
    let times = if fault == Fault::OtherPid { TIMES + 1 } else { TIMES };
    let expected = |is_it: bool| if is_it { times } else { 0 };
    let mut outcomes = Outcome::ALL[1..].iter();
    let mut ends = End::ALL.into_iter().filter(|of| *of != End::Ours);
    let good = sum.contradiction().is_none()
        && outcomes.all(|of| sum.of(*of) == expected(outcome == Some(*of)))
        && ends.all(|of| sum.ended(of) == expected(end == Some(of)));
    if good { Ok(()) } else { Err(format!("{sum:?}")) }
}

/// A socket with a free address, which does not listen yet.
fn bound() -> nix::Result<(OwnedFd, Addr)> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0))?;
    let own: SockaddrIn = getsockname(fd.as_raw_fd())?;
    Ok((fd, Addr::Tcp((own.ip(), own.port()).into())))
}

fn listening(socket: OwnedFd) -> nix::Result<TcpListener> {
    listen(&socket, Backlog::MAXCONN)?;
    Ok(TcpListener::from(socket))
}

impl Case {
    fn run(&self) -> Result<(), String> {
        let (socket, addr) = bound().map_err(|e| e.to_string())?;
        let most = match self.fault {
            Fault::Never => 1,
            Fault::Swap => 2,
            _ => TIMES,
        };
        let bad = Bad::new(self.fault, self.at, most);
        // An address without a listener stays bound, or another case would get it.
        let (refusing, listener) = match self.fault {
            Fault::Refuse => (Some(socket), None),
            _ => (None, Some(listening(socket).map_err(|e| e.to_string())?)),
        };
        let serving = listener.map(|listener| bad.serve(listener));

        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let tls = if self.by_tls { Some(Secrecy::new(folder.path(), 1)?) } else { None };
        let (halt, clock) = (Arc::new(Halt::default()), Arc::new(Clock::start()));
        self.excuse.set_up(&clock);
        let mut sum = Tally::default();
        let mut threads = Vec::new();
        for number in 1..=self.clients {
            let tally = Arc::new(Mutex::new(Tally::default()));
            let mut client = self.client(number, &addr, &tally, &clock, &halt);
            client.way.tls = tls.clone();
            threads.push((beside("client", move || client.run()), tally));
        }
        for (thread, tally) in threads {
            thread.join().map_err(|_| "a client panicked")?;
            sum.merge(&tally.lock().unwrap_or_else(PoisonError::into_inner));
        }
        bad.stop();
        serving.map_or(Ok(()), |thread| thread.join().map_err(|_| "the bad server panicked"))?;
        drop(refusing);
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
            // An address reserved for documentation: no host has it.
            way.from = Some(Ipv4Addr::new(192, 0, 2, 1));
        }
        Client {
            mode: self.mode,
            number,
            way,
            sizes: Sizes { sleep_ms: 5, big: 100_000, upload: 64_000 },
            pauses: self.pauses.clone(),
            alternates: false,
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
            let fresh = self.at == 0 && !matches!(self.fault, Fault::LateClose | Fault::LateReset);
            let seen = if fresh { sum.on_fresh(outcome) } else { sum.on_reused(outcome) };
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
        for end in [End::Announced, End::Silent, End::Stray, End::Lost, End::Gone] {
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
