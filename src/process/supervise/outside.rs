//! The supervisor as the main process of a service of systemd (`Type=notify`). Generations decide what is reported and when,
//! since they know: the watchdog is fed while the generation that serves makes progress, and a stop takes as long as that
//! says. Only what happens while none of them serves is reported by the supervisor itself.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::Supervisor;
use crate::process::systemd::{self, EXTEND_BY, EXTEND_EVERY, Notification, Notifier};

pub(super) struct Relay {
    /// None: nothing is to be notified.
    notifier: Option<Notifier>,
    /// The latest end of a stop in progress, and when its time is extended next.
    stop: Option<(Instant, Instant)>,
}

impl Default for Relay {
    fn default() -> Relay {
        Relay { notifier: systemd::notifier(), stop: None }
    }
}

impl Relay {
    /// A notification of a generation.
    pub(super) fn relay(&self, text: &str, fds: &[BorrowedFd<'_>]) {
        self.notifier.iter().for_each(|notifier| notifier.send_text(text, fds));
    }

    fn send(&self, notification: &Notification<'_>) {
        self.notifier.iter().for_each(|notifier| notifier.send(notification, &[]));
    }

    pub(super) fn status(&self, status: &str) {
        self.send(&Notification::Status { status });
    }

    /// The generation that serves stops within this time, and others that drain have no longer deadlines.
    pub(super) fn stopping(&mut self, within: Duration) {
        let now = Instant::now();
        self.stop = now.checked_add(within).map(|end| (end, now)).filter(|_| self.notifier.is_some());
    }

    pub(super) fn next_tick(&self) -> Option<Instant> {
        self.stop.filter(|(end, next)| next < end).map(|(_, next)| next)
    }

    /// Extends the time for a stop when the generation that has served, which does that itself, has ended.
    pub(super) fn tick(&mut self, has_main: bool) {
        let now = Instant::now();
        let Some((_, next)) = self.stop.as_mut().filter(|(end, next)| *next <= now && now < *end) else {
            return;
        };
        *next = now + EXTEND_EVERY;
        if !has_main {
            self.send(&Notification::Extend(EXTEND_BY));
        }
    }
}

impl Supervisor {
    /// The service stops. A generation reports that itself if it serves and knows of supervision.
    pub(super) fn stopping_by_itself(&self) {
        if !self.kept.main().is_some_and(|main| main.knows_supervision) {
            self.outside.send(&Notification::Stopping { status: "the service stops" });
        }
    }
}
