//! Whatever happens to storm, nothing that it started outlives it.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use testkit::beside;

use super::mask::fatal;
use super::server::Server;

/// Storm itself ends by the deadline; this is for when it does not.
const AFTER_THE_DEADLINE: Duration = Duration::from_secs(30);

/// Kills the server when this process is killed, or at the deadline.
pub(crate) fn watch(server: &Arc<Server>, deadline: Instant) {
    let ours = Arc::clone(server);
    beside("signals", move || {
        if let Ok(signal) = fatal().wait() {
            end(&ours, signal.as_str(), 128 + signal as i32);
        }
    });
    let ours = Arc::clone(server);
    beside("deadline", move || {
        let end_at = deadline + AFTER_THE_DEADLINE;
        while Instant::now() < end_at {
            std::thread::park_timeout(end_at.saturating_duration_since(Instant::now()));
        }
        end(&ours, "storm does not end by its deadline", 1);
    });
}

#[expect(clippy::exit, reason = "nothing else ends threads that wait for a socket")]
fn end(server: &Server, why: &str, status: i32) -> ! {
    server.kill();
    let _ = writeln!(std::io::stderr(), "\nstorm: {why}: the servers are killed");
    std::process::exit(status)
}
