//! Who wants to know how a response ended.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use http::{Extensions, StatusCode};

use super::let_go;
use crate::base::log::{error, panic_text};
use crate::web::response::{Ended, OnEnd};

/// A response on its way. Dropping it tells of the end, which was none unless `complete` was said.
pub(super) struct Ending {
    on_end: OnEnd,
    ended: Ended,
}

impl Ending {
    /// None: nobody wants to know.
    pub(super) fn of(extensions: &mut Extensions, status: StatusCode) -> Option<Ending> {
        let on_end = extensions.remove::<OnEnd>()?;
        Some(Ending { on_end, ended: Ended { status, bytes: 0, complete: false } })
    }

    /// What the client gets instead.
    pub(super) fn set_status(&mut self, status: StatusCode) {
        self.ended.status = status;
    }

    /// So far.
    pub(super) fn set_bytes(&mut self, bytes: u64) {
        self.ended.bytes = bytes;
    }

    pub(super) fn complete(mut self) {
        self.ended.complete = true;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        for hook in self.on_end.take() {
            // It may come while something else unwinds.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| hook(&self.ended))) {
                error!("on_end panicked: {}", panic_text(&*panic));
                let_go(panic, || "on_end".to_owned());
            }
        }
    }
}

impl fmt::Debug for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ending").field("ended", &self.ended).finish_non_exhaustive()
    }
}
