//! A bare engine, without HTTP worth the name: it exists to compare how a parked connection is
//! armed (edge or one-shot) and whom the acceptor wakes. See the README beside this workspace.

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{Backlog, listen};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

const SLOTS: usize = 16 * 1024;
const EVENTS: usize = 256;
const ACCEPTS_PER_TURN: usize = 64;
const BUFFER: usize = 8 * 1024;
const LISTENER: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;
const SLOW: Duration = Duration::from_micros(100);
const LOOK_EVERY: Duration = Duration::from_millis(1);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nServer: engine\r\nDate: Sat, 22 Nov 2025 01:09:00 GMT\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 13\r\n\r\nHello, World!";

#[derive(Clone, Copy, PartialEq)]
enum Arm {
    Edge,
    OneShot,
}

#[derive(Clone, Copy, PartialEq)]
enum Wake {
    /// One lock and one wake per ready connection.
    Each,
    /// One lock and one wake per batch, with the bound on queued work.
    Batch,
    /// The same without the bound: what the bound costs, and what is lost without it.
    BatchNoBound,
    /// One lock per batch, a wake only if no worker is up that will come back for more soon.
    Lazy,
}

/// When the acceptor's look counts the queue as stuck.
#[derive(Clone, Copy, PartialEq)]
enum Look {
    /// The front is an entry that was already queued at the last look.
    Age,
    /// Nothing at all was taken since the last look.
    Front,
}

/// What makes the acceptor look again after a millisecond.
#[derive(Clone, Copy, PartialEq)]
enum Timer {
    /// The timeout of `epoll_wait`: set and cancelled at every wait.
    Wait,
    /// A timerfd, set only when it is not running: at most one setting per millisecond.
    Fd,
}

#[derive(Clone, Copy, PartialEq)]
enum Handler {
    Fast,
    Block1Ms,
    Mixed,
}

struct Conn {
    stream: TcpStream,
    slot: u32,
    /// Bytes of an incomplete head. A complete one never leaves the worker's buffer.
    partial: Vec<u8>,
    /// An edge told us of the peer's FIN. There will be no second edge, so a short read does not
    /// mean "drained" any more: we have to read on until the 0.
    half_closed: bool,
}

enum State {
    Free,
    /// With the queue or a worker. `ready`: an edge came meanwhile and must not be lost.
    Away {
        ready: bool,
        half_closed: bool,
    },
    Parked(Box<Conn>),
}

struct Slot {
    /// A batch of events may still name the connection that had this slot before.
    generation: u32,
    state: State,
}

fn key(slot: u32, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(slot)
}

struct Job {
    conn: Box<Conn>,
    /// How many looks the acceptor had done when it queued this: an age without a clock.
    stamp: u64,
}

struct Inner {
    jobs: VecDeque<Job>,
    /// Last in, first out: the worker with the warmest cache first, the others may sleep on.
    sleeping: Vec<usize>,
    /// Workers that are up and not inside a handler known to be slow.
    active: usize,
    taken: u64,
    looks: u64,
}

struct Sleeper {
    asleep: AtomicBool,
    thread: OnceLock<Thread>,
}

struct Queue {
    inner: Mutex<Inner>,
    sleepers: Vec<Sleeper>,
    wake: Wake,
    look: Look,
    /// Whether a look is spared when the only queued job has just had a worker woken for it.
    spare: bool,
}

impl Queue {
    fn new(workers: usize, wake: Wake, look: Look, spare: bool) -> Queue {
        let sleeper = || Sleeper { asleep: AtomicBool::new(false), thread: OnceLock::new() };
        Queue {
            inner: Mutex::new(Inner {
                jobs: VecDeque::with_capacity(1024),
                sleeping: Vec::with_capacity(workers),
                active: workers,
                taken: 0,
                looks: 1,
            }),
            sleepers: (0..workers).map(|_| sleeper()).collect(),
            wake,
            look,
            spare,
        }
    }

    /// Picks the next sleeper; the caller unparks it after it has let go of the lock, since a
    /// woken thread often preempts the waker and would run straight into the held lock.
    fn pick(&self, inner: &mut Inner) -> Option<usize> {
        let worker = inner.sleeping.pop()?;
        inner.active += 1;
        self.sleepers[worker].asleep.store(false, Ordering::Release);
        Some(worker)
    }

    fn unpark(&self, worker: Option<usize>) {
        if let Some(thread) = worker.and_then(|worker| self.sleepers[worker].thread.get()) {
            thread.unpark();
        }
    }

    /// Returns whether work is left while a worker sleeps.
    #[expect(clippy::vec_box, reason = "the boxes come from the slots and are moved on as boxes")]
    fn push(&self, ready: &mut Vec<Box<Conn>>, looking: bool) -> bool {
        if self.wake == Wake::Each {
            for conn in ready.drain(..) {
                let mut inner = self.inner.lock().unwrap();
                inner.jobs.push_back(Job { conn, stamp: 0 });
                let worker = self.pick(&mut inner);
                drop(inner);
                self.unpark(worker);
            }
            return false;
        }
        let mut inner = self.inner.lock().unwrap();
        // If the next look is counted from now on, these are a whole millisecond old then;
        // if it was due already, only at the look after it.
        let stamp = inner.looks - u64::from(!looking);
        inner.jobs.extend(ready.drain(..).map(|conn| Job { conn, stamp }));
        let worker = if self.wake == Wake::Lazy && inner.active > 0 { None } else { self.pick(&mut inner) };
        // A single job has its own worker coming, so nothing can get stuck.
        let covered = self.spare && worker.is_some() && inner.jobs.len() == 1;
        let left = !inner.sleeping.is_empty() && !covered;
        drop(inner);
        self.unpark(worker);
        left
    }

    /// The acceptor's look: is work stuck while workers sleep? `step` is how many to wake; it
    /// doubles while the queue stays stuck. Returns whether another look is needed.
    fn look(&self, step: &mut usize, taken_before: &mut u64) -> bool {
        let mut inner = self.inner.lock().unwrap();
        let stuck = match self.look {
            Look::Age => inner.jobs.front().is_some_and(|job| job.stamp < inner.looks),
            Look::Front => inner.taken == *taken_before,
        };
        *taken_before = inner.taken;
        inner.looks += 1;
        let mut woken = Vec::new();
        let stuck = stuck && !inner.jobs.is_empty();
        if stuck {
            for _ in 0..(*step).min(inner.sleeping.len()) {
                woken.extend(self.pick(&mut inner));
            }
        }
        let again = !inner.jobs.is_empty() && !inner.sleeping.is_empty();
        // Also when the last sleeper is up: a step that survived from one time to the next once
        // grew to 2^40 rounds of this loop, and the acceptor was never seen again.
        *step = if stuck && again { *step * 2 } else { 1 };
        drop(inner);
        for worker in woken {
            self.unpark(Some(worker));
        }
        again
    }

    fn next(&self, me: usize) -> Box<Conn> {
        loop {
            let mut inner = self.inner.lock().unwrap();
            if let Some(job) = inner.jobs.pop_front() {
                inner.taken += 1;
                return job.conn;
            }
            inner.active -= 1;
            inner.sleeping.push(me);
            self.sleepers[me].asleep.store(true, Ordering::Relaxed);
            drop(inner);
            while self.sleepers[me].asleep.load(Ordering::Acquire) {
                thread::park();
            }
        }
    }

    /// A worker is about to be gone for a while: whoever it leaves work to must be up.
    fn before_slow(&self) {
        if matches!(self.wake, Wake::Each | Wake::BatchNoBound) {
            return;
        }
        let mut inner = self.inner.lock().unwrap();
        inner.active -= 1;
        let covered = self.wake == Wake::Lazy && inner.active > 0;
        let worker = if inner.jobs.is_empty() || covered { None } else { self.pick(&mut inner) };
        drop(inner);
        self.unpark(worker);
    }

    fn after_slow(&self) {
        if matches!(self.wake, Wake::Batch | Wake::Lazy) {
            self.inner.lock().unwrap().active += 1;
        }
    }
}

struct Route {
    path: &'static str,
    sleep: Duration,
    /// Moving average of the handler's time in ns; `u64::MAX`: never run, which counts as slow.
    average: AtomicU64,
}

struct Server {
    epoll: Epoll,
    listener: TcpListener,
    slots: Vec<Mutex<Slot>>,
    free: Mutex<Vec<u32>>,
    queue: Queue,
    arm: Arm,
    timer: Timer,
    handler: Handler,
    routes: Vec<Route>,
}

impl Server {
    fn flags(&self) -> EpollFlags {
        let trigger = match self.arm {
            Arm::Edge => EpollFlags::EPOLLET,
            Arm::OneShot => EpollFlags::EPOLLONESHOT,
        };
        EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | trigger
    }

    fn accept_loop(&self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut ready: Vec<Box<Conn>> = Vec::with_capacity(EVENTS);
        let bounded = matches!(self.queue.wake, Wake::Batch | Wake::Lazy);
        let (mut look_at, mut step, mut taken) = (None::<Instant>, 1, 0);
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC).expect("timerfd_create");
        // Edge-triggered, it needs no read: each expiry is an edge of its own.
        let edge = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        let added = self.epoll.add(&timer, EpollEvent::new(edge, TIMER));
        added.expect("epoll_ctl ADD");
        let arm = || {
            if self.timer == Timer::Fd {
                let after = Expiration::OneShot(TimeSpec::from_duration(LOOK_EVERY));
                let set = timer.set(after, TimerSetTimeFlags::empty());
                set.expect("timerfd_settime");
            }
            Instant::now() + LOOK_EVERY
        };
        loop {
            let timeout = match look_at {
                Some(_) if self.timer == Timer::Wait => EpollTimeout::from(LOOK_EVERY.as_millis() as u8),
                _ => EpollTimeout::NONE,
            };
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => panic!("epoll_wait: {error}"),
            };
            let mut due = false;
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.accept(),
                    TIMER => due = true,
                    key => ready.extend(self.take(key, event.events())),
                }
            }
            let left = !ready.is_empty() && self.queue.push(&mut ready, look_at.is_some());
            if !bounded {
                continue;
            }
            match look_at {
                Some(at) if due || self.timer == Timer::Wait && Instant::now() >= at => {
                    let again = self.queue.look(&mut step, &mut taken);
                    look_at = again.then(&arm);
                }
                None if left => look_at = Some(arm()),
                _ => {}
            }
        }
    }

    fn accept(&self) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Ok((stream, _)) = self.listener.accept() else {
                return;
            };
            let Some(slot) = self.free.lock().unwrap().pop() else {
                return;
            };
            let _ = stream.set_nodelay(true);
            let _ = stream.set_nonblocking(true);
            let conn = Box::new(Conn { stream, slot, partial: Vec::new(), half_closed: false });
            let mut entry = self.slots[slot as usize].lock().unwrap();
            let event = EpollEvent::new(self.flags(), key(slot, entry.generation));
            // Bytes that are already there raise the first edge right here.
            self.epoll.add(&conn.stream, event).expect("epoll_ctl ADD");
            entry.state = State::Parked(conn);
        }
    }

    /// Takes the connection of an event out of its slot, or notes the event for its owner.
    fn take(&self, key: u64, flags: EpollFlags) -> Option<Box<Conn>> {
        let hup = flags.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP);
        let mut entry = self.slots[key as u32 as usize].lock().unwrap();
        if entry.generation != (key >> 32) as u32 {
            return None;
        }
        match &mut entry.state {
            State::Free => None,
            State::Away { ready, half_closed } => {
                *ready = true;
                *half_closed |= hup;
                None
            }
            State::Parked(_) => {
                let away = State::Away { ready: false, half_closed: false };
                let State::Parked(mut conn) = std::mem::replace(&mut entry.state, away) else {
                    unreachable!("matched as parked above");
                };
                conn.half_closed |= hup;
                Some(conn)
            }
        }
    }

    /// Returns the connection if an edge came while it was away.
    fn park(&self, mut conn: Box<Conn>) -> Option<Box<Conn>> {
        let slot = conn.slot;
        let mut entry = self.slots[slot as usize].lock().unwrap();
        if let State::Away { ready, half_closed } = &mut entry.state
            && *ready
        {
            *ready = false;
            conn.half_closed |= *half_closed;
            return Some(conn);
        }
        let mut event = EpollEvent::new(self.flags(), key(slot, entry.generation));
        entry.state = State::Parked(conn);
        // Armed after it is in the slot, and under the slot's lock: once the lock is gone
        // somebody else may close the descriptor, and its number may be another connection's.
        if self.arm == Arm::OneShot
            && let State::Parked(conn) = &entry.state
        {
            self.epoll.modify(&conn.stream, &mut event).expect("epoll_ctl MOD");
        }
        None
    }

    fn close(&self, conn: Box<Conn>) {
        let slot = conn.slot;
        let mut entry = self.slots[slot as usize].lock().unwrap();
        entry.generation = entry.generation.wrapping_add(1);
        entry.state = State::Free;
        drop(entry);
        drop(conn);
        self.free.lock().unwrap().push(slot);
    }

    fn work(&self, me: usize) {
        let mut buffer = [0; BUFFER];
        let mut answers = Vec::with_capacity(BUFFER);
        loop {
            let mut conn = self.queue.next(me);
            loop {
                if !self.exchange(&mut conn, &mut buffer, &mut answers) {
                    self.close(conn);
                    break;
                }
                match self.park(conn) {
                    Some(again) => conn = again,
                    None => break,
                }
            }
        }
    }

    /// Reads, answers and writes until the socket is drained. `false`: close it.
    fn exchange(&self, conn: &mut Conn, buffer: &mut [u8], answers: &mut Vec<u8>) -> bool {
        loop {
            let kept = conn.partial.len();
            if kept == buffer.len() {
                return false;
            }
            buffer[..kept].copy_from_slice(&conn.partial);
            conn.partial.clear();
            let room = buffer.len() - kept;
            let got = match conn.stream.read(&mut buffer[kept..]) {
                Ok(0) => return false,
                Ok(got) => got,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    conn.partial.extend_from_slice(&buffer[..kept]);
                    return true;
                }
                Err(_) => return false,
            };
            let mut rest = &buffer[..kept + got];
            while let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") {
                self.handle(&rest[..end]);
                answers.extend_from_slice(ANSWER);
                rest = &rest[end + 4..];
            }
            conn.partial.extend_from_slice(rest);
            // All answers of one read leave in one write. They are small: a socket that does not
            // take them is closed, which a real server must not do.
            let written = answers.is_empty() || conn.stream.write_all(answers).is_ok();
            answers.clear();
            if !written {
                return false;
            }
            // A short read has emptied the socket: bytes that come later raise a new edge, so
            // the read that would only return EAGAIN is not needed.
            if got < room && !conn.half_closed {
                return true;
            }
        }
    }

    fn handle(&self, head: &[u8]) {
        let target = head.split(|&byte| byte == b' ').nth(1).unwrap_or(b"/");
        let mut parts = target.splitn(2, |&byte| byte == b'?');
        let path = parts.next().unwrap_or(b"/");
        let surprise = parts.next() == Some(b"slow");
        let route = match self.handler {
            Handler::Fast => &self.routes[0],
            Handler::Block1Ms => &self.routes[1],
            Handler::Mixed => {
                let known = self.routes.iter().find(|r| r.path.as_bytes() == path);
                known.unwrap_or(&self.routes[0])
            }
        };
        let average = route.average.load(Ordering::Relaxed);
        let slow = average > SLOW.as_nanos() as u64;
        if slow {
            self.queue.before_slow();
        }
        let started = Instant::now();
        if surprise {
            thread::sleep(Duration::from_millis(100));
        } else if !route.sleep.is_zero() {
            thread::sleep(route.sleep);
        }
        let sample = started.elapsed().as_nanos() as u64;
        if slow {
            self.queue.after_slow();
        }
        let average = match average {
            u64::MAX => sample,
            old => old - old / 8 + sample / 8,
        };
        route.average.store(average, Ordering::Relaxed);
    }
}

fn main() -> std::io::Result<()> {
    let mut address = "127.0.0.1:8080".to_string();
    let (mut workers, mut arm, mut wake) = (16, Arm::Edge, Wake::Batch);
    let (mut look, mut handler) = (Look::Age, Handler::Mixed);
    let (mut timer, mut spare) = (Timer::Wait, true);
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().unwrap_or_default();
        match (flag.as_str(), value.as_str()) {
            ("--listen", _) => address = value,
            ("--workers", n) => workers = n.parse().expect("--workers N"),
            ("--arm", "edge") => arm = Arm::Edge,
            ("--arm", "oneshot") => arm = Arm::OneShot,
            ("--wake", "each") => wake = Wake::Each,
            ("--wake", "batch") => wake = Wake::Batch,
            ("--wake", "batch-nobound") => wake = Wake::BatchNoBound,
            ("--wake", "lazy") => wake = Wake::Lazy,
            ("--look", "age") => look = Look::Age,
            ("--look", "front") => look = Look::Front,
            ("--timer", "wait") => timer = Timer::Wait,
            ("--timer", "fd") => timer = Timer::Fd,
            ("--spare", "yes") => spare = true,
            ("--spare", "no") => spare = false,
            ("--handler", "fast") => handler = Handler::Fast,
            ("--handler", "block1ms") => handler = Handler::Block1Ms,
            ("--handler", "mixed") => handler = Handler::Mixed,
            _ => panic!("unknown: {flag} {value}"),
        }
    }

    let listener = TcpListener::bind(&address)?;
    listener.set_nonblocking(true)?;
    // The standard library asks for a backlog of 128, too few for 1,000 clients at once.
    listen(&listener, Backlog::new(1024)?)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let slot = || Slot { generation: 0, state: State::Free };
    let route = |path, millis| Route {
        path,
        sleep: Duration::from_millis(millis),
        average: AtomicU64::new(u64::MAX),
    };
    let server = Arc::new(Server {
        epoll,
        listener,
        slots: (0..SLOTS).map(|_| Mutex::new(slot())).collect(),
        free: Mutex::new((0..SLOTS as u32).rev().collect()),
        queue: Queue::new(workers, wake, look, spare),
        arm,
        timer,
        handler,
        // `/turn` is fast, but `/turn?slow` sleeps 100 ms: a route's first surprise.
        routes: vec![route("/", 0), route("/block", 1), route("/slow", 500), route("/turn", 0)],
    });
    for me in 0..workers {
        let worker = Arc::clone(&server);
        let started = thread::Builder::new().name(format!("worker-{me}")).spawn(move || {
            let this = &worker.queue.sleepers[me].thread;
            this.set(thread::current()).expect("set once");
            worker.work(me);
        });
        started?;
    }
    server.accept_loop();
    Ok(())
}
