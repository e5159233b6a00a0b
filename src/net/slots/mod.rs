//! The slot table: the place of a connection while no worker has it. It ensures that acceptor and worker never both have a
//! connection, and that none of its events is lost.
//!
//! Events are edge-triggered and registered once, before a connection is parked for the first time. An event that occurs
//! while a worker has the connection is kept in the slot; the worker that wants to park the connection finds it there and
//! continues instead.
//!
//! A deadline here may be earlier than the real one, which a sweep asks for when the time here has passed. So a connection that
//! is parked again and again gets its deadline from the sweep, once, and not each time.

use std::ops::Range;
use std::sync::OnceLock;

use crate::base::sync::{AtomicU32, AtomicUsize, Mutex, MutexGuard, Ordering, lock_checked};

/// Slots are made this many at a time, when first needed.
const CHUNK: usize = if cfg!(loom) { 2 } else { 256 };

/// A place in the table, and which of its tenants is meant: events of earlier tenants are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotId {
    index: u32,
    tenant: u32,
}

impl SlotId {
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.tenant) << 32 | u64::from(self.index)
    }

    pub(crate) fn index(self) -> u32 {
        self.index
    }

    pub(crate) fn from_bits(bits: u64) -> SlotId {
        SlotId { index: bits as u32, tenant: (bits >> 32) as u32 }
    }
}

/// The table: `T` is a connection.
pub(crate) struct Slots<T> {
    chunks: Box<[Chunk<T>]>,
    free: Mutex<Free>,
    taken: AtomicUsize,
}

/// The slots that are free. Those that were never taken are a range, not a list: a limit may be very high.
struct Free {
    /// Slots that were given back.
    back: Vec<u32>,
    /// Slots that were never taken.
    new: Range<u32>,
}

type Chunk<T> = OnceLock<Box<[Slot<T>]>>;

struct Slot<T> {
    content: Mutex<Content<T>>,
    /// The deadline in ticks; 0 for none. It is outside of the lock, so that a sweep touches nothing else.
    deadline: AtomicU32,
}

struct Content<T> {
    tenant: u32,
    state: SlotState<T>,
}

enum SlotState<T> {
    Free,
    /// The connection is in the queue, with a worker or on a thread of its own.
    Away {
        event: bool,
    },
    Parked(T),
}

impl<T> Slots<T> {
    /// A table of `capacity` slots, all free.
    pub(crate) fn new(capacity: usize) -> Slots<T> {
        let capacity = capacity.min(1 << 30);
        Slots {
            chunks: (0..capacity.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect(),
            free: Mutex::new(Free { back: Vec::new(), new: 0..capacity as u32 }),
            taken: AtomicUsize::new(0),
        }
    }

    /// Takes a free slot for a connection that is not parked yet; None if all are taken.
    pub(crate) fn claim(&self) -> Option<SlotId> {
        let index = {
            let mut free = lock_checked(&self.free);
            free.back.pop().or_else(|| free.new.next())?
        };
        self.taken.fetch_add(1, Ordering::SeqCst);
        let mut content = self.content(index);
        content.state = SlotState::Away { event: false };
        Some(SlotId { index, tenant: content.tenant })
    }

    /// Gives the slot of a closed connection back; how many are still taken.
    pub(crate) fn release(&self, id: SlotId) -> usize {
        let slot = self.slot(id.index);
        {
            let mut content = lock(slot);
            debug_assert_eq!(content.tenant, id.tenant);
            content.tenant = content.tenant.wrapping_add(1);
            content.state = SlotState::Free;
            slot.deadline.store(0, Ordering::Relaxed);
        }
        lock_checked(&self.free).back.push(id.index);
        self.taken.fetch_sub(1, Ordering::SeqCst) - 1
    }

    /// Gives back slots that were claimed and not used.
    pub(crate) fn release_all(&self, ids: Vec<SlotId>) {
        for id in ids {
            self.release(id);
        }
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    /// Parks a tenant until an event or the deadline. Gives it back if an event came meanwhile.
    pub(crate) fn park(&self, id: SlotId, tenant: T, deadline: u32) -> Result<(), T> {
        let slot = self.slot(id.index);
        let mut content = lock(slot);
        debug_assert_eq!(content.tenant, id.tenant);
        match content.state {
            SlotState::Away { event: true } => {
                content.state = SlotState::Away { event: false };
                Err(tenant)
            }
            _ => {
                slot.deadline.store(deadline, Ordering::Relaxed);
                content.state = SlotState::Parked(tenant);
                Ok(())
            }
        }
    }

    /// Handles an event: takes the tenant if it is parked. If it is away, the event is kept.
    pub(crate) fn take(&self, id: SlotId) -> Option<T> {
        let slot = self.existing(id.index)?;
        let mut content = lock(slot);
        if content.tenant != id.tenant {
            return None;
        }
        if let SlotState::Away { event } = &mut content.state {
            *event = true;
            return None;
        }
        take_parked(&mut content)
    }

    /// Takes parked tenants with a deadline at or before `now`. `real` gets each of these with the deadline that it has here,
    /// and returns the real one: one that is later is kept, and the tenant stays.
    pub(crate) fn take_expired(&self, now: u32, real: impl Fn(&T, u32) -> u32) -> Vec<T> {
        let expired = |slot: &Slot<T>| (1..=now).contains(&slot.deadline.load(Ordering::Relaxed));
        let mut taken = Vec::new();
        for slot in self.all().filter(|slot| expired(slot)) {
            let mut content = lock(slot);
            // Checked again under the lock: it may have been taken and parked again.
            redate(slot, &content, &real);
            if expired(slot) {
                taken.extend(take_parked(&mut content));
                // No later sweep looks at a tenant that a thread has, until it is parked.
                slot.deadline.store(0, Ordering::Relaxed);
            }
        }
        taken
    }

    /// Takes parked tenants that are wanted, at most `most`, from the place `from` on. Gives the place to continue from, or
    /// None when the end was reached.
    pub(crate) fn take_wanted(
        &self,
        from: usize,
        most: usize,
        wanted: impl Fn(&T) -> bool,
    ) -> (Vec<T>, Option<usize>) {
        let mut taken = Vec::new();
        for (place, slot) in self.all().enumerate().skip(from) {
            if taken.len() == most {
                return (taken, Some(place));
            }
            let mut content = lock(slot);
            if matches!(&content.state, SlotState::Parked(tenant) if wanted(tenant)) {
                taken.extend(take_parked(&mut content));
            }
        }
        (taken, None)
    }

    /// Changes the deadlines of parked tenants: `f` gets each tenant with its deadline.
    pub(crate) fn redate(&self, f: impl Fn(&T, u32) -> u32) {
        for slot in self.all() {
            redate(slot, &lock(slot), &f);
        }
    }

    /// Calls `f` with each parked tenant, one after the other.
    pub(crate) fn parked<R>(&self, f: impl Fn(&T) -> R) -> impl Iterator<Item = R> {
        self.all().filter_map(move |slot| match &lock(slot).state {
            SlotState::Parked(tenant) => Some(f(tenant)),
            _ => None,
        })
    }

    fn all(&self) -> impl Iterator<Item = &Slot<T>> {
        self.chunks.iter().filter_map(OnceLock::get).flat_map(|chunk| chunk.iter())
    }

    fn content(&self, index: u32) -> MutexGuard<'_, Content<T>> {
        lock(self.slot(index))
    }

    fn slot(&self, index: u32) -> &Slot<T> {
        let (chunk, place) = (index as usize / CHUNK, index as usize % CHUNK);
        let empty = || Slot {
            content: Mutex::new(Content { tenant: 0, state: SlotState::Free }),
            deadline: AtomicU32::new(0),
        };
        &self.chunks[chunk].get_or_init(|| (0..CHUNK).map(|_| empty()).collect())[place]
    }

    fn existing(&self, index: u32) -> Option<&Slot<T>> {
        self.chunks.get(index as usize / CHUNK)?.get()?.get(index as usize % CHUNK)
    }
}

fn lock<T>(slot: &Slot<T>) -> MutexGuard<'_, Content<T>> {
    lock_checked(&slot.content)
}

fn redate<T>(slot: &Slot<T>, content: &Content<T>, f: impl Fn(&T, u32) -> u32) {
    if let SlotState::Parked(tenant) = &content.state {
        slot.deadline.store(f(tenant, slot.deadline.load(Ordering::Relaxed)), Ordering::Relaxed);
    }
}

fn take_parked<T>(content: &mut Content<T>) -> Option<T> {
    match std::mem::replace(&mut content.state, SlotState::Away { event: false }) {
        SlotState::Parked(tenant) => Some(tenant),
        other => {
            content.state = other;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn what_is_parked_is_taken_by_one_event() {
        let slots = Slots::new(10);
        let id = slots.claim().unwrap();
        assert_eq!(SlotId::from_bits(id.to_bits()), id);
        slots.park(id, "a", 0).unwrap();
        assert_eq!(slots.take(id), Some("a"));
        assert_eq!(slots.take(id), None, "away: the event is kept");
        assert_eq!(slots.park(id, "a", 0), Err("a"), "and given to the one that wants to park");
        assert_eq!(slots.park(id, "a", 0), Ok(()), "once");
    }

    #[test]
    fn an_event_of_an_earlier_tenant_is_void() {
        let slots = Slots::new(1);
        let old = slots.claim().unwrap();
        assert_eq!(slots.release(old), 0);
        let new = slots.claim().unwrap();
        assert!(slots.claim().is_none(), "full");
        slots.park(new, "b", 0).unwrap();
        assert_eq!(slots.take(old), None);
        assert_eq!(slots.take(SlotId { index: 7_000, tenant: 0 }), None, "no such slot");
        assert_eq!(slots.take(new), Some("b"));
        assert_eq!(slots.taken(), 1);
    }

    #[test]
    fn deadlines_expire_and_move() {
        let slots = Slots::new(600);
        let ids: Vec<SlotId> = (0..4).map(|_| slots.claim().unwrap()).collect();
        for (id, deadline) in ids.iter().zip([0, 5, 6, 9]) {
            slots.park(*id, deadline, deadline).unwrap();
        }
        let same = |_: &u32, deadline| deadline;
        assert_eq!(slots.take_expired(4, same), [0u32; 0]);
        assert_eq!(slots.take_expired(6, same), [5, 6]);
        slots.redate(|tenant, deadline| if *tenant == 0 { 7 } else { deadline });
        assert_eq!(slots.take_expired(8, same), [0]);
    }

    #[test]
    fn a_sweep_asks_for_the_real_deadline_and_keeps_a_later_one() {
        let slots = Slots::new(2);
        let ids: Vec<SlotId> = (0..2).map(|_| slots.claim().unwrap()).collect();
        for (id, real) in ids.iter().zip([4, 6]) {
            slots.park(*id, real, 1).unwrap();
        }
        let asked = AtomicUsize::new(0);
        let real = |tenant: &u32, _| {
            asked.fetch_add(1, Ordering::Relaxed);
            *tenant
        };
        assert_eq!(slots.take_expired(0, real), [0u32; 0]);
        assert_eq!(slots.take_expired(3, real), [0u32; 0]);
        assert_eq!(slots.take_expired(4, real), [4]);
        assert_eq!(asked.load(Ordering::Relaxed), 3, "of the other one once");
        assert_eq!(slots.take_expired(6, real), [6]);
        // Of one that a thread has, the deadline counts no longer.
        slots.park(ids[0], 4, 1).unwrap();
        assert_eq!(slots.take(ids[0]), Some(4));
        assert_eq!(slots.take_expired(6, real), [0u32; 0]);
        assert_eq!(slots.slot(ids[0].index).deadline.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn parked_ones_are_taken_in_pieces_and_absent_ones_are_not() {
        let slots = Slots::new(600);
        let ids: Vec<SlotId> = (0..300).map(|_| slots.claim().unwrap()).collect();
        for (n, id) in ids.iter().enumerate().skip(1) {
            slots.park(*id, n, 0).unwrap();
        }
        let (mut all, mut from) = (Vec::new(), Some(0));
        while let Some(place) = from {
            let (some, next) = slots.take_wanted(place, 7, |n| n % 2 == 0);
            assert!(some.len() <= 7);
            all.extend(some);
            from = next;
        }
        all.sort_unstable();
        assert_eq!(all, (2..300).step_by(2).collect::<Vec<_>>());
        assert_eq!(slots.take(ids[3]), Some(3));
        assert_eq!(slots.take(ids[2]), None, "away now");
    }

    /// One thread gives events, another parks and continues: in any order each event is seen, and the tenant is never in two
    /// places.
    #[test]
    fn no_event_is_lost_between_acceptor_and_worker() {
        const EVENTS: usize = 20_000;
        let slots = Arc::new(Slots::new(1));
        let id = slots.claim().unwrap();
        let pending = Arc::new(AtomicUsize::new(0));
        let (to_worker, work) = std::sync::mpsc::channel::<Box<usize>>();
        let worker = {
            let (slots, pending) = (Arc::clone(&slots), Arc::clone(&pending));
            thread::Builder::new()
                .spawn(move || {
                    let mut seen = 0;
                    for mut tenant in work {
                        loop {
                            // The data that an event announces must be visible to the thread that it wakes.
                            seen += pending.swap(0, Ordering::AcqRel);
                            *tenant += 1;
                            match slots.park(id, tenant, 0) {
                                Ok(()) => break,
                                Err(again) => tenant = again,
                            }
                        }
                    }
                    seen
                })
                .unwrap()
        };
        to_worker.send(Box::new(0)).unwrap();
        for _ in 0..EVENTS {
            pending.fetch_add(1, Ordering::AcqRel);
            if let Some(tenant) = slots.take(id) {
                to_worker.send(tenant).unwrap();
            }
        }
        drop(to_worker);
        assert_eq!(worker.join().unwrap(), EVENTS);
    }
}

#[cfg(test)]
mod loom_tests;
