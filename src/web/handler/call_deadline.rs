//! The deadline of a route: until when a handler must have returned its response.
//!
//! The handler stays on its worker, with the worker's values (`PerWorker`), and can't be stopped. At the deadline another
//! thread answers in its place: see `http/exchange/deadline.rs`. Here is the one decision that both make under one lock, so
//! that a request is answered once.

use std::cell::RefCell;
use std::fmt::Display;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::{CONNECTION, HeaderValue};

use crate::base::sync::lock;
use crate::web::response::plain;
use crate::{Request, Response};

/// The deadline of one request, in its extensions.
#[derive(Clone)]
pub(crate) struct Deadline(Arc<Shared>);

struct Shared {
    since: Instant,
    at: Instant,
    outcome: Mutex<Outcome>,
}

/// What has come first: the response or the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Open,
    /// The handler has returned in time.
    Kept,
    /// The handler has returned late, before the thread that watches it has noticed. The worker sends a 503.
    Late,
    /// The worker sends a 503 when the handler returns.
    Passed,
    /// The 503 is sent, with so many bytes of a body, or the connection was cut: no more bytes may follow.
    Answered {
        bytes: Option<u64>,
    },
}

impl Outcome {
    /// Whether the watching thread has noticed that the deadline has passed.
    pub(crate) fn is_passed(self) -> bool {
        matches!(self, Outcome::Passed | Outcome::Answered { .. })
    }
}

impl Deadline {
    /// None if it is too far away to be an instant.
    pub(crate) fn after(time: Duration) -> Option<Deadline> {
        let since = Instant::now();
        let (at, outcome) = (since.checked_add(time)?, Mutex::new(Outcome::Open));
        Some(Deadline(Arc::new(Shared { since, at, outcome })))
    }

    pub(crate) fn of(request: &Request) -> Option<&Deadline> {
        request.extensions().get()
    }

    pub(crate) fn since(&self) -> Instant {
        self.0.since
    }

    pub(crate) fn at(&self) -> Instant {
        self.0.at
    }

    pub(crate) fn is_past(&self) -> bool {
        Instant::now() >= self.0.at
    }

    pub(crate) fn outcome(&self) -> Outcome {
        *lock(&self.0.outcome)
    }

    /// Decides, once: the handler has returned.
    pub(crate) fn end(&self) -> Outcome {
        let mut outcome = lock(&self.0.outcome);
        if *outcome == Outcome::Open {
            *outcome = if self.is_past() { Outcome::Late } else { Outcome::Kept };
        }
        *outcome
    }

    /// Decides, once: the time has passed. `answer` sends the response, and returns what has become of it. Meanwhile `end`
    /// waits. Nothing happens if the handler has returned.
    pub(crate) fn pass(&self, answer: impl FnOnce() -> Outcome) {
        let mut outcome = lock(&self.0.outcome);
        if *outcome == Outcome::Open {
            *outcome = answer();
        }
    }

    /// Writes to the client, unless the deadline has passed. None if it has.
    pub(crate) fn while_open<T>(&self, write: impl FnOnce() -> T) -> Option<T> {
        let outcome = lock(&self.0.outcome);
        (*outcome == Outcome::Open && !self.is_past()).then(write)
    }

    /// The handler's response if it is in time, otherwise a 503, which keeps the hooks on the end of that response.
    pub(crate) fn checked(&self, response: Response) -> Response {
        if self.end() == Outcome::Kept {
            return response;
        }
        let (late, body) = response.into_parts();
        drop(body);
        let mut response = plain(StatusCode::SERVICE_UNAVAILABLE);
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        *response.extensions_mut() = late.extensions;
        response
    }
}

thread_local! {
    /// The deadline of the call that this thread makes, and why its response is a 500 that no client gets.
    static CALL: RefCell<Option<(Deadline, Option<String>)>> = const { RefCell::new(None) };
}

/// This thread is about to call a handler with this deadline.
pub(crate) fn begin_call(deadline: &Deadline) {
    CALL.set(Some((deadline.clone(), None)));
}

/// That call has ended. Returns the failure that was noted in it.
pub(crate) fn end_call() -> Option<String> {
    CALL.take()?.1
}

/// Notes why a response is a 500. False if the deadline of the call has not passed, so that a client gets it.
pub(crate) fn note_failure(what: &dyn Display) -> bool {
    let note = |call: &mut Option<(Deadline, Option<String>)>| match call {
        Some((deadline, failure)) if deadline.is_past() => {
            failure.get_or_insert_with(|| what.to_string());
            true
        }
        _ => false,
    };
    // A thread that is ending calls no handler.
    CALL.try_with(|call| call.try_borrow_mut().is_ok_and(|mut call| note(&mut call))).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn what_comes_first_decides() {
        let deadline = Deadline::after(LONG).unwrap();
        assert_eq!(deadline.while_open(|| 7), Some(7));
        assert_eq!((deadline.end(), deadline.end()), (Outcome::Kept, Outcome::Kept));
        deadline.pass(|| unreachable!());
        assert_eq!(deadline.while_open(|| 7), None);

        for outcome in [Outcome::Answered { bytes: Some(1) }, Outcome::Passed] {
            let deadline = Deadline::after(LONG).unwrap();
            deadline.pass(|| outcome);
            deadline.pass(|| unreachable!());
            assert_eq!((deadline.end(), deadline.outcome()), (outcome, outcome));
            assert_eq!(deadline.while_open(|| 7), None);
        }

        let past = Deadline::after(Duration::ZERO).unwrap();
        assert_eq!((past.while_open(|| 7), past.end()), (None, Outcome::Late), "without another thread");
        assert!(Deadline::after(Duration::MAX).is_none());
    }

    #[test]
    fn a_failure_past_the_deadline_is_noted_for_its_line() {
        assert!(!note_failure(&"no call"));
        begin_call(&Deadline::after(LONG).unwrap());
        assert!(!note_failure(&"in time"));
        assert_eq!(end_call(), None);
        begin_call(&Deadline::after(Duration::ZERO).unwrap());
        assert!(note_failure(&"interrupted") && note_failure(&"what followed from it"));
        assert_eq!(end_call().as_deref(), Some("interrupted"));
        assert!(!note_failure(&"the call has ended"));
    }

    #[test]
    fn a_late_response_is_replaced_and_keeps_its_hooks() {
        let response =
            || http::Response::builder().header("x-a", "1").extension(7).body("late".into()).unwrap();
        let kept = Deadline::after(LONG).unwrap().checked(response());
        assert_eq!((kept.status(), &kept.headers()["x-a"]), (StatusCode::OK, &HeaderValue::from(1)));
        let mut late = Deadline::after(Duration::ZERO).unwrap().checked(response());
        assert_eq!((late.status(), late.extensions().get()), (StatusCode::SERVICE_UNAVAILABLE, Some(&7)));
        assert_eq!(
            (late.headers().get("x-a"), &late.headers()["connection"]),
            (None, &HeaderValue::from_static("close"))
        );
        assert_eq!(late.body_mut().read_text().unwrap(), "503 Service Unavailable\n");
    }
}
