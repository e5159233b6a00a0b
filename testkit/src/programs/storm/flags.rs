//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use super::asking::{Mode, Pauses, Sizes};
use super::soak;

pub(crate) const USAGE: &str = "\
storm: upgrades a server under load, and counts what its clients lose

usage: testkit storm [flags] [-- flags of the server]

what happens to the server:
  --upgrades N         so many handovers (default 100); 0: load alone
  --hups-at-once N     HUPs for each handover, one ms apart (default 1)
  --bad-binaries       before each handover one that must fail: the program is
                       missing, hangs, crashes, ...
  --stops              TERM and a new start, in place of each handover
  --kills              in each handover one of the two processes is killed while
                       connections move; ends of connections are excused then,
                       wrong bytes are not
  --soak MINUTES       in place of --upgrades: an upgrade every 5 s with bad
                       programs, killed successors, hostile clients, all
                       listeners and all modes; nothing may be lost or grow
  --pause-ms N         between two handovers (default 100)
  --probation-ms N     of each handover (default 0)
  --supervise          the server under its supervisor, which gets all signals
  --server PATH        the kitchen_sink to run (default: beside testkit)
  --alternate PATH     another version of it: handovers go to and fro

clients:
  --mix                32 keepalive and 8 close, the default
  --keepalive N  --close N  --pipelined N  --slow N  --upload N  --reader N
  --stream N  --idle N  --preconnect N  --halves N  --rekey N  --websocket N
  --events N           so many clients of each mode
  --idle-connections N connections without traffic, asked once at the end;
                       without modes they are alone
  --quiet              no clients: only the times of the handovers
  --strict             an announced close or a reconnect is a failure, too
  --unix               every other client by a unix socket
  --tls                every other client by TLS, each cipher suite in turn
  --think-ms N         between an answer and the next request on the same
                       connection (default 0)
  --one-way-ms N       idle and early clients: between the check of the
                       connection and the send (default 10)
  --sleep-ms N         what a slow request takes (default 300)
  --big-bytes N        what a reader gets (default 6 MiB, more than the kernel
                       keeps)
  --upload-bytes N     the longest upload (default 256 KiB)
  --timeout-ms N       how long an answer may take (default 10000)

the run:
  --seconds N          of load without handovers (default 10)
  --seconds-max N      for everything (default 600)
  --report DIR         where a soak writes its tables and plots
  --log FILE           where to write the log of all generations
  --selftest           make each known fault, and see whether it is counted";

#[derive(Clone, Debug)]
pub(crate) struct Flags {
    pub(crate) selftest: bool,
    pub(crate) handovers: u32,
    pub(crate) pause: Duration,
    pub(crate) probation_ms: u64,
    /// Clients of each mode, in the order of `Mode::ALL`.
    pub(crate) clients: [usize; Mode::ALL.len()],
    pub(crate) soak: Option<Duration>,
    pub(crate) report: Option<PathBuf>,
    pub(crate) hups_at_once: u32,
    pub(crate) bad_binaries: bool,
    pub(crate) stops: bool,
    pub(crate) kills: bool,
    pub(crate) idle_connections: usize,
    pub(crate) strict: bool,
    pub(crate) pauses: Pauses,
    pub(crate) sizes: Sizes,
    pub(crate) timeout: Duration,
    pub(crate) unix: bool,
    pub(crate) tls: bool,
    pub(crate) supervise: bool,
    pub(crate) server: Option<PathBuf>,
    pub(crate) alternate: Option<PathBuf>,
    pub(crate) log: Option<PathBuf>,
    pub(crate) seconds: Duration,
    pub(crate) seconds_max: Duration,
    pub(crate) server_flags: Vec<String>,
}

impl Flags {
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Flags, String> {
        let mut flags = Flags {
            selftest: false,
            handovers: 100,
            pause: Duration::from_millis(100),
            probation_ms: 0,
            clients: [0; Mode::ALL.len()],
            soak: None,
            report: None,
            hups_at_once: 1,
            bad_binaries: false,
            stops: false,
            kills: false,
            idle_connections: 0,
            strict: false,
            pauses: Pauses::default(),
            sizes: Sizes::default(),
            timeout: Duration::from_secs(10),
            unix: false,
            tls: false,
            supervise: false,
            server: None,
            alternate: None,
            log: None,
            seconds: Duration::from_secs(10),
            seconds_max: Duration::from_secs(600),
            server_flags: Vec::new(),
        };
        let mut quiet = false;
        while let Some(flag) = args.next() {
            match flag.as_str() {
                "--" => {
                    flags.server_flags.extend(args.by_ref());
                    break;
                }
                "--selftest" => flags.selftest = true,
                "--tls" => flags.tls = true,
                "--supervise" => flags.supervise = true,
                "--unix" => flags.unix = true,
                "--bad-binaries" => flags.bad_binaries = true,
                "--stops" => flags.stops = true,
                "--kills" => flags.kills = true,
                "--strict" => flags.strict = true,
                "--quiet" => quiet = true,
                "--mix" => flags.mix(),
                _ => {
                    let value =
                        args.next().ok_or_else(|| format!("{flag}: not understood, or without its value"))?;
                    flags.set(&flag, value)?;
                }
            }
        }
        flags.check()?;
        let none = flags.clients.iter().all(|clients| *clients == 0) && !quiet && flags.idle_connections == 0;
        match flags.soak {
            Some(length) => flags.complete_soak(length, none),
            None if none => flags.mix(),
            None => {}
        }
        Ok(flags)
    }

    /// What has no meaning together.
    fn check(&self) -> Result<(), String> {
        if self.clients[Mode::Rekey as usize] > 0 && !self.tls && self.soak.is_none() {
            return Err("--rekey needs --tls".to_owned());
        }
        if self.kills && (self.strict || self.supervise || self.stops) {
            return Err(
                "--kills excuses what --strict does not, and has no --supervise and no --stops".to_owned()
            );
        }
        Ok(())
    }

    /// A soak has values of its own for what was not chosen.
    fn complete_soak(&mut self, length: Duration, no_clients: bool) {
        (self.unix, self.tls, self.strict) = (true, true, true);
        if no_clients {
            soak::CLIENTS.into_iter().for_each(|(mode, clients)| self.clients[mode as usize] = clients);
        }
        if self.pauses.think.is_zero() {
            self.pauses.think = soak::THINK;
        }
        self.pauses.away = self.pauses.think;
        if self.probation_ms == 0 {
            self.probation_ms = soak::PROBATION_MS;
        }
        self.seconds_max = self.seconds_max.max(length + Duration::from_secs(300));
    }

    fn mix(&mut self) {
        self.clients[Mode::Keepalive as usize] += 32;
        self.clients[Mode::Close as usize] += 8;
    }

    fn set(&mut self, flag: &str, value: String) -> Result<(), String> {
        let number = || value.parse::<u32>().map_err(|_| format!("{flag} {value}: not a number"));
        let ms = || number().map(|ms| Duration::from_millis(ms.into()));
        let seconds = || number().map(|seconds| Duration::from_secs(seconds.into()));
        let mode = Mode::ALL.into_iter().find(|mode| flag.strip_prefix("--") == Some(mode.name()));
        match (flag, mode) {
            (_, Some(mode)) => self.clients[mode as usize] = number()? as usize,
            ("--upgrades" | "--handovers", _) => self.handovers = number()?,
            ("--pause-ms", _) => self.pause = ms()?,
            ("--probation-ms", _) => self.probation_ms = number()?.into(),
            ("--soak", _) => {
                let minutes = value.parse::<f64>().ok().filter(|minutes| (0.01..1e5).contains(minutes));
                let minutes = minutes.ok_or_else(|| format!("{flag} {value}: not a number of minutes"))?;
                self.soak = Some(Duration::from_secs_f64(minutes * 60.0));
            }
            ("--report", _) => self.report = Some(value.into()),
            ("--hups-at-once", _) => self.hups_at_once = number()?.max(1),
            ("--idle-connections", _) => self.idle_connections = number()? as usize,
            ("--think-ms", _) => self.pauses.think = ms()?,
            ("--one-way-ms", _) => self.pauses.one_way = ms()?,
            ("--sleep-ms", _) => self.sizes.sleep_ms = number()?.into(),
            ("--big-bytes", _) => self.sizes.big = number()?.into(),
            ("--upload-bytes", _) => self.sizes.upload = number()?.max(16).into(),
            ("--timeout-ms", _) => self.timeout = ms()?.max(Duration::from_millis(1)),
            ("--server", _) => self.server = Some(value.into()),
            ("--alternate", _) => self.alternate = Some(value.into()),
            ("--log", _) => self.log = Some(value.into()),
            ("--seconds", _) => self.seconds = seconds()?,
            ("--seconds-max", _) => self.seconds_max = seconds()?,
            _ => return Err(format!("{flag}: not understood")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, String> {
        Flags::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_mix_is_what_is_run_unasked() {
        assert_eq!(parse("").unwrap().clients, [32, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse("--slow 3").unwrap().clients, [0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse("--quiet").unwrap().clients, [0; 13]);
        assert_eq!(parse("--idle-connections 9").unwrap().clients, [0; 13]);
        assert_eq!(parse("--idle-connections 9 --idle 1").unwrap().clients[Mode::Idle as usize], 1);
        assert_eq!(parse("-- --workers 4").unwrap().server_flags, ["--workers", "4"]);
        let soak = parse("--soak 0.5").unwrap();
        assert_eq!(soak.soak, Some(Duration::from_secs(30)));
        assert!(
            soak.clients.iter().all(|clients| *clients > 0 && clients % 3 == 0) && soak.tls && soak.strict
        );
        let soak = parse("--soak 90 --events 1 --think-ms 9 --probation-ms 20").unwrap();
        assert_eq!(soak.clients.iter().sum::<usize>(), 1);
        assert_eq!((soak.pauses.away, soak.probation_ms), (Duration::from_millis(9), 20));
        assert!(soak.seconds_max > Duration::from_secs(90 * 60) && parse("--soak x").is_err());
        assert!(parse("--slow").is_err() && parse("--slow x").is_err() && parse("--fast 1").is_err());
        assert!(parse("--rekey 1").is_err() && parse("--rekey 1 --tls").is_ok());
        assert!(parse("--kills --strict").is_err() && parse("--kills --tls").unwrap().kills);
    }
}
