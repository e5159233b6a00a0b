//! A server that is measured: started, watched from outside, and ended by its pid.

use crate::{Error, free_address, wait_until_accepting};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// A running server. Dropping it kills what we started, and only that, by pid.
pub struct Running {
    child: Child,
    pub address: String,
}

impl Running {
    /// `{addr}` in the command becomes a free address. `cpus` as for `taskset -c`; None: all.
    pub fn start(command: &[String], cpus: Option<&str>) -> Result<Running, Error> {
        Running::start_at(free_address()?, command, cpus)
    }

    /// The same at an address from [`free_address`] that the caller needed beforehand.
    pub fn start_at(address: String, command: &[String], cpus: Option<&str>) -> Result<Running, Error> {
        let mut words = command.iter().map(|word| word.replace("{addr}", &address));
        let mut start = match cpus {
            // It execs the server, so the child's pid is the server's.
            Some(cpus) => {
                let mut taskset = Command::new("taskset");
                taskset.args(["-c", cpus]);
                taskset
            }
            None => Command::new(words.next().ok_or("an empty command")?),
        };
        let child = start.args(words).env("RUST_LOG", "warn").stdout(Stdio::null()).spawn();
        let child = child.map_err(|error| format!("{error}: {}", command.join(" ")))?;
        let running = Running { child, address };
        wait_until_accepting(&running.address).map_err(|error| format!("{error}: {}", command.join(" ")))?;
        // Other workers and threads may still be starting.
        thread::sleep(Duration::from_millis(50));
        Ok(running)
    }

    /// The server and its children: nginx works in those.
    pub fn processes(&self) -> Vec<u32> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        [id].into_iter().chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
    }

    /// User and system time of all threads so far, also of ended ones.
    pub fn cpu(&self) -> Result<Duration, Error> {
        let of = |pid: u32| -> Result<Duration, Error> {
            Ok(clock_gettime(clock_getcpuclockid(Pid::from_raw(pid.try_into()?))?)?.into())
        };
        self.processes().into_iter().map(of).sum()
    }

    /// A line of `/proc/PID/status`, summed over the processes: `VmRSS:` in KiB, `Threads:`.
    pub fn status(&self, name: &str) -> Result<u64, Error> {
        let of = |pid: u32| -> Result<u64, Error> {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such line")?;
            Ok(line.split_whitespace().next().ok_or("status")?.parse()?)
        };
        self.processes().into_iter().map(of).sum()
    }

    pub fn descriptors(&self) -> Result<usize, Error> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// Asks it to stop, as `kill -TERM` does, and waits for its end.
    pub fn stop(mut self) -> Result<(), Error> {
        kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGTERM)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        let all = self.processes();
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in all.into_iter().skip(1).filter_map(|pid| pid.try_into().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Kills every process below us, for a program that is a subreaper: one that outlives a killed parent becomes our child for the
/// next round.
pub fn kill_descendants() {
    loop {
        let ours = children();
        if ours.is_empty() {
            return;
        }
        for pid in ours {
            let _ = kill(pid, Signal::SIGKILL);
            while waitpid(pid, None) == Err(Errno::EINTR) {}
        }
    }
}

/// The processes whose parent we are.
fn children() -> Vec<Pid> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let pids = lists.collect::<Vec<_>>().join(" ");
    pids.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}
