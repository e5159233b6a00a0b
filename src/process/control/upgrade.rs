//! The handover in progress, for the clients that requested it: how long each step took, and why it failed. The state
//! decides; this watches its stages.

use std::time::{Duration, Instant};

use crate::process::handover::Message;
use crate::process::state::{Event, Stage, Timer, Why};

/// A part of a handover, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The program was started.
    Spawn,
    /// It has its listeners, and `before_ready` has passed.
    Ready,
    /// The release hook has run here.
    Release,
    /// The acquire hook has run there, and it accepts.
    Accept,
    /// It has been on probation.
    Probation,
}

impl Step {
    pub(super) fn name(self) -> &'static str {
        match self {
            Step::Spawn => "spawn",
            Step::Ready => "ready",
            Step::Release => "release",
            Step::Accept => "accept",
            Step::Probation => "probation",
        }
    }
}

/// How a handover ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Or why it failed.
    pub(super) committed: Result<(), String>,
    pub(super) steps: Vec<(Step, Duration)>,
    pub(super) total: Duration,
}

/// Watches handovers, one after the other.
#[derive(Default)]
pub(super) struct UpgradeWatch {
    current: Option<Current>,
    /// Why it is about to fail.
    cause: Option<String>,
    /// Which of its times has just passed.
    late: Option<&'static str>,
}

struct Current {
    started: Instant,
    /// The end of the last step.
    since: Instant,
    steps: Vec<(Step, Duration)>,
}

impl UpgradeWatch {
    /// The program is about to be started, perhaps not for the first time: it may be being written.
    pub(super) fn begins(&mut self, now: Instant) {
        self.current.get_or_insert_with(|| Current { started: now, since: now, steps: Vec::new() });
    }

    /// Notes the logged cause of a failure, before the state gets the event.
    pub(super) fn note_cause(&mut self, cause: String) {
        self.cause = self.current.is_some().then_some(cause);
    }

    /// Notes what a process that was killed has written, behind the cause.
    pub(super) fn note_output(&mut self, wrote: &str) {
        if let Some(cause) = &mut self.cause {
            cause.push_str(wrote);
        }
    }

    /// Notes the cause of a failure, if `event`, which arrives in `stage`, contains it.
    pub(super) fn note_event(&mut self, event: &Event, stage: Stage) {
        self.late = None;
        let silent = match stage {
            Stage::Awaiting => "the new process was not ready in time",
            Stage::Releasing => "the release hook did not finish in time",
            Stage::Offering => "the new process did not accept in time",
            _ => "the new process was silent at the end of its probation",
        };
        let cause = match event {
            Event::FromSuccessor(Message::Failed { reason }) => format!("the new process failed: {reason}"),
            Event::Released(Err(reason)) => format!("the release hook failed: {reason}"),
            Event::ProgramBusy => "the executable is being written".to_owned(),
            Event::Timer(Timer::Stage) => {
                self.late = Some(silent);
                silent.to_owned()
            }
            _ => return,
        };
        self.note_cause(cause);
    }

    /// Why a process is killed that does nothing wrong but to be late.
    pub(super) fn late(&self) -> Option<&'static str> {
        self.late
    }

    /// An event has led from one stage to another. Returns the step that has ended with it.
    pub(super) fn note_stage(&mut self, before: Stage, after: Stage, now: Instant) -> Option<Step> {
        let step = match (before, after) {
            (Stage::Awaiting, Stage::Releasing) => Step::Ready,
            (Stage::Releasing, Stage::Offering) => Step::Release,
            (Stage::Offering, Stage::Watching) => Step::Accept,
            (Stage::Watching, Stage::Draining(Why::HandedOver)) => Step::Probation,
            _ => return None,
        };
        self.note_step(step, now)
    }

    /// Returns the step if there is a handover.
    pub(super) fn note_step(&mut self, step: Step, now: Instant) -> Option<Step> {
        let current = self.current.as_mut()?;
        current.steps.push((step, now.saturating_duration_since(current.since)));
        current.since = now;
        Some(step)
    }

    /// How long the handover in progress has taken so far.
    pub(super) fn elapsed(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.current.as_ref()?.started))
    }

    /// The last step that has ended, and how long it took.
    pub(super) fn last_step(&self) -> Option<(Step, Duration)> {
        self.current.as_ref()?.steps.last().copied()
    }

    pub(super) fn commits(&mut self, now: Instant) -> Option<Outcome> {
        self.ends(Ok(()), now)
    }

    pub(super) fn fails(&mut self, now: Instant) -> Option<Outcome> {
        let cause = self.cause.take().unwrap_or_else(|| "see the log of the server".to_owned());
        self.ends(Err(cause), now)
    }

    /// The service is stopping, and a handover with it.
    pub(super) fn is_stopped(&mut self, now: Instant) -> Option<Outcome> {
        self.ends(Err("the service was stopped meanwhile".to_owned()), now)
    }

    fn ends(&mut self, committed: Result<(), String>, now: Instant) -> Option<Outcome> {
        let Current { started, steps, .. } = self.current.take()?;
        self.cause = None;
        Some(Outcome { committed, steps, total: now.saturating_duration_since(started) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(started: Instant, ms: u64) -> Instant {
        started + Duration::from_millis(ms)
    }

    #[test]
    fn each_step_has_its_duration() {
        let (mut watch, begin) = (UpgradeWatch::default(), Instant::now());
        watch.begins(begin);
        // The program was being written.
        watch.begins(at(begin, 50));
        watch.note_event(&Event::ProgramBusy, Stage::Awaiting);
        watch.note_step(Step::Spawn, at(begin, 60));
        let stages = [
            (Stage::Awaiting, Stage::Releasing, 100, Some(Step::Ready)),
            (Stage::Releasing, Stage::Releasing, 101, None),
            (Stage::Releasing, Stage::Offering, 101, Some(Step::Release)),
            (Stage::Offering, Stage::Watching, 103, Some(Step::Accept)),
            (Stage::Watching, Stage::Draining(Why::HandedOver), 2103, Some(Step::Probation)),
        ];
        for (before, after, ms, step) in stages {
            assert_eq!(watch.note_stage(before, after, at(begin, ms)), step, "{before:?} -> {after:?}");
        }
        let outcome = watch.commits(at(begin, 2104)).unwrap();
        let ms: Vec<_> = outcome.steps.iter().map(|(step, took)| (step.name(), took.as_millis())).collect();
        let expected = [("spawn", 60), ("ready", 40), ("release", 1), ("accept", 2), ("probation", 2000)];
        assert_eq!(ms, expected);
        assert_eq!((outcome.committed, outcome.total.as_millis()), (Ok(()), 2104));
        assert_eq!(watch.commits(begin), None, "it is over");
    }

    #[test]
    fn each_failure_has_its_cause() {
        let failed = |reason: &str| Event::FromSuccessor(Message::Failed { reason: reason.to_owned() });
        let silence = Event::Timer(Timer::Stage);
        let cases = [
            (failed("no room"), Stage::Awaiting, "the new process failed: no room"),
            (silence.clone(), Stage::Awaiting, "the new process was not ready in time"),
            (silence.clone(), Stage::Releasing, "the release hook did not finish in time"),
            (silence.clone(), Stage::Offering, "the new process did not accept in time"),
            (silence, Stage::Watching, "the new process was silent at the end of its probation"),
            (Event::Released(Err("held".to_owned())), Stage::Releasing, "the release hook failed: held"),
            (Event::SuccessorGone, Stage::Awaiting, "see the log of the server"),
        ];
        let (mut watch, now) = (UpgradeWatch::default(), Instant::now());
        for (event, stage, cause) in cases {
            watch.begins(now);
            watch.note_event(&event, stage);
            assert_eq!(watch.late().is_some(), matches!(event, Event::Timer(_)), "{event:?}");
            let outcome = watch.fails(now).unwrap();
            assert_eq!(outcome.committed, Err(cause.to_owned()), "{event:?} in {stage:?}");
        }
        assert_eq!(watch.fails(now), None, "there is no handover");
    }
}
