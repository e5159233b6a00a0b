//! The control loop: one thread, one poller. It feeds events to the state and performs the actions that come back;
//! nothing else matches on actions or sets the phase.
//!
//! The actions of an event are performed in their order, and then the phase that follows from them is published. Only
//! `Accept` and `Drain` publish it first, since handlers go by it from then on. So COMMIT has been sent before this
//! process is `HandedOver` to its handlers, its hooks and its log.
//!
//! An action that has its result at once returns it as an event, which is handled when all actions before it have been
//! performed.

mod commands;
mod drain;
mod engine;
mod facts;
mod hook_calls;
mod identity;
mod inbox;
mod outside;
mod poller;
pub(crate) mod socket;
mod spawn;
mod successor;
mod supervised;
mod upgrade;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::base::error::{Error, ErrorKind};
use crate::base::history::millis;
use crate::base::log::{Escaped, debug, error, info};
use crate::base::phase::{Phase, PhaseWatch};
use crate::base::records::Records;
use crate::base::time::earliest;
pub(crate) use crate::process::control::engine::Engine;
pub(crate) use crate::process::control::facts::{Facts, Predecessor};
use crate::process::control::hook_calls::HookCalls;
use crate::process::control::inbox::Note;
pub(crate) use crate::process::control::inbox::{BusyPool, Inbox};
use crate::process::control::outside::Outside;
use crate::process::control::poller::{Poller, Source};
use crate::process::control::socket::Bound;
use crate::process::control::successor::{Strays, Successor};
use crate::process::handover::Message;
use crate::process::handover::pid_file::PidFile;
use crate::process::handover::state_file::StateFile;
use crate::process::hooks::Runner;
use crate::process::signals::SignalRequest;
use crate::process::state::{Action, Event, Stage, State, Timer, Why};
use crate::process::supervise::link::Link;
use crate::process::systemd::Heir;
use crate::process::terminal::Loss;
use litemap::LiteMap;

pub(crate) struct Control<'a> {
    state: State,
    facts: Facts,
    engine: &'a dyn Engine,
    inbox: &'a Inbox,
    phase: &'a PhaseWatch,
    poller: Poller,
    predecessor: Option<Predecessor>,
    successor: Option<Successor>,
    strays: Strays,
    hooks: HookCalls,
    outside: Outside,
    progress: LoopProgress,
}

/// Past events that matter later.
#[derive(Default)]
struct LoopProgress {
    timers: LiteMap<Timer, Instant>,
    /// The log says that the executable is being written.
    writer_logged: bool,
    has_served: bool,
    failed_check: bool,
    /// Requests that were in flight at an abort.
    cut: usize,
    /// The loop waits for nothing that still runs.
    aborted: bool,
    drain_began: Option<Instant>,
    /// The supervisor knows that the service ends with this generation.
    ends_service: bool,
}

impl<'a> Control<'a> {
    /// The loop of a process in this state, which begins by performing `first`.
    pub(crate) fn new(
        (state, first): (State, Vec<Action>),
        mut facts: Facts,
        (hooks, pid_file, bound): (Runner, Option<PidFile>, Option<Bound>),
        engine: &'a dyn Engine,
        (inbox, phase): (&'a Inbox, &'a PhaseWatch),
        predecessor: Option<Predecessor>,
    ) -> Result<Control<'a>, Error> {
        let poller = Poller::new()?;
        let watched = Error::system("the control loop can't watch its descriptors");
        let inbox_fd = inbox.attach()?;
        // A first generation depends on signals alone, as every program does: a job that its shell spares is spared.
        let terminal = facts.terminal.as_ref().filter(|_| predecessor.is_some() && !facts.nohup);
        let predecessor_fd = predecessor.as_ref().map(|predecessor| predecessor.channel.as_fd());
        let watch = |fd: Option<BorrowedFd<'_>>, source| fd.map_or(Ok(()), |fd| poller.add(fd, source));
        let outside = watch(Some(inbox_fd), Source::Inbox)
            .and_then(|()| watch(terminal.map(|terminal| terminal.as_fd()), Source::Terminal))
            .and_then(|()| watch(predecessor_fd, Source::Predecessor))
            .and_then(|()| watch(facts.supervisor.as_ref().map(AsFd::as_fd), Source::Supervisor))
            .and_then(|()| {
                let sender = facts.supervisor.as_ref().map(Link::sender);
                Outside::new((pid_file, facts.manager.take(), bound), sender, &poller)
            })
            .map_err(watched)?;
        for action in &first {
            if let Action::ToPredecessor(Message::Prepared { adopted, .. }) = action {
                engine.share(adopted);
            }
        }
        let mut control = Control {
            state,
            facts,
            engine,
            inbox,
            phase,
            poller,
            predecessor,
            successor: None,
            strays: Strays::default(),
            hooks: HookCalls::new(hooks),
            outside,
            progress: LoopProgress::default(),
        };
        control.engine.records().begins(control.facts.generation, control.facts.version.take());
        control.perform_all(first);
        control.entered();
        Ok(control)
    }

    /// Runs until the process should exit.
    ///
    /// # Errors
    /// When requests were aborted, or this generation was rolled back.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        // Messages that arrived with its HELLO don't wake the poller any more.
        self.read_predecessor();
        while self.state.stage() != Stage::Finished {
            self.turn(None)?;
        }
        self.publish();
        self.finish_hooks()?;
        self.outside.finish();
        let drain = self.progress.drain_began.map(|began| millis(began.elapsed()));
        info!("end of generation {}", self.facts.generation; phase = "exited", duration_ms = drain);
        let LoopProgress { has_served, failed_check, cut, .. } = self.progress;
        if cut > 0 {
            let text = format!("{cut} requests were cut at the end of the drain");
            return Err(Error::new(ErrorKind::Aborted, text));
        }
        if let Some(why) = self.hooks.not_acquired().filter(|_| !has_served) {
            return Err(Error::new(ErrorKind::RolledBack, why));
        }
        if failed_check {
            let text = "this generation failed its check and was rolled back";
            return Err(Error::new(ErrorKind::RolledBack, text));
        }
        Ok(())
    }

    /// Waits for the next events, at most until `until`, and handles them.
    fn turn(&mut self, until: Option<Instant>) -> Result<(), Error> {
        let sample = self.engine.records().sample_due(Instant::now());
        let timer = self.progress.timers.values().min().copied();
        let next = earliest(&[timer, until, self.outside.next_tick(), sample]);
        for source in self.poller.wait(next)? {
            match source {
                Source::Inbox => self.read_inbox(),
                Source::Predecessor => self.read_predecessor(),
                Source::Successor => self.read_successor(),
                Source::Terminal => self.read_terminal(),
                Source::Child => self.reap(),
                Source::Socket => self.read_socket(),
                Source::Supervisor => self.read_supervisor(),
            }
        }
        self.outside.tick(self.engine);
        let now = Instant::now();
        self.engine.records().sample(now);
        let timers =
            |progress: &LoopProgress| progress.timers.iter().find(|(_, at)| **at <= now).map(|(t, _)| *t);
        while let Some(timer) = timers(&self.progress) {
            self.progress.timers.remove(&timer);
            self.handle(Event::Timer(timer));
        }
        Ok(())
    }

    /// Feeds the state and performs its actions, then handles what follows from those.
    fn handle(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let before = self.state.stage();
            let is_busy = event == Event::ProgramBusy;
            self.outside.upgrade.note_event(&event, before);
            let actions = self.state.on(event);
            let after = self.state.stage();
            self.progress.writer_logged &= after == Stage::Awaiting;
            if is_busy && after == Stage::Serving {
                error!(
                    "handover: the executable is still being written; given up, still serving";
                    reason = "the executable is being written"
                );
            }
            events.extend(self.perform_all(actions));
            let step = self.outside.upgrade.note_stage(before, after, Instant::now());
            self.outside.step(step);
            if before != after {
                self.entered();
            }
        }
    }

    /// A stage was entered, and the actions that belong to it have been performed.
    fn entered(&mut self) {
        self.publish();
        self.notify_supervisor();
        let successor = self.successor.as_ref().map_or(0, |successor| successor.server_pid().as_raw());
        self.outside.enter(self.state.stage(), self.facts.generation, successor, self.engine.records());
        self.pass_history();
        self.pass_history_to_supervisor();
        match self.state.stage() {
            Stage::Serving => {
                self.engine.rotate_keys();
                info!("serving as generation {}", self.facts.generation; phase = "serving");
            }
            Stage::LameDuck => info!("lame duck: not ready, still accepting"; phase = "lame_duck"),
            _ => {}
        }
        self.outside.identity.entered(&self.state);
    }

    /// Tells the successor what has become of this generation, and of itself, since it got the records.
    fn pass_history(&mut self) {
        let (Stage::Draining(Why::HandedOver) | Stage::Finished, Some(successor)) =
            (self.state.stage(), &mut self.successor)
        else {
            return;
        };
        let generation = self.facts.generation;
        if self.state.stage() == Stage::Finished {
            self.engine.records().has_drained(generation);
        }
        for generation in [generation, generation.saturating_add(1)] {
            for line in self.engine.records().lines_about(generation) {
                successor.send_history(line);
            }
        }
        for line in self.engine.records().lines_about_closes() {
            successor.send_history(line);
        }
    }

    /// Sets the phase of the present stage and calls its hooks.
    fn publish(&mut self) {
        let phase = self.state.phase();
        if self.phase.get() != phase {
            self.phase.set(phase);
            self.hooks.phase(phase);
        }
        self.progress.has_served |= phase == Phase::Serving;
    }

    fn perform_all(&mut self, actions: Vec<Action>) -> Vec<Event> {
        actions.into_iter().filter_map(|action| self.perform(action)).collect()
    }

    /// Returns the result of an action that has one at once.
    fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Spawn => return Some(self.spawn()),
            Action::KillSuccessor => return self.dismiss_successor(),
            Action::Release => {
                let file = self.successor.as_mut().and_then(|successor| successor.state.take());
                return self.hooks.release(file);
            }
            Action::Acquire => return self.hooks.acquire(),
            Action::ToPredecessor(message) => {
                if let Some(predecessor) = &mut self.predecessor {
                    info!(
                        "handover: to predecessor {}: {message}", predecessor.pid;
                        predecessor = predecessor.pid,
                        handover_message:% = Escaped(&message),
                        direction = "sent"
                    );
                    predecessor.channel.send(&message);
                }
            }
            Action::ToSuccessor(message) => self.send_to_successor(message),
            Action::Accept => {
                self.publish();
                self.engine.accept();
            }
            Action::Pause => self.engine.pause(),
            Action::CloseShared => self.engine.close_shared(),
            Action::CloseLast => {
                self.outside.identity.closing(self.state.longest_stop());
                self.engine.close_last();
            }
            Action::HandConnections => {
                if let Some(channel) = self.successor.as_mut().and_then(|s| s.connections.take()) {
                    self.engine.hand_connections(channel);
                }
            }
            Action::Drain => self.drain(),
            Action::AssumeIdentity => {
                let heir = if self.facts.generation == 1 { Heir::First } else { Heir::Successor };
                self.outside.identity.assume(heir, self.engine);
            }
            Action::PassIdentity => {
                if let Some(successor) = &self.successor {
                    self.outside.identity.pass(successor);
                }
            }
            Action::HandoverFailed => {
                self.outside.handover_failed(self.facts.generation, self.engine.records());
            }
            Action::Check => self.engine.check(),
            Action::Abort => self.abort(),
            // The loop checks the stage.
            Action::Finish => {}
            Action::Timer(timer, after) => self.set_timer(timer, after),
        }
        None
    }

    /// With GO goes what the successor needs before it accepts: the program's state, the records, and the keys.
    fn send_to_successor(&mut self, message: Message) {
        let Some(successor) = &mut self.successor else { return };
        let mut message = self.hooks.with_state(message);
        successor.pass_records(&mut message, self.engine.records());
        if let (Message::Go { .. }, Some(channel)) = (&message, &successor.connections) {
            self.engine.pass_keys(channel.as_fd());
        }
        successor.send(&message);
    }

    fn set_timer(&mut self, timer: Timer, after: Option<Duration>) {
        if let (Timer::DrainDeadline, Some(after)) = (timer, after) {
            self.phase.shorten_spread(after);
        }
        // A time that is beyond the clock never comes.
        match after.and_then(|after| Instant::now().checked_add(after)) {
            Some(at) => self.progress.timers.insert(timer, at),
            None => self.progress.timers.remove(&timer),
        };
    }

    fn read_inbox(&mut self) {
        for note in self.inbox.take() {
            let event = match note {
                // A request may have started since.
                Note::Event(Event::Drained) if !self.engine.is_idle() => continue,
                Note::Event(event) => event,
                Note::Supervisor => {
                    self.read_supervisor();
                    continue;
                }
                Note::Hook(ticket, result) => match self.hooks.result(ticket, result) {
                    Some(event) => event,
                    None => continue,
                },
                Note::SignalRequest(SignalRequest::Handover) => Event::Handover,
                Note::Progressed => {
                    self.outside.identity.progressed();
                    continue;
                }
                Note::AllBusy(busy) => {
                    self.engine.log_all_busy(busy);
                    continue;
                }
                Note::SignalRequest(SignalRequest::Drain) => Event::Drain,
                Note::SignalRequest(SignalRequest::Stop) => Event::Stop,
                Note::SignalRequest(SignalRequest::Abort) => Event::Abort,
                Note::SignalRequest(SignalRequest::Report) => {
                    self.report();
                    continue;
                }
            };
            self.handle(event);
        }
    }

    fn report(&self) {
        let (pid, generation, phase) = (own_pid(), self.facts.generation, self.phase.get());
        let stats = self.stats();
        info!(
            "pid {pid} generation {generation} {phase}: {}", self.engine.report();
            phase:% = phase,
            requests = stats.in_flight,
            connections = stats.open
        );
    }

    /// No signal reports a closed terminal if this process is in the background, or no shell knows of it.
    fn read_terminal(&mut self) {
        let Some(loss) = self.facts.terminal.as_ref().and_then(|terminal| terminal.loss()) else { return };
        if let Some(terminal) = self.facts.terminal.take() {
            self.poller.remove(&*terminal);
        }
        match loss {
            Loss::Closed => {
                info!("the terminal was closed: drain and exit"; reason = "the terminal was closed");
                self.handle(Event::Drain);
            }
            Loss::LeaderEnded => info!("the session's leader has ended: no terminal any more"),
        }
    }

    fn read_predecessor(&mut self) {
        let Some(predecessor) = &mut self.predecessor else { return };
        let messages = predecessor.channel.receive();
        let ended = predecessor.channel.has_ended();
        let pid = predecessor.pid;
        let mut has_news = false;
        for message in messages {
            if let Message::History { line } = &message {
                self.engine.records().read_history(line);
                has_news = true;
                continue;
            }
            info!(
                "handover: predecessor {pid}: {message}";
                predecessor = pid,
                handover_message:% = Escaped(&message),
                direction = "received"
            );
            if message == Message::Commit {
                self.outside.identity.took_over(self.engine);
            }
            if let Message::Go { state, records, .. } = &message {
                let file = self.predecessor.as_mut().and_then(|predecessor| predecessor.state.take());
                if let (Some(file), Some(bytes)) = (&file, records) {
                    inherit_records(self.engine.records(), file, state.map_or(0, |head| head.bytes), *bytes);
                }
                if let Some(head) = state {
                    self.hooks.inherit(file, *head);
                }
            }
            self.handle(Event::FromPredecessor(message));
        }
        if has_news {
            self.pass_history_to_supervisor();
        }
        if ended {
            info!("handover: predecessor {pid} is gone"; predecessor = pid);
            if let Some(predecessor) = self.predecessor.take() {
                self.poller.remove(predecessor.channel.as_fd());
            }
            self.handle(Event::PredecessorGone);
        }
    }

    fn read_successor(&mut self) {
        let Some(successor) = &mut self.successor else { return };
        let (messages, ended) = successor.receive(&self.poller);
        let pid = successor.pid();
        for message in messages {
            // A message may have dismissed it, and a waiting handover may have started another one.
            let Some(successor) = self.successor.as_mut().filter(|successor| successor.pid() == pid) else {
                return;
            };
            successor.note(&message);
            if message == Message::StillGood && (ended || successor.is_gone()) {
                // Its last word: the service is not given to a dead process.
                continue;
            }
            match &message {
                Message::Prepared { adopted, resumes, .. } => {
                    self.engine.share(adopted);
                    // A stream that the successor refuses after all is continued here.
                    let both = resumes.iter().filter(|name| self.facts.resumes.contains(name));
                    self.phase.set_continued(both.cloned().collect());
                    self.outside.identity.adopted.clone_from(adopted);
                }
                Message::Failed { reason } => self.outside.note_failure(reason),
                _ => {}
            }
            self.handle(Event::FromSuccessor(message));
        }
        if ended {
            self.successor_gone(pid);
        }
    }

    /// A successor is dead when its channel has ended or its process has, whichever is seen first; its last messages
    /// have been handled.
    fn successor_gone(&mut self, pid: i32) {
        if let Some(mut successor) = self.successor.take_if(|successor| successor.pid() == pid) {
            let stage = self.state.stage();
            if stage == Stage::Draining(Why::HandedOver) && successor.ended_well() {
                // Where it is our child, its status says the same.
                let within = Duration::ZERO;
                self.handle(Event::FromSuccessor(Message::Stopping { within }));
            }
            let word = successor.bury(stage, &self.poller);
            self.outside.note_failure(&word.end);
            word.child.into_iter().for_each(|child| self.strays.push(child));
            self.handle(Event::SuccessorGone);
        }
    }

    fn reap(&mut self) {
        if let Some(successor) = &mut self.successor {
            successor.reap(&self.poller);
            if successor.is_gone() {
                let pid = successor.pid();
                self.read_successor();
                self.successor_gone(pid);
            }
        }
        self.strays.reap(&self.poller);
    }
}

fn own_pid() -> i32 {
    nix::unistd::getpid().as_raw()
}

/// Takes over the predecessor's records. Without them counts begin anew, and nothing else is lost.
fn inherit_records(records: &Records, file: &StateFile, behind: u64, bytes: u64) {
    match file.read_behind(behind, bytes) {
        Ok(text) => records.inherit(&String::from_utf8_lossy(&text)),
        Err(e) => debug!("handover: can't read the predecessor's records: {e}"),
    }
}
