//! Whether what is above this process kills it before a stop has ended. No supervisor says how long it waits: the program's
//! author may know it (`ProcessConfig::stop_timeout`), and otherwise the defaults of containers are what is known. systemd
//! needs neither where it is notified, because a stop extends its time there.

use std::path::Path;
use std::time::Duration;

use nix::unistd::{getpid, getppid};

use crate::base::history::millis;
use crate::base::log::warn;

/// How long the process is waited for after TERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StopTimeout {
    Declared(Duration),
    /// Of a container, unless it is configured otherwise.
    Default(&'static str, Duration),
}

const KUBERNETES: StopTimeout = StopTimeout::Default("Kubernetes", Duration::from_secs(30));
const DOCKER: StopTimeout = StopTimeout::Default("Docker", Duration::from_secs(10));
const PODMAN: StopTimeout = StopTimeout::Default("Podman", Duration::from_secs(10));

/// Logs that a stop, which takes `longest`, may be cut short.
pub(crate) fn warn_if_short(longest: Duration, declared: Option<Duration>) {
    match too_short(longest, declared.map(StopTimeout::Declared).or_else(of_container)) {
        Some(StopTimeout::Declared(time)) => warn!(
            "a stop may take {longest:?}, but the process is killed after {time:?}: let Timeouts::drain and lame_duck together \
             be shorter";
            duration_ms = millis(longest),
            limit_ms = millis(time)
        ),
        Some(StopTimeout::Default(name, time)) => warn!(
            "a stop may take {longest:?}, but {name} kills after {time:?} unless configured otherwise: let Timeouts::drain and \
             lame_duck together be shorter, or declare a longer timeout by ProcessConfig::stop_timeout";
            duration_ms = millis(longest),
            limit_ms = millis(time)
        ),
        None => {}
    }
}

fn too_short(longest: Duration, timeout: Option<StopTimeout>) -> Option<StopTimeout> {
    timeout.filter(|(StopTimeout::Declared(time) | StopTimeout::Default(_, time))| *time <= longest)
}

/// The default where the end of this process, or of its supervisor, is that of a container.
fn of_container() -> Option<StopTimeout> {
    let is_main = getpid().as_raw() == 1 || matches!(getppid().as_raw(), 0 | 1);
    let exists = |path: &str| Path::new(path).exists();
    // Podman's file is hidden where a tmpfs is on /run, as with a root that is read-only.
    let is_podman = std::env::var_os("container").is_some_and(|name| name == "podman");
    let found = if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        KUBERNETES
    } else if is_podman || exists("/run/.containerenv") {
        PODMAN
    } else if exists("/.dockerenv") {
        DOCKER
    } else {
        return None;
    };
    is_main.then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_timeout_that_is_known_and_too_short_is_warned_of() {
        let secs = Duration::from_secs;
        let declared = |time| Some(StopTimeout::Declared(secs(time)));
        let cases = [
            (60, None, false),
            (60, Some(DOCKER), true),
            (60, Some(KUBERNETES), true),
            (9, Some(PODMAN), false),
            (10, Some(PODMAN), true),
            (60, declared(70), false),
            (60, declared(60), true),
        ];
        for (longest, timeout, is_short) in cases {
            let expected = timeout.filter(|_| is_short);
            assert_eq!(too_short(secs(longest), timeout), expected, "{longest} {timeout:?}");
        }
    }
}
