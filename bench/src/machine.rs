//! What the machine does beside what we measure.

use crate::Error;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::unistd::{Pid, SysconfVar, sysconf};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// (busy, all) of the whole machine in ticks.
pub fn ticks() -> Result<(u64, u64), Error> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().ok_or("/proc/stat")?;
    let fields: Vec<u64> =
        line.split_whitespace().skip(1).take(8).map(str::parse).collect::<Result<_, _>>()?;
    let all: u64 = fields.iter().sum();
    Ok((all - fields[3] - fields[4], all))
}

/// How long its cores were busy so far, all together.
pub fn busy() -> Result<Duration, Error> {
    let rate = sysconf(SysconfVar::CLK_TCK)?.ok_or("CLK_TCK")? as f64;
    Ok(Duration::from_secs_f64(ticks()?.0 as f64 / rate))
}

/// Waits until the machine is above 80 % idle for half a second; false if it never was. `patience`
/// is what all waiting together may take.
pub fn quiet(patience: &mut Duration) -> Result<bool, Error> {
    let started = Instant::now();
    let limit = Duration::from_secs(60).min(*patience);
    loop {
        let before = ticks()?;
        thread::sleep(Duration::from_millis(500));
        let after = ticks()?;
        let busy = (after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64;
        if busy < 0.2 {
            return Ok(true);
        }
        if started.elapsed() >= limit {
            *patience = patience.saturating_sub(started.elapsed());
            return Ok(false);
        }
    }
}

/// User and system time of this process, or of its children that have ended and were waited for.
pub fn cpu_of(who: UsageWho) -> Result<Duration, Error> {
    let usage = getrusage(who)?;
    let time = usage.user_time() + usage.system_time();
    Ok(Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()).try_into()?))
}

/// Raises the soft limit of open files to the hard one, also for programs that are started from here on.
pub fn raise_descriptors() -> Result<u64, Error> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// Whether a program is on the PATH.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Keeps this program, and what it starts, on the first of its cores.
///
/// # Errors
/// Those of the system calls.
pub fn use_one_core() -> Result<(), Error> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let first = (0..CpuSet::count()).find(|core| allowed.is_set(*core) == Ok(true));
    let mut one = CpuSet::new();
    one.set(first.ok_or("no core")?)?;
    Ok(sched_setaffinity(this, &one)?)
}

/// Runs `f` on these cores (`1,3`), as does what it starts, and returns to those of before.
///
/// # Errors
/// A list of cores that can't be read, those of the system calls, and those of `f`.
pub fn on_core<T>(cores: &str, f: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this)?;
    let mut these = CpuSet::new();
    for core in cores.split(',') {
        these.set(core.parse()?)?;
    }
    sched_setaffinity(this, &these)?;
    let outcome = f();
    sched_setaffinity(this, &before)?;
    outcome
}
