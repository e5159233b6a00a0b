//! Every order of packets, receipts, refusals and deaths between three generations, within bounds: no connection may ever
//! be read by two processes, and each one has an owner, unless its owner was killed. One of the connections may be special.
//! With TLS, no process may use a number of a record that another one has used. A stream's process answers each byte of the
//! client by the next number: none may be left out or come twice, whichever processes the state and the bytes that were read and
//! not answered have been in. Neither may come to a process that does not know what it is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Load, ReceiverLedger, SenderLedger, Settled, TlsTaken};
use crate::base::explore;
use crate::net::transfer::packet::{Receipt, Retry};

type Connection = u8;
type ChannelId = usize;

/// The connection with TLS, or the stream, if there is one.
const SPECIAL: Connection = 0;
const BATCH: usize = 2;
/// How many connections a receiver has room for in all.
const ROOM: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Special {
    Tls,
    Stream,
}

/// What a process knows. The channel of one may be passed to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Version {
    /// Neither TLS nor streams.
    Old,
    New,
    /// As `New`, without a function for the stream's name.
    Nameless,
}

/// What a process knows of a connection that it owns, and another one needs to continue it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Held {
    /// The number of the next record that may be encrypted for it, or the state of a stream: the number of its next frame.
    next: u8,
    /// How many bytes were read from the client of a stream, and not answered.
    carried: u8,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Cargo {
    Connections(Vec<(Connection, Held)>),
    Stream(Held),
    /// With the credit that remains there.
    Channel(ChannelId, usize),
}

/// A packet on its way.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Packet {
    batch: u64,
    cargo: Cargo,
}

impl Packet {
    fn passes(&self, id: ChannelId) -> bool {
        matches!(self.cargo, Cargo::Channel(passed, _) if passed == id)
    }

    fn load(&self) -> Load {
        match &self.cargo {
            Cargo::Connections(connections) => Load::Connections(connections.len()),
            Cargo::Stream(_) => Load::Stream,
            Cargo::Channel(..) => Load::Channel,
        }
    }

    fn size(&self) -> usize {
        self.load().credit()
    }

    fn has(&self, connection: Connection) -> bool {
        self.cargo.has(connection)
    }
}

impl Cargo {
    fn has(&self, connection: Connection) -> bool {
        match self {
            Cargo::Connections(some) => some.iter().any(|(one, _)| *one == connection),
            Cargo::Stream(_) => connection == SPECIAL,
            Cargo::Channel(..) => false,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Channel {
    /// The process with the sending end; None when it is dead, or does not use it any more.
    sender: Option<usize>,
    packets: VecDeque<Packet>,
    /// Each with whether its sender says that it knows TLS and streams.
    receipts: VecDeque<(Receipt, bool)>,
    /// A process that does not know its word has refused a batch without knowing how many connections it had: what is left of the
    /// credit is more than what was promised.
    is_overgranted: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Process {
    alive: bool,
    version: Version,
    /// The connections that it may read.
    owns: BTreeMap<Connection, Held>,
    /// Its successor has said by PREPARED that it continues the stream.
    resumes: bool,
    /// The stream has come back for good.
    stays: bool,
    to_successor: Option<(ChannelId, SenderLedger<Cargo>)>,
    /// The channels of its own predecessors that it will pass on.
    to_pass: Vec<(ChannelId, usize)>,
    predecessors: BTreeMap<ChannelId, ReceiverLedger>,
    /// A packet that was received, and neither acknowledged nor refused.
    in_hand: Option<(ChannelId, Packet)>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    /// What may still happen.
    left: Bounds,
    processes: Vec<Process>,
    channels: Vec<Channel>,
    bytes: u8,
    /// How many records were encrypted, or frames were sent.
    written: u8,
    /// Nothing was refused, killed or made unreadable, and all processes know all: then nothing may stay behind.
    is_calm: bool,
    /// The process that has acknowledged each connection last: it owns it until the next one does.
    owner: Vec<usize>,
    /// Connections whose owner was killed while they were not on their way, or that were refused after that.
    lost: BTreeSet<Connection>,
}

#[derive(Clone, Debug)]
enum Step {
    /// The special one, or others.
    Send(usize, bool),
    Encrypt(usize),
    /// Of the stream's client.
    Read(usize),
    /// The answer to what was read.
    Answer(usize),
    Pass(usize),
    Receive(usize, ChannelId),
    Accept(usize),
    Refuse(usize),
    Grant(usize, ChannelId),
    Hear(usize),
    SeeEnd(usize),
    Forget(usize, ChannelId),
    HandOver(usize, Version),
    Kill(usize),
    /// A process can't read the channel to its successor any more.
    Fail(usize),
}

fn process(version: Version, owns: BTreeMap<Connection, Held>) -> Process {
    Process {
        alive: true,
        version,
        owns,
        resumes: false,
        stays: false,
        to_successor: None,
        to_pass: Vec::new(),
        predecessors: BTreeMap::new(),
        in_hand: None,
    }
}

/// What may happen, and how often.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Bounds {
    connections: Connection,
    /// What one of them is.
    special: Option<Special>,
    handovers: u8,
    kills: u8,
    refusals: u8,
    /// Channels that become unreadable.
    failures: u8,
    /// Records encrypted for the TLS connection, or bytes of the stream's client that are read.
    records: u8,
}

/// Nothing special.
const PLAIN: Bounds =
    Bounds { connections: 3, special: None, handovers: 0, kills: 0, refusals: 0, failures: 0, records: 0 };
/// One with TLS beside another one.
const TLS: Bounds = Bounds { connections: 2, special: Some(Special::Tls), ..PLAIN };
/// A stream beside another connection.
const STREAM: Bounds = Bounds { connections: 2, special: Some(Special::Stream), ..PLAIN };

/// Which successors make a difference.
fn versions(special: Option<Special>) -> &'static [Version] {
    match special {
        None => &[Version::New],
        Some(Special::Tls) => &[Version::New, Version::Old],
        Some(Special::Stream) => &[Version::New, Version::Old, Version::Nameless],
    }
}

impl World {
    /// The first generation has all connections, and hands over.
    fn new(bounds: Bounds, successor: Version) -> World {
        let all = (0..bounds.connections).map(|connection| (connection, Held::default())).collect();
        let mut world = World {
            processes: vec![process(Version::New, all)],
            left: bounds,
            channels: Vec::new(),
            bytes: bounds.records,
            written: 0,
            is_calm: true,
            owner: vec![0; usize::from(bounds.connections)],
            lost: BTreeSet::new(),
        };
        world.hand_over(0, successor);
        world
    }

    fn connections(&self) -> Connection {
        self.owner.len() as Connection
    }

    fn is_special(&self, connection: Connection) -> bool {
        self.left.special.is_some() && connection == SPECIAL
    }

    /// COMMIT: a new process has the other end of a new channel.
    fn hand_over(&mut self, from: usize, version: Version) {
        let id = self.channels.len();
        let (packets, receipts) = (VecDeque::new(), VecDeque::new());
        self.channels.push(Channel { sender: Some(from), packets, receipts, is_overgranted: false });
        self.processes.push(process(version, BTreeMap::new()));
        self.is_calm &= version == Version::New;
        self.watch(self.processes.len() - 1, id, 0);
        let old = &mut self.processes[from];
        let predecessors = std::mem::take(&mut old.predecessors);
        old.to_pass.extend(predecessors.into_iter().map(|(id, receiver)| (id, receiver.promised())));
        old.to_successor = Some((id, SenderLedger::new()));
        old.resumes = version == Version::New;
    }

    /// A process begins to read a channel, and greets the process at the other end.
    fn watch(&mut self, p: usize, id: ChannelId, promised: usize) {
        let room = self.room(p);
        let mut receiver = ReceiverLedger::new(promised);
        if self.processes[p].version != Version::Old {
            let credit = receiver.renew(room);
            self.channels[id].receipts.push_back((Receipt::Credit(credit), true));
        }
        self.processes[p].predecessors.insert(id, receiver);
    }

    /// Whether a process that is alive has the receiving end, or it is on its way to one.
    fn is_held(&self, id: ChannelId) -> bool {
        let in_process = |p: &Process| {
            let passes = p.to_pass.iter().any(|(passed, _)| *passed == id);
            let holds = p.in_hand.as_ref().is_some_and(|(_, packet)| packet.passes(id));
            // A copy is kept until the packet is acknowledged.
            let sent = p.to_successor.as_ref().is_some_and(|(_, sender)| {
                let is_it = |cargo: &Cargo| matches!(cargo, Cargo::Channel(passed, _) if *passed == id);
                sender.sent.values().any(|(_, cargo)| is_it(cargo))
            });
            p.alive && (p.predecessors.contains_key(&id) || passes || holds || sent)
        };
        let in_queue = |(other, channel): (usize, &Channel)| {
            let has = channel.packets.iter().any(|packet| packet.passes(id));
            has && other != id && self.is_held(other)
        };
        self.processes.iter().any(in_process) || self.channels.iter().enumerate().any(in_queue)
    }

    /// Whether it is a packet that this process does not know.
    fn is_unknown(&self, packet: &Packet, process: &Process) -> bool {
        self.left.special.is_some() && packet.has(SPECIAL) && process.version == Version::Old
    }

    /// Whether it has a stream whose name this process does not know.
    fn is_nameless(&self, packet: &Packet, process: &Process) -> bool {
        matches!(packet.cargo, Cargo::Stream(_)) && process.version == Version::Nameless
    }

    /// Whether the special connection may be sent.
    fn may_send_special(&self, process: &Process, sender: &SenderLedger<Cargo>) -> bool {
        match self.left.special {
            None => false,
            Some(Special::Tls) => sender.tls() == TlsTaken::Yes,
            Some(Special::Stream) => sender.streams() == Some(true) && process.resumes && !process.stays,
        }
    }

    fn room(&self, p: usize) -> usize {
        let process = &self.processes[p];
        let promised: usize = process.predecessors.values().map(ReceiverLedger::promised).sum();
        ROOM.saturating_sub(process.owns.len() + promised)
    }

    /// The steps that processes take by themselves, and those that come from outside.
    fn steps(&self) -> (Vec<Step>, Vec<Step>) {
        let (mut own, mut from_outside) = (Vec::new(), Vec::new());
        for (p, process) in self.processes.iter().enumerate().filter(|(_, p)| p.alive) {
            if let Some((id, sender)) = &process.to_successor {
                for is_special in [false, true] {
                    let has =
                        process.owns.keys().any(|connection| self.is_special(*connection) == is_special);
                    let is_taken = !is_special || self.may_send_special(process, sender);
                    if sender.batch(BATCH) > 0 && has && is_taken {
                        own.push(Step::Send(p, is_special));
                    }
                }
                if self.left.failures > 0 {
                    from_outside.push(Step::Fail(p));
                }
                if !process.to_pass.is_empty() {
                    own.push(Step::Pass(p));
                }
                if !self.channels[*id].receipts.is_empty() {
                    own.push(Step::Hear(p));
                } else if !self.is_held(*id) {
                    own.push(Step::SeeEnd(p));
                }
            }
            match &process.in_hand {
                Some((_, packet))
                    if self.is_unknown(packet, process) || self.is_nameless(packet, process) =>
                {
                    own.push(Step::Refuse(p));
                }
                Some(_) => {
                    own.push(Step::Accept(p));
                    if self.left.refusals > 0 {
                        from_outside.push(Step::Refuse(p));
                    }
                }
                None => {
                    for (id, receiver) in &process.predecessors {
                        let channel = &self.channels[*id];
                        if !channel.packets.is_empty() {
                            own.push(Step::Receive(p, *id));
                        } else if channel.sender.is_none() {
                            own.push(Step::Forget(p, *id));
                        } else if process.to_successor.is_none() && receiver.clone().renew(self.room(p)) > 0 {
                            own.push(Step::Grant(p, *id));
                        }
                    }
                }
            }
            if self.left.handovers > 0 && process.to_successor.is_none() && process.in_hand.is_none() {
                let to = |version: &Version| Step::HandOver(p, *version);
                from_outside.extend(versions(self.left.special).iter().map(to));
            }
            match (self.left.special, process.owns.get(&SPECIAL)) {
                (Some(Special::Tls), Some(_)) if self.left.records > 0 => from_outside.push(Step::Encrypt(p)),
                (Some(Special::Stream), Some(held)) => {
                    // A thread that knows that its stream moves reads nothing: these come in any order with the others.
                    if self.left.records > 0 {
                        from_outside.push(Step::Read(p));
                    }
                    if held.carried > 0 {
                        from_outside.push(Step::Answer(p));
                    }
                }
                _ => {}
            }
            if self.left.kills > 0 {
                from_outside.push(Step::Kill(p));
            }
        }
        (own, from_outside)
    }

    fn take(&self, step: &Step) -> World {
        let mut world = self.clone();
        match *step {
            Step::Send(p, is_special) => world.send(p, is_special),
            Step::Encrypt(p) => {
                world.left.records -= 1;
                world.write(p);
            }
            Step::Read(p) => {
                world.left.records -= 1;
                world.processes[p].owns.get_mut(&SPECIAL).unwrap().carried += 1;
            }
            Step::Answer(p) => {
                world.processes[p].owns.get_mut(&SPECIAL).unwrap().carried -= 1;
                world.write(p);
            }
            Step::Pass(p) => {
                let process = &mut world.processes[p];
                let (passed, credit) = process.to_pass.pop().unwrap();
                let (id, sender) = process.to_successor.as_mut().unwrap();
                let packet = Packet { batch: sender.next_batch(), cargo: Cargo::Channel(passed, credit) };
                sender.posted(packet.load(), packet.cargo.clone());
                world.channels[*id].packets.push_back(packet);
            }
            Step::Receive(p, id) => {
                let packet = world.channels[id].packets.pop_front().unwrap();
                world.processes[p].in_hand = Some((id, packet));
            }
            Step::Accept(p) => world.accept(p),
            Step::Refuse(p) => world.refuse(p),
            Step::Grant(p, id) => {
                let room = world.room(p);
                let credit = world.processes[p].predecessors.get_mut(&id).unwrap().renew(room);
                let says = world.processes[p].version != Version::Old;
                world.channels[id].receipts.push_back((Receipt::Credit(credit), says));
            }
            Step::Hear(p) => {
                let process = &mut world.processes[p];
                let (id, sender) = process.to_successor.as_mut().unwrap();
                let (receipt, says) = world.channels[*id].receipts.pop_front().unwrap();
                sender.note_taken(says, says);
                match sender.settle(receipt) {
                    Settled::Returned { cargo, retry } => {
                        process.stays |= retry == Retry::Never && cargo.has(SPECIAL);
                        process.have_back([cargo].into_iter());
                    }
                    Settled::Delivered(_) | Settled::Nothing => {}
                }
            }
            Step::SeeEnd(p) => {
                let process = &mut world.processes[p];
                let (id, mut sender) = process.to_successor.take().unwrap();
                let back: Vec<Cargo> = sender.end().collect();
                process.stays |= back.iter().any(|cargo| matches!(cargo, Cargo::Stream(_)));
                process.have_back(back.into_iter());
                // It reads its predecessors' channels again.
                for (predecessor, promised) in std::mem::take(&mut process.to_pass) {
                    world.watch(p, predecessor, promised);
                }
                world.channels[id].sender = None;
            }
            Step::Forget(p, id) => drop(world.processes[p].predecessors.remove(&id)),
            Step::HandOver(p, version) => {
                world.left.handovers -= 1;
                world.hand_over(p, version);
            }
            Step::Fail(p) => {
                (world.left.failures, world.is_calm) = (world.left.failures - 1, false);
                world.fail(p);
            }
            Step::Kill(p) => {
                (world.left.kills, world.is_calm) = (world.left.kills - 1, false);
                world.kill(p);
            }
        }
        world
    }

    /// The process writes for the special connection.
    fn write(&mut self, p: usize) {
        let held = self.processes[p].owns.get_mut(&SPECIAL).unwrap();
        assert_eq!(held.next, self.written, "a number is used twice, or left out");
        held.next += 1;
        self.written += 1;
    }

    fn send(&mut self, p: usize, is_special: bool) {
        let process = &mut self.processes[p];
        let (id, sender) = process.to_successor.as_mut().unwrap();
        let special = self.left.special;
        let kind = |connection: &Connection| (special.is_some() && *connection == SPECIAL) == is_special;
        let of_kind = process.owns.iter().filter(|(connection, _)| kind(connection));
        let some: Vec<(Connection, Held)> =
            of_kind.map(|(connection, held)| (*connection, *held)).take(sender.batch(BATCH)).collect();
        process.owns.retain(|connection, _| !some.iter().any(|(sent, _)| sent == connection));
        let cargo = match (special, &some[..]) {
            (Some(Special::Stream), [(SPECIAL, held)]) => Cargo::Stream(*held),
            _ => Cargo::Connections(some),
        };
        let packet = Packet { batch: sender.next_batch(), cargo };
        sender.posted(packet.load(), packet.cargo.clone());
        self.channels[*id].packets.push_back(packet);
    }

    fn accept(&mut self, p: usize) {
        let room = self.room(p);
        let process = &mut self.processes[p];
        let (id, packet) = process.in_hand.take().unwrap();
        let came = packet.size();
        let predecessor = process.predecessors.get_mut(&id).unwrap();
        let credit = if came == 0 { 0 } else { predecessor.take(came, room.saturating_sub(came)) };
        self.channels[id]
            .receipts
            .push_back((Receipt::Ack { batch: packet.batch, credit }, process.version != Version::Old));
        match packet.cargo {
            Cargo::Connections(connections) => {
                connections.iter().for_each(|(connection, _)| self.owner[usize::from(*connection)] = p);
                process.owns.extend(connections);
            }
            Cargo::Stream(held) => {
                self.owner[usize::from(SPECIAL)] = p;
                process.owns.insert(SPECIAL, held);
            }
            Cargo::Channel(passed, credit) => self.watch(p, passed, credit),
        }
    }

    /// There is no room, or it is a packet or a name that this process does not know.
    fn refuse(&mut self, p: usize) {
        let process = &self.processes[p];
        let (id, packet) = process.in_hand.clone().unwrap();
        let (is_unknown, is_nameless) =
            (self.is_unknown(&packet, process), self.is_nameless(&packet, process));
        let load = if is_unknown { Load::Connections(usize::MAX) } else { packet.load() };
        if is_unknown {
            self.channels[id].is_overgranted = true;
        } else if !is_nameless {
            (self.left.refusals, self.is_calm) = (self.left.refusals - 1, false);
        }
        let process = &mut self.processes[p];
        process.in_hand = None;
        let retry = if is_nameless { Retry::Never } else { Retry::Later };
        process.predecessors.get_mut(&id).unwrap().refuse(load, retry);
        let nak = Receipt::Nak { batch: packet.batch, retry };
        self.channels[id].receipts.push_back((nak, process.version != Version::Old));
        self.note_lost();
    }

    /// What was sent is nobody's here any more: it lives on where it has arrived, and where it has not, it is lost.
    fn fail(&mut self, p: usize) {
        let process = &mut self.processes[p];
        let (id, mut sender) = process.to_successor.take().unwrap();
        sender.end().for_each(drop);
        process.to_pass.clear();
        self.channels[id].sender = None;
        if !self.is_held(id) {
            self.channels[id].packets.clear();
        }
        self.note_lost();
    }

    fn kill(&mut self, p: usize) {
        let process = &mut self.processes[p];
        process.alive = false;
        process.owns.clear();
        if let Some((id, _)) = process.to_successor.take() {
            self.channels[id].receipts.clear();
            self.channels[id].sender = None;
        }
        (process.in_hand, process.to_pass) = (None, Vec::new());
        process.predecessors.clear();
        // A queue that no process can read any more is gone.
        for id in 0..self.channels.len() {
            if !self.is_held(id) {
                self.channels[id].packets.clear();
            }
        }
        self.note_lost();
    }

    /// Connections whose owner is dead, or has given them up, and that are not on their way.
    fn note_lost(&mut self) {
        let is_kept = |connection: Connection| {
            let owner = &self.processes[self.owner[usize::from(connection)]];
            let sent = owner.to_successor.iter().flat_map(|(_, sender)| sender.sent.values());
            let is_sent = |(_, cargo): &(Load, Cargo)| cargo.has(connection);
            owner.alive && (owner.owns.contains_key(&connection) || sent.into_iter().any(is_sent))
        };
        let lost: Vec<Connection> =
            (0..self.connections()).filter(|c| !is_kept(*c) && !self.is_on_its_way(*c)).collect();
        self.lost.extend(lost);
    }

    fn is_on_its_way(&self, connection: Connection) -> bool {
        let has = |packet: &Packet| packet.has(connection);
        let in_hand = |p: &Process| p.alive && p.in_hand.as_ref().is_some_and(|(_, packet)| has(packet));
        self.processes.iter().any(in_hand) || self.channels.iter().any(|c| c.packets.iter().any(has))
    }

    fn check_always(&self) {
        for connection in 0..self.connections() {
            let owners =
                self.processes.iter().filter(|p| p.alive && p.owns.contains_key(&connection)).count();
            assert!(owners <= 1, "two processes may read connection {connection}");
        }
        for process in self.processes.iter().filter(|p| p.alive) {
            let Some(held) = process.owns.get(&SPECIAL).filter(|_| self.left.special.is_some()) else {
                continue;
            };
            assert!(process.version != Version::Old, "a process has what it does not know");
            assert_eq!(held.next, self.written, "its next number");
            if self.left.special == Some(Special::Stream) {
                assert!(process.version == Version::New, "a process has a stream that it can't continue");
                assert_eq!(
                    held.next + held.carried + self.left.records,
                    self.bytes,
                    "what the client has sent"
                );
            }
        }
        (0..self.channels.len()).for_each(|id| self.check_credit(id));
        for process in self.processes.iter().filter(|p| p.alive) {
            let promised: usize = process.predecessors.values().map(ReceiverLedger::promised).sum();
            // A channel that was passed on brings its own promise.
            assert!(promised <= 2 * ROOM, "more is promised than there is room for");
        }
    }

    /// The receiver has promised what the sender has of it, and what is on its way.
    fn check_credit(&self, id: ChannelId) {
        let reads = |p: &&Process| p.alive && p.predecessors.contains_key(&id);
        let receiver = self.processes.iter().find(reads);
        let sends = |p: &&Process| p.alive && p.to_successor.as_ref().is_some_and(|(of, _)| *of == id);
        let sender = self.processes.iter().find(sends).and_then(|p| p.to_successor.as_ref());
        let (Some(receiver), Some((_, sender))) = (receiver, sender) else { return };
        let channel = &self.channels[id];
        if channel.is_overgranted {
            return;
        }
        let granted: usize = channel
            .receipts
            .iter()
            .map(|(receipt, _)| match receipt {
                Receipt::Credit(n) | Receipt::Ack { credit: n, .. } => *n,
                Receipt::Nak { .. } => 0,
            })
            .sum();
        let in_hand = receiver.in_hand.as_ref().filter(|(of, _)| *of == id).map_or(0, |(_, p)| p.size());
        let on_the_way: usize = channel.packets.iter().map(Packet::size).sum();
        let promised = receiver.predecessors[&id].promised();
        assert_eq!(sender.credit + granted + on_the_way + in_hand, promised, "credit of channel {id}");
    }

    /// When nothing more happens by itself.
    fn check_at_rest(&self) {
        for connection in 0..self.connections() {
            let owners =
                self.processes.iter().filter(|p| p.alive && p.owns.contains_key(&connection)).count();
            let lost = self.lost.contains(&connection);
            assert_eq!(owners, usize::from(!lost), "connection {connection}, lost: {lost}");
        }
        if self.is_calm {
            let newest = self.processes.iter().find(|p| p.to_successor.is_none()).unwrap();
            assert_eq!(newest.owns.len(), self.owner.len(), "all come to the newest generation");
        }
        for process in self.processes.iter().filter(|p| p.alive) {
            if let Some((_, sender)) = &process.to_successor {
                assert!(sender.all_settled(), "what was sent is settled");
            }
        }
    }
}

impl Process {
    fn have_back(&mut self, cargos: impl Iterator<Item = Cargo>) {
        for cargo in cargos {
            match cargo {
                Cargo::Connections(connections) => self.owns.extend(connections),
                Cargo::Stream(held) => drop(self.owns.insert(SPECIAL, held)),
                Cargo::Channel(id, credit) => self.to_pass.push((id, credit)),
            }
        }
    }
}

/// Tries all orders, with each version of the successor.
fn explore(bounds: Bounds) -> usize {
    versions(bounds.special).iter().map(|version| explore_from(World::new(bounds, *version))).sum()
}

fn explore_from(start: World) -> usize {
    let steps = |world: &World| {
        let (own, from_outside) = world.steps();
        if own.is_empty() {
            world.check_at_rest();
        }
        [own, from_outside].concat()
    };
    explore::explore(start, steps, World::take, World::check_always, |_| String::new())
}

#[test]
fn all_connections_come_to_the_newest_generation() {
    assert!(explore(PLAIN) > 10);
    assert!(explore(Bounds { handovers: 1, ..PLAIN }) > 100);
}

#[test]
fn refused_connections_keep_an_owner() {
    assert!(explore(Bounds { refusals: 3, ..PLAIN }) > 100);
    assert!(explore(Bounds { handovers: 1, refusals: 2, ..PLAIN }) > 1_000);
}

#[test]
fn a_killed_process_takes_only_its_own_connections_along() {
    assert!(explore(Bounds { kills: 1, refusals: 1, ..PLAIN }) > 100);
    assert!(explore(Bounds { kills: 2, refusals: 1, ..PLAIN }) > 100);
    assert!(explore(Bounds { handovers: 1, kills: 1, refusals: 1, ..PLAIN }) > 1_000);
}

/// By the process that has the connection, whichever that is, also by way of one that does not know TLS.
#[test]
fn each_number_of_a_record_is_used_by_one_process() {
    assert!(explore(Bounds { kills: 1, refusals: 1, records: 2, ..TLS }) > 100);
    assert!(explore(Bounds { handovers: 1, kills: 1, records: 1, ..TLS }) > 1_000);
    assert!(explore(Bounds { handovers: 1, refusals: 1, records: 1, ..TLS }) > 1_000);
}

/// What was sent by a channel that can't be read any more is nobody's here, also if it arrives nowhere.
#[test]
fn connections_of_an_unreadable_channel_are_never_taken_back() {
    assert!(explore(Bounds { failures: 1, kills: 1, refusals: 1, records: 2, ..TLS }) > 100);
    assert!(explore(Bounds { handovers: 1, failures: 1, records: 1, ..TLS }) > 1_000);
}

/// With its state and the bytes that were read: also where its process was refused by one without its name, or is killed.
#[test]
fn a_stream_is_answered_by_one_process_at_a_time() {
    assert!(explore(Bounds { kills: 1, refusals: 1, records: 2, ..STREAM }) > 1_000);
    let alone = Bounds { connections: 1, handovers: 1, records: 1, ..STREAM };
    assert!(explore(Bounds { connections: 2, ..alone }) > 1_000);
    assert!(explore(Bounds { kills: 1, refusals: 1, ..alone }) > 1_000);
    assert!(explore(Bounds { records: 2, ..alone }) > 1_000);
}

#[test]
fn a_stream_of_an_unreadable_channel_is_never_taken_back() {
    assert!(explore(Bounds { failures: 1, kills: 1, refusals: 1, records: 2, ..STREAM }) > 1_000);
    assert!(explore(Bounds { connections: 1, handovers: 1, failures: 1, records: 1, ..STREAM }) > 1_000);
}
