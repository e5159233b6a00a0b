//! How many connections the limit of open files (RLIMIT_NOFILE) allows, and how many other descriptors.

use crate::base::budget::Budget;
use crate::base::log::warn;
use crate::base::sys::Limit;
use crate::process::control::socket;
use crate::server::launch::Launch;

/// Descriptors of the server itself: standard streams, listeners, pollers, signals, connections to the admin listener, and
/// those of a handover (channels, the child, the state), which must be able to start whatever clients do.
const OWN_FDS: u64 = 32;
/// The minimum besides those of connections: files being sent, temporary files, wakers of detached connections.
const EXTRA_FDS: u64 = 32;
/// The pool of the server and that of the admin listener.
const USUAL_POOLS: usize = 2;
const USUAL_LISTENERS: usize = 4;

impl Launch {
    /// Limits the connections to the descriptors that this process may open. Returns the budget of the other descriptors.
    pub(super) fn share_descriptors(&mut self, pools: usize, listeners: usize) -> Budget {
        if self.process.raise_nofile {
            raise_nofile();
        }
        let of_control = if self.process.places.control_socket.is_some() { socket::DESCRIPTORS } else { 0 };
        let (connections, others) =
            shared_out(nofile().saturating_sub(of_control), self.limits.connections, pools, listeners);
        self.limits.connections = connections;
        Budget::new(others)
    }
}

/// The soft limit of open files is 1,024 on most hosts, because of programs that use select().
fn raise_nofile() {
    let Limit { soft, hard } = Limit::open_files();
    if soft == hard {
        return;
    }
    if let Err(e) = (Limit { soft: hard, hard }).set_open_files() {
        let shown = |limit: u64| if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() };
        warn!("can't raise the limit of open files from {} to {}: {e}", shown(soft), shown(hard));
    }
}

fn nofile() -> u64 {
    Limit::open_files().soft
}

/// The number of connections under a NOFILE limit, and of other descriptors. Connections don't get all: if each client
/// requested a file, none would be left to open it, to accept or to hand over. Each pool has two descriptors to wait on,
/// each listener one; the usual ones are among the server's own.
fn shared_out(nofile: u64, connections: usize, pools: usize, listeners: usize) -> (usize, u64) {
    let beyond_usual = pools
        .saturating_sub(USUAL_POOLS)
        .saturating_mul(2)
        .saturating_add(listeners.saturating_sub(USUAL_LISTENERS));
    let room = nofile.saturating_sub(OWN_FDS.saturating_add(beyond_usual as u64));
    let extra = EXTRA_FDS.max((nofile / 16).saturating_add(EXTRA_FDS / 2));
    let most = usize::try_from(room.saturating_sub(extra).max(8)).unwrap_or(usize::MAX);
    let connections = connections.min(most);
    (connections, room.saturating_sub(connections as u64).max(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_shared_out() {
        let most = usize::MAX;
        let cases = [
            (256, most, 2, 3, (192, 32)),
            (256, 100, 2, 3, (100, 124)),
            (256, most, 4, 6, (186, 32)),
            (1024, most, 2, 1, (912, 80)),
            (1024, 16_384, 2, 1, (912, 80)),
            (4096, 16_384, 2, 1, (3_792, 272)),
            (1 << 20, 16_384, 2, 1, (16_384, 1_032_160)),
            (64, most, 1, 1, (8, 24)),
            (40, most, 1, 1, (8, 8)),
            (0, most, 1, 1, (8, 8)),
            (u64::MAX, 16_384, 1, 1, (16_384, u64::MAX - 32 - 16_384)),
        ];
        for (nofile, connections, pools, listeners, want) in cases {
            assert_eq!(shared_out(nofile, connections, pools, listeners), want, "{nofile} {connections}");
        }
    }
}
