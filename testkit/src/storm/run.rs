//! The storm itself: a server, clients, handovers, and the end of it all.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use testkit::{Addr, beside};

use super::asking::Mode;
use super::client::Client;
use super::flags::Flags;
use super::guard;
use super::halt::{Clock, Halt};
use super::link::Link;
use super::report::Report;
use super::server::{Holdings, Server};
use super::socket::Way;
use super::tally::Tally;

/// A handover takes some ten milliseconds and its probation; one that takes this long has failed.
const HANDOVER_WITHIN: Duration = Duration::from_secs(30);
/// A stop takes what the slowest request takes, at most the drain timeout of a minute.
const STOP_WITHIN: Duration = Duration::from_secs(75);
/// The load goes on for this long after the last handover, for what comes late.
const AFTER_THE_LAST: Duration = Duration::from_millis(500);
/// How long the last generation may take to let go of what the clients have left.
const REST_WITHIN: Duration = Duration::from_secs(5);

type Shared = Arc<Mutex<Tally>>;

/// Runs it; gives the line for programs, and whether nothing was lost.
pub(crate) fn run(flags: &Flags) -> Result<(String, bool), String> {
    let deadline = Instant::now() + flags.seconds_max;
    let folder = tempfile::tempdir().map_err(|e| format!("no folder: {e}"))?;
    let mut args = vec!["--listen".to_owned(), "127.0.0.1:0".to_owned()];
    args.extend(["--probation-ms".to_owned(), flags.probation_ms.to_string()]);
    if flags.unix {
        args.extend(["--unix".to_owned(), folder.path().join("socket").display().to_string()]);
    }
    args.extend_from_slice(&flags.server_flags);
    let server = Server::start(&program(flags)?, &args, deadline)?;
    guard::watch(&server, deadline);

    let mut report = Report { handovers_asked: flags.handovers, ..Report::default() };
    report.at_rest[0] = server.holdings();
    let clock = Arc::new(Clock::start());
    let halt = Arc::new(Halt::default());
    let (clients, tallies) = start_clients(flags, &server.addrs(), &clock, &halt);
    let progress = Progress::start(&server, tallies.iter().map(|(_, tally)| Arc::clone(tally)).collect());

    hand_over(flags, &server, &clock, deadline, &mut report);
    let started = clock.began();
    halt.call();
    for client in clients {
        if client.join().is_err() {
            report.problems.push("a client of storm panicked".to_owned());
        }
    }
    report.load = started.elapsed();
    progress.end();

    report.at_rest[1] = holdings_at_rest(&server, report.at_rest[0]);
    look_at_the_last(&server, &mut report);
    if let Err(problem) = server.stop((Instant::now() + STOP_WITHIN).min(deadline + Duration::from_secs(20)))
    {
        report.problems.push(problem);
    }
    let (well, untold, badly) = server.exits();
    (report.ended_well, report.ended_untold) = (well, untold);
    report.problems.extend(badly);
    server.kill();

    for mode in Mode::ALL {
        let of_mode = || tallies.iter().filter(|(of, _)| *of == mode);
        let mut sum = Tally::default();
        of_mode().for_each(|(_, tally)| sum.merge(&tally.lock().unwrap_or_else(PoisonError::into_inner)));
        if of_mode().next().is_some() {
            let contradiction = sum.contradiction();
            report.problems.extend(contradiction.map(|what| format!("{}: {what}", mode.name())));
            report.modes.push((mode.name(), of_mode().count(), sum));
        }
    }
    show(flags, &server, &clock, &report);
    Ok((report.json(), report.good()))
}

fn program(flags: &Flags) -> Result<PathBuf, String> {
    let beside_us = || -> std::io::Result<PathBuf> {
        // A test's binary is a folder below.
        let own = std::env::current_exe()?;
        let folders = own.ancestors().skip(1).take(2).map(|folder| folder.join("kitchen_sink"));
        folders.into_iter().find(|path| path.exists()).ok_or(std::io::ErrorKind::NotFound.into())
    };
    match &flags.server {
        Some(path) => Ok(path.clone()),
        None => {
            beside_us().map_err(|e| format!("no kitchen_sink beside storm ({e}): build testkit, or --server"))
        }
    }
}

fn start_clients(
    flags: &Flags,
    addrs: &[Addr],
    clock: &Arc<Clock>,
    halt: &Arc<Halt>,
) -> (Vec<JoinHandle<()>>, Vec<(Mode, Shared)>) {
    let modes = Mode::ALL.into_iter().zip(flags.clients);
    let modes = modes.flat_map(|(mode, clients)| std::iter::repeat_n(mode, clients));
    let (mut threads, mut tallies) = (Vec::new(), Vec::new());
    for (number, mode) in modes.enumerate() {
        let tally = Shared::default();
        let mut way = Way::new(addrs[number % addrs.len()].clone(), number, flags.timeout);
        way.room = mode.room();
        let client = Client {
            mode,
            number: number as u64 + 1,
            way,
            sizes: flags.sizes.clone(),
            think: flags.think,
            budget: None,
            tally: Arc::clone(&tally),
            clock: Arc::clone(clock),
            halt: Arc::clone(halt),
        };
        threads.push(beside(&format!("{} {number}", mode.name()), move || client.run()));
        tallies.push((mode, tally));
    }
    (threads, tallies)
}

/// The part with the load: all handovers, or a time without any.
fn hand_over(flags: &Flags, server: &Server, clock: &Clock, deadline: Instant, report: &mut Report) {
    // Nobody calls this one: it is for waiting.
    let quiet = Halt::default();
    let left = || deadline.saturating_duration_since(Instant::now());
    quiet.pause(flags.pause.max(Duration::from_millis(300)).min(left()));
    if flags.handovers == 0 {
        quiet.pause(flags.seconds.min(left()));
    }
    for n in 0..flags.handovers {
        if left().is_zero() {
            report.problems.push(format!("out of time after {n} handovers"));
            return;
        }
        report.under_load.push(server.holdings());
        clock.mark();
        match server.hand_over(deadline.min(Instant::now() + HANDOVER_WITHIN)) {
            Ok(took) => report.handovers.push(took),
            Err(problem) => {
                report.problems.push(problem);
                return;
            }
        }
        quiet.pause(flags.pause.min(left()));
    }
    quiet.pause(AFTER_THE_LAST.min(left()));
}

/// What the last generation holds when the clients are gone: looked at until it is no more than the
/// first held, or for a while.
fn holdings_at_rest(server: &Server, first: Holdings) -> Holdings {
    let quiet = Halt::default();
    let deadline = Instant::now() + REST_WITHIN;
    loop {
        let holdings = server.holdings();
        if holdings.fds <= first.fds || Instant::now() > deadline {
            return holdings;
        }
        quiet.pause(Duration::from_millis(50));
    }
}

/// Asks each listener for its generation, on a new connection.
fn look_at_the_last(server: &Server, report: &mut Report) {
    let halt = Halt::default();
    for addr in server.addrs() {
        let way = Way::new(addr.clone(), 60_000, Duration::from_secs(10));
        let asked = "GET /generation HTTP/1.1\r\nHost: storm\r\nConnection: close\r\n\r\n";
        let answer = Link::open(&way, None).map_err(|e| e.to_string()).and_then(|mut link| {
            link.send(asked.as_bytes(), usize::MAX, Duration::ZERO, &halt);
            link.answer(&halt).map_err(|loss| loss.detail)
        });
        let serving = server.serving().to_string();
        match answer {
            Ok(answer) if answer.body == serving.as_bytes() => {}
            other => report.problems.push(format!("{addr:?}: generation {serving} expected, got {other:?}")),
        }
    }
}

fn show(flags: &Flags, server: &Server, clock: &Clock, report: &Report) {
    let mut err = std::io::stderr();
    let _ = write!(err, "\n{}", report.table());
    // Times of failures count from the clock's start, those of the log from the server's.
    let ahead = clock.began().saturating_duration_since(server.began());
    if let Some(failure) = report.total().failures.first() {
        let at = failure.at + ahead;
        let signal = at.saturating_sub(failure.since_signal.unwrap_or_default());
        let from = signal.saturating_sub(Duration::from_millis(50));
        let log = server.log_between(Some(from), Some(at + Duration::from_millis(250)));
        let _ = writeln!(err, "\nThe log around the first failure (+{:.3} s):\n{log}", ahead.as_secs_f64());
    } else if !report.problems.is_empty() {
        let end = server.began().elapsed().saturating_sub(Duration::from_secs(30));
        let _ = writeln!(err, "\nThe log's end:\n{}", server.log_between(Some(end), None));
    }
    let written =
        flags.log.as_ref().map_or(Ok(()), |path| std::fs::write(path, server.log_between(None, None)));
    if let Err(e) = written {
        let _ = writeln!(err, "storm: can't write the log: {e}");
    }
}

/// A line about each second.
struct Progress {
    done: Arc<Halt>,
    thread: JoinHandle<()>,
}

impl Progress {
    fn start(server: &Arc<Server>, tallies: Vec<Shared>) -> Progress {
        let done = Arc::new(Halt::default());
        let (server, until) = (Arc::clone(server), Arc::clone(&done));
        let thread = beside("progress", move || {
            let mut err = std::io::stderr();
            let (before, after) = if err.is_terminal() { ("\r", "  ") } else { ("", "\n") };
            while !until.is_called() {
                until.pause(Duration::from_secs(1));
                let (mut begun, mut failed) = (0, 0);
                for tally in &tallies {
                    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    begun += tally.begun;
                    failed += tally.failed();
                }
                let done = server.serving().saturating_sub(1);
                let _ = write!(err, "{before}handovers {done}, requests {begun}, failures {failed}{after}");
                let _ = err.flush();
            }
        });
        Progress { done, thread }
    }

    fn end(self) {
        self.done.call();
        let _ = self.thread.join();
    }
}
