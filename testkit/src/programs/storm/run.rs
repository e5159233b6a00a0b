//! The storm itself: a server, clients, handovers, and the end of it all.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use testkit::{Addr, Pid, beside};

use super::asking::Mode;
use super::binaries::Binaries;
use super::client::Client;
use super::flags::Flags;
use super::guard;
use super::halt::{Clock, Halt};
use super::herd::{self, Herd};
use super::report::Report;
use super::rounds::{self, Rounds, STOP_WITHIN};
use super::server::{Holdings, Server};
use super::socket::Way;
use super::tally::Tally;
use super::tls::Secrecy;

/// A program that hangs is killed after this; a good one is ready in much less, under any load.
const READY_WITHIN_MS: &str = "3000";
/// How long the last generation may take to close the connections that the clients have left.
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
    if flags.supervise {
        args.insert(0, "--supervise".to_owned());
    }
    let secrecy = if flags.tls { Some(Secrecy::new(folder.path())?) } else { None };
    if let Some(Secrecy { certificate, key, .. }) = &secrecy {
        let files = [certificate, key].map(|path| path.display().to_string());
        args.extend(["--cert", &files[0], "--key", &files[1]].map(str::to_owned));
        args.extend(["--tls-listen", "127.0.0.1:0"].map(str::to_owned));
    }
    let tls_place = args.len() - 1;
    if flags.bad_binaries {
        args.extend(["--ready-timeout-ms", READY_WITHIN_MS].map(str::to_owned));
    }
    if flags.idle_connections > 0 {
        // They rest for as long as it takes.
        args.extend(["--idle-timeout-ms", "3600000"].map(str::to_owned));
        herd::make_room(flags.idle_connections)?;
    }
    args.extend_from_slice(&flags.server_flags);
    let binaries = Binaries::new(&program(flags)?, flags.alternate.as_deref(), folder.path())
        .map_err(|e| format!("no copy: {e}"))?;
    let server = Server::start(binaries.path(), &args, deadline)?;
    guard::watch(&server, deadline);
    // Where to find it again.
    if let Some(Addr::Tcp(addr)) = server.addrs().first() {
        args[1] = addr.to_string();
    }
    // The last of the listeners.
    let secrecy = secrecy.zip(server.addrs().pop());
    if let Some((_, Addr::Tcp(addr))) = &secrecy {
        args[tls_place] = addr.to_string();
    }
    let plain: Vec<Addr> = server.addrs().into_iter().filter(|addr| !is_of(addr, &secrecy)).collect();

    let handovers_asked = if flags.stops { 0 } else { flags.handovers };
    let mut report = Report { handovers_asked, strict: flags.strict, ..Report::default() };
    report.at_rest[0] = server.holdings();
    let clock = Arc::new(Clock::start());
    let halt = Arc::new(Halt::default());
    let herd = Herd::gather(&plain, flags.idle_connections, flags.timeout, &clock);
    let (clients, tallies) = start_clients(flags, &server.addrs(), &secrecy, &clock, &halt);
    let progress = Progress::start(&server, tallies.iter().map(|(_, tally)| Arc::clone(tally)).collect());

    let (quiet, report_of) = (Halt::default(), &mut report);
    Rounds {
        flags,
        server: &server,
        binaries: &binaries,
        args,
        clock: &clock,
        deadline,
        report: report_of,
        quiet,
    }
    .run();
    let started = clock.began();
    halt.call();
    for client in clients {
        if client.join().is_err() {
            report.problems.push("a client of storm panicked".to_owned());
        }
    }
    report.load = started.elapsed();
    progress.end();

    if flags.idle_connections > 0 {
        let tally = herd.call(server.pid().unwrap_or(Pid::from_raw(0)), Duration::ZERO, &clock);
        report.add(herd::NAME, flags.idle_connections, tally);
    }
    report.at_rest[1] = holdings_at_rest(&server, report.at_rest[0]);
    look_at_the_last(&server, &secrecy, &mut report);
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
            report.add(mode.name(), of_mode().count(), sum);
        }
    }
    show(flags, &server, &clock, &report);
    Ok((report.json(), report.good()))
}

fn is_of(addr: &Addr, secrecy: &Option<(Secrecy, Addr)>) -> bool {
    secrecy.as_ref().is_some_and(|(_, of)| of == addr)
}

fn tls_to(addr: &Addr, secrecy: &Option<(Secrecy, Addr)>) -> Option<Secrecy> {
    secrecy.as_ref().filter(|(_, of)| of == addr).map(|(secrecy, _)| secrecy.clone())
}

fn program(flags: &Flags) -> Result<PathBuf, String> {
    let beside_us = || -> std::io::Result<PathBuf> {
        // A test's binary is one directory below.
        let own = std::env::current_exe()?;
        let folders = own.ancestors().skip(1).take(2).map(|folder| folder.join("kitchen_sink"));
        folders.into_iter().find(|path| path.exists()).ok_or(std::io::ErrorKind::NotFound.into())
    };
    match &flags.server {
        Some(path) => Ok(path.clone()),
        None => beside_us().map_err(|e| {
            format!("no kitchen_sink beside testkit ({e}): build --bin kitchen_sink, or --server")
        }),
    }
}

fn start_clients(
    flags: &Flags,
    addrs: &[Addr],
    secrecy: &Option<(Secrecy, Addr)>,
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
        way.tls = tls_to(&way.to, secrecy);
        let client = Client {
            mode,
            number: number as u64 + 1,
            way,
            sizes: flags.sizes.clone(),
            pauses: flags.pauses.clone(),
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
fn look_at_the_last(server: &Server, secrecy: &Option<(Secrecy, Addr)>, report: &mut Report) {
    let serving = server.serving();
    for addr in server.addrs() {
        let mut way = Way::new(addr.clone(), 60_000, Duration::from_secs(10));
        way.tls = tls_to(&addr, secrecy);
        let got = rounds::generation(&way);
        if got != Ok(serving) {
            report.problems.push(format!("{addr:?}: generation {serving} expected, got {got:?}"));
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
                let (mut requests, mut failed) = (0, 0);
                for tally in &tallies {
                    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    requests += tally.requests;
                    failed += tally.failed();
                }
                let serving = server.serving();
                let _ = write!(
                    err,
                    "{before}generation {serving}, requests {requests}, failures {failed}{after}"
                );
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
