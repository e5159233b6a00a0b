//! Tries every order of messages, deaths, timers and signals among a few generations, within bounds, and checks the
//! invariants.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::{Action, Event, Stage, State, Terms, Timer};
use crate::base::explore;
use crate::process::handover::Message;

/// A process of the lineage.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Process {
    alive: bool,
    /// None: its executable runs, PREPARED is not said.
    state: Option<State>,
    polls: bool,
    holds: bool,
    timers: BTreeSet<Timer>,
    /// Events that its own threads will send it.
    due: Vec<Due>,
    parent: Option<usize>,
    child: Option<usize>,
    /// Messages on their way to the child, kept with the sender.
    down: VecDeque<Message>,
    up: VecDeque<Message>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Due {
    ListenersClosed,
    Checked,
    Drained,
    Released,
    Acquired,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    processes: Vec<Process>,
    hups: u8,
    terms: u8,
    crashes: u8,
    failures: u8,
    /// A process that represents the service received a stop.
    was_stopped: bool,
    /// A process that alone had the listener, or had it after COMMIT, was killed.
    hopeless: bool,
}

/// What can happen next.
#[derive(Clone, Debug)]
enum Step {
    Down(usize),
    Up(usize),
    Fire(usize, Timer),
    Due(usize, usize),
    /// A hook that was due fails.
    Fails(usize, usize),
    GetPrepared(usize),
    SeeChildGone(usize),
    SeeParentGone(usize),
    Hup(usize),
    Term(usize),
    Kill(usize),
}

const GENERATIONS: usize = 3;

fn process(parent: Option<usize>) -> Process {
    Process {
        alive: true,
        state: None,
        polls: false,
        holds: true,
        timers: BTreeSet::new(),
        due: Vec::new(),
        parent,
        child: None,
        down: VecDeque::new(),
        up: VecDeque::new(),
    }
}

impl World {
    fn new(terms: &Terms, [hups, stops, crashes, failures]: [u8; 4]) -> World {
        let mut world = World {
            processes: vec![process(None)],
            hups,
            terms: stops,
            crashes,
            failures,
            was_stopped: false,
            hopeless: false,
        };
        let (state, actions) = State::first(terms.clone());
        world.processes[0].state = Some(state);
        world.perform(0, actions, terms);
        world
    }

    fn stage(&self, i: usize) -> Option<Stage> {
        let process = &self.processes[i];
        process.state.as_ref().filter(|_| process.alive).map(State::stage)
    }

    fn steps(&self) -> (Vec<Step>, Vec<Step>) {
        let (mut own, mut from_outside) = (Vec::new(), Vec::new());
        for (i, process) in self.processes.iter().enumerate().filter(|(_, p)| p.alive) {
            own.extend(process.timers.iter().map(|timer| Step::Fire(i, *timer)));
            own.extend((0..process.due.len()).map(|due| Step::Due(i, due)));
            let hooks = |due: &usize| matches!(process.due[*due], Due::Released | Due::Acquired);
            if self.failures > 0 {
                let fails = (0..process.due.len()).filter(hooks).map(|due| Step::Fails(i, due));
                from_outside.extend(fails);
            }
            if process.state.is_none() {
                own.push(Step::GetPrepared(i));
            }
            if let (Some(child), Some(_)) = (process.child, &process.state) {
                match (self.processes[child].up.is_empty(), self.processes[child].alive) {
                    (false, _) => own.push(Step::Up(child)),
                    (true, false) => own.push(Step::SeeChildGone(i)),
                    (true, true) => {}
                }
            }
            if let (Some(parent), Some(_)) = (process.parent, &process.state) {
                let is_its_child = self.processes[parent].child == Some(i);
                match (is_its_child && !self.processes[parent].down.is_empty(), self.processes[parent].alive)
                {
                    (true, _) => own.push(Step::Down(i)),
                    (false, false) => own.push(Step::SeeParentGone(i)),
                    (false, true) => {}
                }
            }
            if self.hups > 0 && process.state.is_some() {
                from_outside.push(Step::Hup(i));
            }
            if self.terms > 0 {
                from_outside.push(Step::Term(i));
            }
            if self.crashes > 0 {
                from_outside.push(Step::Kill(i));
            }
        }
        (own, from_outside)
    }

    fn take(&self, step: &Step, terms: &Terms) -> World {
        let mut world = self.clone();
        match *step {
            Step::Down(i) => {
                let parent = world.processes[i].parent.unwrap();
                let message = world.processes[parent].down.pop_front().unwrap();
                world.on(i, Event::FromPredecessor(message), terms);
            }
            Step::Up(child) => {
                let parent = world.processes[child].parent.unwrap();
                let message = world.processes[child].up.pop_front().unwrap();
                if message == Message::StillGood && !world.processes[child].alive {
                    // The control loop looks before it believes this.
                    return world;
                }
                world.on(parent, Event::FromSuccessor(message), terms);
            }
            Step::Fire(i, timer) => {
                world.processes[i].timers.remove(&timer);
                world.on(i, Event::Timer(timer), terms);
            }
            Step::Due(i, due) => match world.processes[i].due.remove(due) {
                Due::ListenersClosed => world.on(i, Event::ListenersClosed, terms),
                Due::Checked => world.on(i, Event::Checked(Ok(())), terms),
                Due::Drained => world.on(i, Event::Drained, terms),
                Due::Released => world.on(i, Event::Released(Ok(())), terms),
                Due::Acquired => world.on(i, Event::Acquired(Ok(())), terms),
            },
            Step::Fails(i, due) => {
                world.failures -= 1;
                let failed = || Err("no".to_owned());
                let orphan = world.processes[i].parent.is_none_or(|parent| !world.processes[parent].alive);
                match world.processes[i].due.remove(due) {
                    Due::Released => world.on(i, Event::Released(failed()), terms),
                    _ => {
                        // No process is left that has what it needs.
                        world.hopeless |= orphan && world.stage(i) == Some(Stage::Acquiring);
                        world.on(i, Event::Acquired(failed()), terms);
                    }
                }
            }
            Step::GetPrepared(i) => {
                let (state, actions) = State::successor(terms.clone(), Vec::new(), Vec::new());
                world.processes[i].state = Some(state);
                world.perform(i, actions, terms);
            }
            Step::SeeChildGone(i) => {
                world.processes[i].child = None;
                world.processes[i].down.clear();
                world.on(i, Event::SuccessorGone, terms);
            }
            Step::SeeParentGone(i) => {
                world.processes[i].parent = None;
                world.on(i, Event::PredecessorGone, terms);
            }
            Step::Hup(i) => {
                world.hups -= 1;
                world.on(i, Event::Handover, terms);
            }
            Step::Term(i) => {
                world.terms -= 1;
                let orphan = world.processes[i].parent.is_none_or(|parent| !world.processes[parent].alive);
                match world.stage(i) {
                    // It has no handler yet, and dies of it. No service was meant, unless it is all
                    // that is left.
                    None => {
                        world.was_stopped |= orphan;
                        world.die(i);
                    }
                    Some(Stage::Prepared) => {
                        world.was_stopped |= orphan;
                        world.on(i, Event::Stop, terms);
                    }
                    Some(Stage::Draining(_)) => world.on(i, Event::Stop, terms),
                    Some(_) => {
                        world.was_stopped = true;
                        world.on(i, Event::Stop, terms);
                    }
                }
            }
            Step::Kill(i) => {
                world.crashes -= 1;
                let others_hold = |w: &World| {
                    w.processes.iter().enumerate().any(|(j, p)| {
                        // A successor that is starting holds the listener, and takes over.
                        j != i && p.alive && p.holds
                    })
                };
                world.hopeless |= !others_hold(&world);
                world.die(i);
            }
        }
        world
    }

    fn die(&mut self, i: usize) {
        let process = &mut self.processes[i];
        process.alive = false;
        (process.polls, process.holds) = (false, false);
        process.timers.clear();
        process.due.clear();
    }

    fn on(&mut self, i: usize, event: Event, terms: &Terms) {
        let actions = self.processes[i].state.as_mut().unwrap().on(event);
        self.perform(i, actions, terms);
    }

    fn perform(&mut self, i: usize, actions: Vec<Action>, terms: &Terms) {
        let mut follow = Vec::new();
        for action in actions {
            match action {
                Action::Spawn if self.processes.len() < GENERATIONS => {
                    let child = self.processes.len();
                    self.processes.push(process(Some(i)));
                    self.processes[i].child = Some(child);
                    self.processes[i].down.clear();
                    follow.push(Event::Spawned);
                }
                Action::Spawn => follow.push(Event::SpawnFailed),
                Action::KillSuccessor => {
                    if let Some(child) = self.processes[i].child.take() {
                        let stopping = |m: &Message| matches!(m, Message::Stopping { .. });
                        if self.processes[child].up.iter().any(stopping) {
                            follow.push(Event::Drain);
                        }
                        self.die(child);
                    }
                }
                Action::ToPredecessor(message) => {
                    if self.processes[i].parent.is_some() {
                        self.processes[i].up.push_back(message);
                    }
                }
                Action::ToSuccessor(message) => {
                    if self.processes[i].child.is_some() {
                        self.processes[i].down.push_back(message);
                    }
                }
                Action::Accept => self.processes[i].polls = self.processes[i].holds,
                Action::Pause => self.processes[i].polls = false,
                Action::CloseShared | Action::CloseLast => {
                    if action == Action::CloseLast {
                        let others =
                            self.processes.iter().enumerate().any(|(j, p)| j != i && p.alive && p.polls);
                        // After a predecessor's ten silent seconds a stopping successor closes anyway.
                        assert!(
                            !others || self.was_stopped,
                            "a process closes for good what another one accepts on"
                        );
                    }
                    self.processes[i].polls = false;
                    self.processes[i].holds = false;
                    self.processes[i].due.push(Due::ListenersClosed);
                }
                // One thread runs the hooks, in order; an answer that is no longer waited for is dropped.
                Action::Release | Action::Acquire => {
                    let due = &mut self.processes[i].due;
                    due.retain(|due| !matches!(due, Due::Released | Due::Acquired));
                    due.push(if action == Action::Release { Due::Released } else { Due::Acquired });
                }
                Action::Drain => self.processes[i].due.push(Due::Drained),
                Action::Check => self.processes[i].due.push(Due::Checked),
                Action::Finish => self.die(i),
                Action::Timer(timer, Some(_)) => {
                    self.processes[i].timers.insert(timer);
                }
                Action::Timer(timer, None) => {
                    self.processes[i].timers.remove(&timer);
                }
                Action::AssumeIdentity
                | Action::PassIdentity
                | Action::HandoverFailed
                | Action::HandConnections
                | Action::Abort => {}
            }
        }
        for event in follow {
            if self.processes[i].alive {
                self.on(i, event, terms);
            }
        }
    }

    /// What holds at every moment.
    fn check_always(&self) {
        let stage_of = |i| self.stage(i);
        let speaks = |stage| {
            matches!(
                stage,
                Stage::Serving | Stage::Awaiting | Stage::Offering | Stage::Watching | Stage::LameDuck
            )
        };
        let speakers = (0..self.processes.len()).filter(|i| stage_of(*i).is_some_and(speaks)).count();
        assert!(speakers <= 1, "the lineage is forked: {}", self.shown());
        let held = self.processes.iter().any(|p| p.alive && p.holds);
        assert!(held || self.was_stopped || self.hopeless, "nobody holds the listener: {}", self.shown());
        for (i, process) in self.processes.iter().enumerate() {
            if process.polls && stage_of(i) == Some(Stage::Prepared) {
                panic!("it accepts before GO: {}", self.shown());
            }
        }
    }

    /// What holds when nothing more happens by itself.
    fn check_at_rest(&self) {
        let polling = self.processes.iter().filter(|p| p.polls).count();
        let alive = self.processes.iter().filter(|p| p.alive).count();
        if self.was_stopped {
            assert_eq!(alive, 0, "stopped, and something lives: {}", self.shown());
        } else if !self.hopeless {
            assert_eq!((polling, alive), (1, 1), "not exactly one serves: {}", self.shown());
        }
    }

    fn shown(&self) -> String {
        let each = (0..self.processes.len()).map(|i| {
            let p = &self.processes[i];
            format!("[{i}: {:?} alive={} polls={} holds={}]", self.stage(i), p.alive, p.polls, p.holds)
        });
        each.collect::<Vec<_>>().join(" ")
    }
}

/// So many HUPs, stops, crashes and failing hooks, wherever they may strike.
fn explore(lame_duck: Duration, blows: [u8; 4]) -> usize {
    let second = Duration::from_secs(1);
    let (ready, probation, drain, without_main) = (second, second, second, None);
    let terms = Terms { ready, probation, drain, lame_duck, without_main, is_stored: false };
    let steps = |world: &World| {
        let (own, from_outside) = world.steps();
        if own.is_empty() {
            world.check_at_rest();
        }
        [own, from_outside].concat()
    };
    let take = |world: &World, step: &Step| world.take(step, &terms);
    explore::explore(World::new(&terms, blows), steps, take, World::check_always, World::shown)
}

#[test]
fn handovers_alone_end_with_the_newest_serving() {
    assert!(explore(Duration::ZERO, [3, 0, 0, 0]) > 100);
}

#[test]
fn term_at_any_moment_ends_the_service_and_never_resurrects_it() {
    assert!(explore(Duration::ZERO, [2, 2, 0, 0]) > 1_000);
    assert!(explore(Duration::from_secs(1), [2, 1, 0, 0]) > 1_000);
}

#[test]
fn a_crash_at_any_moment_leaves_exactly_one_serving() {
    assert!(explore(Duration::ZERO, [2, 0, 1, 0]) > 100);
}

#[test]
fn a_crash_and_a_term_in_any_order() {
    assert!(explore(Duration::ZERO, [1, 1, 1, 0]) > 1_000);
}

#[test]
fn a_hook_that_fails_leaves_exactly_one_serving() {
    assert!(explore(Duration::ZERO, [2, 0, 0, 2]) > 100);
    assert!(explore(Duration::ZERO, [1, 1, 0, 1]) > 1_000);
    assert!(explore(Duration::ZERO, [1, 0, 1, 1]) > 100);
}
