//! A hub that passes each value on to all subscribers: event streams, WebSockets, and threads of the program.
//!
//! **The sender never waits.** Each subscriber has a queue of its own, and for one that does not keep up the oldest value is
//! dropped, or it is ended. A WebSocket needs no queue here, because it has one of unsent bytes: the sender writes to the
//! socket as much as that takes now.
//!
//! **All subscribers get the values in one order**, because the sender holds the lock of the hub while it puts a value into
//! the queues. So user code that runs under the lock (`Clone`, `Into<Message>`) must not use the hub.
//!
//! **A drain ends the queues**: what is in them is still received, later values are not. Subscribers belong to requests, so
//! the phase of the server is known; it wakes the hub, which wakes those that wait.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::Request;
use crate::base::phase::{Drain, PhaseWatch, WakeAtDrain};
use crate::base::sync::lock;
use crate::web::request::RequestExt;

/// How often a subscriber that waits for its turn in a drain looks for it.
const LOOK: Duration = Duration::from_secs(1);

/// What becomes of a subscriber whose queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// It loses the oldest value in its queue, and continues. A WebSocket loses the value that is sent.
    #[default]
    DropOldest,
    /// It is ended: it gets the values in its queue and no more. A WebSocket is closed with 1008 (policy violation).
    Disconnect,
}

/// Passes each value that is sent to all subscribers. Clones are the same hub.
///
/// ```
/// use heirloom::broadcast::Broadcast;
/// use heirloom::prelude::*;
/// use heirloom::sse::{self, Event};
///
/// /// `POST /say` is an event for each client of `GET /events`.
/// fn routes(room: &Broadcast<String>) -> Router {
///     let (to_all, room) = (room.clone(), room.clone());
///     Router::new()
///         .post("/say", move |mut req: Request| req.text().map(|text| format!("to {}\n", to_all.send(text))))
///         .get("/events", move |req: Request| {
///             let news = room.subscribe(&req);
///             sse::response(&req, move |events| events.follow(news, Event::data))
///         })
/// }
///
/// let router = routes(&Broadcast::new(100));
/// let mut response = router.call(http::Request::post("/say").body("hello".into()).unwrap());
/// assert_eq!(response.body_mut().read_text().unwrap(), "to 0\n");
/// ```
///
/// A WebSocket subscribes by `Broadcast::attach` (feature `websocket`), a thread of the program reads a [`Subscriber`].
///
/// A value is cloned for each subscriber: of large ones send an [`Arc`] or a `Bytes`. Each generation has a hub of its own, so
/// during a handover a value reaches the subscribers of the process that sends it.
pub struct Broadcast<T> {
    capacity: usize,
    overflow: Overflow,
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    hub: Mutex<Hub<T>>,
}

struct Hub<T> {
    next: u64,
    outlets: BTreeMap<u64, Outlet<T>>,
    /// The phases that wake this hub: one for each server.
    phases: Vec<PhaseWatch>,
}

/// Where values of a subscriber go.
enum Outlet<T> {
    Queue(Arc<Queue<T>>),
    /// Takes a value without waiting.
    #[cfg_attr(not(feature = "websocket"), expect(dead_code, reason = "for WebSockets"))]
    Push(Box<dyn FnMut(T) -> Taken + Send>),
}

/// What an outlet has done with a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Yes,
    /// There was no room for it.
    #[cfg_attr(not(feature = "websocket"), expect(dead_code, reason = "for WebSockets"))]
    Lost,
    /// The subscriber has ended.
    Ended,
}

struct Queue<T> {
    queued: Mutex<Queued<T>>,
    changed: Condvar,
    drain: Drain,
}

struct Queued<T> {
    values: VecDeque<T>,
    /// Values that were dropped since the subscriber was last told.
    lost: u64,
    /// No more values are put into it.
    ended: bool,
    too_slow: bool,
}

impl<T> Broadcast<T> {
    /// A hub in which each subscriber has a queue of `capacity` values, at least one.
    pub fn new(capacity: usize) -> Broadcast<T> {
        let hub = Hub { next: 0, outlets: BTreeMap::new(), phases: Vec::new() };
        let shared = Arc::new(Shared { hub: Mutex::new(hub) });
        Broadcast { capacity: capacity.max(1), overflow: Overflow::default(), shared }
    }

    /// What becomes of subscribers that do not keep up. Default: [`Overflow::DropOldest`].
    #[must_use]
    pub fn overflow(mut self, overflow: Overflow) -> Broadcast<T> {
        self.overflow = overflow;
        self
    }

    /// The number of subscribers.
    pub fn len(&self) -> usize {
        lock(&self.shared.hub).outlets.len()
    }

    /// Whether there is no subscriber.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes the outlet when the result is dropped.
    fn add(&self, outlet: Outlet<T>) -> (u64, Weak<Shared<T>>) {
        let mut hub = lock(&self.shared.hub);
        let id = hub.next;
        hub.next = id.wrapping_add(1);
        hub.outlets.insert(id, outlet);
        (id, Arc::downgrade(&self.shared))
    }
}

impl<T: Clone + Send + 'static> Broadcast<T> {
    /// Sends to all subscribers, without waiting for any. Returns how many have got it.
    pub fn send(&self, value: T) -> usize {
        let mut hub = lock(&self.shared.hub);
        let mut got = 0usize;
        hub.outlets.retain(|_, outlet| {
            let taken = match outlet {
                Outlet::Queue(queue) => queue.push(value.clone(), self.capacity, self.overflow),
                Outlet::Push(push) => push(value.clone()),
            };
            if taken == Taken::Yes {
                got = got.saturating_add(1);
            }
            taken != Taken::Ended
        });
        got
    }

    /// A subscriber for the response to `req`, from now on. Subscribe in the handler, before the response is made, and no value
    /// is missed. It ends when the process drains, when the last clone of the hub is dropped, or when it is too slow
    /// ([`Overflow::Disconnect`]).
    pub fn subscribe(&self, req: &Request) -> Subscriber<T> {
        self.subscribe_until(req.drain())
    }

    /// As [`subscribe`](Broadcast::subscribe), where there is no request: in a stream that was resumed, by
    /// [`EventWriter::drain`](crate::sse::EventWriter::drain).
    pub fn subscribe_until(&self, drain: Drain) -> Subscriber<T> {
        self.wake_by(drain.watch());
        let queued = Queued { values: VecDeque::new(), lost: 0, ended: false, too_slow: false };
        let queue = Arc::new(Queue { queued: Mutex::new(queued), changed: Condvar::new(), drain });
        let (id, hub) = self.add(Outlet::Queue(Arc::clone(&queue)));
        Subscriber { queue, id, hub }
    }

    /// Makes a drain wake the hub.
    fn wake_by(&self, phase: &PhaseWatch) {
        let mut hub = lock(&self.shared.hub);
        if hub.phases.iter().any(|known| known.is_same(phase)) {
            return;
        }
        hub.phases.push(phase.clone());
        drop(hub);
        let shared: Arc<dyn WakeAtDrain> = Arc::<Shared<T>>::clone(&self.shared);
        phase.wake_at_drain(Arc::downgrade(&shared));
    }

    /// A subscriber whose values `push` takes, without waiting and without using the hub.
    #[cfg(feature = "websocket")]
    pub(crate) fn subscribe_by(&self, push: impl FnMut(T) -> Taken + Send + 'static) -> Subscription {
        let (id, hub) = self.add(Outlet::Push(Box::new(push)));
        Subscription(Some(Box::new(move || unsubscribe(id, &hub))))
    }

    #[cfg(feature = "websocket")]
    pub(crate) fn overflow_policy(&self) -> Overflow {
        self.overflow
    }
}

fn unsubscribe<T>(id: u64, hub: &Weak<Shared<T>>) {
    if let Some(shared) = hub.upgrade() {
        let outlet = lock(&shared.hub).outlets.remove(&id);
        // Without the lock: the values may have a `Drop` of the user's.
        drop(outlet);
    }
}

impl<T: Send + 'static> WakeAtDrain for Shared<T> {
    fn wake(&self) {
        let queues: Vec<Arc<Queue<T>>> = {
            let hub = lock(&self.hub);
            hub.outlets.values().filter_map(Outlet::queue).cloned().collect()
        };
        queues.iter().for_each(|queue| queue.wake());
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let hub = self.hub.get_mut().unwrap_or_else(PoisonError::into_inner);
        hub.outlets.values().filter_map(Outlet::queue).for_each(|queue| queue.end());
    }
}

impl<T> Outlet<T> {
    fn queue(&self) -> Option<&Arc<Queue<T>>> {
        match self {
            Outlet::Queue(queue) => Some(queue),
            Outlet::Push(_) => None,
        }
    }
}

impl<T> Queue<T> {
    fn push(&self, value: T, capacity: usize, overflow: Overflow) -> Taken {
        let mut queued = lock(&self.queued);
        if self.is_over(&mut queued) {
            return Taken::Ended;
        }
        if queued.values.len() >= capacity {
            if overflow == Overflow::Disconnect {
                (queued.ended, queued.too_slow) = (true, true);
                return Taken::Ended;
            }
            queued.values.pop_front();
            queued.lost = queued.lost.saturating_add(1);
        }
        queued.values.push_back(value);
        self.changed.notify_one();
        Taken::Yes
    }

    fn end(&self) {
        lock(&self.queued).ended = true;
        self.changed.notify_one();
    }

    /// Whether it gets no more values; a drain ends it at its turn.
    fn is_over(&self, queued: &mut Queued<T>) -> bool {
        queued.ended = queued.ended || self.drain.is_draining();
        queued.ended
    }

    /// Lets the subscriber look whether a drain ends it, and when.
    fn wake(&self) {
        let _queued = lock(&self.queued);
        self.changed.notify_one();
    }
}

/// Receives the values of a [`Broadcast`] from the time of its subscription on, in their order. It is unsubscribed when it is
/// dropped. As an iterator, it waits for each value.
pub struct Subscriber<T> {
    queue: Arc<Queue<T>>,
    id: u64,
    hub: Weak<Shared<T>>,
}

impl<T> Subscriber<T> {
    /// Waits for the next value. None at the end: the process drains, the hub is gone, or this was
    /// [too slow](Subscriber::is_too_slow).
    pub fn recv(&mut self) -> Option<T> {
        self.next_until(None).ok()
    }

    /// Waits for the next value, for `timeout` at most.
    ///
    /// # Errors
    /// `Timeout`; `Disconnected` at the end, as None of [`recv`](Subscriber::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        // Without a deadline that fits an instant, the time is as good as endless.
        self.next_until(Instant::now().checked_add(timeout))
    }

    fn next_until(&self, deadline: Option<Instant>) -> Result<T, RecvTimeoutError> {
        let Queue { queued, changed, drain } = &*self.queue;
        let mut queued = lock(queued);
        loop {
            if let Some(value) = queued.values.pop_front() {
                return Ok(value);
            }
            if self.queue.is_over(&mut queued) {
                return Err(RecvTimeoutError::Disconnected);
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Err(RecvTimeoutError::Timeout);
            }
            // The start of a drain wakes this; the turn in it may come later, and may be brought forward.
            let turn = drain.turn().map(|turn| turn.min(now + LOOK));
            queued = match deadline.into_iter().chain(turn).min() {
                None => changed.wait(queued).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let woken = changed.wait_timeout(queued, until.saturating_duration_since(now));
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// How many values were dropped since the last call of this, because the queue was full. Those in the queue are newer.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut lock(&self.queue.queued).lost)
    }

    /// Whether it was ended because its queue was full ([`Overflow::Disconnect`]).
    pub fn is_too_slow(&self) -> bool {
        lock(&self.queue.queued).too_slow
    }
}

impl<T> Iterator for Subscriber<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.recv()
    }
}

impl<T> Drop for Subscriber<T> {
    fn drop(&mut self) {
        unsubscribe(self.id, &self.hub);
    }
}

/// The membership of a WebSocket in a [`Broadcast`], which ends when this is dropped.
#[cfg(feature = "websocket")]
#[must_use = "it ends when it is dropped"]
pub struct Subscription(Option<Box<dyn FnOnce() + Send>>);

#[cfg(feature = "websocket")]
impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(unsubscribe) = self.0.take() {
            unsubscribe();
        }
    }
}

#[cfg(feature = "websocket")]
impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription")
    }
}

impl<T> Clone for Broadcast<T> {
    fn clone(&self) -> Broadcast<T> {
        Broadcast { capacity: self.capacity, overflow: self.overflow, shared: Arc::clone(&self.shared) }
    }
}

impl<T> fmt::Debug for Broadcast<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broadcast")
            .field("capacity", &self.capacity)
            .field("overflow", &self.overflow)
            .field("subscribers", &self.len())
            .finish()
    }
}

impl<T> fmt::Debug for Subscriber<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::phase::Phase;
    use crate::net::conn_info::ConnInfo;

    /// A request to a process with this phase.
    fn request(phase: &PhaseWatch) -> Request {
        let conn_info = Arc::new(ConnInfo::new(None, phase.clone(), 1));
        let mut request = Request::default();
        request.body_mut().set_received(conn_info, bytes::Bytes::new());
        request
    }

    fn all_now<T>(subscriber: &mut Subscriber<T>) -> Vec<T> {
        std::iter::from_fn(|| subscriber.recv_timeout(Duration::ZERO).ok()).collect()
    }

    #[test]
    fn each_subscriber_gets_what_was_sent_since_it_came() {
        let hub = Broadcast::new(10);
        assert_eq!(hub.send(0), 0);
        let mut one = hub.subscribe(&Request::default());
        assert_eq!(hub.clone().send(1), 1);
        let mut two = hub.subscribe(&Request::default());
        assert_eq!((hub.send(2), hub.len()), (2, 2));
        assert_eq!((all_now(&mut one), all_now(&mut two)), (vec![1, 2], vec![2]));
        drop(one);
        assert_eq!((hub.send(3), hub.len()), (1, 1));
        drop(hub);
        assert_eq!((two.recv(), two.recv()), (Some(3), None), "what was sent before the end");
        assert_eq!(two.recv_timeout(Duration::from_secs(60)), Err(RecvTimeoutError::Disconnected));
        drop(two);
    }

    #[test]
    fn a_slow_one_loses_the_oldest_and_delays_nobody() {
        let hub = Broadcast::new(2);
        let (mut slow, mut fast) = (hub.subscribe(&Request::default()), hub.subscribe(&Request::default()));
        for n in 1..=5 {
            assert_eq!(hub.send(n), 2);
            assert_eq!(fast.recv(), Some(n));
        }
        assert_eq!((slow.take_lost(), slow.take_lost(), fast.take_lost()), (3, 0, 0));
        assert_eq!((all_now(&mut slow), slow.is_too_slow()), (vec![4, 5], false));
        assert_eq!(Broadcast::<u8>::new(0).capacity, 1);
    }

    #[test]
    fn a_slow_one_is_ended_if_wished() {
        let hub = Broadcast::new(2).overflow(Overflow::Disconnect);
        let mut slow = hub.subscribe(&Request::default());
        let sent: Vec<usize> = (1..=4).map(|n| hub.send(n)).collect();
        assert_eq!((sent, hub.len()), (vec![1, 1, 0, 0], 0));
        assert!(slow.is_too_slow());
        assert_eq!(slow.by_ref().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_drain_ends_those_of_its_server_also_one_that_waits() {
        let (phase, other) = (PhaseWatch::new(), PhaseWatch::new());
        phase.set(Phase::Serving);
        let hub = Broadcast::new(10);
        let mut waits = hub.subscribe(&request(&phase));
        let mut has_more = hub.subscribe(&request(&phase));
        let mut elsewhere = hub.subscribe(&request(&other));
        assert_eq!(lock(&hub.shared.hub).phases.len(), 2);
        hub.send(1);
        let waiter = std::thread::Builder::new().spawn(move || waits.by_ref().collect::<Vec<_>>()).unwrap();
        phase.set(Phase::LameDuck);
        hub.send(2);
        phase.set(Phase::HandedOver);
        assert_eq!(waiter.join().unwrap(), [1, 2]);
        assert_eq!(hub.send(3), 1);
        assert_eq!(has_more.by_ref().collect::<Vec<_>>(), [1, 2], "what was sent before the drain");
        assert_eq!(all_now(&mut elsewhere), [1, 2, 3]);
        assert_eq!(hub.subscribe(&request(&phase)).recv(), None, "during the drain");
    }

    #[test]
    fn many_senders_one_order() {
        let hub = Broadcast::new(1000);
        let subscribers = [0; 3].map(|_| hub.subscribe(&Request::default()));
        let senders: Vec<_> = (0..4)
            .map(|sender| {
                let hub = hub.clone();
                let send = move || (0..100).for_each(|n| assert_eq!(hub.send((sender, n)), 3));
                std::thread::Builder::new().spawn(send).unwrap()
            })
            .collect();
        drop(hub);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        let got = subscribers.map(Iterator::collect::<Vec<_>>);
        assert!(got[0].len() == 400 && got[0] == got[1] && got[1] == got[2]);
        for sender in 0..4 {
            let own: Vec<_> = got[0].iter().filter(|(from, _)| *from == sender).map(|(_, n)| *n).collect();
            assert_eq!(own, (0..100).collect::<Vec<_>>());
        }
    }
}
