//! How every other thread reaches the control loop: notes in a queue, and an eventfd that wakes the loop.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::base::error::Error;
use crate::base::sync::lock;
use crate::process::hooks::HookResult;
use crate::process::signals::SignalRequest;
use crate::process::state::Event;

/// Where other threads leave notes for the control loop. None of the methods waits.
#[derive(Default)]
pub(crate) struct Inbox {
    notes: Mutex<VecDeque<Note>>,
    /// Set when the loop starts; until then notes wait.
    waker: OnceLock<EventFd>,
}

pub(super) enum Note {
    Event(Event),
    SignalRequest(SignalRequest),
    /// Acceptor and workers have answered `Engine::check_progress`.
    Progressed,
    AllBusy(BusyPool),
    /// The supervisor has sent something while another answer was waited for.
    Supervisor,
    /// The result of the hook that was called with this ticket.
    Hook(u64, HookResult),
}

/// All workers of this pool have been busy for long while so many connections wait.
#[derive(Clone, Copy)]
pub(crate) struct BusyPool {
    pub(crate) pool: usize,
    pub(crate) connections: usize,
    /// How long the first of them has waited.
    pub(crate) waits: Duration,
}

impl Inbox {
    pub(crate) fn event(&self, event: Event) {
        self.push(Note::Event(event));
    }

    pub(crate) fn request(&self, request: SignalRequest) {
        self.push(Note::SignalRequest(request));
    }

    pub(crate) fn progressed(&self) {
        self.push(Note::Progressed);
    }

    pub(crate) fn all_busy(&self, busy: BusyPool) {
        self.push(Note::AllBusy(busy));
    }

    pub(super) fn supervisor(&self) {
        self.push(Note::Supervisor);
    }

    pub(crate) fn hook(&self, ticket: u64, result: HookResult) {
        self.push(Note::Hook(ticket, result));
    }

    fn push(&self, note: Note) {
        lock(&self.notes).push_back(note);
        if let Some(waker) = self.waker.get() {
            // A write fails only when the counter is full, and then the loop is woken anyway.
            let _ = waker.write(1);
        }
    }

    /// Attaches the inbox to a loop, which polls the descriptor that this returns. It is readable at first, for the
    /// notes that were left before.
    pub(super) fn attach(&self) -> Result<BorrowedFd<'_>, Error> {
        let waker = EventFd::from_value_and_flags(1, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(io::Error::from)
            .map_err(Error::system("can't create the control loop's eventfd"))?;
        let mut is_first = false;
        let waker = self.waker.get_or_init(|| {
            is_first = true;
            waker
        });
        if is_first {
            Ok(waker.as_fd())
        } else {
            Err(Error::config("this Handle controls another server, or did before: give each server its own"))
        }
    }

    pub(super) fn take(&self) -> VecDeque<Note> {
        if let Some(waker) = self.waker.get() {
            // Reset before the notes are taken, so that a note that is left meanwhile wakes the loop again.
            let _ = waker.read();
        }
        std::mem::take(&mut *lock(&self.notes))
    }
}
