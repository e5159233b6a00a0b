//! Whether a handover is refused because something above this process would take the end of this process for the end of
//! the service. A service manager then ends every process of the service, or starts a second one beside the successor: the
//! first HUP would be an outage.
//!
//! It is decided once, in generation 1, by the process that started it, and every HELLO passes the decision on: the parent
//! of a later generation is another generation, or whichever process adopts orphans, and says nothing about the service.
//! Only what is known for certain is refused. A shell, a script, `cargo`, Python, `timeout` or tmux may wait for this
//! process as well, and what they do then is their author's decision: a script gets a warning in the log.

use std::fmt;
use std::fs;

use nix::unistd::{Pid, getpgid, getpgrp, getpid, getppid};

use crate::process::systemd::CAN_NOTIFY;

/// Supervisors that own the process that they start, by the name of their process (at most 15 bytes).
const SUPERVISORS: [&str; 5] = ["runsv", "s6-supervise", "supervisord", "supervise-daemo", "containerd-shim"];
/// As PID 1 these end the container with the process that they started.
const INITS: [&str; 5] = ["tini", "tini-static", "dumb-init", "docker-init", "catatonit"];
const SHELLS: [&str; 7] = ["sh", "dash", "bash", "ash", "ksh", "zsh", "busybox"];

/// What ends the service with generation 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Above {
    /// This process is PID 1: the kernel ends all of a pid namespace with its first process.
    Kernel,
    /// systemd, for a service that does not report its main process.
    Systemd,
    /// A service manager that is to be notified, which this program can't do.
    Notified,
    Supervisor(&'static str),
    Init(&'static str),
}

impl Above {
    /// The value in a HELLO. None: not passed on, each process sees it for itself.
    pub(crate) fn word(self) -> Option<&'static str> {
        match self {
            Above::Kernel => None,
            Above::Systemd => Some("systemd"),
            Above::Notified => Some("notify"),
            Above::Supervisor(name) | Above::Init(name) => Some(name),
        }
    }

    /// None: a word of a later version, which is not known to end anything.
    pub(crate) fn from_word(word: &str) -> Option<Above> {
        match word {
            "systemd" => Some(Above::Systemd),
            "notify" => Some(Above::Notified),
            name => known(name, &SUPERVISORS)
                .map(Above::Supervisor)
                .or_else(|| known(name, &INITS).map(Above::Init)),
        }
    }
}

impl fmt::Display for Above {
    /// Why no successor is started, and what to write instead.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Above::Kernel => f.write_str(
                "not possible as PID 1, with which the container ends: call heirloom::handover::init first in main, or write \
                 ProcessConfig::supervise",
            ),
            Above::Systemd => f.write_str(
                "refused under systemd, which ends the service with this process: write ProcessConfig::supervise, or \
                 Type=notify in its unit, for a program with the feature systemd",
            ),
            Above::Notified => f.write_str(
                "refused under a service manager that sets NOTIFY_SOCKET and ends the service with this process, since this \
                 program does not notify it: build it with the feature systemd, or write ProcessConfig::supervise",
            ),
            Above::Supervisor(name) => write!(
                f,
                "refused under {name}, which starts the program again when this process ends: write ProcessConfig::supervise",
            ),
            Above::Init(name) => write!(
                f,
                "refused under {name}, which ends the container with this process: write ProcessConfig::supervise",
            ),
        }
    }
}

/// How generation 1 was started, as far as it matters here.
#[derive(Clone, Default)]
struct Start<'a> {
    pid: i32,
    parent: i32,
    /// The name of the parent's process. None: not known.
    parent_name: Option<&'a str>,
    /// False only if the parent is known to have older children: an init does not end with those.
    may_be_first_child: bool,
    /// `SYSTEMD_EXEC_PID`.
    systemd_exec_pid: Option<i32>,
    /// `NOTIFY_SOCKET` is set.
    is_notified: bool,
    /// This program sends notifications.
    can_notify: bool,
}

fn judge(start: &Start<'_>) -> Option<Above> {
    if start.pid == 1 {
        return Some(Above::Kernel);
    }
    let of_systemd = start.systemd_exec_pid.map(|pid| pid == start.pid);
    match (of_systemd, start.is_notified) {
        (Some(true), false) => return Some(Above::Systemd),
        // A service such as a CI runner, which systemd notified itself, only passes the variable on to its children.
        (Some(true) | None, true) if !start.can_notify => return Some(Above::Notified),
        _ => {}
    }
    let name = start.parent_name?;
    if let Some(name) = known(name, &SUPERVISORS) {
        return Some(Above::Supervisor(name));
    }
    let init = known(name, &INITS).filter(|_| start.parent == 1 && start.may_be_first_child)?;
    Some(Above::Init(init))
}

fn known(name: &str, names: &[&'static str]) -> Option<&'static str> {
    names.iter().find(|known| **known == name).copied()
}

/// What ends the service with this process, which is generation 1, and the script that may start it again.
#[derive(Clone, Default)]
pub(crate) struct Surroundings {
    pub(crate) above: Option<Above>,
    /// The pid and name of a shell that waits for this process as a part of its script.
    pub(crate) script: Option<String>,
}

impl Surroundings {
    /// Those of this process now. To be called early: a parent that ends is replaced by another.
    pub(crate) fn look() -> Surroundings {
        let parent = getppid().as_raw();
        let name = fs::read_to_string(format!("/proc/{parent}/comm")).ok();
        let name = name.as_deref().map(str::trim_end);
        let pid = getpid().as_raw();
        let number = |name| std::env::var(name).ok()?.parse().ok();
        let above = judge(&Start {
            pid,
            parent,
            parent_name: name,
            may_be_first_child: may_be_first_child(parent, pid),
            systemd_exec_pid: number("SYSTEMD_EXEC_PID"),
            is_notified: std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty()),
            can_notify: CAN_NOTIFY,
        });
        // An interactive shell gives each job a group of its own.
        let in_its_group = || getpgid(Some(Pid::from_raw(parent))).is_ok_and(|group| group == getpgrp());
        let shell = name.and_then(|name| known(name, &SHELLS)).filter(|_| parent > 0 && in_its_group());
        Surroundings { above, script: shell.map(|shell| format!("{parent} ({shell})")) }
    }
}

/// The kernel lists children in the order in which they came, orphans last.
fn may_be_first_child(parent: i32, pid: i32) -> bool {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let first = children.ok().and_then(|pids| pids.split(' ').next()?.parse::<i32>().ok());
    first.is_none_or(|first| first == pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who starts it, SYSTEMD_EXEC_PID, NOTIFY_SOCKET, whether it can notify; and the outcome.
    type Row = (i32, i32, &'static str, Option<i32>, bool, bool, Option<Above>);

    #[test]
    fn only_what_is_known_to_end_the_service_is_refused() {
        use Above::{Init, Kernel, Notified, Supervisor, Systemd};
        let rows: [Row; 40] = [
            // pid, parent, its name, SYSTEMD_EXEC_PID, NOTIFY_SOCKET, can notify
            (1, 0, "", None, false, false, Some(Kernel)),
            (1, 0, "", Some(1), true, true, Some(Kernel)),
            (7, 1, "systemd", Some(7), false, false, Some(Systemd)),
            (7, 1, "systemd", Some(7), false, true, Some(Systemd)),
            (7, 1, "systemd", Some(7), true, false, Some(Notified)),
            (7, 1, "systemd", Some(7), true, true, None),
            (7, 1, "systemd", None, true, false, Some(Notified)),
            (7, 1, "systemd", None, true, true, None),
            (7, 6, "other", None, true, false, Some(Notified)),
            (7, 6, "other", None, true, true, None),
            // A daemon that its first process left, a shell of a service, a runner of CI.
            (7, 1, "systemd", None, false, false, None),
            (7, 1, "systemd", Some(6), false, false, None),
            (7, 6, "bash", Some(5), false, false, None),
            (7, 6, "bash", Some(5), true, false, None),
            (7, 6, "Runner.Worker", Some(5), true, false, None),
            (7, 6, "runsv", None, false, false, Some(Supervisor("runsv"))),
            (7, 6, "s6-supervise", None, false, false, Some(Supervisor("s6-supervise"))),
            (7, 6, "supervisord", None, false, false, Some(Supervisor("supervisord"))),
            (7, 1, "supervisord", Some(1), true, true, Some(Supervisor("supervisord"))),
            (7, 6, "containerd-shim", None, false, false, Some(Supervisor("containerd-shim"))),
            (7, 6, "runsvdir", None, false, false, None),
            (7, 6, "supervisor", None, false, false, None),
            (7, 1, "tini", None, false, false, Some(Init("tini"))),
            (7, 1, "dumb-init", None, false, false, Some(Init("dumb-init"))),
            (7, 1, "docker-init", None, false, false, Some(Init("docker-init"))),
            (7, 1, "catatonit", None, false, false, Some(Init("catatonit"))),
            (7, 6, "tini", None, false, false, None),
            (7, 6, "catatonit", None, false, false, None),
            (7, 1, "init", None, false, false, None),
            (7, 1, "sh", None, false, false, None),
            (7, 6, "sh", None, false, false, None),
            (7, 6, "bash", None, false, false, None),
            (7, 6, "zsh", None, false, false, None),
            (7, 6, "cargo", None, false, false, None),
            (7, 6, "python3", None, false, false, None),
            (7, 6, "timeout", None, false, false, None),
            (7, 6, "tmux: server", None, false, false, None),
            (7, 6, "sshd", None, false, false, None),
            (7, 6, "nohup", None, false, false, None),
            (7, 0, "", None, false, false, None),
        ];
        for row in rows {
            let (pid, parent, name, systemd_exec_pid, is_notified, can_notify, expected) = row;
            let start = Start {
                pid,
                parent,
                parent_name: Some(name).filter(|name| !name.is_empty()),
                may_be_first_child: true,
                systemd_exec_pid,
                is_notified,
                can_notify,
            };
            assert_eq!(judge(&start), expected, "{row:?}");
            let orphan = judge(&Start { may_be_first_child: false, ..start });
            let is_init = matches!(expected, Some(Init(_)));
            assert_eq!(orphan, expected.filter(|_| !is_init), "adopted: {row:?}");
        }
    }

    #[test]
    fn a_word_is_decoded_to_the_decision_it_encodes() {
        let names = SUPERVISORS.map(Above::Supervisor).into_iter().chain(INITS.map(Above::Init));
        for above in names.chain([Above::Systemd, Above::Notified]) {
            assert_eq!(above.word().and_then(Above::from_word), Some(above));
        }
        assert_eq!((Above::Kernel.word(), Above::from_word("launchd")), (None, None));
    }

    #[test]
    fn the_children_of_this_process_are_in_order() {
        let mut children: Vec<_> =
            (0..3).map(|_| std::process::Command::new("cat").spawn().unwrap()).collect();
        let own = getpid().as_raw();
        let found: Vec<bool> =
            children.iter().map(|child| may_be_first_child(own, child.id().try_into().unwrap())).collect();
        children.iter_mut().for_each(|child| drop(child.kill().and_then(|()| child.wait())));
        // Other tests of this process may have started children before, and not every kernel lists them.
        assert!(found[2] == found[1] || !found[2], "{found:?}");
        assert!(may_be_first_child(i32::MAX, 7), "nothing is known");
    }
}
