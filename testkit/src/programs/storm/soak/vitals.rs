//! What a generation holds at a fixed age, and what may accumulate over generations.

use std::fs;
use std::path::Path;
use std::time::Duration;

use testkit::{Addr, Pid};

use super::trend::Bound;
use crate::programs::storm::halt::Halt;
use crate::programs::storm::link::Link;
use crate::programs::storm::server::Server;
use crate::programs::storm::socket::Way;

/// The prober connects from addresses that no client has.
const PROBER: usize = 49_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quantity {
    Descriptors,
    /// Descriptors that are no sockets.
    Files,
    Threads,
    Resident,
    Environment,
    /// The status page's data, which has the history of the generations.
    Status,
    /// Of all generations, and children of theirs.
    Processes,
    Zombies,
    /// In the directory of the pid file, the sockets and the temporary files.
    Entries,
    SupervisorDescriptors,
    SupervisorResident,
}

impl Quantity {
    pub(crate) const ALL: [Quantity; 11] = [
        Quantity::Descriptors,
        Quantity::Files,
        Quantity::Threads,
        Quantity::Resident,
        Quantity::Environment,
        Quantity::Status,
        Quantity::Processes,
        Quantity::Zombies,
        Quantity::Entries,
        Quantity::SupervisorDescriptors,
        Quantity::SupervisorResident,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Quantity::Descriptors => "descriptors",
            Quantity::Files => "descriptors other than sockets",
            Quantity::Threads => "threads",
            Quantity::Resident => "resident memory, KiB",
            Quantity::Environment => "environment, bytes",
            Quantity::Status => "status and history, bytes",
            Quantity::Processes => "processes of all generations",
            Quantity::Zombies => "zombies",
            Quantity::Entries => "files in the run's directories",
            Quantity::SupervisorDescriptors => "descriptors of the supervisor",
            Quantity::SupervisorResident => "resident memory of the supervisor, KiB",
        }
    }

    /// The number of clients' connections at one moment varies, and with it descriptors and threads: their slope must be
    /// smaller than one in a hundred generations, their highest values vary more.
    pub(crate) fn bound(self) -> Bound {
        let bound = |growth, peak| Bound { growth, peak };
        match self {
            Quantity::Descriptors => bound((5.0, 0.04), (20.0, 0.2)),
            Quantity::Files => bound((1.0, 0.0), (4.0, 0.0)),
            Quantity::Threads => bound((2.0, 0.03), (10.0, 0.2)),
            Quantity::Resident => bound((256.0, 0.04), (1024.0, 0.25)),
            // Pids and generations become longer numbers.
            Quantity::Environment => bound((12.0, 0.0), (24.0, 0.0)),
            Quantity::Status => bound((256.0, 0.04), (1024.0, 0.2)),
            Quantity::Processes => bound((1.0, 0.0), (4.0, 0.0)),
            Quantity::Zombies => bound((0.5, 0.0), (1.0, 0.0)),
            Quantity::Entries => bound((0.5, 0.0), (2.0, 0.0)),
            Quantity::SupervisorDescriptors => bound((1.0, 0.0), (3.0, 0.0)),
            Quantity::SupervisorResident => bound((128.0, 0.02), (512.0, 0.1)),
        }
    }

    /// The first generation that counts: the history has its full length after fifty.
    pub(crate) fn settles(self) -> u32 {
        if self == Quantity::Status { 60 } else { 6 }
    }
}

/// The quantities in the order of `ALL`, at one time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vitals {
    pub(crate) at: Duration,
    pub(crate) generation: u32,
    values: [f64; Quantity::ALL.len()],
}

impl Vitals {
    /// None: the process that served has ended meanwhile.
    pub(crate) fn take(server: &Server, addr: &Addr, folder: &Path, at: Duration) -> Option<Vitals> {
        let (generation, pid) = (server.serving(), server.pid()?);
        server.reap();
        let family = server.alive();
        let value = |quantity| -> Option<usize> {
            match quantity {
                Quantity::Descriptors => Some(entries(&proc(pid, "fd"))),
                Quantity::Files => Some(files_of(pid)),
                Quantity::Threads => Some(entries(&proc(pid, "task"))),
                Quantity::Resident => resident(pid),
                Quantity::Environment => fs::read(proc(pid, "environ")).ok().map(|bytes| bytes.len()),
                Quantity::Status => status(addr),
                Quantity::Processes => Some(family.len()),
                Quantity::Zombies => Some(zombies(&family)),
                Quantity::Entries => Some(all_entries(folder)),
                Quantity::SupervisorDescriptors => server.supervisor().map(|pid| entries(&proc(pid, "fd"))),
                Quantity::SupervisorResident => server.supervisor().and_then(resident),
            }
        };
        let mut values = [0.0; Quantity::ALL.len()];
        for (place, quantity) in values.iter_mut().zip(Quantity::ALL) {
            let whole = value(quantity).and_then(|value| u32::try_from(value).ok());
            *place = whole.map_or(f64::NAN, f64::from);
        }
        (server.pid() == Some(pid)).then_some(Vitals { at, generation, values })
    }

    /// None: there is none of it, or it could not be read.
    pub(crate) fn of(&self, quantity: Quantity) -> Option<f64> {
        let value = self.values[quantity as usize];
        value.is_finite().then_some(value)
    }
}

fn proc(pid: Pid, name: &str) -> String {
    format!("/proc/{pid}/{name}")
}

fn entries(folder: &str) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

fn files_of(pid: Pid) -> usize {
    let links = fs::read_dir(proc(pid, "fd")).into_iter().flatten().flatten();
    let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
    targets.filter(|target| !target.to_string_lossy().starts_with("socket:")).count()
}

fn resident(pid: Pid) -> Option<usize> {
    let status = fs::read_to_string(proc(pid, "status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok())
}

/// Dead children of these processes which they have not collected.
fn zombies(family: &[Pid]) -> usize {
    let stats = fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats = stats.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let is_ours = |stat: &String| {
        let mut fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ')).into_iter().flatten();
        let is_dead = fields.next() == Some("Z");
        let parent = fields.next().and_then(|parent| parent.parse().ok()).map(Pid::from_raw);
        is_dead && parent.is_some_and(|parent| family.contains(&parent))
    };
    stats.filter(is_ours).count()
}

fn all_entries(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { 1 + all_entries(&entry.path()) } else { 1 }).sum()
}

fn status(addr: &Addr) -> Option<usize> {
    let halt = Halt::default();
    let mut link = Link::open(&Way::new(addr.clone(), PROBER, Duration::from_secs(10)), None).ok()?;
    let asked = b"GET /status.json HTTP/1.1\r\nHost: storm\r\nConnection: close\r\n\r\n";
    link.send(asked, usize::MAX, Duration::ZERO, &halt);
    let answer = link.answer(&halt).ok()?;
    (answer.status == 200).then_some(answer.body.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_seen_from_outside() {
        let own = Pid::this();
        assert!(resident(own).unwrap() > 100 && files_of(own) > 0);
        assert!(entries(&proc(own, "fd")) >= files_of(own));
        // Collected at its end only, as we have not asked for it.
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let dead = || fs::read_to_string(proc(pid, "stat")).unwrap().contains(") Z ");
        testkit::until("the child is dead", dead);
        assert!(zombies(&[own]) >= 1 && zombies(&[pid]) == 0);
        child.wait().unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/b"), "").unwrap();
        assert_eq!(all_entries(folder.path()), 2);
    }
}
