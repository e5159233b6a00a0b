//! The lifecycle of a process as a state machine: `State::on(Event)` gives `Action`s. Pure: no threads, no descriptors, no
//! clock. ARCHITECTURE.md has it as a table, and the tests read that table.
//!
//! ```text
//!  successor                         any generation                         predecessor
//!  Prepared                            Serving --spawn--> Awaiting --PREPARED--> Releasing
//!     | GO                               ^  |  ^                                      | GO
//!  Acquiring --SERVING--> OnProbation ---+  |  |                                   Offering
//!                 STOPPING |  COMMIT        |  |                                      | SERVING
//!                          v              stop +----- death, FAILED, silence ----- Watching
//!                       Yielding            |                                         | STILL-GOOD
//!                          +--------------> Draining <---------- COMMIT --------------+
//! ```

use std::time::Duration;

use crate::base::phase::Phase;
use crate::process::handover::Message;

/// How long a live peer may take for an answer that it owes at once.
const ANSWER: Duration = Duration::from_secs(10);
/// Signals to stop within this time of the first one are the same request: a terminal, a group and a supervisor may all
/// deliver it.
pub(crate) const SAME_REQUEST: Duration = Duration::from_millis(500);
/// A binary that is being written (ETXTBSY) is tried this often, this far apart.
const BUSY_RETRIES: u8 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// Successor: PREPARED is sent; nothing is accepted.
    Prepared,
    /// Successor: GO was received, and the exclusive resources are being acquired.
    Acquiring,
    /// Successor: accepts, while the predecessor still could.
    OnProbation,
    /// A successor that stops: it accepts until the predecessor has closed its listeners.
    Yielding,
    /// Accepts; no handover in progress.
    Serving,
    /// Predecessor: a successor is starting.
    Awaiting,
    /// Predecessor: the successor is prepared, and the exclusive resources are being released.
    Releasing,
    /// Predecessor: GO is sent.
    Offering,
    /// Predecessor: the successor accepts, we watch it.
    Watching,
    /// Asked to stop, still accepting.
    LameDuck,
    Draining(Why),
    Finished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Why {
    Stop,
    HandedOver,
    /// A successor that failed its check: rolled back.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// HUP, `Handle::handover`.
    Handover,
    /// TERM, INT, QUIT: the second one aborts; the third ends the process before it gets here.
    Stop,
    /// A hang-up, `Handle::shutdown`: as the first `Stop`, however often.
    Drain,
    /// `Handle::abort`.
    Abort,
    FromPredecessor(Message),
    FromSuccessor(Message),
    PredecessorGone,
    SuccessorGone,
    Spawned,
    /// The executable can't be started.
    SpawnFailed,
    /// The executable is being written.
    ProgramBusy,
    Timer(Timer),
    /// The result of `Action::Release`.
    Released(Result<(), String>),
    /// The result of `Action::Acquire`.
    Acquired(Result<(), String>),
    /// The result of `Action::Check`.
    Checked(Result<(), String>),
    ListenersClosed,
    /// Nothing is in flight, no connection is open.
    Drained,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The timer of the present stage; a change of stage ends it.
    Stage,
    DrainDeadline,
    SameRequest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Spawn,
    /// KILL and reap; then say STOPPING, for a successor that the kill does not reach.
    KillSuccessor,
    ToPredecessor(Message),
    ToSuccessor(Message),
    Accept,
    /// Release the exclusive resources; `Released` follows.
    Release,
    /// Acquire the exclusive resources; `Acquired` follows.
    Acquire,
    /// Stop polling the listeners the successor adopted, keep them.
    Pause,
    /// Close listeners that another generation holds too; `ListenersClosed` follows.
    CloseShared,
    /// Serve the clients that wait on the listeners, then close them for good; `ListenersClosed` follows.
    CloseLast,
    /// Parked connections go to the successor, or get the announced close.
    HandConnections,
    /// Announce the close to all connections; `Drained` follows when the last is gone.
    Drain,
    /// The pid file names us.
    AssumeIdentity,
    /// The pid file names the successor.
    PassIdentity,
    /// The handover is over, and this process still serves.
    HandoverFailed,
    /// Ask acceptor and workers for a sign of life; `Checked` follows.
    Check,
    /// Log the operations that are stuck; they will be cut.
    Abort,
    /// Leave the loop.
    Finish,
    Timer(Timer, Option<Duration>),
}

/// The part of the configuration that the lifecycle depends on.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Terms {
    pub(crate) ready: Duration,
    pub(crate) probation: Duration,
    pub(crate) drain: Duration,
    pub(crate) lame_duck: Duration,
    /// Under a service manager: how long a generation that has handed over drains after the main process has died. It restarts
    /// the service only when every process has ended.
    pub(crate) without_main: Option<Duration>,
    /// The service manager keeps the listeners over a crash.
    pub(crate) is_stored: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    terms: Terms,
    stage: Stage,
    /// A handover was requested while none could start; it is remembered once.
    wanted: bool,
    /// Requests to stop, by signal or API.
    stops: u8,
    /// Set within `SAME_REQUEST` of the first of them.
    is_same_request: bool,
    busy_retries: u8,
    /// The other generation waits for our CLOSED.
    owes_closed: bool,
    /// Successor: the predecessor died before we served.
    orphan: bool,
    /// Successor, under a service manager: the predecessor died before COMMIT. The service manager takes that for the end of
    /// the service, and stops this process, so that it can start the service again.
    unreported: bool,
    /// Handed over: the main process stops, or has ended well.
    main_stops: bool,
}

impl State {
    /// The first generation, or one whose predecessor is unknown.
    pub(crate) fn first(terms: Terms) -> (State, Vec<Action>) {
        (State::at(Stage::Serving, terms), vec![Action::Accept, Action::AssumeIdentity])
    }

    /// A successor whose listeners are bound and whose `before_ready` has passed.
    pub(crate) fn successor(
        terms: Terms,
        adopted: Vec<String>,
        resumes: Vec<String>,
    ) -> (State, Vec<Action>) {
        (
            State::at(Stage::Prepared, terms),
            vec![Action::ToPredecessor(Message::Prepared { adopted, takes_records: true, resumes })],
        )
    }

    fn at(stage: Stage, terms: Terms) -> State {
        State {
            terms,
            stage,
            wanted: false,
            stops: 0,
            is_same_request: false,
            busy_retries: 0,
            owes_closed: false,
            orphan: false,
            unreported: false,
            main_stops: false,
        }
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.stage {
            Stage::Prepared | Stage::Acquiring => Phase::Starting,
            Stage::OnProbation | Stage::Serving => Phase::Serving,
            Stage::Awaiting | Stage::Releasing | Stage::Offering | Stage::Watching => Phase::HandingOver,
            Stage::LameDuck => Phase::LameDuck,
            Stage::Draining(Why::HandedOver) => Phase::HandedOver,
            Stage::Yielding | Stage::Draining(_) => Phase::Draining,
            Stage::Finished => Phase::Exited,
        }
    }

    /// The actions that follow from `event`. An event that has no meaning in the present stage has no effect.
    pub(crate) fn on(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        let before = self.stage;
        self.unreported |= event == Event::PredecessorGone && self.is_unreported_after_a_death();
        self.step(event, &mut actions);
        let left_a_timed_stage = before != self.stage && !sets_stage_timer(&actions) && is_timed(before);
        if left_a_timed_stage {
            actions.push(Action::Timer(Timer::Stage, None));
        }
        actions
    }

    #[expect(clippy::too_many_lines, reason = "the tables of ARCHITECTURE.md, cell by cell")]
    fn step(&mut self, event: Event, out: &mut Vec<Action>) {
        use Action::{
            Accept, Acquire, AssumeIdentity, Check, CloseShared, Drain, Finish, HandConnections,
            KillSuccessor, PassIdentity, Pause, Release, Spawn, ToPredecessor, ToSuccessor,
        };
        use Event::{FromPredecessor, FromSuccessor, PredecessorGone, SuccessorGone};
        use Stage::{
            Acquiring, Awaiting, Draining, Finished, LameDuck, Offering, OnProbation, Prepared, Releasing,
            Serving, Watching, Yielding,
        };

        match (self.stage, event) {
            // Its last hooks may still run.
            (Finished, Event::Stop) => self.request_stop(out),
            (Finished, Event::Abort) => self.abort(out),
            (Finished, Event::Timer(Timer::SameRequest)) => self.is_same_request = false,
            (Finished, _) => {}

            // Requests, by signal, API or a predecessor that passes on a late HUP.
            (stage, Event::Handover | FromPredecessor(Message::HandoverPlease)) => match stage {
                Serving => self.spawn(out),
                Draining(Why::HandedOver) => out.push(ToSuccessor(Message::HandoverPlease)),
                Yielding | LameDuck | Draining(_) => {}
                _ => self.wanted = true,
            },
            (_, Event::Stop) => self.request_stop(out),
            (_, Event::Drain) => self.stop(out),
            (_, Event::Abort) => self.abort(out),
            (_, Event::Timer(Timer::SameRequest)) => self.is_same_request = false,
            (_, Event::Timer(Timer::DrainDeadline)) => self.abort(out),

            // Predecessor: a successor starts.
            (Awaiting, Event::ProgramBusy) if self.busy_retries < BUSY_RETRIES => {
                self.busy_retries = self.busy_retries.saturating_add(1);
                out.push(Action::Timer(Timer::Stage, Some(BUSY_PAUSE)));
            }
            (Awaiting, Event::Timer(Timer::Stage)) if self.busy_retries > 0 => {
                out.extend([Spawn, Action::Timer(Timer::Stage, Some(self.terms.ready))]);
            }
            (Awaiting, Event::Spawned) => self.busy_retries = 0,
            (Awaiting, Event::ProgramBusy | Event::SpawnFailed) => self.serve_again(out),
            (Awaiting, FromSuccessor(Message::Prepared { .. })) => {
                out.push(Release);
                self.enter(Releasing, Some(self.terms.ready), out);
            }
            (Releasing, Event::Released(Ok(()))) => {
                let probation = self.terms.probation;
                out.push(ToSuccessor(Message::Go { probation, state: None, records: None }));
                self.enter(Offering, Some(self.terms.ready.max(ANSWER)), out);
            }
            (
                Releasing,
                FromSuccessor(Message::Failed { .. })
                | SuccessorGone
                | Event::Timer(Timer::Stage)
                | Event::Released(Err(_)),
            ) => {
                out.extend([KillSuccessor, Acquire]);
                self.serve_again(out);
            }
            (
                Awaiting,
                FromSuccessor(Message::Failed { .. }) | SuccessorGone | Event::Timer(Timer::Stage),
            ) => {
                out.push(KillSuccessor);
                self.serve_again(out);
            }

            // Predecessor: the successor may accept. From here on it is never killed, unless silent.
            (Offering, FromSuccessor(Message::Serving)) => {
                out.push(Pause);
                self.enter(Watching, Some(self.terms.probation.saturating_add(ANSWER)), out);
            }
            (Watching, FromSuccessor(Message::StillGood)) => {
                out.push(PassIdentity);
                // Before COMMIT: if the signal went to the whole group, the successor remembers the same request.
                if std::mem::take(&mut self.wanted) {
                    out.push(ToSuccessor(Message::HandoverPlease));
                }
                out.extend([ToSuccessor(Message::Commit), CloseShared, HandConnections]);
                self.drain(Why::HandedOver, out);
            }
            (Offering | Watching, SuccessorGone | FromSuccessor(Message::Failed { .. })) => {
                out.extend([Accept, Acquire]);
                self.serve_again(out);
            }
            (Offering | Watching, Event::Timer(Timer::Stage)) => {
                out.extend([KillSuccessor, Accept, Acquire]);
                self.serve_again(out);
            }
            (Offering | Watching, FromSuccessor(Message::Stopping { .. })) => {
                self.owes_closed = true;
                out.push(CloseShared);
                self.drain(Why::Stop, out);
            }
            (Draining(_), Event::ListenersClosed) if std::mem::take(&mut self.owes_closed) => {
                out.push(ToSuccessor(Message::Closed));
            }

            // Handed over, under a service manager: STOPPING is the last word of a main process that means to end.
            (Draining(Why::HandedOver), FromSuccessor(Message::Stopping { .. })) => self.main_stops = true,
            (Draining(Why::HandedOver), SuccessorGone | FromSuccessor(Message::Failed { .. })) => {
                self.main_is_gone(out);
            }

            // Successor: nothing is accepted before GO. A predecessor that dies without STOPPING has crashed, because one that
            // stops kills an unready successor first.
            (Prepared, FromPredecessor(Message::Go { probation, .. })) => {
                self.terms.probation = probation;
                out.push(Acquire);
                self.stage = Acquiring;
            }
            (Acquiring, Event::Acquired(Ok(()))) if self.orphan => {
                out.extend([Accept, AssumeIdentity]);
                self.stage = Serving;
                self.start_wanted(out);
            }
            (Acquiring, Event::Acquired(Ok(()))) => {
                out.extend([Accept, ToPredecessor(Message::Serving)]);
                self.enter(OnProbation, Some(self.terms.probation), out);
            }
            (Acquiring, Event::Acquired(Err(reason))) => {
                out.extend([ToPredecessor(Message::Failed { reason }), Finish]);
                self.stage = Finished;
            }
            (Acquiring, PredecessorGone) => self.orphan = true,
            (Acquiring, FromPredecessor(Message::Stopping { within })) => {
                // Connections that the kernel has accepted for us are served.
                out.push(Accept);
                self.enter(Yielding, Some(within), out);
            }
            // Sent in case the kill does not reach us, because a script stands between.
            (Prepared, FromPredecessor(Message::Stopping { .. })) => {
                out.push(Finish);
                self.stage = Finished;
            }
            (OnProbation, Event::Timer(Timer::Stage)) => out.push(Check),
            (OnProbation, Event::Checked(Ok(()))) => out.push(ToPredecessor(Message::StillGood)),
            (OnProbation, Event::Checked(Err(reason))) => {
                out.push(ToPredecessor(Message::Failed { reason }));
                out.push(CloseShared);
                self.drain(Why::Failed, out);
            }
            (OnProbation, FromPredecessor(Message::Commit)) => {
                self.stage = Serving;
                self.start_wanted(out);
            }
            (Prepared, PredecessorGone) => {
                self.orphan = true;
                out.push(Acquire);
                self.stage = Acquiring;
            }
            (OnProbation, PredecessorGone) => {
                out.push(AssumeIdentity);
                self.stage = Serving;
                self.start_wanted(out);
            }
            (OnProbation, FromPredecessor(Message::Stopping { within })) => {
                self.enter(Yielding, Some(within), out);
            }
            (
                Yielding,
                PredecessorGone
                | Event::Timer(Timer::Stage)
                | FromPredecessor(Message::Closed | Message::Commit),
            ) => self.close_and_drain(out),

            // The end.
            (LameDuck, Event::Timer(Timer::Stage)) => self.close_and_drain(out),
            (Draining(why), Event::Drained) => {
                if why == Why::HandedOver {
                    self.take_leave(out);
                }
                out.push(Finish);
                self.stage = Finished;
            }

            _ => {}
        }
        debug_assert!(!out.contains(&Drain) || matches!(self.stage, Draining(_)));
    }

    fn enter(&mut self, stage: Stage, time: Option<Duration>, out: &mut Vec<Action>) {
        self.stage = stage;
        out.push(Action::Timer(Timer::Stage, time));
    }

    fn spawn(&mut self, out: &mut Vec<Action>) {
        self.busy_retries = 0;
        out.push(Action::Spawn);
        self.enter(Stage::Awaiting, Some(self.terms.ready), out);
    }

    /// After a handover that did not happen.
    fn serve_again(&mut self, out: &mut Vec<Action>) {
        out.push(Action::HandoverFailed);
        self.stage = Stage::Serving;
        self.start_wanted(out);
    }

    fn start_wanted(&mut self, out: &mut Vec<Action>) {
        if std::mem::take(&mut self.wanted) {
            self.spawn(out);
        }
    }

    fn request_stop(&mut self, out: &mut Vec<Action>) {
        if self.is_same_request {
            return;
        }
        self.stops = self.stops.saturating_add(1);
        match self.stops {
            1 => {
                self.is_same_request = true;
                out.push(Action::Timer(Timer::SameRequest, Some(SAME_REQUEST)));
                self.stop(out);
            }
            2 => self.abort(out),
            // The handler of the third ends the process.
            _ => {}
        }
    }

    /// The first request to stop.
    fn stop(&mut self, out: &mut Vec<Action>) {
        let stopping = Message::Stopping { within: self.terms.drain };
        match self.stage {
            Stage::Serving => self.stop_alone(out),
            Stage::Awaiting | Stage::Releasing => {
                out.push(Action::KillSuccessor);
                self.stop_alone(out);
            }
            Stage::Offering | Stage::Watching => {
                self.owes_closed = true;
                out.extend([Action::ToSuccessor(stopping), Action::CloseShared]);
                self.drain(Why::Stop, out);
            }
            // No other process is left to stop; waiting clients are served nevertheless.
            Stage::Acquiring if self.orphan => self.close_and_drain(out),
            Stage::Prepared => {
                let reason = "stopped before it served".to_owned();
                out.extend([Action::ToPredecessor(Message::Failed { reason }), Action::Finish]);
                self.stage = Stage::Finished;
            }
            // The whole group may have got the signal, and then the predecessor relies on this process.
            Stage::Acquiring => {
                out.extend([Action::Accept, Action::ToPredecessor(stopping)]);
                self.enter(Stage::Yielding, Some(ANSWER), out);
            }
            Stage::OnProbation => {
                out.push(Action::ToPredecessor(stopping));
                self.enter(Stage::Yielding, Some(ANSWER), out);
            }
            Stage::Yielding | Stage::LameDuck | Stage::Draining(_) | Stage::Finished => {}
        }
    }

    /// Notifies a generation before this one, which still drains, so that it does not take this end for a crash.
    fn take_leave(&self, out: &mut Vec<Action>) {
        if self.terms.without_main.is_some() {
            out.push(Action::ToPredecessor(Message::Stopping { within: self.terms.drain }));
        }
    }

    /// Cuts the drain short, here and in the generation before this one, because the main process has died.
    fn main_is_gone(&mut self, out: &mut Vec<Action>) {
        let Some(rest) = self.terms.without_main.filter(|_| !self.main_stops) else { return };
        self.main_stops = true;
        let reason = "the main process has died".to_owned();
        out.push(Action::ToPredecessor(Message::Failed { reason }));
        out.push(Action::Timer(Timer::DrainDeadline, Some(rest.min(self.terms.drain))));
    }

    /// The longest time that a stop takes from now on.
    pub(crate) fn longest_stop(&self) -> Duration {
        match self.stage {
            Stage::LameDuck => self.terms.lame_duck.saturating_add(self.terms.drain),
            _ => self.time_to_stop(),
        }
    }

    /// Whether the service manager does not know, if the predecessor dies now, which process is main.
    fn is_unreported_after_a_death(&self) -> bool {
        let is_successor =
            matches!(self.stage, Stage::Prepared | Stage::Acquiring | Stage::OnProbation | Stage::Yielding);
        is_successor && self.terms.without_main.is_some()
    }

    fn time_to_stop(&self) -> Duration {
        let brief = self.terms.without_main.filter(|_| self.unreported);
        brief.map_or(self.terms.drain, |brief| brief.min(self.terms.drain))
    }

    fn stop_alone(&mut self, out: &mut Vec<Action>) {
        self.take_leave(out);
        if self.terms.lame_duck.is_zero() || self.unreported {
            self.close_and_drain(out);
        } else {
            self.enter(Stage::LameDuck, Some(self.terms.lame_duck), out);
        }
    }

    fn close_and_drain(&mut self, out: &mut Vec<Action>) {
        // A filter, or a shutdown, would outlast this process where the next one gets the same sockets.
        let is_kept = self.unreported && self.terms.is_stored;
        out.push(if is_kept { Action::CloseShared } else { Action::CloseLast });
        self.drain(Why::Stop, out);
    }

    fn drain(&mut self, why: Why, out: &mut Vec<Action>) {
        let time = if why == Why::Stop { self.time_to_stop() } else { self.terms.drain };
        out.extend([Action::Drain, Action::Timer(Timer::DrainDeadline, Some(time))]);
        self.stage = Stage::Draining(why);
    }

    /// The immediate end. A successor that is not ready is killed; one that serves is notified.
    fn abort(&mut self, out: &mut Vec<Action>) {
        match self.stage {
            Stage::Awaiting | Stage::Releasing => out.push(Action::KillSuccessor),
            Stage::Offering | Stage::Watching => {
                out.push(Action::ToSuccessor(Message::Stopping { within: Duration::ZERO }));
            }
            Stage::OnProbation => {
                out.push(Action::ToPredecessor(Message::Stopping { within: Duration::ZERO }));
            }
            Stage::Draining(Why::HandedOver) => self.take_leave(out),
            _ => {}
        }
        out.extend([Action::Abort, Action::Finish]);
        self.stage = Stage::Finished;
    }
}

fn is_timed(stage: Stage) -> bool {
    !matches!(
        stage,
        Stage::Serving | Stage::Prepared | Stage::Acquiring | Stage::Draining(_) | Stage::Finished
    )
}

fn sets_stage_timer(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Timer(Timer::Stage, _)))
}

#[cfg(test)]
mod managed;
#[cfg(test)]
mod model;
#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;
