//! Thousands of connections on which nothing is asked: once at their beginning, and once at the end.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use testkit::{Addr, Pid};

use super::halt::{Clock, Halt};
use super::link::{Idle, Link};
use super::socket::{Way, not_connected};
use super::tally::{End, Failure, Outcome, Tally};

/// The name in the table.
pub(crate) const NAME: &str = "herd";
/// The other descriptors that storm needs.
const OTHERS: u64 = 1000;

#[derive(Debug)]
pub(crate) struct Herd {
    links: Vec<Link>,
    tally: Tally,
}

impl Herd {
    /// Opens `count` connections, and asks once on each, so that they are kept for their next request.
    pub(crate) fn gather(addrs: &[Addr], count: usize, patience: Duration, clock: &Clock) -> Herd {
        let mut herd = Herd { links: Vec::with_capacity(count), tally: Tally::default() };
        for n in 0..count {
            // A few hundred from each address: more ports than enough, and addresses.
            let way = Way::new(addrs[n % addrs.len()].clone(), n / 200, patience);
            herd.tally.tried += 1;
            match Link::open(&way, None) {
                Ok(link) => {
                    herd.tally.connected += 1;
                    herd.ask(link, None, clock);
                }
                Err(errno) => {
                    let outcome = not_connected(errno);
                    herd.tally.requests += 1;
                    herd.tally.outcome(outcome, false);
                    herd.note_failure(clock, outcome.name(), 0, format!("connect: {errno}"));
                }
            }
        }
        herd
    }

    /// Looks at each for so long, and asks it once more: all must live, and be served by `pid`.
    pub(crate) fn call(mut self, pid: Pid, look: Duration, clock: &Clock) -> Tally {
        for mut link in std::mem::take(&mut self.links) {
            let end = match link.idle(look) {
                Idle::Quiet => {
                    self.ask(link, Some(pid), clock);
                    continue;
                }
                Idle::Ended | Idle::Reset => End::Silent,
                Idle::Bytes => End::Stray,
            };
            self.tally.end(end);
            self.note_failure(clock, end.name(), link.answers, "found at the last call".to_owned());
        }
        self.links.drain(..).for_each(|_| self.tally.end(End::Ours));
        self.tally
    }

    /// Keeps the connection if it stays open; the response must be that of `pid`, if given.
    fn ask(&mut self, mut link: Link, pid: Option<Pid>, clock: &Clock) {
        let halt = Halt::default();
        let reused = link.answers > 0;
        self.tally.requests += 1;
        link.send(b"GET /pid HTTP/1.1\r\nHost: storm\r\n\r\n", usize::MAX, Duration::ZERO, &halt);
        let (outcome, detail, end) = match link.answer(&halt) {
            Ok(answer) => {
                let by = String::from_utf8_lossy(&answer.body).parse().ok();
                let right = answer.status == 200 && pid.is_none_or(|pid| by == Some(pid.as_raw()));
                let outcome = if right { Outcome::Ok } else { Outcome::Wrong };
                let detail = format!("answered {} by {by:?}, not by {pid:?}", answer.status);
                (outcome, detail, answer.closes.then_some(End::Announced))
            }
            Err(loss) => (loss.outcome, loss.detail, Some(End::Lost)),
        };
        self.tally.outcome(outcome, reused);
        if outcome.is_failure() {
            self.note_failure(clock, outcome.name(), link.answers, detail);
        }
        match end {
            Some(end) => self.tally.end(end),
            None => self.links.push(link),
        }
    }

    fn note_failure(&mut self, clock: &Clock, what: &'static str, answers: u64, detail: String) {
        let since_signal = clock.signal().map(|signal| signal.elapsed());
        let at = clock.began().elapsed();
        self.tally.note_failure(Failure { at, since_signal, mode: NAME, what, answers, detail });
    }
}

/// Raises the limit of descriptors here, and so in the server, which inherits the limit.
pub(crate) fn make_room(count: usize) -> Result<(), String> {
    let wanted = count as u64 + OTHERS;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let (soft, hard) = (current.unwrap_or(u64::MAX), maximum.unwrap_or(u64::MAX));
    if soft >= wanted {
        return Ok(());
    }
    setrlimit(
        Resource::Nofile,
        Rlimit { current: Some(wanted), maximum: maximum.map(|hard| hard.max(wanted)) },
    )
    .map_err(|e| format!("{wanted} descriptors are needed, {soft} allowed, up to {hard}: {e}"))
}
