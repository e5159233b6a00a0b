//! The generation after this one, as its predecessor sees it: a child, its two channels, and how it ends.
//!
//! A predecessor that dies without STOPPING before GO has crashed, because one that stops kills an unready successor first:
//! the successor then takes over. STOPPING precedes the kill, because the child may be a script whose own child is the
//! successor. When that one has sent a message, the kernel reports its pid (SO_PASSCRED): it is watched, killed and named in
//! the pid file, not the script.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::unistd::Pid;

use crate::base::log::{Escaped, error, info, key_value};
use crate::base::records::Records;
use crate::process::control::poller::{Poller, Source};
use crate::process::handover::Message;
use crate::process::handover::channel::Channel;
use crate::process::handover::child::{Child, End, Spawned};
use crate::process::handover::startup_output::StartupMessages;
use crate::process::handover::state_file::StateFile;
use crate::process::state::Stage;

pub(super) struct Successor {
    child: Child,
    channel: Channel,
    /// Present until COMMIT.
    pub(super) connections: Option<OwnedFd>,
    /// Present until the state is written to it.
    pub(super) state: Option<StateFile>,
    /// Until it is ready.
    messages: Option<StartupMessages>,
    /// The same file, if it takes records.
    records: Option<StateFile>,
    /// It said FAILED and may end by itself, with its own message on its standard error.
    has_failed: bool,
}

/// The rest of a successor that was dismissed.
pub(super) struct LastWord {
    /// How it ended, and its last lines on standard error.
    pub(super) end: String,
    /// The text of these lines alone.
    pub(super) wrote: String,
    /// It had received a stop, which was meant for the service and also applies here.
    pub(super) was_stopped: bool,
    /// None: it is reaped.
    pub(super) child: Option<Child>,
}

impl Successor {
    /// # Errors
    /// When the child can't be watched; it is this process's successor all the same, to be dismissed.
    pub(super) fn new(spawned: Spawned, poller: &Poller) -> (Successor, std::io::Result<()>) {
        let Spawned { child, lifecycle, connections, state, messages } = spawned;
        let watched = poller
            .add(lifecycle.as_fd(), Source::Successor)
            .and_then(|()| child.pidfds().try_for_each(|fd| poller.add(fd, Source::Child)));
        // Without a second descriptor for it there are no records, and nothing else is lost.
        let records = state.try_clone().ok();
        let (connections, state, messages) = (Some(connections), Some(state), Some(messages));
        (
            Successor { child, channel: lifecycle, connections, state, messages, records, has_failed: false },
            watched,
        )
    }

    /// The process that we started.
    pub(super) fn pid(&self) -> i32 {
        self.child.pid().as_raw()
    }

    /// The process that serves, which a script may have started.
    pub(super) fn server_pid(&self) -> Pid {
        self.child.server()
    }

    /// The number of its pidfd, where that is known.
    pub(super) fn server_pidfd_id(&self) -> Option<u64> {
        self.child.server_pidfd_id()
    }

    /// It has ended by itself without an error, as far as is known.
    pub(super) fn ended_well(&mut self) -> bool {
        self.child.wait_briefly();
        self.child.server_end() == Some(End::Exited(0))
    }

    /// Writes the records behind the state that GO announces, and announces them too.
    pub(super) fn pass_records(&self, go: &mut Message, records: &Records) {
        let Message::Go { state, records: bytes, .. } = go else { return };
        let written = self.records.as_ref().and_then(|file| {
            let text = records.pass_on();
            file.write_behind(state.map_or(0, |head| head.bytes), text.as_bytes()).ok()?;
            Some(text.len() as u64)
        });
        if written.is_none() {
            records.counters.send_all_anew();
        }
        *bytes = written;
    }

    /// Tells it of what has become of a generation, if it wants to know.
    pub(super) fn send_history(&mut self, line: String) {
        if self.records.is_some() {
            self.channel.send(&Message::History { line });
        }
    }

    pub(super) fn send(&mut self, message: &Message) {
        info!(
            "handover: to child {}: {message}", self.child.pid();
            successor = self.child.pid().as_raw(),
            handover_message:% = Escaped(&message),
            direction = "sent"
        );
        self.channel.send(message);
    }

    /// Its messages, and whether its channel has ended.
    pub(super) fn receive(&mut self, poller: &Poller) -> (Vec<Message>, bool) {
        let messages = self.channel.receive();
        let speaker = self.channel.speaker().filter(|speaker| self.child.speaks_by(*speaker));
        if let Some(speaker) = speaker {
            info!(
                "handover: child {} is a script, which waits for {speaker}", self.child.pid();
                successor = self.child.pid().as_raw(),
                server = speaker.as_raw()
            );
            // The first of them is polled already.
            for fd in self.child.pidfds() {
                let _ = poller.add(fd, Source::Child);
            }
        }
        (messages, self.channel.has_ended())
    }

    /// Logs a message as it is handled.
    pub(super) fn note(&mut self, message: &Message) {
        if matches!(message, Message::Prepared { takes_records: false, .. }) {
            self.records = None;
        }
        match message {
            Message::Failed { reason } => {
                error!(
                    "handover: child {} failed: {reason}; still serving", self.child.pid();
                    successor = self.child.pid().as_raw(),
                    reason:% = Escaped(&reason)
                );
                self.has_failed = true;
            }
            message => {
                if matches!(message, Message::Prepared { .. }) {
                    // What it writes from now on is not known.
                    self.messages = None;
                }
                info!(
                    "handover: child {}: {message}", self.child.pid();
                    successor = self.child.pid().as_raw(),
                    handover_message:% = Escaped(&message),
                    direction = "received"
                );
            }
        }
    }

    pub(super) fn is_gone(&mut self) -> bool {
        self.child.is_gone()
    }

    /// The child may have ended; the server that it waits for may outlive it.
    pub(super) fn reap(&mut self, poller: &Poller) {
        if self.child.end().is_some() {
            self.child.pidfds().take(1).for_each(|fd| poller.remove(fd));
        }
    }

    /// Ends one that must not serve: it has not got GO, or is silent. The kill comes first: a successor that receives
    /// STOPPING closes the listeners to new clients, and they are ours too. The message is for one that the kill does
    /// not reach, because a script started it and it has not said HELLO: it would take our end for a crash.
    fn kill(&mut self) {
        self.child.kill();
        self.channel.send(&Message::Stopping { within: Duration::ZERO });
    }

    /// Kills and reaps it, and logs its end. `stage` is the one after that; `late` says which of its times has passed, if that is why.
    pub(super) fn dismiss(mut self, stage: Stage, late: Option<&str>, poller: &Poller) -> LastWord {
        if self.has_failed {
            self.child.wait_briefly();
        }
        self.kill();
        let pid = self.child.pid();
        let end = self.child.end_or("was killed but has not exited");
        // Its own message is in the log already if it failed.
        let (output, wrote) = last_words(self.messages.take().filter(|_| !self.has_failed));
        match stage {
            Stage::Serving | Stage::Awaiting if !self.has_failed => {
                let why = late.map(|late| format!("{late}: ")).unwrap_or_default();
                error!(
                    "handover: {why}child {pid} {end}; still serving{wrote}";
                    successor = pid.as_raw(),
                    reason:% = Escaped(late.unwrap_or(&*end)),
                    output = key_value(&output.as_ref().map(Escaped))
                );
            }
            _ => info!("handover: child {pid} {end}"; successor = pid.as_raw(), reason:% = Escaped(&end)),
        }
        poller.remove(self.channel.as_fd());
        let was_stopped = self.channel.receive().iter().any(|m| matches!(m, Message::Stopping { .. }));
        let is_reaped = self.child.end().is_some();
        let end = format!("child {pid} {}{wrote}", self.child.end_or("did not become ready in time"));
        LastWord { end, wrote, was_stopped, child: (!is_reaped).then_some(self.child) }
    }

    /// Its channel has ended or its process is dead, in this stage. Logs its end.
    pub(super) fn bury(mut self, stage: Stage, poller: &Poller) -> LastWord {
        poller.remove(self.channel.as_fd());
        let pid = self.child.pid();
        // Wait up to half a second for its status.
        self.child.wait_briefly();
        if stage == Stage::Awaiting {
            if self.child.end().is_none() {
                error!(
                    "handover: child {pid} is alive but closed its channel, which a script must not do";
                    successor = pid.as_raw(),
                    reason = "it closed its channel"
                );
            }
            self.kill();
        }
        let end = format!("child {pid} {}", self.child.end_or("closed its channel"));
        let (output, wrote) = last_words(self.messages.take());
        match stage {
            Stage::Awaiting | Stage::Offering | Stage::Watching => {
                error!(
                    "handover: {end}; still serving{wrote}";
                    successor = pid.as_raw(),
                    reason:% = Escaped(&end),
                    output = key_value(&output.as_ref().map(Escaped))
                );
            }
            _ => info!("handover: {end}"; successor = pid.as_raw(), reason:% = Escaped(&end)),
        }
        LastWord { end: end + &wrote, wrote, was_stopped: false, child: Some(self.child) }
    }
}

/// The last lines of a process that has ended, and the text behind how it ended: these lines, or where they are.
fn last_words(messages: Option<StartupMessages>) -> (Option<String>, String) {
    match messages {
        Some(StartupMessages::Copied(output)) => {
            let lines = output.last_lines();
            let text = lines.as_ref().map(|lines| format!("; it wrote: {lines}"));
            (lines, text.unwrap_or_default())
        }
        Some(StartupMessages::At(place)) => (None, format!("; its messages are {place}")),
        None => (None, String::new()),
    }
}

/// Children that are no successor any more and have not ended.
#[derive(Default)]
pub(super) struct Strays(Vec<Child>);

impl Strays {
    pub(super) fn push(&mut self, child: Child) {
        self.0.push(child);
    }

    pub(super) fn retire(&mut self, successor: Successor, poller: &Poller) {
        poller.remove(successor.channel.as_fd());
        self.push(successor.child);
    }

    pub(super) fn reap(&mut self, poller: &Poller) {
        self.0.retain_mut(|child| {
            let has_ended = child.end().is_some();
            // Also drop the grandchild's pidfd: it stays readable and would wake the loop indefinitely.
            child.pidfds().skip(usize::from(!has_ended)).for_each(|fd| poller.remove(fd));
            !has_ended
        });
    }
}
