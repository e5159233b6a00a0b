//! Every order of packets, receipts, refusals and deaths between three generations, within bounds: no connection may ever
//! be read by two processes, and each one has an owner, unless its owner was killed.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use super::{ReceiverLedger, SenderLedger, Settled};
use crate::net::transfer::packet::{Receipt, Retry};

type Connection = u8;
type ChannelId = usize;

const CONNECTIONS: Connection = 3;
const BATCH: usize = 2;
/// How many connections a receiver has room for in all.
const ROOM: usize = 3;

#[derive(Clone, PartialEq, Eq, Hash)]
enum Cargo {
    Connections(Vec<Connection>),
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
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Channel {
    /// The process with the sending end; None when it is dead, or does not use it any more.
    sender: Option<usize>,
    packets: VecDeque<Packet>,
    receipts: VecDeque<Receipt>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Process {
    alive: bool,
    /// The connections that it may read.
    owns: BTreeSet<Connection>,
    to_successor: Option<(ChannelId, SenderLedger<Cargo>)>,
    /// The channels of its own predecessors that it will pass on.
    to_pass: Vec<(ChannelId, usize)>,
    predecessors: BTreeMap<ChannelId, ReceiverLedger>,
    /// A packet that was received, and neither acknowledged nor refused.
    in_hand: Option<(ChannelId, Packet)>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    processes: Vec<Process>,
    channels: Vec<Channel>,
    kills: u8,
    refusals: u8,
    handovers: u8,
    /// The process that has acknowledged each connection last: it owns it until the next one does.
    owner: Vec<usize>,
    /// Connections whose owner was killed while they were not on their way, or that were refused after that.
    lost: BTreeSet<Connection>,
}

#[derive(Clone, Debug)]
enum Step {
    Send(usize),
    Pass(usize),
    Receive(usize, ChannelId),
    Accept(usize),
    Refuse(usize),
    Grant(usize, ChannelId),
    Hear(usize),
    SeeEnd(usize),
    Forget(usize, ChannelId),
    HandOver(usize),
    Kill(usize),
}

fn process(owns: BTreeSet<Connection>) -> Process {
    Process {
        alive: true,
        owns,
        to_successor: None,
        to_pass: Vec::new(),
        predecessors: BTreeMap::new(),
        in_hand: None,
    }
}

impl World {
    /// The first generation has all connections, and hands over.
    fn new(handovers: u8, kills: u8, refusals: u8) -> World {
        let mut world = World {
            processes: vec![process((0..CONNECTIONS).collect())],
            channels: Vec::new(),
            kills,
            refusals,
            handovers,
            owner: vec![0; usize::from(CONNECTIONS)],
            lost: BTreeSet::new(),
        };
        world.hand_over(0);
        world
    }

    /// COMMIT: a new process has the other end of a new channel.
    fn hand_over(&mut self, from: usize) {
        let id = self.channels.len();
        let (packets, receipts) = (VecDeque::new(), VecDeque::new());
        self.channels.push(Channel { sender: Some(from), packets, receipts });
        let mut successor = process(BTreeSet::new());
        successor.predecessors.insert(id, ReceiverLedger::new(0));
        self.processes.push(successor);
        let old = &mut self.processes[from];
        let predecessors = std::mem::take(&mut old.predecessors);
        old.to_pass.extend(predecessors.into_iter().map(|(id, receiver)| (id, receiver.promised())));
        old.to_successor = Some((id, SenderLedger::new()));
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
                if sender.batch(BATCH) > 0 && !process.owns.is_empty() {
                    own.push(Step::Send(p));
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
                from_outside.push(Step::HandOver(p));
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
            Step::Send(p) => world.send(p),
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
            Step::Refuse(p) => {
                world.refusals -= 1;
                let (id, packet) = world.processes[p].in_hand.take().unwrap();
                let came = packet.size();
                if world.channels[id].sender.is_none() {
                    if let Cargo::Connections(connections) = packet.cargo {
                        world.lost.extend(connections);
                    }
                }
                world.processes[p].predecessors.get_mut(&id).unwrap().refuse(came);
                world.channels[id]
                    .receipts
                    .push_back(Receipt::Nak { batch: packet.batch, retry: Retry::Later });
            }
            Step::Grant(p, id) => {
                let room = world.room(p);
                let credit = world.processes[p].predecessors.get_mut(&id).unwrap().renew(room);
                world.channels[id].receipts.push_back(Receipt::Credit(credit));
            }
            Step::Hear(p) => {
                let process = &mut world.processes[p];
                let (id, sender) = process.to_successor.as_mut().unwrap();
                let receipt = world.channels[*id].receipts.pop_front().unwrap();
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
                    process.predecessors.insert(predecessor, ReceiverLedger::new(promised));
                }
                world.channels[id].sender = None;
            }
            Step::Forget(p, id) => drop(world.processes[p].predecessors.remove(&id)),
            Step::HandOver(p) => {
                world.handovers -= 1;
                world.hand_over(p);
            }
            Step::Kill(p) => {
                world.kills -= 1;
                world.kill(p);
            }
        }
        world
    }

    fn send(&mut self, p: usize) {
        let process = &mut self.processes[p];
        let (id, sender) = process.to_successor.as_mut().unwrap();
        let some: Vec<Connection> = process.owns.iter().copied().take(sender.batch(BATCH)).collect();
        process.owns.retain(|connection| !some.contains(connection));
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
        self.channels[id].receipts.push_back(Receipt::Ack { batch: packet.batch, credit });
        match packet.cargo {
            Cargo::Connections(connections) => {
                connections.iter().for_each(|connection| self.owner[usize::from(*connection)] = p);
                process.owns.extend(connections);
            }
            Cargo::Channel(passed, credit) => {
                process.predecessors.insert(passed, ReceiverLedger::new(credit));
            }
        }
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
        let of_the_dead = |c: &Connection| !self.processes[self.owner[usize::from(*c)]].alive;
        let lost: Vec<Connection> =
            (0..CONNECTIONS).filter(|c| of_the_dead(c) && !self.is_on_its_way(*c)).collect();
        self.lost.extend(lost);
    }

    fn is_on_its_way(&self, connection: Connection) -> bool {
        let has = |packet: &Packet| matches!(&packet.cargo, Cargo::Connections(connections) if connections.contains(&connection));
        let in_hand = |p: &Process| p.alive && p.in_hand.as_ref().is_some_and(|(_, packet)| has(packet));
        self.processes.iter().any(in_hand) || self.channels.iter().any(|c| c.packets.iter().any(has))
    }

    fn check_always(&self) {
        for connection in 0..CONNECTIONS {
            let owners = self.processes.iter().filter(|p| p.alive && p.owns.contains(&connection)).count();
            assert!(owners <= 1, "two processes may read connection {connection}");
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
        let granted: usize = channel
            .receipts
            .iter()
            .map(|receipt| match receipt {
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
        for connection in 0..CONNECTIONS {
            let owners = self.processes.iter().filter(|p| p.alive && p.owns.contains(&connection)).count();
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

fn explore(handovers: u8, kills: u8, refusals: u8) -> usize {
    let start = World::new(handovers, kills, refusals);
    let mut seen = HashSet::from([start.clone()]);
    let mut left = vec![(start, Vec::<String>::new())];
    while let Some((world, path)) = left.pop() {
        let (own, from_outside) = world.steps();
        let checked = std::panic::catch_unwind(|| {
            world.check_always();
            if own.is_empty() {
                world.check_at_rest();
            }
        });
        if let Err(panic) = checked {
            eprintln!("by way of:\n  {}", path.join("\n  "));
            std::panic::resume_unwind(panic);
        }
        for step in own.iter().chain(&from_outside) {
            let next = world.take(step);
            if seen.insert(next.clone()) {
                let mut path = path.clone();
                path.push(format!("{step:?}"));
                left.push((next, path));
            }
        }
    }
    seen.len()
}

#[test]
fn all_connections_come_to_the_newest_generation() {
    assert!(explore(0, 0, 0) > 10);
    assert!(explore(1, 0, 0) > 100);
}

#[test]
fn refused_connections_keep_an_owner() {
    assert!(explore(0, 0, 3) > 100);
    assert!(explore(1, 0, 2) > 1_000);
}

#[test]
fn a_killed_process_takes_only_its_own_connections_along() {
    assert!(explore(0, 1, 1) > 100);
    assert!(explore(0, 2, 1) > 100);
    assert!(explore(1, 1, 1) > 1_000);
}
