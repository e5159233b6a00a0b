//! Reports how a response ended (`ResponseExt::on_end`).
//!
//! **The exchange reports the end of a response** (`ResponseExt::on_end`), not a body whose drop reports it: bytes in
//! memory stay bytes, files stay files, and a 503 for lack of a thread is logged as that, not as the handler's 200.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use http::{Extensions, StatusCode};

use super::drop_contained;
use crate::base::contain_panic::panic_text;
use crate::base::log::error;
use crate::web::response::{OnEnd, ResponseEnd};
use crate::web::wrap::Entries;

/// A response on its way. Dropping it reports the end, as incomplete unless `complete` was called.
pub(super) struct Ending {
    on_end: Option<OnEnd>,
    entries: Entries,
    ended: ResponseEnd,
}

impl Ending {
    /// None if there are neither hooks nor entries. `now` is a time at which it has not ended.
    #[inline(always)]
    pub(super) fn of(
        entries: &mut Entries,
        extensions: &mut Extensions,
        status: StatusCode,
        now: Instant,
    ) -> Option<Ending> {
        let on_end = if extensions.is_empty() { None } else { Ending::noted(entries, extensions) };
        if on_end.is_none() && entries.is_empty() {
            return None;
        }
        let ended = ResponseEnd { status, bytes: 0, complete: false, at: now };
        Some(Ending { on_end, entries: std::mem::take(entries), ended })
    }

    /// Gives what the extensions say to the entries. Returns the hooks.
    #[inline(never)]
    fn noted(entries: &mut Entries, extensions: &mut Extensions) -> Option<OnEnd> {
        entries.note_response(extensions);
        extensions.remove()
    }

    /// The client gets another response, with this status.
    pub(super) fn set_status(&mut self, status: StatusCode) {
        self.ended.status = status;
    }

    /// Bytes of the body so far.
    pub(super) fn set_bytes(&mut self, bytes: u64) {
        self.ended.bytes = bytes;
    }

    pub(super) fn complete(mut self) {
        self.note_complete(Instant::now());
    }

    fn note_complete(&mut self, now: Instant) {
        (self.ended.complete, self.ended.at) = (true, now);
    }
}

impl Drop for Ending {
    #[inline(always)]
    fn drop(&mut self) {
        if !self.ended.complete {
            self.ended.at = Instant::now();
        }
        if let Some(hooks) = &self.on_end {
            hooks.take().for_each(|hook| contained(|| hook(&self.ended)));
        }
        self.entries.for_each(|entry| contained(|| entry.end(&self.ended)));
    }
}

/// Calls the user's code. This may be while another panic unwinds.
fn contained(call: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
        error!("on_end panicked: {}", panic_text(&*panic));
        drop_contained(panic, || "on_end".to_owned());
    }
}

/// The endings of responses that are written and that the socket does not have yet, in their order.
#[derive(Default)]
pub(super) struct Endings(Vec<Unsent>);

struct Unsent {
    ending: Ending,
    /// How many of the written bytes must be sent until the response is complete.
    left: usize,
    /// How many bytes at the end of these belong to its body.
    bytes: u64,
}

impl Endings {
    /// A response that is complete after `left` more bytes, the last of which are its body.
    #[inline(always)]
    pub(super) fn push(&mut self, ending: Ending, left: usize, bytes: u64) {
        if self.0.capacity() == 0 {
            self.reserve_first();
        }
        self.0.push(Unsent { ending, left, bytes });
        if left == 0 {
            self.note_sent(0);
        }
    }

    /// Most clients wait for each response, and the connection keeps the list: a `Vec` begins with room for four.
    #[cold]
    fn reserve_first(&mut self) {
        self.0.reserve_exact(1);
    }

    /// The socket has taken so many more of the written bytes.
    #[inline(always)]
    pub(super) fn note_sent(&mut self, sent: usize) {
        if !self.0.is_empty() {
            self.note_sent_of_some(sent);
        }
    }

    fn note_sent_of_some(&mut self, sent: usize) {
        for unsent in &mut self.0 {
            unsent.left = unsent.left.saturating_sub(sent);
            unsent.ending.set_bytes(unsent.bytes.saturating_sub(unsent.left as u64));
        }
        let complete = self.0.iter().take_while(|unsent| unsent.left == 0).count();
        if complete > 0 {
            let now = Instant::now();
            self.0.iter_mut().take(complete).for_each(|unsent| unsent.ending.note_complete(now));
            if complete == self.0.len() {
                self.0.clear();
            } else {
                self.0.drain(..complete);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::web::response::{ResponseExt, plain};

    #[test]
    fn a_response_is_complete_when_the_socket_has_it() {
        let (sender, ends_seen) = mpsc::channel();
        let mut endings = Endings::default();
        let push = |endings: &mut Endings, left, bytes| {
            let sender = sender.clone();
            let mut response =
                plain(StatusCode::OK).on_end(move |end| sender.send((end.bytes, end.complete)).unwrap());
            let (mut entries, now) = (Entries::default(), Instant::now());
            let ending = Ending::of(&mut entries, response.extensions_mut(), StatusCode::OK, now).unwrap();
            endings.push(ending, left, bytes);
        };
        // A head of 10 bytes each.
        push(&mut endings, 0, 5);
        push(&mut endings, 15, 5);
        push(&mut endings, 30, 5);
        push(&mut endings, 45, 5);
        let ends = || ends_seen.try_iter().collect::<Vec<_>>();
        assert_eq!(ends(), [(5, true)], "nothing was to go out");
        endings.note_sent(14);
        assert_eq!(ends(), []);
        endings.note_sent(1);
        assert_eq!(ends(), [(5, true)]);
        endings.note_sent(13);
        drop(endings);
        assert_eq!(ends(), [(3, false), (0, false)], "the client has gone");
    }
}
