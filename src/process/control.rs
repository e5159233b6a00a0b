//! The control loop: one thread, one poller, one closed enum of events. It asks `lifecycle` what is
//! to be done and does it; nobody else matches on its actions or writes the phase.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::base::error::{Error, ErrorKind};
use crate::base::log::{error, info, warn};
use crate::base::phase::{Phase, PhaseWatch};
use crate::base::sync::lock;
use crate::base::time::poll_timeout;
use crate::process::handover::channel::Channel;
use crate::process::handover::child::{self, Child, Program};
use crate::process::handover::pid_file::{self, PidFile};
use crate::process::handover::state_file::StateFile;
use crate::process::handover::{Hello, Message, Passed, StateHead, VERSION};
use crate::process::hooks::{Handed, HandoverState, HookResult, Runner};
use crate::process::signals::{self, SignalRequest};
use crate::process::state::{Action, Event, Stage, State, Timer, Why};
use crate::process::terminal::{Loss, Terminal};

/// What the control loop asks of whatever it governs. None of these wait; what ends later is told
/// through the [`Inbox`].
pub(crate) trait Service {
    /// Accept on all listeners.
    fn accept(&self);
    /// Stop accepting on those that were adopted; they stay open.
    fn pause(&self, adopted: &[String]);
    /// Close the listeners; `ListenersClosed` follows. Those not among `shared`, which another
    /// generation has, too, are closed as by `close_last`.
    fn close_shared(&self, shared: &[String]);
    /// Serve what waits on the listeners, then close them; `ListenersClosed` follows.
    fn close_last(&self);
    /// The successor takes connections here, of the listeners it adopted.
    fn hand_connections(&self, channel: OwnedFd, adopted: &[String]);
    /// Announce the close to every connection; `Drained` follows.
    fn drain(&self);
    /// Is there life in every part? `Checked` follows.
    fn check(&self);
    /// What is open.
    fn listeners(&self) -> Vec<Passed<Arc<OwnedFd>>>;
    /// What the user's program passes on beside them, by name.
    fn files(&self) -> Vec<(String, Arc<OwnedFd>)>;
    /// Whether nothing is in flight. If something is, `Drained` follows at its end.
    fn is_idle(&self) -> bool;
    /// What is in flight, one line each.
    fn in_flight(&self) -> Vec<String>;
    /// One line for the log.
    fn report(&self) -> String;
}

/// Where every other thread leaves what the control loop should know.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    notes: Mutex<VecDeque<Note>>,
    /// There once the loop runs; until then notes wait.
    bell: OnceLock<EventFd>,
}

#[derive(Debug)]
enum Note {
    Event(Event),
    SignalRequest(SignalRequest),
    /// What a hook said that was asked with this ticket.
    Hook(u64, HookResult),
}

impl Inbox {
    pub(crate) fn event(&self, event: Event) {
        self.push(Note::Event(event));
    }

    pub(crate) fn request(&self, request: SignalRequest) {
        self.push(Note::SignalRequest(request));
    }

    pub(crate) fn hook(&self, ticket: u64, told: HookResult) {
        self.push(Note::Hook(ticket, told));
    }

    fn push(&self, note: Note) {
        lock(&self.notes).push_back(note);
        if let Some(bell) = self.bell.get() {
            // It can only be full, and then it rings already.
            let _ = bell.write(1);
        }
    }

    fn take(&self) -> VecDeque<Note> {
        std::mem::take(&mut *lock(&self.notes))
    }
}

/// What the loop needs to know of its process.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) generation: u32,
    pub(crate) nohup: bool,
    pub(crate) terminal: Option<Arc<Terminal>>,
    /// None: this process hands over to nobody (in-process servers).
    pub(crate) program: Option<Program>,
    pub(crate) pid_file: Option<PidFile>,
    pub(crate) hooks: Runner,
}

/// The link to the generation before us.
#[derive(Debug)]
pub(crate) struct Predecessor {
    pub(crate) channel: Channel,
    pub(crate) pid: i32,
    /// Where it leaves the user's state.
    pub(crate) state: Option<StateFile>,
}

/// The link to the generation after us.
#[derive(Debug)]
struct Successor {
    child: Child,
    channel: Channel,
    /// Until COMMIT.
    connections: Option<OwnedFd>,
    /// Until the state is written to it.
    state: Option<StateFile>,
    /// It said FAILED and may end by itself, with what it has to say on its standard error.
    leaves: bool,
}

/// The loop's own state.
pub(crate) struct Control<'a> {
    state: State,
    first: Vec<Action>,
    facts: Facts,
    service: &'a dyn Service,
    inbox: &'a Inbox,
    phase: &'a PhaseWatch,
    poller: Epoll,
    predecessor: Option<Predecessor>,
    successor: Option<Successor>,
    /// Children that are no successor any more and not yet reaped.
    strays: Vec<Child>,
    /// Listeners that the other generation of a handover has, too.
    shared: Vec<String>,
    timers: BTreeMap<Timer, Instant>,
    /// Of the last hook that was asked; what others say comes too late.
    ticket: u64,
    /// What was released last.
    user_state: Arc<HandoverState>,
    /// What the predecessor released, until it is acquired.
    inherited: Option<Handed>,
    /// Why what only one generation may have is not had.
    not_acquired: Option<String>,
    /// Events that followed from actions, and whether one is being acted upon.
    pending: VecDeque<Event>,
    acting: bool,
    failed: bool,
    has_served: bool,
    /// The log says that the executable is being written.
    told_of_writer: bool,
    cut: usize,
    /// Whatever still runs is not waited for.
    aborted: bool,
    /// `on_exit` is done.
    hooks_done: bool,
}

/// For `on_exit`, however late it is.
const LAST_MOMENT: Duration = Duration::from_secs(1);

impl Successor {
    /// Ends one that has not got GO, or is silent. The kill comes first: a successor that hears STOPPING closes the
    /// listeners to new clients, which are ours too. The message is for one that the kill does not reach, because
    /// a script started it and it has not said HELLO: it would take our end for a crash.
    fn dismiss(&mut self) {
        self.child.kill();
        self.channel.send(&Message::Stopping { within: Duration::ZERO });
    }
}

const BELL: u64 = 0;
const PREDECESSOR: u64 = 1;
const SUCCESSOR: u64 = 2;
const CHILDREN: u64 = 3;
const TERMINAL: u64 = 4;

impl<'a> Control<'a> {
    /// `first` are the actions that `state` was born with.
    pub(crate) fn new(
        (state, first): (State, Vec<Action>),
        facts: Facts,
        service: &'a dyn Service,
        inbox: &'a Inbox,
        phase: &'a PhaseWatch,
        predecessor: Option<Predecessor>,
    ) -> Result<Control<'a>, Error> {
        let shared = first.iter().find_map(|action| match action {
            Action::ToPredecessor(Message::Prepared { adopted }) => Some(adopted.clone()),
            _ => None,
        });
        let shared = shared.unwrap_or_default();
        let system =
            |e: nix::Error| Error::io(ErrorKind::System, "can't create the control loop's poller", e);
        let poller = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(system)?;
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(system)?;
        poller.add(&bell, EpollEvent::new(EpollFlags::EPOLLIN, BELL)).map_err(system)?;
        // Rings for what was left before it hung here.
        let _ = bell.write(1);
        if inbox.bell.set(bell).is_err() {
            return Err(Error::config(
                "this Handle controls another server, or did before: give each server its own",
            ));
        }
        // A first generation goes by signals alone, as every program does: a job that its shell spares is spared.
        if let Some(terminal) = facts.terminal.as_ref().filter(|_| predecessor.is_some() && !facts.nohup) {
            poller.add(&**terminal, EpollEvent::new(EpollFlags::EPOLLIN, TERMINAL)).map_err(system)?;
        }
        if let Some(predecessor) = &predecessor {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, PREDECESSOR);
            poller.add(predecessor.channel.as_fd(), event).map_err(system)?;
        }
        Ok(Control {
            state,
            first,
            facts,
            service,
            inbox,
            phase,
            poller,
            predecessor,
            successor: None,
            strays: Vec::new(),
            shared,
            timers: BTreeMap::new(),
            ticket: 0,
            user_state: Arc::default(),
            inherited: None,
            not_acquired: None,
            pending: VecDeque::new(),
            acting: false,
            failed: false,
            has_served: false,
            told_of_writer: false,
            cut: 0,
            aborted: false,
            hooks_done: false,
        })
    }

    /// Runs until the process should exit.
    ///
    /// # Errors
    /// When requests were cut, or this generation was rolled back.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        let first = std::mem::take(&mut self.first);
        self.perform(first);
        self.publish();
        if self.state.stage() == Stage::Serving {
            info!("serving as generation {}", self.facts.generation);
        }
        // What came with its HELLO rings no more.
        self.read_predecessor();
        while self.state.stage() != Stage::Finished {
            self.turn(None)?;
        }
        self.publish();
        self.finish_hooks()?;
        if let Some(pid_file) = self.facts.pid_file.clone() {
            let path = pid_file.path().to_owned();
            if let Err(e) = pid_file::in_time(move || pid_file.remove_if(own_pid())) {
                error!("can't remove the pid file {}: {e}", path.display());
            }
        }
        info!("end of generation {}", self.facts.generation);
        if self.cut > 0 {
            return Err(Error::new(
                ErrorKind::Aborted,
                format!("{} requests were cut at the end of the drain", self.cut),
            ));
        }
        if let Some(why) = self.not_acquired.filter(|_| !self.has_served) {
            return Err(Error::new(ErrorKind::RolledBack, why));
        }
        if self.failed {
            return Err(Error::new(
                ErrorKind::RolledBack,
                "this generation failed its check and was rolled back",
            ));
        }
        Ok(())
    }

    /// Waits for what happens next, at most until then, and does what follows.
    fn turn(&mut self, until: Option<Instant>) -> Result<(), Error> {
        let mut events = [EpollEvent::empty(); 16];
        let timeout = self.timeout(until);
        let n = match self.poller.wait(&mut events, timeout) {
            Ok(n) => n,
            Err(nix::Error::EINTR) => 0,
            Err(e) => return Err(Error::io(ErrorKind::System, "the control loop can't wait for events", e)),
        };
        for event in events.iter().take(n) {
            match event.data() {
                BELL => self.read_inbox(),
                PREDECESSOR => self.read_predecessor(),
                SUCCESSOR => self.read_successor(),
                TERMINAL => self.read_terminal(),
                _ => self.reap(),
            }
        }
        self.fire_timers();
        Ok(())
    }

    /// Runs `on_exit` for as long as the drain has time. Who asks again meanwhile is heard.
    fn finish_hooks(&mut self) -> Result<(), Error> {
        let deadline = self.timers.remove(&Timer::DrainDeadline).filter(|_| !self.aborted);
        let soon = Instant::now() + LAST_MOMENT;
        let until = deadline.map_or(soon, |at| at.max(soon));
        self.aborted = false;
        self.ticket = self.ticket.wrapping_add(1);
        match self.facts.hooks.exit(self.ticket) {
            Ok(runs) => self.hooks_done = !runs,
            Err(e) => error!("can't run on_exit: {e}"),
        }
        while !self.hooks_done && !self.aborted && Instant::now() < until {
            self.turn(Some(until))?;
        }
        if !self.hooks_done {
            error!("on_exit did not finish in time");
        }
        Ok(())
    }

    /// The phase, to everyone.
    fn publish(&mut self) {
        let phase = self.state.phase();
        if self.phase.get() != phase {
            self.phase.set(phase);
            self.facts.hooks.phase(phase);
            if phase.is_draining() && phase != Phase::Exited {
                self.facts.hooks.drain();
            }
        }
        self.has_served |= phase == Phase::Serving;
    }

    /// Feeds the state and does what it says, then what follows from that.
    fn on(&mut self, event: Event) {
        self.pending.push_back(event);
        if self.acting {
            return;
        }
        self.acting = true;
        while let Some(event) = self.pending.pop_front() {
            self.act(event);
        }
        self.acting = false;
    }

    fn act(&mut self, event: Event) {
        let before = self.state.stage();
        let busy = event == Event::ProgramBusy;
        let actions = self.state.on(event);
        let after = self.state.stage();
        self.told_of_writer &= after == Stage::Awaiting;
        if busy && after == Stage::Serving {
            error!("handover: the executable is still being written; given up, still serving");
        }
        if before != after {
            self.publish();
            match after {
                Stage::Serving => info!("serving as generation {}", self.facts.generation),
                Stage::LameDuck => info!("lame duck: not ready, still accepting"),
                Stage::Draining(why) => {
                    self.failed = why == Why::Failed;
                    self.log_drain(why);
                }
                _ => {}
            }
        }
        self.perform(actions);
    }

    fn log_drain(&self, why: Why) {
        let cause = match why {
            Why::Stop => "stop requested".to_owned(),
            Why::HandedOver => format!("handed over to {}", self.successor_pid()),
            Why::Failed => "failed the check".to_owned(),
        };
        info!("draining ({cause}): {}", self.service.report());
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Spawn => self.spawn(),
                Action::KillSuccessor => {
                    if let Some(mut successor) = self.successor.take() {
                        if successor.leaves {
                            successor.child.wait_briefly();
                        }
                        successor.dismiss();
                        let pid = successor.child.pid();
                        let end = successor.child.end().unwrap_or("was killed but has not exited");
                        match self.state.stage() {
                            // What it said itself when it failed is in the log already.
                            Stage::Serving | Stage::Awaiting if !successor.leaves => {
                                error!("handover: child {pid} {end}; still serving");
                            }
                            _ => info!("handover: child {pid} {end}"),
                        }
                        let _ = self.poller.delete(successor.channel.as_fd());
                        // Its last word may be that it was told to stop: that was meant for the
                        // service, and holds.
                        let told = |message: &Message| matches!(message, Message::Stopping { .. });
                        let told_to_stop = successor.channel.receive().iter().any(told);
                        if successor.child.end().is_none() {
                            self.strays.push(successor.child);
                        }
                        if told_to_stop {
                            self.on(Event::Drain);
                        }
                    }
                }
                Action::ToPredecessor(message) => {
                    if let Some(predecessor) = &mut self.predecessor {
                        info!("handover: to predecessor {}: {message}", predecessor.pid);
                        predecessor.channel.send(&message);
                    }
                }
                Action::ToSuccessor(message) => {
                    if let Some(successor) = &mut self.successor {
                        let message = with_state(message, &self.user_state);
                        info!("handover: to child {}: {message}", successor.child.pid());
                        successor.channel.send(&message);
                    }
                }
                Action::Accept => self.service.accept(),
                Action::Release => {
                    self.ticket = self.ticket.wrapping_add(1);
                    let file = self.successor.as_mut().and_then(|successor| successor.state.take());
                    match self.facts.hooks.release(self.ticket, file) {
                        Ok(true) => {}
                        Ok(false) => self.on(Event::Released(Ok(()))),
                        Err(e) => self.hear_hook(true, HookResult::Released(Err(e))),
                    }
                }
                Action::Acquire => {
                    self.ticket = self.ticket.wrapping_add(1);
                    if let Some(why) = self.not_acquired.take() {
                        self.on(Event::Acquired(Err(why)));
                    } else {
                        let own = || Handed::State(Arc::clone(&self.user_state));
                        let state = self.inherited.take().unwrap_or_else(own);
                        match self.facts.hooks.acquire(self.ticket, state) {
                            Ok(true) => {}
                            Ok(false) => self.on(Event::Acquired(Ok(()))),
                            Err(e) => self.hear_hook(true, HookResult::Acquired(Err(e))),
                        }
                    }
                }
                Action::Pause => self.service.pause(&self.shared),
                Action::CloseShared => self.service.close_shared(&self.shared),
                Action::CloseLast => self.service.close_last(),
                Action::HandConnections => {
                    if let Some(channel) = self.successor.as_mut().and_then(|s| s.connections.take()) {
                        self.service.hand_connections(channel, &self.shared);
                    }
                }
                Action::Drain => self.service.drain(),
                Action::AssumeIdentity => self.name_in_pid_file(own_pid()),
                Action::PassIdentity => {
                    if let Some(successor) = &self.successor {
                        self.name_in_pid_file(successor.child.server().as_raw());
                    }
                }
                Action::Check => self.service.check(),
                Action::Abort => self.abort(),
                // The stage says so, too; the loop goes by that.
                Action::Finish => {}
                // One that can't be counted never fires.
                Action::Timer(timer, after) => {
                    match after.and_then(|after| Instant::now().checked_add(after)) {
                        Some(at) => self.timers.insert(timer, at),
                        None => self.timers.remove(&timer),
                    };
                }
            }
        }
    }

    fn spawn(&mut self) {
        let Some(program) = &self.facts.program else {
            warn!("handover: not possible: this server does not own its process");
            return self.on(Event::SpawnFailed);
        };
        if own_pid() == 1 {
            // The kernel ends all of a pid namespace with its first process: at the end of our drain
            // the successor would be killed.
            error!(
                "handover: not possible as PID 1: the container would end with this process; start a new \
                 container instead; still serving"
            );
            return self.on(Event::SpawnFailed);
        }
        let listeners = self.service.listeners();
        let hello = Hello {
            version: VERSION,
            generation: self.facts.generation,
            pid: own_pid(),
            nohup: self.facts.nohup,
            blocked: signals::numbers(&program.blocked),
            command: program.command(),
        };
        let files = self.service.files();
        let terminal = self.facts.terminal.as_ref();
        let own_session = terminal.is_some_and(|terminal| terminal.ends_with_leader());
        let terminal = terminal.map(|terminal| terminal.files()).transpose().unwrap_or_else(|e| {
            warn!("handover: the successor can't watch its terminal: {e}");
            None
        });
        let terminal = terminal.unwrap_or_default();
        let user = files.iter().map(|(name, fd)| (name.clone(), fd.as_fd()));
        let ours = terminal.iter().map(|(name, fd)| (name.clone(), fd.as_fd()));
        let files: Vec<(String, BorrowedFd<'_>)> = user.chain(ours).collect();
        match child::spawn(program, &listeners, &files, hello, own_session) {
            Ok(offspring) => {
                let event = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
                let watched = self.poller.add(offspring.lifecycle.as_fd(), event(SUCCESSOR));
                let reaped = offspring.child.pidfds().try_for_each(|fd| self.poller.add(fd, event(CHILDREN)));
                if let Some(old) = self.successor.take() {
                    let _ = self.poller.delete(old.channel.as_fd());
                    self.strays.push(old.child);
                }
                self.successor = Some(Successor {
                    child: offspring.child,
                    channel: offspring.lifecycle,
                    connections: Some(offspring.connections),
                    state: Some(offspring.state),
                    leaves: false,
                });
                match watched.and(reaped) {
                    Ok(()) => self.on(Event::Spawned),
                    Err(e) => {
                        error!("handover: can't watch the child: {e}");
                        self.on(Event::SuccessorGone);
                    }
                }
            }
            Err(e) if e.busy => {
                if !std::mem::replace(&mut self.told_of_writer, true) {
                    info!("handover: {e}; trying again");
                }
                self.on(Event::ProgramBusy);
            }
            Err(e) => {
                error!("handover: {e}; still serving");
                self.on(Event::SpawnFailed);
            }
        }
    }

    fn read_inbox(&mut self) {
        if let Some(bell) = self.inbox.bell.get() {
            // Silenced before the notes are taken: a note left meanwhile rings again.
            let _ = bell.read();
        }
        for note in self.inbox.take() {
            match note {
                Note::Event(Event::Drained) => {
                    if self.service.is_idle() {
                        self.on(Event::Drained);
                    }
                }
                Note::Event(event) => self.on(event),
                Note::Hook(ticket, told) => self.hear_hook(ticket == self.ticket, told),
                Note::SignalRequest(SignalRequest::Handover) => self.on(Event::Handover),
                Note::SignalRequest(SignalRequest::HangUp) => self.on(Event::Drain),
                Note::SignalRequest(SignalRequest::Stop) => self.on(Event::Stop),
                Note::SignalRequest(SignalRequest::Report) => {
                    info!(
                        "pid {} generation {} {}: {}",
                        own_pid(),
                        self.facts.generation,
                        self.phase.get(),
                        self.service.report()
                    );
                }
                Note::SignalRequest(SignalRequest::Abort) => self.on(Event::Abort),
            }
        }
    }

    /// HookResult by no signal where this process is in the background, or no shell knows of it.
    fn read_terminal(&mut self) {
        let Some(loss) = self.facts.terminal.as_ref().and_then(|terminal| terminal.loss()) else { return };
        if let Some(terminal) = self.facts.terminal.take() {
            let _ = self.poller.delete(&*terminal);
        }
        match loss {
            Loss::Closed => {
                info!("the terminal was closed: drain and exit");
                self.on(Event::Drain);
            }
            Loss::LeaderEnded => info!("the session's leader has ended: no terminal any more"),
        }
    }

    /// `in_time`: it was the last one asked.
    fn hear_hook(&mut self, in_time: bool, told: HookResult) {
        match told {
            HookResult::Exited => self.hooks_done = true,
            HookResult::Released(Ok((state, written))) => {
                self.user_state = state;
                if let Err(e) = &written {
                    error!("handover: can't pass on the state: {e}; still serving");
                }
                if in_time {
                    self.on(Event::Released(written));
                }
            }
            HookResult::Released(Err(e)) => {
                error!("handover: release_before_go failed: {e}; still serving");
                if in_time {
                    self.on(Event::Released(Err(e)));
                }
            }
            HookResult::Acquired(outcome) => {
                if let Err(e) = &outcome {
                    error!("handover: {e}");
                    self.not_acquired = Some(e.clone());
                }
                if in_time {
                    self.on(Event::Acquired(outcome));
                }
            }
        }
    }

    fn read_predecessor(&mut self) {
        let Some(predecessor) = &mut self.predecessor else { return };
        let messages = predecessor.channel.receive();
        let ended = predecessor.channel.has_ended();
        let pid = predecessor.pid;
        for message in messages {
            info!("handover: predecessor {pid}: {message}");
            if let Message::Go { state: Some(head), .. } = &message {
                let file = self.predecessor.as_mut().and_then(|predecessor| predecessor.state.take());
                self.inherited = file.map(|file| Handed::File(file, *head));
            }
            self.on(Event::FromPredecessor(message));
        }
        if ended {
            info!("handover: predecessor {pid} is gone");
            if let Some(predecessor) = self.predecessor.take() {
                let _ = self.poller.delete(predecessor.channel.as_fd());
            }
            self.on(Event::PredecessorGone);
        }
    }

    fn read_successor(&mut self) {
        let Some(successor) = &mut self.successor else { return };
        let messages = successor.channel.receive();
        let ended = successor.channel.has_ended();
        let pid = successor.child.pid();
        let speaker = successor.channel.speaker().filter(|speaker| successor.child.speaks_by(*speaker));
        if let Some(speaker) = speaker {
            info!("handover: child {pid} is a script, which waits for {speaker}");
            for fd in successor.child.pidfds() {
                // The first of them hangs there already.
                let _ = self.poller.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, CHILDREN));
            }
        }
        for message in messages {
            match &message {
                Message::Failed { reason } => {
                    error!("handover: child {pid} failed: {reason}; still serving");
                    if let Some(successor) = &mut self.successor {
                        successor.leaves = true;
                    }
                }
                message => info!("handover: child {pid}: {message}"),
            }
            if let Message::Prepared { adopted } = &message {
                self.shared.clone_from(adopted);
            }
            let mut dead = || ended || self.successor.as_mut().is_some_and(|s| s.child.is_gone());
            if message == Message::StillGood && dead() {
                // Its last word; the service is not given to the dead.
                continue;
            }
            self.on(Event::FromSuccessor(message));
        }
        if ended {
            self.successor_gone();
        }
    }

    /// Death is a closed channel or a dead process, whichever is seen first; what was said before
    /// has been heard.
    fn successor_gone(&mut self) {
        let Some(mut successor) = self.successor.take() else { return };
        let _ = self.poller.delete(successor.channel.as_fd());
        let pid = successor.child.pid();
        let stage = self.state.stage();
        // What it says of itself is worth half a second.
        successor.child.wait_briefly();
        if stage == Stage::Awaiting {
            if successor.child.end().is_none() {
                error!("handover: child {pid} is alive but closed its channel, which a script must not do");
            }
            successor.dismiss();
        }
        let end = successor.child.end().unwrap_or("closed its channel");
        match stage {
            Stage::Awaiting | Stage::Offering | Stage::Watching => {
                error!("handover: child {pid} {end}; still serving");
            }
            _ => info!("handover: child {pid} {end}"),
        }
        self.strays.push(successor.child);
        self.on(Event::SuccessorGone);
    }

    fn reap(&mut self) {
        let gone = self.successor.as_mut().is_some_and(|successor| {
            if successor.child.end().is_some() {
                // Who serves may outlive it.
                let _ = successor.child.pidfds().next().map(|fd| self.poller.delete(fd));
            }
            successor.child.is_gone()
        });
        if gone {
            // First what it said last.
            self.read_successor();
            self.successor_gone();
        }
        let poller = &self.poller;
        self.strays.retain_mut(|child| {
            let ended = child.end().is_some();
            // Whom it waits for matters no more, or would be told of for ever.
            for fd in child.pidfds().skip(usize::from(!ended)) {
                let _ = poller.delete(fd);
            }
            !ended
        });
    }

    fn abort(&mut self) {
        let stuck = self.service.in_flight();
        self.cut = self.cut.max(stuck.len());
        self.aborted = true;
        for line in &stuck {
            error!("abort: cut {line}");
        }
        if stuck.is_empty() {
            info!("abort: nothing was in flight");
        }
    }

    fn name_in_pid_file(&self, pid: i32) {
        let Some(pid_file) = &self.facts.pid_file else { return };
        let file = pid_file.clone();
        match pid_file::in_time(move || file.name(pid)) {
            Ok(()) => info!("pid file {} names {pid}", pid_file.path().display()),
            Err(e) => error!("can't write the pid file {}: {e}", pid_file.path().display()),
        }
    }

    fn successor_pid(&self) -> i32 {
        self.successor.as_ref().map_or(0, |s| s.child.server().as_raw())
    }

    fn timeout(&self, until: Option<Instant>) -> EpollTimeout {
        poll_timeout(self.timers.values().copied().chain(until).min())
    }

    fn fire_timers(&mut self) {
        let now = Instant::now();
        while let Some(timer) = self.timers.iter().find(|(_, at)| **at <= now).map(|(timer, _)| *timer) {
            self.timers.remove(&timer);
            self.on(Event::Timer(timer));
        }
    }
}

/// GO says what of the user's state is in the file.
fn with_state(message: Message, state: &HandoverState) -> Message {
    match message {
        Message::Go { probation, .. } if *state != HandoverState::default() => {
            let head = StateHead { version: state.version, bytes: state.bytes.len() as u64 };
            Message::Go { probation, state: Some(head) }
        }
        other => other,
    }
}

fn own_pid() -> i32 {
    nix::unistd::getpid().as_raw()
}
