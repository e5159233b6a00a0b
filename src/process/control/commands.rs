//! What the control loop does about a command of the control socket.

use std::time::Instant;

use crate::base::log::info;
use crate::base::status::{RunningHandler, Stats};
use crate::process::control::socket::ClientId;
use crate::process::control::socket::client::Peer;
use crate::process::control::socket::command::{AnswerLine, Command};
use crate::process::control::{Control, own_pid};
use crate::process::state::{Event, Stage, Why};

/// Lines of a list: an answer has a bounded size, however many connections there are.
const MOST_LISTED: usize = 1000;

impl Control<'_> {
    pub(super) fn read_socket(&mut self) {
        let now = Instant::now();
        let asked = self.outside.socket.as_mut().map(|socket| socket.advance(now)).unwrap_or_default();
        for (id, peer, command) in asked {
            self.obey(id, peer, command);
        }
    }

    fn obey(&mut self, id: ClientId, peer: Peer, command: Command) {
        let refusal = if command == Command::Upgrade { self.cannot_upgrade() } else { None };
        // One that is refused is asked again soon, and changes nothing.
        if matches!(command, Command::Upgrade | Command::Drain | Command::Abort) && refusal.is_none() {
            info!(
                "control: {} from pid {}, uid {}", command.name(), peer.pid, peer.uid;
                command = command.name(),
                sender = peer.pid,
                uid = peer.uid
            );
        }
        let (lines, event) = match command {
            Command::Status => (vec![self.status()], None),
            Command::Connections => (self.connections(), None),
            Command::Handlers => (self.handlers(), None),
            Command::Drain => (vec![self.in_flight()], Some(Event::Drain)),
            Command::Abort => (vec![self.in_flight()], Some(Event::Abort)),
            Command::Upgrade => match refusal {
                Some(refusal) => (vec![refusal], None),
                None => {
                    self.outside.waiting = Some(id);
                    return self.handle(Event::Handover);
                }
            },
        };
        // First: after an abort this loop may not run again.
        if let Some(socket) = &mut self.outside.socket {
            socket.answer(id, &lines, Instant::now());
        }
        event.into_iter().for_each(|event| self.handle(event));
    }

    /// Why no handover can start now.
    fn cannot_upgrade(&self) -> Option<AnswerLine> {
        let successor = self.successor.as_ref().map_or(0, |successor| successor.server_pid().as_raw());
        match self.state.stage() {
            Stage::Serving => None,
            Stage::Draining(Why::HandedOver) => {
                let reason = format!("the service was handed over to {successor}: connect again");
                Some(AnswerLine::error("moved", &reason).with("pid", successor))
            }
            Stage::LameDuck | Stage::Draining(_) | Stage::Yielding | Stage::Finished => {
                Some(AnswerLine::error("stopping", "the service is stopping"))
            }
            _ => {
                let reason = format!("a handover to {successor} is in progress: ask again when it is over");
                Some(AnswerLine::error("busy", &reason).with("pid", successor))
            }
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let mut stats = Stats::new(self.facts.generation, self.phase.get());
        self.engine.add_to(&mut stats);
        stats
    }

    fn status(&self) -> AnswerLine {
        let stats = self.stats();
        self.ok()
            .with("generation", stats.generation)
            .with("phase", stats.phase)
            .with("requests_in_flight", stats.in_flight)
            .with("connections_open", stats.open)
            .with("connections_queued", stats.queued)
            .with("connections_accepted", stats.accepted)
            .with("requests", stats.requests)
            .with("workers", stats.workers)
            .with("detached_threads", stats.detached)
    }

    /// The beginning of an answer: which processes are asked.
    fn ok(&self) -> AnswerLine {
        let line = AnswerLine::new("ok").with("pid", own_pid());
        match &self.facts.supervisor {
            Some(supervisor) => line.with("supervisor", supervisor.pid()),
            None => line,
        }
    }

    fn in_flight(&self) -> AnswerLine {
        self.ok().with("requests_in_flight", self.stats().in_flight)
    }

    fn connections(&self) -> Vec<AnswerLine> {
        let stats = self.stats();
        let parked = self.engine.connections(MOST_LISTED);
        let head = AnswerLine::new("ok")
            .with("count", stats.open)
            .with("listed", parked.len())
            .with("queued", stats.queued)
            .with("requests_in_flight", stats.in_flight);
        let line = |connection: &crate::base::status::ParkedConnection| {
            let line = AnswerLine::new("connection").with("listener", &connection.listener);
            let line = match connection.peer {
                Some(peer) => line.with("peer", peer),
                None => line,
            };
            let line = line.with("activity", connection.activity);
            let line = match connection.idle {
                Some(idle) => line.with("idle_ms", idle.as_millis()),
                None => line,
            };
            line.with("requests", connection.requests)
        };
        let mut lines = vec![head];
        lines.extend(parked.iter().map(line));
        lines
    }

    fn handlers(&self) -> Vec<AnswerLine> {
        let handlers = RunningHandler::oldest_first(self.engine.handlers());
        let listed = handlers.len().min(MOST_LISTED);
        let head = AnswerLine::new("ok").with("count", handlers.len()).with("listed", listed);
        let line = |handler: &RunningHandler| {
            let line = AnswerLine::new("handler")
                .with("method", &handler.method)
                .with("path", &handler.path)
                .with("age_ms", handler.age.as_millis())
                .with("thread", &handler.thread);
            if handler.is_past_deadline { line.with("deadline", "passed") } else { line }
        };
        let mut lines = vec![head];
        lines.extend(handlers.iter().take(MOST_LISTED).map(line));
        lines
    }
}
