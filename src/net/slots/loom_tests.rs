#![cfg(loom)]
//! Every order of the steps of all threads that use one slot.

use std::sync::Arc;

use loom::cell::Cell;
use loom::thread::{self, JoinHandle};

use super::*;

/// Loom reports an error if two threads touch it and no lock orders their accesses.
struct Tenant {
    name: u8,
    deadline: u32,
    touched: Cell<u32>,
}

impl Tenant {
    fn new(name: u8, deadline: u32) -> Tenant {
        Tenant { name, deadline, touched: Cell::new(0) }
    }

    fn touch(&self) {
        self.touched.set(self.touched.get() + 1);
    }
}

type Table = Arc<Slots<Tenant>>;

fn table(capacity: usize) -> Table {
    Arc::new(Slots::new(capacity))
}

fn go<R: 'static>(slots: &Table, f: impl FnOnce(Table) -> R + 'static) -> JoinHandle<R> {
    let slots = Arc::clone(slots);
    thread::spawn(move || f(slots))
}

fn park(slots: &Table, id: SlotId, tenant: Tenant) -> Option<Tenant> {
    let deadline = tenant.deadline;
    tenant.touch();
    slots.park(id, tenant, deadline).err()
}

/// Acts as a worker: handles events and parks, until there are no more.
fn work(slots: &Table, id: SlotId, bytes: &AtomicU32, mut tenant: Tenant) {
    loop {
        bytes.swap(0, Ordering::AcqRel);
        match park(slots, id, tenant) {
            None => return,
            Some(again) => tenant = again,
        }
    }
}

#[test]
fn an_event_beside_a_park_is_seen_by_one_of_the_two() {
    loom::model(|| {
        let slots = table(1);
        let id = slots.claim().unwrap();
        let worker = go(&slots, move |slots| park(&slots, id, Tenant::new(7, 1)));
        let taken = slots.take(id);
        taken.iter().for_each(Tenant::touch);
        let kept = worker.join().unwrap();
        kept.iter().for_each(Tenant::touch);
        assert_eq!(usize::from(taken.is_some()) + usize::from(kept.is_some()), 1);
    });
}

/// Each event says that bytes are there: when all are at rest, none are, and the tenant is parked.
#[test]
fn no_event_is_lost_between_acceptor_and_worker() {
    loom::model(|| {
        let slots = table(1);
        let id = slots.claim().unwrap();
        let bytes = Arc::new(AtomicU32::new(0));
        let worker = {
            let bytes = Arc::clone(&bytes);
            go(&slots, move |slots| work(&slots, id, &bytes, Tenant::new(7, 0)))
        };
        for _ in 0..2 {
            bytes.fetch_add(1, Ordering::AcqRel);
            if let Some(tenant) = slots.take(id) {
                work(&slots, id, &bytes, tenant);
            }
        }
        worker.join().unwrap();
        assert_eq!(bytes.load(Ordering::Acquire), 0, "an event is lost");
        slots.take(id).unwrap().touch();
    });
}

#[test]
fn event_sweep_and_departure_take_the_tenant_once() {
    loom::model(|| {
        let slots = table(1);
        let id = slots.claim().unwrap();
        assert!(park(&slots, id, Tenant::new(7, 1)).is_none());
        let event = go(&slots, move |slots| {
            let taken = slots.take(id);
            taken.iter().for_each(Tenant::touch);
            usize::from(taken.is_some())
        });
        let sweep = go(&slots, move |slots| {
            let taken = slots.take_expired(1, |_, deadline| deadline);
            taken.iter().for_each(Tenant::touch);
            taken.len()
        });
        let departing = slots.take_wanted(0, 1, |tenant| tenant.name == 7).0;
        departing.iter().for_each(Tenant::touch);
        assert_eq!(departing.len() + event.join().unwrap() + sweep.join().unwrap(), 1);
    });
}

/// A connection that is sent or expires while its event arrives is not parked over the event.
#[test]
fn an_event_of_what_a_sweep_or_a_departure_took_is_kept() {
    loom::model(|| {
        let slots = table(1);
        let id = slots.claim().unwrap();
        assert!(park(&slots, id, Tenant::new(7, 1)).is_none());
        let bytes = Arc::new(AtomicU32::new(0));
        let client = {
            let bytes = Arc::clone(&bytes);
            go(&slots, move |slots| {
                bytes.fetch_add(1, Ordering::AcqRel);
                if let Some(tenant) = slots.take(id) {
                    work(&slots, id, &bytes, tenant);
                }
            })
        };
        // It checks for events, unlike a lingering or departing connection, which only the slot notifies.
        let departing = slots.take_wanted(0, 1, |_| true).0;
        for tenant in departing.into_iter().chain(slots.take_expired(1, |_, deadline| deadline)) {
            if let Some(again) = park(&slots, id, tenant) {
                work(&slots, id, &bytes, again);
            }
        }
        client.join().unwrap();
        assert_eq!(bytes.load(Ordering::Acquire), 0, "an event is lost");
        slots.take(id).unwrap().touch();
    });
}

#[test]
fn a_sweep_leaves_connections_that_were_parked_again() {
    loom::model(|| {
        let slots = table(1);
        let id = slots.claim().unwrap();
        assert!(park(&slots, id, Tenant::new(7, 1)).is_none());
        let worker = go(&slots, move |slots| {
            let Some(mut tenant) = slots.take(id) else { return false };
            tenant.deadline = 9;
            assert!(park(&slots, id, tenant).is_none(), "there was no event");
            true
        });
        let expired = slots.take_expired(1, |tenant, deadline| {
            tenant.touch();
            assert_eq!(tenant.deadline, deadline, "another's");
            deadline
        });
        assert!(expired.iter().all(|tenant| tenant.deadline == 1), "too early");
        assert_eq!(expired.len() + usize::from(worker.join().unwrap()), 1);
    });
}

/// The real deadline, which the sweep asks for, is never that of a connection that was parked meanwhile.
#[test]
fn a_sweep_dates_only_what_is_parked() {
    loom::model(|| {
        let slots = table(1);
        let id = slots.claim().unwrap();
        assert!(park(&slots, id, Tenant::new(5, 1)).is_none());
        let worker = go(&slots, move |slots| {
            let mut tenant = slots.take(id).unwrap();
            (tenant.name, tenant.deadline) = (3, 1);
            assert!(park(&slots, id, tenant).is_none());
        });
        let real = |tenant: &Tenant, _| {
            tenant.touch();
            u32::from(tenant.name)
        };
        assert!(slots.take_expired(2, real).is_empty());
        worker.join().unwrap();
        assert_eq!(slots.take_expired(3, real).len(), 1);
    });
}

#[test]
fn a_departure_takes_no_connection_that_was_parked_again() {
    loom::model(|| {
        let slots = table(1);
        let id = slots.claim().unwrap();
        assert!(park(&slots, id, Tenant::new(7, 0)).is_none());
        let worker = go(&slots, move |slots| {
            let Some(mut tenant) = slots.take(id) else { return false };
            tenant.name = 8;
            assert!(park(&slots, id, tenant).is_none(), "there was no event");
            true
        });
        let taken = slots.take_wanted(0, 1, |tenant| tenant.name == 7).0;
        assert!(taken.iter().all(|tenant| tenant.name == 7), "not wanted");
        assert_eq!(taken.len() + usize::from(worker.join().unwrap()), 1);
    });
}

#[test]
fn only_connections_with_a_deadline_get_a_new_one() {
    loom::model(|| {
        let slots = table(1);
        let id = slots.claim().unwrap();
        assert!(park(&slots, id, Tenant::new(7, 5)).is_none());
        let worker = go(&slots, move |slots| {
            let mut tenant = slots.take(id).unwrap();
            tenant.deadline = 6;
            assert!(park(&slots, id, tenant).is_none());
        });
        slots.redate(|tenant, deadline| {
            tenant.touch();
            assert_eq!(tenant.deadline, deadline, "another's");
            deadline
        });
        worker.join().unwrap();
        slots.redate(|tenant, deadline| {
            assert_eq!((tenant.deadline, deadline), (6, 6));
            deadline
        });
    });
}

#[test]
fn an_earlier_tenants_event_never_takes_the_next() {
    loom::model(|| {
        let slots = table(1);
        let old = slots.claim().unwrap();
        let worker = go(&slots, move |slots| {
            assert_eq!(slots.release(old), 0);
            let new = slots.claim().unwrap();
            assert!(park(&slots, new, Tenant::new(8, 0)).is_none(), "not its event");
            new
        });
        assert!(slots.take(old).is_none());
        let new = worker.join().unwrap();
        assert_eq!(slots.take(new).unwrap().name, 8);
        assert_eq!(slots.taken(), 1);
    });
}

/// A free slot is entirely free: a new tenant finds nothing of the previous one.
#[test]
fn what_is_released_is_claimed_by_one_and_as_another_tenant() {
    loom::model(|| {
        let slots = table(2);
        let old = slots.claim().unwrap();
        let claim = move |slots: Table| {
            let id = slots.claim()?;
            assert_ne!(id, old);
            assert!(park(&slots, id, Tenant::new(8, 0)).is_none());
            Some(id)
        };
        let (first, second) = (go(&slots, claim), go(&slots, claim));
        slots.release(old);
        let ids: Vec<SlotId> = [first, second].into_iter().filter_map(|t| t.join().unwrap()).collect();
        assert!(!ids.is_empty(), "one was free all the time");
        assert_eq!(slots.taken(), ids.len());
        for id in &ids {
            slots.take(*id).unwrap().touch();
        }
        assert_eq!(slots.claim().is_some(), ids.len() == 1);
    });
}

/// Over two chunks, one of which may not be there yet.
#[test]
fn a_departure_in_pieces_finds_each_parked_one_once() {
    loom::model(|| {
        let slots = table(CHUNK + 1);
        let ids: Vec<SlotId> = (0..CHUNK).map(|_| slots.claim().unwrap()).collect();
        for id in &ids {
            assert!(park(&slots, *id, Tenant::new(7, 0)).is_none());
        }
        let event = ids[0];
        let client = go(&slots, move |slots| {
            let far = slots.claim().unwrap();
            assert!(park(&slots, far, Tenant::new(9, 0)).is_none());
            usize::from(slots.take(event).is_some())
        });
        let (mut found, mut from) = (0, Some(0));
        while let Some(place) = from {
            let (some, next) = slots.take_wanted(place, 1, |tenant| tenant.name == 7);
            some.iter().for_each(Tenant::touch);
            found += some.len();
            from = next;
        }
        assert_eq!(found + client.join().unwrap(), ids.len());
        assert_eq!(slots.take_wanted(0, 9, |_| true).0.len(), 1, "who came meanwhile");
    });
}
