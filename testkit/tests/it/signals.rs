//! Signals in any order, to any generation, to all of them at once: the end is what an operator
//! means by them.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use tempfile::TempDir;
use testkit::{Begin, Client, Exit, Outcome, Pid, Proc, Signal, pass, put_script, until};

use crate::TESTKIT;

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");
const STOPS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];
/// Longer than any test: an endless probation.
const LONG: &str = "600000";
/// After this time a second signal to stop is a new request, even on a busy machine.
const ANOTHER_REQUEST: Duration = Duration::from_millis(1000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// The successor can't receive messages yet.
    Unready,
    Probation,
    HandedOver,
    Stopping,
}

const PHASES: [Phase; 5] =
    [Phase::Serving, Phase::Unready, Phase::Probation, Phase::HandedOver, Phase::Stopping];

/// A server in a new process group, held in a phase.
struct Scene {
    server: Proc,
    /// The generation after the first.
    new: Option<Pid>,
    /// Holds the first generation by a request that is not yet complete.
    upload: Option<Client>,
    folder: TempDir,
}

impl Scene {
    fn at(phase: Phase, probation_ms: &str) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        symlink(PROGRAM, &program).unwrap();
        let probation = if phase == Phase::HandedOver { "0" } else { probation_ms };
        let server = Proc::start_group(&program, &["--probation-ms", probation]);
        let mut upload = server.client();
        upload.begin();
        server.in_flight(server.pid(), 1);
        let mut scene = Scene { server, new: None, upload: Some(upload), folder };
        match phase {
            Phase::Serving => {}
            Phase::Unready => scene.be_unready("kill -STOP $$"),
            Phase::Probation => scene.new = Some(scene.server.hup_to_probation()),
            Phase::HandedOver => scene.new = Some(scene.server.handover()),
            Phase::Stopping => {
                scene.server.signal(Signal::SIGTERM);
                scene.server.wait_for("draining (stop requested)");
            }
        }
        scene
    }

    /// Starts a successor that does `line` before anything else.
    fn be_unready(&mut self, line: &str) {
        let at = |name: &str| self.folder.path().join(name);
        put_script(at("program"), format!("#!/bin/sh\n{line}\nexec {PROGRAM} \"$@\"\n"));
        let new = self.server.hup();
        until("it sleeps or has stopped itself", || state(new) == 'T' || comm(new) == "sleep");
        symlink(PROGRAM, at("good")).unwrap();
        fs::rename(at("good"), at("program")).unwrap();
        self.new = Some(new);
    }

    fn old(&self) -> Pid {
        self.server.pid()
    }

    /// Everybody may go on.
    fn go_on(&mut self) {
        if let Some(new) = self.new {
            self.server.signal_to(new, Signal::SIGCONT);
        }
        if let Some(mut upload) = self.upload.take() {
            assert_eq!(upload.finish().ok().text(), "ok");
        }
    }

    /// No process is left, none was started, and no request was cut.
    fn is_over(&self, started: usize) {
        for pid in [Some(self.old()), self.new].into_iter().flatten() {
            assert!(!matches!(self.server.wait_exit(pid), Exit::Status(1..)), "{pid}");
        }
        self.server.wait_gone();
        assert_eq!(self.server.get("/ok"), Outcome::Refused);
        assert_eq!(self.server.count(" as child "), started);
    }
}

fn state(pid: Pid) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap_or('?')
}

fn comm(pid: Pid) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// How often SIGNAL was received, and by which processes.
fn heard(server: &Proc, signal: Signal, times: usize) {
    server.wait_for_nth(&format!("{signal} from pid {}", std::process::id()), times);
}

#[test]
fn what_a_child_is_sent_before_it_can_hear_is_remembered() {
    let mut scene = Scene::at(Phase::Unready, "0");
    let new = scene.new.unwrap();
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGHUP] {
        scene.server.signal_to(new, signal);
    }
    scene.go_on();
    scene.server.wait_for(&format!("] pid {new} generation 2 "));
    heard(&scene.server, Signal::SIGUSR2, 1);
    assert_eq!(scene.server.settled(), Some(scene.server.child(2)));
    assert_eq!(scene.server.get("/generation").ok().number(), 3);
}

#[test]
fn a_child_that_dies_takes_what_it_was_sent_with_it() {
    let mut scene = Scene::at(Phase::Unready, "0");
    scene.server.signal_to(scene.new.unwrap(), Signal::SIGHUP);
    scene.server.signal_to(scene.new.unwrap(), Signal::SIGKILL);
    scene.server.wait_for("was killed by SIGKILL; still serving");
    scene.go_on();
    assert_eq!(scene.server.settled(), Some(scene.old()));
    assert_eq!(scene.server.count(" as child "), 1);
}

#[test]
fn usr1_and_usr2_to_the_group_change_nothing_in_any_phase() {
    for phase in PHASES {
        let mut scene = Scene::at(phase, "300");
        for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGWINCH] {
            scene.server.signal_group(signal);
        }
        heard(&scene.server, Signal::SIGUSR2, 1);
        scene.go_on();
        match (scene.server.settled(), phase) {
            (None, Phase::Stopping) => scene.is_over(0),
            (last, _) => assert_eq!(last, scene.new.or(Some(scene.old())), "{phase:?}"),
        }
    }
}

/// The generation that serves after `signal` to the group, and the number of handovers.
fn after_hup_to_the_group(phase: Phase) -> (Option<i32>, usize) {
    let mut scene = Scene::at(phase, "5000");
    let before = scene.server.count("SIGHUP from");
    scene.server.signal_group(Signal::SIGHUP);
    scene.server.wait_for_nth("SIGHUP from", before + 1);
    scene.go_on();
    let last = scene.server.settled();
    let generation = last.map(|_| scene.server.get("/generation").ok().number());
    (generation, scene.server.count("to child *: COMMIT"))
}

#[test]
fn a_hup_to_the_group_is_one_handover() {
    assert_eq!(after_hup_to_the_group(Phase::Serving), (Some(2), 1));
}

/// Both generations remember it, and exactly one handover follows.
#[test]
fn a_hup_to_the_group_on_the_way_of_a_handover_is_one_more() {
    assert_eq!(after_hup_to_the_group(Phase::Unready), (Some(3), 2));
    assert_eq!(after_hup_to_the_group(Phase::Probation), (Some(3), 2));
}

/// The old one passes its own on, which may come when the new one is at it already.
#[test]
fn a_hup_to_the_group_of_several_generations_is_at_most_two() {
    let (generation, handovers) = after_hup_to_the_group(Phase::HandedOver);
    assert!(matches!(generation, Some(3 | 4)), "{generation:?}");
    assert_eq!(generation, i32::try_from(handovers + 1).ok());
}

#[test]
fn a_hup_to_the_group_of_a_server_that_stops_is_nothing() {
    assert_eq!(after_hup_to_the_group(Phase::Stopping), (None, 0));
}

#[test]
fn a_stop_of_the_group_ends_every_phase_and_cuts_nothing() {
    for signal in STOPS {
        for phase in [Phase::Serving, Phase::Unready, Phase::Probation, Phase::HandedOver] {
            let mut scene = Scene::at(phase, LONG);
            let started = scene.server.count(" as child ");
            scene.server.signal_group(signal);
            heard(&scene.server, signal, 1);
            scene.server.wait_for("draining (stop requested)");
            // Nothing resurrects it.
            scene.server.signal_group(Signal::SIGHUP);
            scene.go_on();
            scene.is_over(started);
        }
    }
}

#[test]
fn stops_from_everywhere_at_once_are_one_wish() {
    for phase in [Phase::Serving, Phase::Unready, Phase::Probation] {
        let mut scene = Scene::at(phase, LONG);
        let started = scene.server.count(" as child ");
        // Pending signals of a kind are one to the kernel; all are sent in well under 500 ms.
        scene.server.signal_group(Signal::SIGINT);
        scene.server.signal_group(Signal::SIGTERM);
        scene.server.signal_to(scene.old(), Signal::SIGQUIT);
        scene.new.into_iter().for_each(|new| scene.server.signal_to(new, Signal::SIGTERM));
        heard(&scene.server, Signal::SIGQUIT, 1);
        scene.go_on();
        scene.is_over(started);
    }
}

#[test]
fn a_second_stop_of_the_group_cuts_in_every_phase() {
    for phase in PHASES {
        let scene = Scene::at(phase, LONG);
        scene.server.signal_group(Signal::SIGTERM);
        match phase {
            Phase::HandedOver => heard(&scene.server, Signal::SIGTERM, 2),
            _ => drop(scene.server.wait_for("draining (stop requested): 1 requests in flight")),
        }
        pass(ANOTHER_REQUEST);
        scene.server.signal_group(Signal::SIGINT);
        assert_eq!(scene.server.wait_exit(scene.old()), Exit::Status(1), "{phase:?}");
        scene.server.wait_for("1 requests were cut");
        scene.server.wait_gone();
        let mut upload = scene.upload.unwrap();
        assert!(matches!(upload.answer(), Outcome::Reset | Outcome::ClosedSilently));
        assert_eq!(scene.server.get("/ok"), Outcome::Refused);
    }
}

#[test]
fn stops_of_a_process_that_has_handed_over_are_its_own() {
    let scene = Scene::at(Phase::HandedOver, "0");
    let (server, new) = (&scene.server, scene.new.unwrap());
    server.signal_to(scene.old(), Signal::SIGTERM);
    heard(server, Signal::SIGTERM, 1);
    assert_eq!(server.phase(scene.old()), "handed over");
    pass(ANOTHER_REQUEST);
    server.signal_to(scene.old(), Signal::SIGTERM);
    assert_eq!(server.wait_exit(scene.old()), Exit::Status(1));
    assert_eq!(server.settled(), Some(new));
    let third = server.handover();
    assert_eq!(server.get("/pid").ok().number(), third.as_raw());
}

/// The old process goes, and so does the new one, which finishes what it has.
#[test]
fn two_stops_of_the_old_process_in_probation_end_both() {
    let scene = Scene::at(Phase::Probation, LONG);
    let (server, new) = (&scene.server, scene.new.unwrap());
    server.signal_to(scene.old(), Signal::SIGTERM);
    heard(server, Signal::SIGTERM, 1);
    pass(ANOTHER_REQUEST);
    server.signal_to(scene.old(), Signal::SIGTERM);
    assert_eq!(server.wait_exit(scene.old()), Exit::Status(1));
    assert!(matches!(server.wait_exit(new), Exit::Status(0) | Exit::Untold));
    server.wait_gone();
    assert_eq!(server.get("/ok"), Outcome::Refused);
}

#[test]
fn two_stops_of_the_new_process_in_probation_end_both() {
    let mut scene = Scene::at(Phase::Probation, LONG);
    let new = scene.new.unwrap();
    let mut in_flight = scene.server.client();
    in_flight.ask("/sleep/60000");
    scene.server.in_flight(new, 1);
    scene.server.signal_to(new, Signal::SIGTERM);
    heard(&scene.server, Signal::SIGTERM, 1);
    pass(ANOTHER_REQUEST);
    scene.server.signal_to(new, Signal::SIGTERM);
    scene.server.wait_for("abort: cut GET /sleep/60000");
    // The old process was asked to stop, too, and cuts nothing by itself.
    scene.go_on();
    assert_eq!(scene.server.wait_exit(scene.old()), Exit::Status(0));
    scene.server.wait_gone();
    assert_eq!(scene.server.get("/ok"), Outcome::Refused);
}

#[test]
fn a_stop_of_an_unready_child_only_cancels_the_handover() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut scene = Scene::at(Phase::Serving, "0");
        scene.be_unready("exec sleep 1000");
        scene.server.signal_to(scene.new.unwrap(), signal);
        scene.server.wait_for(&format!("was killed by {signal}; still serving"));
        scene.go_on();
        assert_eq!(scene.server.settled(), Some(scene.old()));
    }
}

#[test]
fn the_third_stop_is_the_signal_s_default_action() {
    for third in [Signal::SIGTERM, Signal::SIGINT] {
        let server = Proc::start_as_said(TESTKIT, &["parent", "--listen", "127.0.0.1:0", "--linger"]);
        let mut upload = server.client();
        // Chunked, because a partly received body of this kind is not transferred.
        upload.send("POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbe\r\n");
        server.in_flight(server.pid(), 1);
        server.signal(Signal::SIGTERM);
        heard(&server, Signal::SIGTERM, 1);
        pass(ANOTHER_REQUEST);
        server.signal(Signal::SIGTERM);
        // `main` has more to do.
        server.wait_for("serve has returned");
        server.signal(third);
        assert_eq!(server.wait_exit(server.pid()), Exit::Killed(third));
    }
}

/// Numbers that look random and are the same for the same seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 33).expect("31 bits") % bound
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// Says how to see a failure again.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {0}: SIGNALS_SEED={0} cargo test -p testkit --test signals", self.0);
        }
    }
}

impl Seed {
    fn new() -> Seed {
        let now = std::time::UNIX_EPOCH.elapsed().expect("a clock").subsec_nanos();
        Seed(std::env::var("SIGNALS_SEED").map_or(now.into(), |seed| seed.parse().expect("a number")))
    }
}

fn send_somebody(server: &Proc, signal: Signal, dice: &mut Dice) {
    let alive = server.alive();
    match dice.below(alive.len() + 1) {
        0 => server.signal_group(signal),
        n => server.signal_to(alive[n - 1], signal),
    }
}

/// One good server, or none: never two, never a fork, and the next handover works.
fn is_sound(server: &Proc, last: Pid) {
    for _ in 0..3 {
        assert_eq!(server.get("/pid").ok().number(), last.as_raw());
    }
    let commits = server.count("to child *: COMMIT");
    assert_eq!(server.get("/generation").ok().number(), i32::try_from(commits + 1).unwrap());
    server.reaped_all(last);
    let next = server.handover();
    assert_eq!(server.get("/pid").ok().number(), next.as_raw());
}

#[test]
fn after_any_storm_of_signals_one_generation_serves() {
    let seed = Seed::new();
    let mut dice = Dice(seed.0);
    for _ in 0..60 {
        let probation = dice.of(&["0", "0", "20", "150"]);
        let server = Proc::start_group(PROGRAM, &["--probation-ms", probation, "--workers", "4"]);
        let mut slow = server.client();
        slow.ask(dice.of(&["/ok", "/sleep/50", "/sleep/200"]));
        for _ in 0..=dice.below(12) {
            let signal = dice.of(&[Signal::SIGHUP, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2]);
            send_somebody(&server, signal, &mut dice);
            pass(Duration::from_micros(dice.of(&[0, 100, 1000, 5000, 20_000])));
        }
        let stopped = dice.below(3);
        match stopped {
            0 => server.signal_group(dice.of(&STOPS)),
            1 => send_somebody(&server, dice.of(&STOPS), &mut dice),
            _ => {}
        }
        assert_eq!(slow.answer().ok().text(), "ok\n");
        drop(slow);
        match server.settled() {
            Some(last) if stopped != 0 => is_sound(&server, last),
            None if stopped != 2 => server.wait_gone(),
            last => panic!("in the end there is {last:?}, stop {stopped}"),
        }
    }
}
