//! Single rules that the tables don't show.

use super::table::terms;
use super::{Action, Event, Stage, State, Timer};

/// Within the pause a second TERM is the same request; after it, it aborts, also where only hooks still run.
#[test]
fn a_second_stop_aborts_in_every_stage_once_the_pause_is_over() {
    for stage in [Stage::Serving, Stage::Awaiting, Stage::Prepared, Stage::OnProbation] {
        let mut state = State::at(stage, terms());
        let first = state.on(Event::Stop);
        let starts_pause = |action: &Action| matches!(action, Action::Timer(Timer::SameRequest, Some(_)));
        assert!(first.iter().any(starts_pause), "{stage:?}: {first:?}");
        assert_eq!(state.on(Event::Stop), [], "{stage:?}");
        assert_eq!(state.on(Event::Timer(Timer::SameRequest)), [], "{stage:?}");
        assert!(state.on(Event::Stop).contains(&Action::Abort), "{stage:?}");
    }
}
