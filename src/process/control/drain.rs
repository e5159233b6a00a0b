//! How the control loop drains, aborts what is left at the end, and runs the last hooks.

use std::time::{Duration, Instant};

use super::Control;
use crate::base::error::Error;
use crate::base::history::millis;
use crate::base::log::{Escaped, error, info};
use crate::process::state::{Stage, Timer, Why};

/// Time for `on_exit`, even after the drain deadline.
const LAST_MOMENT: Duration = Duration::from_secs(1);

impl Control<'_> {
    pub(super) fn drain(&mut self) {
        self.publish();
        if let Stage::Draining(why) = self.state.stage() {
            self.progress.failed_check = why == Why::Failed;
            let successor = self.successor.as_ref().map(|successor| successor.server_pid().as_raw());
            let reason = match why {
                Why::Stop => "stop requested",
                Why::HandedOver => "handed over",
                Why::Failed => "failed the check",
            };
            let cause = match successor.filter(|_| why == Why::HandedOver) {
                Some(successor) => format!("{reason} to {successor}"),
                None => reason.to_owned(),
            };
            let now = Instant::now();
            self.progress.drain_began = Some(now);
            let handover = self.outside.upgrade.elapsed(now).filter(|_| why == Why::HandedOver);
            let stats = self.stats();
            info!(
                "draining ({cause}): {}", self.engine.report();
                phase = "draining",
                reason = reason,
                successor = successor,
                duration_ms = handover.map(millis),
                requests = stats.in_flight,
                connections = stats.open
            );
        }
        self.engine.drain();
    }

    pub(super) fn abort(&mut self) {
        self.supervised_service_aborts();
        let in_flight = self.engine.in_flight();
        self.progress.cut = self.progress.cut.max(in_flight.len());
        self.progress.aborted = true;
        for cut in &in_flight {
            error!(
                "abort: cut {cut}";
                request:% = Escaped(&cut.what),
                duration_ms = cut.age.map(millis)
            );
        }
        if in_flight.is_empty() {
            info!("abort: nothing was in flight"; requests = 0);
        }
    }

    /// Runs `on_exit` for as long as the drain has time. Signals are still handled meanwhile.
    pub(super) fn finish_hooks(&mut self) -> Result<(), Error> {
        let deadline = self.progress.timers.remove(&Timer::DrainDeadline).filter(|_| !self.progress.aborted);
        let soon = Instant::now() + LAST_MOMENT;
        let until = deadline.map_or(soon, |at| at.max(soon));
        self.progress.aborted = false;
        self.hooks.exit();
        while !self.hooks.have_exited() && !self.progress.aborted && Instant::now() < until {
            self.turn(Some(until))?;
        }
        if !self.hooks.have_exited() {
            error!("on_exit did not finish in time"; hook = "on_exit", reason = "it did not finish in time");
        }
        Ok(())
    }
}
