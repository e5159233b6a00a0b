//! Clients that ask for `/pid` beside a test, and what became of each request.

use std::time::Duration;

use heirloom_testkit::{Addr, Load, Outcome, RunningLoad};

/// Some keep their connection until the server announces its close, others connect again for each
/// request. None of them retries.
#[derive(Debug)]
pub struct Crowd(RunningLoad);

/// The outcomes of the requests of a crowd.
#[derive(Debug, Default)]
pub struct Tally {
    pub answered: usize,
    /// With the process that had answered on the same connection before, if one had.
    pub failed: Vec<(Outcome, Option<i32>)>,
}

impl Crowd {
    /// So many of its clients connect again for each request.
    pub const NEW: usize = 2;
    pub const ALL: usize = 2 * Crowd::NEW;

    /// They ask for `/pid` until `stop`. Those that keep their connection have it when this returns.
    pub fn of(addr: &Addr) -> Crowd {
        let load = Load::new().keep_alive(Crowd::ALL - Crowd::NEW).close(Crowd::NEW).get("/pid");
        // Without it each crowd would take half a core from the tests beside it.
        let load = load.pause(Duration::from_millis(1));
        Crowd(load.identify(|response| Some(response.number().to_string())).start(addr))
    }

    /// Each client finishes its request.
    #[track_caller]
    pub fn stop(self) -> Tally {
        let report = self.0.stop();
        let pid = |text: String| text.parse().expect("a pid");
        let failed = report.failures.into_iter().map(|failure| (failure.outcome, failure.before.map(pid)));
        Tally { answered: usize::try_from(report.answered).expect("few"), failed: failed.collect() }
    }
}
