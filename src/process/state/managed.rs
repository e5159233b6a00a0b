//! What differs under a service manager: how a generation that has handed over learns how the main process ends.

use std::time::Duration;

use super::{Action, Event, Stage, State, Terms, Timer, Why};
use crate::process::handover::Message;

const BRIEF: Duration = Duration::from_secs(5);
const DRAIN: Duration = Duration::from_secs(60);

fn at(stage: Stage, without_main: Option<Duration>) -> State {
    let (ready, probation, lame_duck) = (DRAIN, Duration::ZERO, Duration::ZERO);
    State::at(stage, Terms { ready, probation, drain: DRAIN, lame_duck, without_main, is_stored: false })
}

fn handed_over() -> State {
    at(Stage::Draining(Why::HandedOver), Some(BRIEF))
}

fn cut() -> Vec<Action> {
    let reason = "the main process has died".to_owned();
    vec![Action::ToPredecessor(Message::Failed { reason }), Action::Timer(Timer::DrainDeadline, Some(BRIEF))]
}

#[test]
fn only_a_main_process_that_dies_cuts_the_drains_before_it() {
    let stopping = || Event::FromSuccessor(Message::Stopping { within: DRAIN });
    let died = || Event::FromSuccessor(Message::Failed { reason: "the main process has died".to_owned() });
    let cases: [(Vec<Event>, Vec<Action>); 5] = [
        (vec![Event::SuccessorGone], cut()),
        (vec![stopping(), Event::SuccessorGone], Vec::new()),
        (vec![died()], cut()),
        // Once.
        (vec![died(), Event::SuccessorGone], cut()),
        (vec![stopping(), died()], Vec::new()),
    ];
    for (events, actions) in cases {
        let mut state = handed_over();
        let done: Vec<Action> = events.iter().flat_map(|event| state.on(event.clone())).collect();
        assert_eq!(done, actions, "{events:?}");
        assert_eq!(state.stage(), Stage::Draining(Why::HandedOver));
        let mut elsewhere = at(Stage::Draining(Why::HandedOver), None);
        assert!(events.into_iter().all(|event| elsewhere.on(event).is_empty()));
    }
}

#[test]
fn a_process_that_means_to_end_tells_its_predecessor() {
    let says = |mut state: State, event| {
        let leave = Action::ToPredecessor(Message::Stopping { within: DRAIN });
        state.on(event).contains(&leave)
    };
    let draining = Stage::Draining(Why::HandedOver);
    for (stage, event) in [
        (Stage::Serving, Event::Stop),
        (Stage::Serving, Event::Drain),
        (draining, Event::Drained),
        (draining, Event::Abort),
    ] {
        assert!(says(at(stage, Some(BRIEF)), event.clone()), "{stage:?} {event:?}");
        assert!(!says(at(stage, None), event));
    }
    // A crash is what the generation before it must take it for.
    assert!(!says(at(Stage::Serving, Some(BRIEF)), Event::Abort));
}

/// The service manager repeats its TERM, which comes as `Drain`.
#[test]
fn no_drain_request_is_a_second_stop() {
    let mut state = handed_over();
    for _ in 0..5 {
        assert_eq!(state.on(Event::Drain), []);
    }
    let mut main = at(Stage::Serving, Some(BRIEF));
    assert!(!main.on(Event::Drain).is_empty());
    assert_eq!(main.on(Event::Drain), []);
}

/// It stops every process of the service then, and starts the service when they have ended.
#[test]
fn a_successor_that_systemd_does_not_know_stops_quickly() {
    let outcomes = |stage, events: &[Event], is_stored| {
        let mut state = at(stage, Some(BRIEF));
        state.terms.lame_duck = DRAIN;
        state.terms.is_stored = is_stored;
        let actions: Vec<Action> = events.iter().flat_map(|event| state.on(event.clone())).collect();
        let deadline = actions.iter().find_map(|action| match action {
            Action::Timer(Timer::DrainDeadline, time) => *time,
            _ => None,
        });
        (deadline, actions.contains(&Action::CloseShared), actions.contains(&Action::CloseLast))
    };
    let (died, stop) = (Event::PredecessorGone, Event::Drain);
    let acquired = Event::Acquired(Ok(()));
    for (stage, events) in [
        (Stage::OnProbation, vec![died.clone(), stop.clone()]),
        (Stage::OnProbation, vec![stop.clone(), died.clone()]),
        (Stage::Prepared, vec![died.clone(), acquired.clone(), stop.clone()]),
        (Stage::Acquiring, vec![died.clone(), stop.clone()]),
    ] {
        assert_eq!(outcomes(stage, &events, false), (Some(BRIEF), false, true), "{stage:?} {events:?}");
        // The next start gets the sockets: nothing may be done to them.
        assert_eq!(outcomes(stage, &events, true), (Some(BRIEF), true, false), "{stage:?} {events:?}");
    }
    let committed = [Event::FromPredecessor(Message::Commit), died, stop];
    let mut state = at(Stage::OnProbation, Some(BRIEF));
    let actions: Vec<Action> = committed.into_iter().flat_map(|event| state.on(event)).collect();
    assert!(actions.contains(&Action::Timer(Timer::DrainDeadline, Some(DRAIN))), "{actions:?}");
}
