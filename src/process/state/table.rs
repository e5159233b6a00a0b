//! The tables of ARCHITECTURE.md against the code: every stage, every event, both ways.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::{Action, Event, Stage, State, Terms, Timer, Why};
use crate::process::handover::{Hello, Message};

const STAGES: &[(&str, Stage)] = &[
    ("Serving", Stage::Serving),
    ("Awaiting", Stage::Awaiting),
    ("Releasing", Stage::Releasing),
    ("Offering", Stage::Offering),
    ("Watching", Stage::Watching),
    ("Prepared", Stage::Prepared),
    ("Acquiring", Stage::Acquiring),
    ("OnProbation", Stage::OnProbation),
    ("Yielding", Stage::Yielding),
    ("LameDuck", Stage::LameDuck),
    ("Stopping", Stage::Draining(Why::Stop)),
    ("HandedOver", Stage::Draining(Why::HandedOver)),
    ("Failed", Stage::Draining(Why::Failed)),
    ("Finished", Stage::Finished),
];

fn events() -> Vec<(&'static str, Event)> {
    let (blocked, above, command) = (Vec::new(), None, None);
    let hello = Hello { version: 1, generation: 2, pid: 1, nohup: false, blocked, above, command };
    let messages =
        |message: Message| (Event::FromSuccessor(message.clone()), Event::FromPredecessor(message));
    let adopted = Vec::new();
    let mut events = vec![
        ("HUP", Event::Handover),
        ("TERM", Event::Stop),
        ("hang-up", Event::Drain),
        ("abort requested", Event::Abort),
        ("successor started", Event::Spawned),
        ("can't start it", Event::SpawnFailed),
        ("binary busy", Event::ProgramBusy),
        ("successor gone", Event::SuccessorGone),
        ("predecessor gone", Event::PredecessorGone),
        ("silence", Event::Timer(Timer::Stage)),
        ("drain deadline", Event::Timer(Timer::DrainDeadline)),
        ("500 ms after TERM", Event::Timer(Timer::SameRequest)),
        ("released", Event::Released(Ok(()))),
        ("not released", Event::Released(Err("why".to_owned()))),
        ("acquired", Event::Acquired(Ok(()))),
        ("not acquired", Event::Acquired(Err("why".to_owned()))),
        ("check passed", Event::Checked(Ok(()))),
        ("check failed", Event::Checked(Err("why".to_owned()))),
        ("listeners closed", Event::ListenersClosed),
        ("drained", Event::Drained),
    ];
    for (from_successor, from_predecessor, message) in [
        ("S: HELLO", "P: HELLO", Message::Hello(hello)),
        (
            "S: PREPARED",
            "P: PREPARED",
            Message::Prepared { adopted, takes_records: true, resumes: Vec::new() },
        ),
        ("S: GO", "P: GO", Message::Go { probation: Duration::from_secs(2), state: None, records: None }),
        ("S: SERVING", "P: SERVING", Message::Serving),
        ("S: STILL-GOOD", "P: STILL-GOOD", Message::StillGood),
        ("S: COMMIT", "P: COMMIT", Message::Commit),
        ("S: FAILED", "P: FAILED", Message::Failed { reason: "why".to_owned() }),
        ("S: STOPPING", "P: STOPPING", Message::Stopping { within: Duration::from_secs(60) }),
        ("S: CLOSED", "P: CLOSED", Message::Closed),
        ("S: HANDOVER-PLEASE", "P: HANDOVER-PLEASE", Message::HandoverPlease),
    ] {
        let (s, p) = messages(message);
        events.extend([(from_successor, s), (from_predecessor, p)]);
    }
    events
}

pub(super) fn terms() -> Terms {
    Terms {
        ready: Duration::from_secs(60),
        probation: Duration::from_secs(2),
        drain: Duration::from_secs(60),
        lame_duck: Duration::ZERO,
        without_main: None,
        is_stored: false,
    }
}

/// What a cell says: the actions, and the stage if it changes. "–" for nothing.
fn cell(stage: Stage, event: Event) -> String {
    let mut state = State::at(stage, terms());
    let actions: Vec<String> = state.on(event).iter().map(name).collect();
    let next = STAGES.iter().find(|(_, s)| *s == state.stage()).map_or("?", |(name, _)| name);
    let next = if state.stage() == stage { String::new() } else { format!("→ **{next}**") };
    let noted = if state.wanted { "remember".to_owned() } else { String::new() };
    let noted = if state.orphan { "serve alone then".to_owned() } else { noted };
    let parts: Vec<String> =
        [next, noted].into_iter().chain(actions).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { "–".to_owned() } else { parts.join(", ") }
}

fn name(action: &Action) -> String {
    let word = |message: &Message| message.encode().split(' ').next().unwrap_or_default().to_owned();
    match action {
        Action::Spawn => "spawn".into(),
        Action::KillSuccessor => "kill S".into(),
        Action::ToPredecessor(message) => format!("say {}", word(message)),
        Action::ToSuccessor(message) => format!("say {}", word(message)),
        Action::Accept => "accept".into(),
        Action::Release => "release".into(),
        Action::Acquire => "acquire".into(),
        Action::Pause => "pause".into(),
        Action::CloseShared => "close shared".into(),
        Action::CloseLast => "close last".into(),
        Action::HandConnections => "hand connections".into(),
        Action::Drain => "drain".into(),
        Action::AssumeIdentity => "take identity".into(),
        Action::PassIdentity => "pass identity".into(),
        Action::Check => "check".into(),
        Action::Abort => "cut".into(),
        Action::Finish => "end".into(),
        // Times are in the text beside the tables.
        Action::Timer(Timer::Stage, Some(super::BUSY_PAUSE)) => "try again soon".into(),
        Action::Timer(..) => String::new(),
        // From a predecessor's stage to Serving, always.
        Action::HandoverFailed => String::new(),
    }
}

/// Every cell, by stage and event.
fn computed() -> BTreeMap<(String, String), String> {
    let mut cells = BTreeMap::new();
    for (stage_name, stage) in STAGES {
        for (event_name, event) in events() {
            cells.insert((event_name.to_owned(), (*stage_name).to_owned()), cell(*stage, event));
        }
    }
    cells
}

/// The cells of every table in the document whose first column is headed "event".
fn documented(text: &str) -> BTreeMap<(String, String), String> {
    let mut cells = BTreeMap::new();
    let mut stages: Option<Vec<String>> = None;
    for line in text.lines() {
        let Some(row) = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")) else {
            stages = None;
            continue;
        };
        let mut fields = row.split(" | ").map(|field| field.trim().to_owned());
        let first = fields.next().unwrap_or_default();
        match &stages {
            None if first == "event" => stages = Some(fields.collect()),
            Some(stages) if !first.starts_with("---") => {
                for (stage, cell) in stages.iter().zip(fields) {
                    let old = cells.insert((first.clone(), stage.clone()), cell);
                    assert_eq!(old, None, "{first} × {stage} stands twice");
                }
            }
            _ => {}
        }
    }
    cells
}

/// The tables as they should be, to be pasted.
fn written() -> String {
    let mut text = String::new();
    for (title, group) in [
        ("Serving, and as predecessor", &STAGES[..5]),
        ("As successor", &STAGES[5..9]),
        ("The end", &STAGES[9..]),
    ] {
        let names: Vec<&str> = group.iter().map(|(name, _)| *name).collect();
        let _ = writeln!(text, "{title}:\n\n| event | {} |", names.join(" | "));
        let _ = writeln!(text, "| --- |{}", " --- |".repeat(names.len()));
        for (event_name, event) in events() {
            let cells: Vec<String> = group.iter().map(|(_, stage)| cell(*stage, event.clone())).collect();
            if cells.iter().any(|cell| cell != "–") {
                let _ = writeln!(text, "| {event_name} | {} |", cells.join(" | "));
            }
        }
        text.push('\n');
    }
    text
}

/// Each row and each cell of the document is what the code does, and what the document leaves out
/// does nothing.
#[test]
fn the_tables_of_the_architecture_are_the_code() {
    let documented = documented(include_str!("../../../ARCHITECTURE.md"));
    let computed = computed();
    let mut wrong = Vec::new();
    for ((event, stage), cell) in &documented {
        match computed.get(&(event.clone(), stage.clone())) {
            Some(code) if code == cell => {}
            code => wrong.push(format!("{event} × {stage}: the document says {cell:?}, the code {code:?}")),
        }
    }
    for ((event, stage), cell) in &computed {
        if cell != "–" && !documented.contains_key(&(event.clone(), stage.clone())) {
            wrong.push(format!("{event} × {stage}: {cell:?} is not in the document"));
        }
    }
    assert!(wrong.is_empty(), "{}\n\nThe tables as the code has them:\n\n{}", wrong.join("\n"), written());
}

#[test]
fn a_remembered_hup_starts_the_next_handover_once() {
    let in_stage = |stage| {
        let mut state = State::at(stage, terms());
        assert_eq!(state.on(Event::Handover), []);
        assert_eq!(state.on(Event::Handover), [], "once");
        state
    };
    let starts = |state: &mut State, event| {
        let actions = state.on(event);
        let spawns = actions.iter().filter(|action| **action == Action::Spawn).count();
        (spawns, state.stage())
    };
    let mut awaiting = in_stage(Stage::Awaiting);
    assert_eq!(starts(&mut awaiting, Event::SuccessorGone), (1, Stage::Awaiting));
    assert_eq!(starts(&mut awaiting, Event::SuccessorGone), (0, Stage::Serving));
    let mut on_probation = in_stage(Stage::OnProbation);
    assert_eq!(starts(&mut on_probation, Event::FromPredecessor(Message::Commit)), (1, Stage::Awaiting));
    let mut watching = in_stage(Stage::Watching);
    let actions = watching.on(Event::FromSuccessor(Message::StillGood));
    let please = actions.iter().position(|a| *a == Action::ToSuccessor(Message::HandoverPlease));
    let commit = actions.iter().position(|a| *a == Action::ToSuccessor(Message::Commit));
    assert!(please.is_some() && please < commit, "{actions:?}");
    // What both of them remember is one request.
    let mut on_probation = in_stage(Stage::OnProbation);
    assert_eq!(on_probation.on(Event::FromPredecessor(Message::HandoverPlease)), []);
    assert_eq!(starts(&mut on_probation, Event::FromPredecessor(Message::Commit)), (1, Stage::Awaiting));
    assert_eq!(starts(&mut on_probation, Event::SuccessorGone), (0, Stage::Serving));
}

#[test]
fn a_successor_serves_alone_when_its_predecessor_dies_early() {
    let mut state = State::at(Stage::Prepared, terms());
    assert_eq!(state.on(Event::PredecessorGone), [Action::Acquire]);
    assert_eq!(state.on(Event::Acquired(Ok(()))), [Action::Accept, Action::AssumeIdentity]);
    assert_eq!(state.stage(), Stage::Serving);

    let mut was_stopped = State::at(Stage::Acquiring, terms());
    was_stopped.on(Event::PredecessorGone);
    assert!(was_stopped.on(Event::Stop).contains(&Action::CloseLast), "whoever waits is served");
}

#[test]
fn the_first_to_stop_reports_closed_listeners() {
    let stopping = || Message::Stopping { within: Duration::from_secs(60) };
    let says_closed = [Action::ToSuccessor(Message::Closed)];
    for stage in [Stage::Offering, Stage::Watching] {
        for event in [Event::Stop, Event::FromSuccessor(stopping())] {
            let mut state = State::at(stage, terms());
            state.on(event.clone());
            assert_eq!(state.on(Event::ListenersClosed), says_closed, "{stage:?} {event:?}");
            assert_eq!(state.on(Event::ListenersClosed), [], "once");
        }
    }
    let mut alone = State::at(Stage::Serving, terms());
    alone.on(Event::Stop);
    assert_eq!(alone.on(Event::ListenersClosed), [], "nobody waits for it");
}

#[test]
fn probation_is_as_long_as_the_predecessor_says() {
    let mut state = State::at(Stage::Prepared, terms());
    let probation = Duration::from_millis(7);
    state.on(Event::FromPredecessor(Message::Go { probation, state: None, records: None }));
    let actions = state.on(Event::Acquired(Ok(())));
    assert!(actions.contains(&Action::Timer(Timer::Stage, Some(probation))), "{actions:?}");
}

#[test]
fn a_hup_that_a_successor_remembers_outlives_its_predecessor() {
    let mut alone = State::at(Stage::Acquiring, terms());
    alone.on(Event::Handover);
    alone.on(Event::PredecessorGone);
    assert!(alone.on(Event::Acquired(Ok(()))).contains(&Action::Spawn));
    let mut on_probation = State::at(Stage::OnProbation, terms());
    on_probation.on(Event::Handover);
    assert!(on_probation.on(Event::PredecessorGone).contains(&Action::Spawn));
}

#[test]
fn a_second_term_aborts_and_a_burst_counts_as_one() {
    let mut state = State::at(Stage::Serving, terms());
    assert!(state.on(Event::Stop).contains(&Action::CloseLast));
    assert_eq!(state.on(Event::Stop), [], "within half a second");
    state.on(Event::Timer(Timer::SameRequest));
    assert_eq!(state.on(Event::Stop), [Action::Abort, Action::Finish]);

    let mut state = State::at(Stage::Draining(Why::HandedOver), terms());
    let cuts = |actions: Vec<Action>| actions.contains(&Action::Abort);
    assert!(!cuts(state.on(Event::Stop)), "the first TERM changes nothing in a process that has handed over");
    state.on(Event::Timer(Timer::SameRequest));
    assert!(cuts(state.on(Event::Stop)));
}

#[test]
fn a_hang_up_never_cuts_however_often_it_comes() {
    let mut state = State::at(Stage::Serving, terms());
    assert!(state.on(Event::Drain).contains(&Action::Drain));
    for _ in 0..3 {
        assert_eq!(state.on(Event::Drain), []);
    }
    assert_eq!(state.stage(), Stage::Draining(Why::Stop));
}

#[test]
fn a_busy_binary_is_given_up_and_a_hung_one_not_retried() {
    let mut state = State::at(Stage::Serving, terms());
    state.on(Event::Handover);
    for _ in 0..super::BUSY_RETRIES {
        assert!(!state.on(Event::ProgramBusy).contains(&Action::Spawn));
        assert!(state.on(Event::Timer(Timer::Stage)).contains(&Action::Spawn));
    }
    state.on(Event::ProgramBusy);
    assert_eq!(state.stage(), Stage::Serving);

    state.on(Event::Handover);
    state.on(Event::ProgramBusy);
    state.on(Event::Timer(Timer::Stage));
    state.on(Event::Spawned);
    let actions = state.on(Event::Timer(Timer::Stage));
    assert_eq!((actions.first(), state.stage()), (Some(&Action::KillSuccessor), Stage::Serving));
}
