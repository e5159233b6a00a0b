#![cfg(loom)]
//! Every order of steps of an acceptor and a worker at one slot.

use loom::thread;
use std::sync::Arc;

use super::*;

fn table() -> (Arc<Slots<u8>>, SlotId) {
    let slots = Arc::new(Slots::new(2));
    let id = slots.claim().unwrap();
    (slots, id)
}

#[test]
fn loom_an_event_beside_a_park_is_seen_by_one_of_them() {
    loom::model(|| {
        let (slots, id) = table();
        let worker = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.park(id, 7, 1))
        };
        let taken = slots.take(id);
        match (taken, worker.join().unwrap()) {
            (Some(7), Ok(())) | (None, Err(7)) => {}
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn loom_what_is_parked_is_taken_by_one_event_sweep_or_departure() {
    loom::model(|| {
        let (slots, id) = table();
        slots.park(id, 7, 1).unwrap();
        let by_event = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || usize::from(slots.take(id).is_some()))
        };
        let by_sweep = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.take_expired(1).len())
        };
        let departs = slots.take_wanted(0, 1, |_| true).0.len();
        assert_eq!(by_event.join().unwrap() + by_sweep.join().unwrap() + departs, 1);
    });
}

/// The worker parks again and again, the acceptor takes: the tenant is never in two places, and
/// each event is seen.
#[test]
fn loom_no_event_is_lost_over_two_parks() {
    loom::model(|| {
        let (slots, id) = table();
        let worker = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || match slots.park(id, 7, 1) {
                Ok(()) => (0, None),
                // The event is seen: on with it, and parked again.
                Err(tenant) => match slots.park(id, tenant, 1) {
                    Ok(()) => (1, None),
                    Err(tenant) => (2, Some(tenant)),
                },
            })
        };
        let first = slots.take(id);
        let second = slots.take(id);
        let (seen, held) = worker.join().unwrap();
        let taken = [first, second].iter().flatten().count();
        assert!(taken <= 1 && seen + taken >= 1, "{taken} taken, {seen} seen");
        let here = slots.take(id);
        assert_eq!(usize::from(here.is_some()) + taken + usize::from(held.is_some()), 1);
    });
}

#[test]
fn loom_an_event_of_an_earlier_tenant_is_void() {
    loom::model(|| {
        let (slots, old) = table();
        let worker = {
            let slots = Arc::clone(&slots);
            thread::spawn(move || {
                slots.release(old);
                let new = slots.claim().unwrap();
                slots.park(new, 8, 0).unwrap();
                new
            })
        };
        assert_eq!(slots.take(old), None, "its event is late");
        let new = worker.join().unwrap();
        assert_eq!(slots.take(new), Some(8));
        assert_eq!(slots.taken(), 1);
    });
}
