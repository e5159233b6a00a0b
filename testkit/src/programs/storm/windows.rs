//! Times in which storm itself does what must cost clients something: a stop, a successor killed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[derive(Debug, Default)]
pub(crate) struct Windows(Mutex<Vec<Window>>);

#[derive(Debug)]
struct Window {
    from: Instant,
    /// The event occurred.
    struck: bool,
    to: Option<Instant>,
}

impl Windows {
    fn lock(&self) -> MutexGuard<'_, Vec<Window>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn open(&self) {
        self.lock().push(Window { from: Instant::now(), struck: false, to: None });
    }

    /// The action happens now; before this the window excuses nothing.
    pub(crate) fn strike(&self) {
        self.lock().last_mut().into_iter().for_each(|window| window.struck = true);
    }

    pub(crate) fn close(&self) {
        self.lock().last_mut().into_iter().for_each(|window| window.to = Some(Instant::now()));
    }

    /// Whether any time from `from` to `to` is in a window that was struck.
    pub(crate) fn touch(&self, from: Instant, to: Instant) -> bool {
        let touches = |w: &Window| w.struck && w.from <= to && w.to.is_none_or(|end| from <= end);
        self.lock().iter().any(touches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_struck_window_excuses_a_failure() {
        let windows = Windows::default();
        let before = Instant::now();
        assert!(!windows.touch(before, before));
        windows.open();
        let within = Instant::now();
        assert!(!windows.touch(within, within), "not struck");
        windows.strike();
        assert!(windows.touch(within, within) && windows.touch(before, Instant::now()));
        windows.close();
        let after = windows.lock()[0].to.unwrap() + std::time::Duration::from_nanos(1);
        let from = windows.lock()[0].from;
        assert!(windows.touch(before, after) && windows.touch(from, from));
        assert!(!windows.touch(after, after));
        assert!(from == before || !windows.touch(before, before));
        // The next one starts from zero.
        windows.open();
        let second = Instant::now();
        assert!(second <= after || !windows.touch(second, second));
    }
}
