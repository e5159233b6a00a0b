//! The storm itself: a server, clients, handovers, and the end of it all.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testkit::{Addr, Pid, beside};

use super::asking::Mode;
use super::binaries::Binaries;
use super::client::Client;
use super::flags::Flags;
use super::guard;
use super::halt::{Clock, Halt};
use super::herd::{self, Herd};
use super::report::{Report, Row, SuiteRow};
use super::rounds::{self, Rounds, STOP_WITHIN};
use super::server::{Holdings, Server};
use super::soak::{self, Soak};
use super::socket::Way;
use super::tally::Tally;
use super::tls::{Secrecy, Suites};

/// A program that hangs is killed after this; a good one is ready in much less, under any load.
const READY_WITHIN_MS: &str = "3000";
/// How long the last generation may take to close the connections that the clients have left.
const REST_WITHIN: Duration = Duration::from_secs(5);

type Shared = Arc<Mutex<Tally>>;

/// The tally of a client, its mode and its TLS.
#[derive(Debug)]
struct Counted {
    mode: Mode,
    secrecy: Option<Secrecy>,
    tally: Shared,
}

/// What a server needs before it can start.
struct Ground {
    folder: TempDir,
    args: Vec<String>,
    /// The address of the listener with TLS among them.
    tls_place: usize,
    secrecy: Option<Secrecy>,
}

impl Ground {
    fn prepare(flags: &Flags) -> Result<Ground, String> {
        let folder = tempfile::tempdir().map_err(|e| format!("no folder: {e}"))?;
        std::fs::create_dir(temporary(folder.path())).map_err(|e| format!("no folder: {e}"))?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mut args = vec!["--listen".to_owned(), "127.0.0.1:0".to_owned()];
        args.extend(["--probation-ms".to_owned(), flags.probation_ms.to_string()]);
        if flags.unix {
            args.extend(["--unix".to_owned(), path("socket")]);
        }
        if flags.supervise {
            args.insert(0, "--supervise".to_owned());
        }
        // An earlier version takes one certificate.
        let names = if flags.alternate.is_some() { 1 } else { 2 };
        let secrecy = if flags.tls { Some(Secrecy::new(folder.path(), names)?) } else { None };
        if let Some(Secrecy { pairs, .. }) = &secrecy {
            for [certificate, key] in pairs {
                let files = [certificate, key].map(|path| path.display().to_string());
                args.extend(["--cert", &files[0], "--key", &files[1]].map(str::to_owned));
            }
            args.extend(["--tls-listen", "127.0.0.1:0"].map(str::to_owned));
        }
        let tls_place = args.len() - 1;
        if flags.soak.is_some() {
            args.extend(["--pid-file".to_owned(), path("pid"), "--control".to_owned(), path("control")]);
            args.extend(soak::SERVER_FLAGS.map(str::to_owned));
        }
        if flags.bad_binaries {
            args.extend(["--ready-timeout-ms", READY_WITHIN_MS].map(str::to_owned));
        }
        if flags.idle_connections > 0 {
            // They rest for as long as it takes.
            args.extend(["--idle-timeout-ms", "3600000"].map(str::to_owned));
            herd::make_room(flags.idle_connections)?;
        }
        args.extend_from_slice(&flags.server_flags);
        Ok(Ground { folder, args, tls_place, secrecy })
    }

    /// The arguments with the addresses that the server has got, for another start.
    fn find(&mut self, server: &Server) -> Option<(Secrecy, Addr)> {
        if let (Some(Addr::Tcp(addr)), Some(at)) =
            (server.addrs().first(), self.args.iter().position(|arg| arg == "--listen"))
        {
            self.args[at + 1] = addr.to_string();
        }
        // The last of the listeners.
        let secrecy = self.secrecy.clone().zip(server.addrs().pop());
        if let Some((_, Addr::Tcp(addr))) = &secrecy {
            self.args[self.tls_place] = addr.to_string();
        }
        secrecy
    }
}

/// The server's directory for temporary files.
fn temporary(folder: &Path) -> PathBuf {
    folder.join("tmp")
}

/// Runs it; gives the line for programs, and whether nothing was lost.
pub(crate) fn run(flags: &Flags) -> Result<(String, bool), String> {
    let deadline = Instant::now() + flags.seconds_max;
    let mut ground = Ground::prepare(flags)?;
    let folder = ground.folder.path().to_owned();
    let binaries = Binaries::new(&program(flags)?, flags.alternate.as_deref(), &folder)
        .map_err(|e| format!("no copy: {e}"))?;
    let server = Server::start(binaries.path(), &ground.args, &temporary(&folder), deadline)?;
    guard::watch(&server, deadline);
    let secrecy = ground.find(&server);
    let plain: Vec<Addr> = server.addrs().into_iter().filter(|addr| !is_of(addr, &secrecy)).collect();

    let handovers_asked = if flags.stops || flags.soak.is_some() { 0 } else { flags.handovers };
    let mut report = Report { handovers_asked, ..Report::default() };
    report.at_rest[0] = server.holdings();
    let clock = Arc::new(Clock::start());
    let halt = Arc::new(Halt::default());
    let herd = Herd::gather(&plain, flags.idle_connections, flags.timeout, &clock);
    let (clients, counted) = start_clients(flags, &server.addrs(), &secrecy, &clock, &halt)?;
    let progress = Progress::start(&server, flags, &counted);
    let mut soak = flags.soak.map(|length| {
        let ways = ways_of_attackers(&server, &secrecy);
        let tallies = counted.iter().map(|client| (client.mode, Arc::clone(&client.tally))).collect();
        let times = [length, Duration::from_millis(flags.probation_ms)];
        Soak::start(times, folder, &server, &ways, tallies, (&clock, &halt))
    });

    let (args, quiet, report_of) = (ground.args.clone(), Halt::default(), &mut report);
    let mut rounds = Rounds {
        flags,
        server: &server,
        binaries: &binaries,
        args,
        clock: &clock,
        deadline,
        report: report_of,
        quiet,
    };
    match &mut soak {
        Some(soak) => soak.run(&mut rounds),
        None => rounds.run(),
    }
    let started = clock.began();
    halt.call();
    for client in clients {
        if client.join().is_err() {
            report.problems.push("a client of storm panicked".to_owned());
        }
    }
    report.load = started.elapsed();
    count_suites(flags, &counted, &mut report);
    progress.end();
    soak.iter_mut().for_each(|soak| soak.end(&mut report));

    if flags.idle_connections > 0 {
        let tally = herd.call(server.pid().unwrap_or(Pid::from_raw(0)), Duration::ZERO, &clock);
        let (name, clients) = (herd::NAME.to_owned(), flags.idle_connections);
        report.add(Row { name, clients, tally, strict: flags.strict });
    }
    report.at_rest[1] = holdings_at_rest(&server, report.at_rest[0]);
    if hands_over(flags) {
        let fresh = fresh_at_rest(&server, report.at_rest[0], deadline);
        report.problems.extend(fresh.as_ref().err().cloned());
        report.note_fresh(fresh.ok());
    }
    look_at_the_last(&server, &secrecy, &mut report);
    stop(&server, deadline, &mut report);
    add_rows(&mut report, &counted, flags);
    show(flags, &server, &clock, &report);
    if let (Some(soak), Some(folder)) = (&soak, &flags.report) {
        soak.write(folder, &report).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    Ok((report.json(), report.good()))
}

/// Each client has a full handshake once, and one handshake for each connection: where no process begins anew, its session goes
/// on in every generation.
fn count_suites(flags: &Flags, counted: &[Counted], report: &mut Report) {
    let begins_anew = flags.stops || flags.kills || flags.soak.is_some() || flags.alternate.is_some();
    for (client, secrecy) in counted.iter().filter_map(|client| Some((client, client.secrecy.as_ref()?))) {
        let [full, resumed] = secrecy.handshakes();
        if !report.suites.iter().any(|row| row.name == secrecy.suite()) {
            report.suites.push(SuiteRow { name: secrecy.suite(), ..SuiteRow::default() });
        }
        let Some(row) = report.suites.iter_mut().find(|row| row.name == secrecy.suite()) else { continue };
        row.clients += 1;
        row.tally.merge(&client.tally.lock().unwrap_or_else(PoisonError::into_inner));
        row.handshakes = [row.handshakes[0] + full, row.handshakes[1] + resumed];
    }
    for SuiteRow { name, clients, tally, handshakes: [full, resumed] } in &report.suites {
        if *full > *clients as u64 && !begins_anew {
            report
                .problems
                .push(format!("{name}: {full} full handshakes of {clients} clients, which have sessions"));
        }
        if full + resumed != tally.connected {
            let connected = tally.connected;
            report.problems.push(format!("{name}: {full} + {resumed} handshakes on {connected} connections"));
        }
    }
}

fn stop(server: &Server, deadline: Instant, report: &mut Report) {
    let within = (Instant::now() + STOP_WITHIN).min(deadline + Duration::from_secs(20));
    report.problems.extend(server.stop(within).err());
    let (well, untold, badly) = server.exits();
    (report.ended_well, report.ended_untold) = (well, untold);
    report.problems.extend(badly);
    server.kill();
}

/// A row for the clients of each mode, with TLS and without.
fn add_rows(report: &mut Report, counted: &[Counted], flags: &Flags) {
    for (mode, by_tls) in Mode::ALL.into_iter().flat_map(|mode| [(mode, false), (mode, true)]) {
        let of_row =
            || counted.iter().filter(|client| client.mode == mode && client.secrecy.is_some() == by_tls);
        let mut tally = Tally::default();
        of_row().for_each(|client| {
            tally.merge(&client.tally.lock().unwrap_or_else(PoisonError::into_inner));
        });
        if of_row().next().is_some() {
            let name = format!("{}{}", mode.name(), if by_tls { " tls" } else { "" });
            // The released version takes over neither streams nor connections of TLS.
            let stays = (mode.streams() || by_tls) && flags.alternate.is_some();
            let strict = flags.strict && !stays;
            if strict && mode == Mode::Events && report.generations > 0 && tally.travelled == 0 {
                report
                    .problems
                    .push(format!("{}: no event was seen to come from another process", mode.name()));
            }
            report.add(Row { name, clients: of_row().count(), tally, strict });
        }
    }
}

/// To each listener. Their patience is longer than any limit of the server.
fn ways_of_attackers(server: &Server, secrecy: &Option<(Secrecy, Addr)>) -> Vec<Way> {
    let way = |(number, addr): (usize, Addr)| {
        let mut way = Way::new(addr.clone(), 40_000 + number, Duration::from_secs(60));
        way.tls = tls_to(&addr, secrecy);
        way
    };
    server.addrs().into_iter().enumerate().map(way).collect()
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
) -> Result<(Vec<JoinHandle<()>>, Vec<Counted>), String> {
    let modes = Mode::ALL.into_iter().zip(flags.clients);
    let modes = modes.flat_map(|(mode, clients)| std::iter::repeat_n(mode, clients));
    let (mut threads, mut counted, mut tls_clients) = (Vec::new(), Vec::new(), 0);
    for (number, mode) in modes.enumerate() {
        let tally = Shared::default();
        let mut addr = &addrs[number % addrs.len()];
        if let (Mode::Rekey, Some((_, of))) = (mode, secrecy) {
            addr = of;
        }
        let mut way = Way::new(addr.clone(), number, flags.timeout);
        way.room = mode.room();
        let suites = if mode == Mode::Rekey { Suites::WithKeyUpdates } else { Suites::All };
        let of_client = |secrecy: Secrecy| secrecy.of_client(tls_clients, suites);
        way.tls = tls_to(addr, secrecy).map(of_client).transpose()?;
        tls_clients += usize::from(way.tls.is_some());
        let secrecy = way.tls.clone();
        let client = Client {
            mode,
            number: number as u64 + 1,
            way,
            sizes: flags.sizes.clone(),
            pauses: flags.pauses.clone(),
            alternates: flags.alternate.is_some(),
            budget: None,
            tally: Arc::clone(&tally),
            clock: Arc::clone(clock),
            halt: Arc::clone(halt),
        };
        threads.push(beside(&format!("{} {number}", mode.name()), move || client.run()));
        counted.push(Counted { mode, secrecy, tally });
    }
    Ok((threads, counted))
}

/// What the last generation holds when the clients are gone: looked at until it is no more than the
/// first held, or for a while.
fn holdings_at_rest(server: &Server, first: Holdings) -> Holdings {
    let quiet = Halt::default();
    let deadline = Instant::now() + REST_WITHIN;
    loop {
        let holdings = server.holdings();
        let is_at_rest = holdings.fds <= first.fds && holdings.threads <= first.threads;
        if is_at_rest || Instant::now() > deadline {
            return holdings;
        }
        quiet.pause(Duration::from_millis(50));
    }
}

/// Whether generations follow each other that are of one program, and none of which storm kills.
fn hands_over(flags: &Flags) -> bool {
    let upgrades = flags.soak.is_some() || flags.handovers > 0;
    upgrades && !flags.stops && !flags.kills && flags.alternate.is_none()
}

/// What one more generation holds, which no client has ever reached: more than the first one did would come from its predecessors.
fn fresh_at_rest(server: &Server, first: Holdings, deadline: Instant) -> Result<Holdings, String> {
    let quiet = Halt::default();
    let within = deadline.max(Instant::now() + REST_WITHIN) + REST_WITHIN;
    server.hand_over(within, 1, &quiet).map_err(|problem| format!("after the load: {problem}"))?;
    Ok(holdings_at_rest(server, first))
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

/// A line about each second; in a soak about each ten.
struct Progress {
    done: Arc<Halt>,
    thread: JoinHandle<()>,
}

impl Progress {
    fn start(server: &Arc<Server>, flags: &Flags, counted: &[Counted]) -> Progress {
        let tallies: Vec<Shared> = counted.iter().map(|client| Arc::clone(&client.tally)).collect();
        let every = Duration::from_secs(if flags.soak.is_some() { 10 } else { 1 });
        let done = Arc::new(Halt::default());
        let (server, until) = (Arc::clone(server), Arc::clone(&done));
        let thread = beside("progress", move || {
            let mut err = std::io::stderr();
            let (before, after) = if err.is_terminal() { ("\r", "  ") } else { ("", "\n") };
            while !until.is_called() {
                until.pause(every);
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
