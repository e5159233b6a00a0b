//! Every order of packets, receipts, refusals and deaths between three generations, within bounds: no connection may ever
//! be read by two processes, and each one has an owner, unless its owner was killed. One of the connections has TLS: no process
//! may use a number of a record that another one has used, and none that knows no TLS may have the connection.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{ReceiverLedger, SenderLedger, Settled, TlsTaken};
use crate::base::explore;
use crate::net::transfer::packet::{Receipt, Retry};

type Connection = u8;
type ChannelId = usize;

/// The connection with TLS, if there is one.
const TLS: Connection = 0;
const BATCH: usize = 2;
/// How many connections a receiver has room for in all.
const ROOM: usize = 3;

#[derive(Clone, PartialEq, Eq, Hash)]
enum Cargo {
    /// Each with the number of the next record that may be encrypted for it.
    Connections(Vec<(Connection, u8)>),
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

    fn size(&self) -> usize {
        match &self.cargo {
            Cargo::Connections(connections) => connections.len(),
            Cargo::Channel(..) => 0,
        }
    }

    fn has(&self, connection: Connection) -> bool {
        matches!(&self.cargo, Cargo::Connections(some) if some.iter().any(|(one, _)| *one == connection))
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Channel {
    /// The process with the sending end; None when it is dead, or does not use it any more.
    sender: Option<usize>,
    packets: VecDeque<Packet>,
    /// Each with whether its sender says that it takes TLS.
    receipts: VecDeque<(Receipt, bool)>,
    /// A process that knows no TLS has refused a batch without knowing how many connections it had: what is left of the
    /// credit is more than what was promised.
    is_overgranted: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Process {
    alive: bool,
    takes_tls: bool,
    /// The connections that it may read, each with the number of the next record.
    owns: BTreeMap<Connection, u8>,
    to_successor: Option<(ChannelId, SenderLedger<Cargo>)>,
    /// The channels of its own predecessors that it will pass on.
    to_pass: Vec<(ChannelId, usize)>,
    predecessors: BTreeMap<ChannelId, ReceiverLedger>,
    /// A packet that was received, and neither acknowledged nor refused.
    in_hand: Option<(ChannelId, Packet)>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    /// Whether one of the connections has TLS.
    has_tls: bool,
    processes: Vec<Process>,
    channels: Vec<Channel>,
    kills: u8,
    refusals: u8,
    handovers: u8,
    /// How many channels may still become unreadable.
    failures: u8,
    /// How many records may still be encrypted, and how many of the TLS connection were.
    records: u8,
    encrypted: u8,
    /// The process that has acknowledged each connection last: it owns it until the next one does.
    owner: Vec<usize>,
    /// Connections whose owner was killed while they were not on their way, or that were refused after that.
    lost: BTreeSet<Connection>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Those with TLS, or those without.
    Send(usize, bool),
    Encrypt(usize),
    Pass(usize),
    Receive(usize, ChannelId),
    Accept(usize),
    Refuse(usize),
    Grant(usize, ChannelId),
    Hear(usize),
    SeeEnd(usize),
    Forget(usize, ChannelId),
    /// To a process that takes TLS, or to one that does not.
    HandOver(usize, bool),
    Kill(usize),
    /// A process can't read the channel to its successor any more.
    Fail(usize),
}

fn process(takes_tls: bool, owns: BTreeMap<Connection, u8>) -> Process {
    Process {
        alive: true,
        takes_tls,
        owns,
        to_successor: None,
        to_pass: Vec::new(),
        predecessors: BTreeMap::new(),
        in_hand: None,
    }
}

/// What may happen, and how often.
#[derive(Clone, Copy)]
struct Bounds {
    connections: Connection,
    /// One of them has TLS.
    has_tls: bool,
    handovers: u8,
    kills: u8,
    refusals: u8,
    failures: u8,
    records: u8,
}

/// Without TLS.
const PLAIN: Bounds =
    Bounds { connections: 3, has_tls: false, handovers: 0, kills: 0, refusals: 0, failures: 0, records: 0 };
/// A connection of each kind.
const BOTH: Bounds = Bounds { connections: 2, has_tls: true, ..PLAIN };

impl World {
    /// The first generation has all connections, and hands over.
    fn new(bounds: Bounds, takes_tls: bool) -> World {
        let Bounds { connections, has_tls, handovers, kills, refusals, failures, records } = bounds;
        let mut world = World {
            processes: vec![process(true, (0..connections).map(|connection| (connection, 0)).collect())],
            has_tls,
            channels: Vec::new(),
            kills,
            refusals,
            handovers,
            failures,
            records,
            encrypted: 0,
            owner: vec![0; usize::from(connections)],
            lost: BTreeSet::new(),
        };
        world.hand_over(0, takes_tls);
        world
    }

    fn connections(&self) -> Connection {
        self.owner.len() as Connection
    }

    fn is_tls(&self, connection: Connection) -> bool {
        self.has_tls && connection == TLS
    }

    /// COMMIT: a new process has the other end of a new channel.
    fn hand_over(&mut self, from: usize, takes_tls: bool) {
        let id = self.channels.len();
        let (packets, receipts) = (VecDeque::new(), VecDeque::new());
        self.channels.push(Channel { sender: Some(from), packets, receipts, is_overgranted: false });
        self.processes.push(process(takes_tls, BTreeMap::new()));
        self.watch(self.processes.len() - 1, id, 0);
        let old = &mut self.processes[from];
        let predecessors = std::mem::take(&mut old.predecessors);
        old.to_pass.extend(predecessors.into_iter().map(|(id, receiver)| (id, receiver.promised())));
        old.to_successor = Some((id, SenderLedger::new()));
    }

    /// A process begins to read a channel, and greets the process at the other end.
    fn watch(&mut self, p: usize, id: ChannelId, promised: usize) {
        let room = self.room(p);
        let mut receiver = ReceiverLedger::new(promised);
        let takes_tls = self.processes[p].takes_tls;
        if takes_tls {
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
                sender.sent.values().any(|cargo| matches!(cargo, Cargo::Channel(passed, _) if *passed == id))
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
        self.has_tls && packet.has(TLS) && !process.takes_tls
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
                for is_tls in [false, true] {
                    let has = process.owns.keys().any(|connection| self.is_tls(*connection) == is_tls);
                    let is_taken = !is_tls || sender.tls() == TlsTaken::Yes;
                    if sender.batch(BATCH) > 0 && has && is_taken {
                        own.push(Step::Send(p, is_tls));
                    }
                }
                if self.failures > 0 {
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
                Some((_, packet)) if self.is_unknown(packet, process) => own.push(Step::Refuse(p)),
                Some(_) => {
                    own.push(Step::Accept(p));
                    if self.refusals > 0 {
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
            if self.handovers > 0 && process.to_successor.is_none() && process.in_hand.is_none() {
                from_outside.push(Step::HandOver(p, true));
                if self.has_tls {
                    from_outside.push(Step::HandOver(p, false));
                }
            }
            if self.records > 0 && process.owns.contains_key(&TLS) {
                from_outside.push(Step::Encrypt(p));
            }
            if self.kills > 0 {
                from_outside.push(Step::Kill(p));
            }
        }
        (own, from_outside)
    }

    fn take(&self, step: &Step) -> World {
        let mut world = self.clone();
        match *step {
            Step::Send(p, is_tls) => world.send(p, is_tls),
            Step::Encrypt(p) => {
                world.records -= 1;
                let number = world.processes[p].owns.get_mut(&TLS).unwrap();
                assert_eq!(*number, world.encrypted, "a number is used twice, or left out");
                *number += 1;
                world.encrypted += 1;
            }
            Step::Pass(p) => {
                let process = &mut world.processes[p];
                let (passed, credit) = process.to_pass.pop().unwrap();
                let (id, sender) = process.to_successor.as_mut().unwrap();
                let packet = Packet { batch: sender.next_batch(), cargo: Cargo::Channel(passed, credit) };
                sender.posted(0, packet.cargo.clone());
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
                let says = world.processes[p].takes_tls;
                world.channels[id].receipts.push_back((Receipt::Credit(credit), says));
            }
            Step::Hear(p) => {
                let process = &mut world.processes[p];
                let (id, sender) = process.to_successor.as_mut().unwrap();
                let (receipt, says_tls) = world.channels[*id].receipts.pop_front().unwrap();
                sender.note_tls(says_tls);
                match sender.settle(receipt) {
                    Settled::Returned { cargo, .. } => process.have_back([cargo].into_iter()),
                    Settled::Delivered(_) | Settled::Nothing => {}
                }
            }
            Step::SeeEnd(p) => {
                let process = &mut world.processes[p];
                let (id, mut sender) = process.to_successor.take().unwrap();
                process.have_back(sender.end());
                // It reads its predecessors' channels again.
                for (predecessor, promised) in std::mem::take(&mut process.to_pass) {
                    world.watch(p, predecessor, promised);
                }
                world.channels[id].sender = None;
            }
            Step::Forget(p, id) => drop(world.processes[p].predecessors.remove(&id)),
            Step::HandOver(p, takes_tls) => {
                world.handovers -= 1;
                world.hand_over(p, takes_tls);
            }
            Step::Fail(p) => {
                world.failures -= 1;
                world.fail(p);
            }
            Step::Kill(p) => {
                world.kills -= 1;
                world.kill(p);
            }
        }
        world
    }

    fn send(&mut self, p: usize, is_tls: bool) {
        let process = &mut self.processes[p];
        let (id, sender) = process.to_successor.as_mut().unwrap();
        let kind = |connection: &Connection| (self.has_tls && *connection == TLS) == is_tls;
        let of_kind = process.owns.iter().filter(|(connection, _)| kind(connection));
        let some: Vec<(Connection, u8)> =
            of_kind.map(|(connection, number)| (*connection, *number)).take(sender.batch(BATCH)).collect();
        process.owns.retain(|connection, _| !some.iter().any(|(sent, _)| sent == connection));
        let packet = Packet { batch: sender.next_batch(), cargo: Cargo::Connections(some.clone()) };
        sender.posted(some.len(), packet.cargo.clone());
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
            .push_back((Receipt::Ack { batch: packet.batch, credit }, process.takes_tls));
        match packet.cargo {
            Cargo::Connections(connections) => {
                connections.iter().for_each(|(connection, _)| self.owner[usize::from(*connection)] = p);
                process.owns.extend(connections);
            }
            Cargo::Channel(passed, credit) => self.watch(p, passed, credit),
        }
    }

    /// There is no room, or it is a packet that this process does not know.
    fn refuse(&mut self, p: usize) {
        let process = &mut self.processes[p];
        let (id, packet) = process.in_hand.take().unwrap();
        let is_unknown = self.has_tls && packet.has(TLS) && !process.takes_tls;
        if is_unknown {
            self.channels[id].is_overgranted = true;
        } else {
            self.refusals -= 1;
        }
        let came = if is_unknown { usize::MAX } else { packet.size() };
        process.predecessors.get_mut(&id).unwrap().refuse(came);
        let nak = Receipt::Nak { batch: packet.batch, retry: Retry::Later };
        self.channels[id].receipts.push_back((nak, process.takes_tls));
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
            let is_sent = |cargo: &Cargo| matches!(cargo, Cargo::Connections(some) if some.iter().any(|(one, _)| *one == connection));
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
        for process in self.processes.iter().filter(|p| p.alive && !p.takes_tls) {
            assert!(!self.has_tls || !process.owns.contains_key(&TLS), "a process takes TLS for plain text");
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
                Cargo::Channel(id, credit) => self.to_pass.push((id, credit)),
            }
        }
    }
}

/// Tries all orders, with a successor that takes TLS, and with one that does not.
fn explore(bounds: Bounds) -> usize {
    let successors = if bounds.has_tls { &[true, false][..] } else { &[true] };
    successors.iter().map(|takes_tls| explore_from(World::new(bounds, *takes_tls))).sum()
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
    assert!(explore(Bounds { kills: 1, refusals: 1, records: 2, ..BOTH }) > 100);
    assert!(explore(Bounds { handovers: 1, kills: 1, records: 1, ..BOTH }) > 1_000);
    assert!(explore(Bounds { handovers: 1, refusals: 1, records: 1, ..BOTH }) > 1_000);
}

/// What was sent by a channel that can't be read any more is nobody's here, also if it arrives nowhere.
#[test]
fn connections_of_an_unreadable_channel_are_never_taken_back() {
    assert!(explore(Bounds { failures: 1, kills: 1, refusals: 1, records: 2, ..BOTH }) > 100);
    assert!(explore(Bounds { handovers: 1, failures: 1, records: 1, ..BOTH }) > 1_000);
}
