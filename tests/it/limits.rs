//! The bounds of a server: counts, sizes and durations. Its life: starting,
//! counting and stopping.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use heirloom::prelude::*;
use heirloom::{CloseReason, ErrorKind, Phase, RouteLimits, limited};

use crate::support::*;

const BRIEF: Duration = Duration::from_millis(250);

/// Short, but long enough that a busy host is not mistaken for a limit that is reached.
const PATIENT: Duration = Duration::from_secs(2);

fn with_timeouts(timeouts: Timeouts) -> Fixture {
    Fixture::with(|server| server.timeouts(timeouts))
}

fn with_limits(limits: Limits) -> Fixture {
    Fixture::with(|server| server.limits(limits))
}

#[track_caller]
fn expect_last(client: &mut Client, status: u16) -> Reply {
    let reply = client.reply();
    assert_eq!((reply.status, reply.closes()), (status, true), "{reply:?}");
    client.expect_fin();
    reply
}

// Counts.

#[test]
fn the_connection_limit_pushes_back() {
    let fixture = with_limits(Limits::new().connections(4));
    let mut clients: Vec<Client> = (0..4).map(|_| fixture.client()).collect();
    clients.iter_mut().for_each(Client::expect_kept);
    let mut fifth = fixture.client();
    fifth.send(get("/"));
    clients.iter_mut().for_each(Client::expect_kept);
    fifth.expect_silence();
    assert_eq!((fixture.stats().open, fixture.stats().accepted), (4, 4));
    drop(clients.pop());
    assert_eq!(fifth.reply().said(), "200 Hello, World!");
    // Once more, with a close by the server.
    let mut sixth = fixture.client();
    sixth.send(get("/"));
    fifth.send(get("/close"));
    expect_last(&mut fifth, 200);
    assert_eq!(sixth.reply().said(), "200 Hello, World!");
}

#[test]
fn a_stop_serves_clients_that_wait_at_the_connection_limit() {
    let fixture = with_limits(Limits::new().connections(1));
    let mut first = fixture.client();
    first.send(get("/wait"));
    fixture.gate().wait_for(1);
    let mut second = fixture.client();
    second.send(get("/"));
    let handle = fixture.running().handle().clone();
    let gate = fixture.gate().clone();
    let stopping = spawn(move || fixture.into_running().stop());
    assert!(handle.wait_draining(DEADLINE).is_draining());
    gate.open();
    assert_eq!(first.reply().said(), "200 waited");
    assert_eq!(second.reply().said(), "200 Hello, World!");
    drop((first, second));
    stopping.join().unwrap().unwrap();
}

#[test]
fn the_request_limit_is_announced() {
    let fixture = with_limits(Limits::new().requests_per_connection(3));
    for pipelined in [false, true] {
        let mut client = fixture.client();
        if pipelined {
            client.send(get("/").repeat(5));
        }
        for n in 1..=3 {
            if !pipelined {
                client.send(get("/"));
            }
            assert_eq!(client.reply().closes(), n == 3, "response {n}");
        }
        client.expect_fin();
    }
    fixture.expect_closes(CloseReason::RequestLimit, 2);
}

#[test]
fn uploads_take_no_more_than_their_share() {
    let fixture = Fixture::with(|server| server.workers(2));
    let mut first = fixture.client();
    first.send(post("/discard/wait", b"x"));
    fixture.gate().wait_for(1);
    let mut second = fixture.client();
    second.send(post("/discard/wait", b"x"));
    let mut others: Vec<Client> = (0..3).map(|_| fixture.client()).collect();
    others.iter_mut().for_each(Client::expect_kept);
    assert_eq!(fixture.gate().came(), 1);
    fixture.gate().open();
    assert_eq!(first.reply().said(), "200 ok");
    assert_eq!(second.reply().said(), "200 ok");
}

// Durations.

/// Sends a byte every 20 ms until dropped, or until the server does not take it.
struct Trickle {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Trickle {
    fn of(client: &Client, byte: u8) -> Trickle {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut writer, stopped) = (client.twin(), Arc::clone(&stop));
        let thread = spawn(move || {
            while !stopped.load(Ordering::Relaxed) && writer.try_send([byte]).is_ok() {
                let_pass(Duration::from_millis(20));
            }
        });
        Trickle { stop, thread: Some(thread) }
    }
}

impl Drop for Trickle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn a_slow_head_is_refused() {
    let fixture = with_timeouts(quick().head(BRIEF));
    let mut client = fixture.client();
    client.send("GET / HTTP/1.1\r\nHo");
    expect_last(&mut client, 408);
    // Even if bytes arrive steadily.
    let mut client = fixture.client();
    client.send("GET /");
    let trickle = Trickle::of(&client, b'a');
    expect_last(&mut client, 408);
    drop(trickle);
    // On a kept connection the clock starts with the first byte.
    let mut client = fixture.client();
    client.expect_kept();
    let_pass(2 * BRIEF);
    client.expect_kept();
    client.send("G");
    expect_last(&mut client, 408);
    drop(client);
    fixture.expect_closes(CloseReason::HeadTimeout, 3);
}

#[test]
fn idle_connections_are_closed() {
    let fixture = with_timeouts(quick().idle(PATIENT));
    let mut fresh = fixture.client();
    let mut used = fixture.client();
    used.expect_kept();
    fresh.expect_fin();
    used.expect_fin();
    fixture.expect_closes(CloseReason::Idle, 2);
    // A connection with a response in flight is not idle.
    let mut client = fixture.client();
    client.send(get("/wait"));
    fixture.gate().wait_for(1);
    let_pass(PATIENT + 2 * BRIEF);
    fixture.gate().open();
    assert_eq!(client.reply().said(), "200 waited");
}

#[test]
fn a_body_that_stalls_is_refused() {
    let fixture = with_timeouts(quick().body_stall(BRIEF));
    for request in [post("/echo", &[b'x'; 100]), post_chunked("/echo", &[&[b'x'; 100]])] {
        let mut client = fixture.client();
        client.send(&request[..request.len() - 50]);
        expect_last(&mut client, 408);
    }
    fixture.expect_closes(CloseReason::BodyTimeout, 2);
    // An unread body already has its response.
    let mut client = fixture.client();
    let request = post("/discard", &[b'x'; 100]);
    client.send(&request[..request.len() - 50]);
    assert_eq!(client.reply().said(), "200 ok");
    client.expect_fin();
    fixture.expect_closes(CloseReason::BodyUnread, 1);
}

#[test]
fn a_streamed_body_that_stalls_frees_its_worker() {
    let fixture = Fixture::with(|server| server.workers(1).timeouts(quick().body_stall(BRIEF)));
    let request = post("/count", &[b'x'; 100]);
    let mut client = fixture.client();
    client.send(&request[..request.len() - 50]);
    assert_eq!(client.reply().status, 408);
    fixture.client().expect_kept();
    client.expect_fin();
}

/// Read by a thread that the handler passed it to.
#[test]
fn a_body_that_is_read_elsewhere_holds_no_worker() {
    let (report, reports) = mpsc::channel();
    let handler = streaming(move |req: Request| {
        let mut body = req.into_body();
        let (started, begins) = mpsc::channel();
        let report = report.clone();
        spawn(move || {
            let mut first = [0; 4];
            started.send(body.read_exact(&mut first).is_ok()).unwrap();
            report.send(body.read(&mut first).is_err()).unwrap();
        });
        assert!(begins.recv().unwrap());
        "taken"
    });
    let server = Server::new(handler).listen("127.0.0.1:0").workers(1).timeouts(quick().body_stall(BRIEF));
    let fixture = Fixture::of(Gate::default(), server);
    for _ in 0..20 {
        let mut client = fixture.client();
        client.send(&post("/", b"fourmore")[..post("/", b"fourmore").len() - 4]);
        assert_eq!(client.reply().said(), "200 taken");
        // The thread is about to read, or waits for the client, for as long as a body may stall.
        client.send("more");
        assert!(reports.recv_timeout(DEADLINE).unwrap(), "the request is over");
    }
}

#[test]
fn a_response_that_is_not_taken_is_cut() {
    let fixture = with_timeouts(quick().response_stall(BRIEF));
    for (path, n) in [("/big/100000000", 1), ("/zeros/50000000", 2), ("/stream/100000000", 3)] {
        let mut client = Client::narrow(fixture.address());
        client.send(get(path));
        fixture.expect_closes(CloseReason::ResponseTimeout, n);
        assert!(matches!(client.reply().trailing, How::Cut(_)), "{path}");
    }
}

/// Only a reset shows a client of HTTP/1.0 that the response is incomplete.
#[test]
fn a_response_without_framing_that_is_not_taken_is_reset() {
    let fixture = with_timeouts(quick().response_stall(BRIEF));
    let mut client = Client::narrow(fixture.address());
    client.send("GET /stream/100000000 HTTP/1.0\r\n\r\n");
    fixture.expect_closes(CloseReason::ResponseTimeout, 1);
    match client.try_reply_to("GET") {
        Ok(reply) => assert_eq!(reply.trailing, How::Cut(End::Reset)),
        Err(end) => assert_eq!(end, End::Reset),
    }
}

/// Slow, but with some progress within each limit.
#[test]
fn a_slow_and_steady_reader_is_served() {
    const LEN: usize = 100 << 20;
    let stall = Duration::from_secs(8);
    let fixture = with_timeouts(quick().response_stall(stall));
    let mut client = Client::with_buffer(fixture.address(), 256 << 10);
    client.send(get(&format!("/zeros/{LEN}")));
    let begin = Instant::now();
    let mut sipped = 0;
    while begin.elapsed() < stall + Duration::from_secs(2) && sipped < LEN / 2 {
        sipped += (0..32).map(|_| client.sip(64 << 10)).sum::<usize>();
        let_pass(Duration::from_millis(500));
    }
    assert!(begin.elapsed() > stall, "half of it within {:?}", begin.elapsed());
    let reply = client.reply();
    assert_eq!((reply.body.len(), reply.trailing), (LEN, How::Length));
    client.expect_kept();
}

/// The time that the source takes does not count against the client.
#[test]
fn a_source_slower_than_the_limit_on_the_client() {
    const LEN: usize = 20 << 20;
    let stall = LATE - Duration::from_millis(500);
    let fixture = with_timeouts(quick().response_stall(stall));
    let mut client = Client::with_buffer(fixture.address(), 256 << 10);
    client.send(get(&format!("/late/{LEN}")));
    // The head is sent before the source is read.
    client.sip(64 << 10);
    client.sip(4);
    let_pass(Duration::from_secs(1));
    let reply = client.reply();
    assert_eq!((reply.body.len(), reply.trailing), (LEN, How::Chunked));
    client.expect_kept();
}

#[test]
fn a_request_that_waits_too_long_for_a_worker_gets_503() {
    let fixture = Fixture::with(|server| server.workers(1).timeouts(quick().queue_wait(PATIENT)));
    let mut first = fixture.client();
    first.send(get("/wait"));
    fixture.gate().wait_for(1);
    let mut waiting: Vec<Client> = (0..5).map(|_| fixture.client()).collect();
    waiting.iter_mut().for_each(|client| client.send(get("/")));
    for client in &mut waiting {
        let reply = expect_last(client, 503);
        assert_eq!(reply.field("retry-after"), Some("1"));
    }
    fixture.gate().open();
    assert_eq!(first.reply().said(), "200 waited");
    first.expect_kept();
    drop(waiting);
    fixture.expect_closes(CloseReason::Overload, 5);
    assert_eq!(fixture.stats().responses, [0, 2, 0, 0, 5]);
}

#[test]
fn an_upload_that_waits_too_long_for_a_permit_gets_503() {
    let timeouts = quick().queue_wait(PATIENT);
    let fixture = Fixture::with(|server| server.workers(2).timeouts(timeouts));
    let mut first = fixture.client();
    first.send(post("/discard/wait", b"x"));
    fixture.gate().wait_for(1);
    let mut second = fixture.client();
    second.send(post("/discard", b"x"));
    expect_last(&mut second, 503);
    fixture.client().expect_kept();
    fixture.gate().open();
    assert_eq!(first.reply().said(), "200 ok");
    first.send(post("/discard", b"x"));
    assert_eq!(first.reply().said(), "200 ok");
}

/// A client that only disconnects has no request, and is no overload.
#[test]
fn a_client_that_leaves_the_queue_is_no_overload() {
    let timeouts = quick().queue_wait(PATIENT);
    let fixture = Fixture::with(|server| server.workers(1).timeouts(timeouts));
    let mut idle = fixture.client();
    idle.expect_kept();
    let mut first = fixture.client();
    first.send(get("/wait"));
    fixture.gate().wait_for(1);
    drop(idle);
    let_pass(PATIENT + 2 * BRIEF);
    fixture.gate().open();
    assert_eq!(first.reply().said(), "200 waited");
    eventually("it is closed", || fixture.stats().open == 1);
    assert_eq!((fixture.closes(CloseReason::ClientClosed), fixture.stats().responses), (1, [0, 2, 0, 0, 0]));
}

/// Values of the user are dropped on threads that run the user's code: the acceptor runs none of it.
#[test]
fn a_response_given_up_is_dropped_by_a_worker() {
    struct ReportsEnd(mpsc::Sender<String>);

    impl Read for ReportsEnd {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            Ok(buf.len())
        }
    }

    impl Drop for ReportsEnd {
        fn drop(&mut self) {
            let _ = self.0.send(std::thread::current().name().unwrap_or("?").to_owned());
        }
    }

    let (sender, dropped) = mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let gate = Gate::default();
    let wait = gate.clone();
    let router = Router::new()
        .get("/watched", move |_: Request| Body::from_reader(ReportsEnd(sender.lock().unwrap().clone())))
        .get("/wait", move |_: Request| wait.pass());
    let timeouts = quick().queue_wait(PATIENT);
    let running = Server::new(router).listen("127.0.0.1:0").workers(1).timeouts(timeouts).spawn().unwrap();
    let mut reader = Client::with_buffer(running.addresses()[0], 256 << 10);
    reader.send(get("/watched"));
    reader.sip(1 << 20);
    let mut holder = Client::to(running.addresses()[0]);
    holder.send(get("/wait"));
    gate.wait_for(1);
    // It reads more, and no worker is free to continue: closed after the queue's limit.
    assert!(matches!(reader.reply().trailing, How::Cut(_)));
    gate.open();
    let place = dropped.recv_timeout(DEADLINE).unwrap();
    assert!(place.starts_with("heirloom-worker"), "dropped by {place}");
}

#[test]
fn a_client_that_pipelines_without_end_is_one_of_many() {
    let fixture = Fixture::with(|server| server.workers(1));
    let mut greedy = fixture.client();
    let mut writer = greedy.twin();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let requests = get("/").repeat(100);
    let writer = spawn(move || {
        let mut sent = 0;
        while !stopped.load(Ordering::Relaxed) {
            writer.send(&requests);
            sent += 100;
        }
        writer.half_close();
        sent
    });
    let reader = spawn(move || {
        let mut replies = 0;
        while let Ok(reply) = greedy.try_reply_to("GET") {
            assert_eq!(reply.said(), "200 Hello, World!");
            replies += 1;
        }
        greedy.expect_fin();
        replies
    });
    for _ in 0..50 {
        fixture.client().expect_kept();
    }
    stop.store(true, Ordering::Relaxed);
    assert_eq!(writer.join().unwrap(), reader.join().unwrap());
}

/// After its last response a connection ends, even if the client continues to send.
#[test]
fn a_lingering_close_has_an_end() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.send("GET / HTTP/1.1\r\n\r\n");
    expect_last(&mut client, 400);
    let _trickle = Trickle::of(&client, b'x');
    eventually("it is closed", || fixture.stats().open == 0);
}

/// Half heads, half bodies, and responses that are not read: none of them holds a worker.
#[test]
fn slow_clients_hold_no_worker() {
    let fixture = Fixture::with(|server| server.workers(1));
    let mut slow = Vec::new();
    for n in 0..50 {
        let mut client = Client::narrow(fixture.address());
        match n % 5 {
            0 => client.send("GET / HTTP/1.1\r\nHos"),
            1 => client.send(&post("/echo", &[b'x'; 70_000])[..60_000]),
            2 => client.send(&post_chunked("/echo", &[&[b'x'; 100]])[..100]),
            3 => client.send(get("/big/10000000")),
            _ => client.send(get("/stream/100000000")),
        }
        slow.push(client);
    }
    for _ in 0..20 {
        fixture.client().expect_kept();
    }
    eventually("all have started", || fixture.stats().in_flight == 50);
    fixture.client().expect_kept();
    // They are served as soon as they continue.
    slow[0].send("t: h\r\n\r\n");
    assert_eq!(slow[0].reply().said(), "200 Hello, World!");
    slow[1].send([b'x'; 10_000 + 66]);
    assert_eq!(slow[1].reply().status, 200);
    assert_patterned(&slow[3].reply().body, 10_000_000);
}

#[test]
fn operators_are_answered_while_all_workers_are_held() {
    let fixture = Fixture::with(|server| server.workers(2).admin("127.0.0.1:0"));
    let mut held: Vec<Client> = (0..3).map(|_| fixture.client()).collect();
    held.iter_mut().for_each(|client| client.send(get("/wait")));
    fixture.gate().wait_for(2);
    eventually("the third waits", || fixture.stats().queued == 1);
    let mut admin = Client::to(fixture.running().addresses()[1]);
    assert_eq!(admin.get("/healthz").said(), "200 ok");
    assert_eq!(admin.get("/readyz").said(), "200 serving");
    let metrics = admin.get("/metrics").text();
    for line in ["heirloom_requests_in_flight 3", "heirloom_connections_queued 1", "heirloom_workers 3"] {
        assert!(metrics.lines().any(|l| l == line), "{line} in\n{metrics}");
    }
    assert_eq!(admin.get("/status").status, 200);
    assert_eq!(admin.get("/").status, 404);
    fixture.gate().open();
    for client in &mut held {
        assert_eq!(client.reply().said(), "200 waited");
    }
}

/// One that panics costs only its own.
#[test]
fn metrics_of_the_program_follow_those_of_the_server() {
    let fixture = Fixture::with(|server| {
        let panics = |out: &mut String| {
            out.push_str("half_of_it 1");
            panic!("as the test wants it");
        };
        server
            .admin("127.0.0.1:0")
            .metrics(|out| out.push_str("own_first 1"))
            .metrics(panics)
            .metrics(|out| out.push_str("own_last 2\n"))
    });
    let metrics = Client::to(fixture.running().addresses()[1]).get("/metrics").text();
    assert!(metrics.starts_with("# HELP heirloom_"), "{metrics}");
    assert!(metrics.ends_with("\nown_first 1\nown_last 2\n"), "{metrics}");
}

#[test]
fn the_program_decides_whether_it_is_ready() {
    use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
    static STATE: AtomicU8 = AtomicU8::new(0);
    let fixture = Fixture::with(|server| {
        let database = || match STATE.load(SeqCst) {
            0 => Ok(()),
            1 => Err("no database"),
            _ => panic!("as the test wants it"),
        };
        server.admin("127.0.0.1:0").readiness(|| Ok::<(), std::io::Error>(())).readiness(database)
    });
    let mut admin = Client::to(fixture.running().addresses()[1]);
    let cases = [
        (0, "200 serving"),
        (1, "503 no database"),
        (2, "503 a readiness hook panicked"),
        (0, "200 serving"),
    ];
    for (state, said) in cases {
        STATE.store(state, SeqCst);
        assert_eq!(admin.get("/readyz").said(), said);
        let ready = format!("\nheirloom_ready {}\n", u8::from(state == 0));
        assert!(admin.get("/metrics").text().contains(&ready), "{state}");
    }
}

#[test]
fn operators_are_answered_at_the_connection_limit() {
    let limits = Limits::new().connections(2);
    let fixture = Fixture::with(|server| server.limits(limits).admin("127.0.0.1:0"));
    let mut held: Vec<Client> = (0..2).map(|_| fixture.client()).collect();
    held.iter_mut().for_each(Client::expect_kept);
    let mut admin = Client::to(fixture.running().addresses()[1]);
    assert_eq!(admin.get("/healthz").said(), "200 ok");
}

// Counting.

#[test]
fn what_was_done_is_counted() {
    let fixture = Fixture::with(|server| server.limits(small_bodies()).timeouts(quick().head(BRIEF)));
    let done = |request: &[u8], replies: usize| {
        let mut client = fixture.client();
        client.send(request);
        (0..replies).for_each(|_| drop(client.reply()));
        client
    };
    let say = |line: &str| format!("{line}\r\nHost: h\r\n\r\n").into_bytes();
    // Closed by the client between two requests.
    drop(done(get("/").repeat(3).as_bytes(), 3));
    drop(fixture.client());
    done(b"GET / HTTP/1.0\r\n\r\n", 1).expect_fin();
    done(b"GET / HTTP/1.1\r\n\r\n", 1).expect_fin();
    done(b"GET /", 1).expect_fin();
    done(&post("/nowhere", b"abc"), 1).expect_fin();
    done(&say("GET /close HTTP/1.1"), 1).expect_fin();
    done(&say("GET /fails/error HTTP/1.1"), 1).expect_fin();
    done(&say("GET /detached HTTP/1.1"), 1).expect_fin();
    drop(done(&[say("GET /panic HTTP/1.1"), say("GET /304 HTTP/1.1"), say("GET /no HTTP/1.1")].concat(), 3));
    done(b"GET", 0).half_close();
    eventually("all have come", || fixture.stats().accepted == 11);
    eventually("all are closed", || fixture.stats().open == 0);

    let stats = fixture.stats();
    let closed = |reason| match reason {
        CloseReason::ClientClosed => 3,
        CloseReason::ClientAsked
        | CloseReason::Refused
        | CloseReason::HeadTimeout
        | CloseReason::BodyUnread
        | CloseReason::Response
        | CloseReason::ResponseFailed
        | CloseReason::Detached
        | CloseReason::ClientCut => 1,
        _ => 0,
    };
    for (reason, n) in &stats.closes {
        assert_eq!(*n, closed(*reason), "{reason} of {:?}", stats.closes);
    }
    assert_eq!((stats.accepted, stats.requests, stats.panics), (11, 13, 1));
    assert_eq!(stats.responses, [0, 7, 1, 4, 1]);
    assert_eq!((stats.in_flight, stats.queued, stats.detached, stats.workers), (0, 0, 0, 4));
    assert_eq!((stats.generation, stats.phase), (1, Phase::Serving));
}

// Starting and stopping.

#[test]
fn two_servers_in_one_process() {
    let (one, two) = (Fixture::new(), Fixture::new());
    let mut clients = [one.client(), two.client()];
    clients.iter_mut().for_each(Client::expect_kept);
    assert_ne!(one.address(), two.address());
    one.stop().unwrap();
    clients[0].expect_fin();
    clients[1].expect_kept();
    assert_eq!(two.stats().requests, 2);
}

#[test]
fn one_handler_for_each_listener() {
    let fixture =
        Fixture::with(|server| server.listen(Listen::new("127.0.0.1:0").handler(|_: Request| "other\n")));
    fixture.client().expect_kept();
    let mut other = Client::to(fixture.running().addresses()[1]);
    assert_eq!(other.get("/nowhere").said(), "200 other");
}

#[test]
fn a_stop_completes_started_requests() {
    let fixture = Fixture::new();
    let address = fixture.address();
    let mut handled = fixture.client();
    handled.send(get("/wait"));
    let mut detached = fixture.client();
    detached.send(get("/detached/wait"));
    fixture.gate().wait_for(2);
    let mut half = fixture.client();
    let request = post("/echo", b"hello");
    half.send(&request[..request.len() - 3]);
    let mut reading = Client::narrow(address);
    reading.send(get("/big/5000000"));
    eventually("all have started", || fixture.stats().in_flight == 4);
    let mut idle = fixture.client();
    idle.expect_kept();

    let gate = fixture.gate().clone();
    let handle = fixture.running().handle().clone();
    let stopping = spawn(move || fixture.into_running().stop());
    assert!(handle.wait_draining(DEADLINE).is_draining());
    idle.expect_fin();
    eventually("nobody listens", || std::net::TcpStream::connect(address).is_err());
    half.send(&request[request.len() - 3..]);
    assert_eq!(expect_last(&mut half, 200).text(), "hello");
    let reply = reading.reply();
    assert_patterned(&reply.body, 5_000_000);
    // Its head was sent before the stop.
    reading.expect_fin();
    assert!(!stopping.is_finished());
    gate.open();
    assert_eq!(expect_last(&mut handled, 200).text(), "waited\n");
    assert_eq!(detached.reply().text(), "one\ntwo\n");
    stopping.join().unwrap().unwrap();
    assert_eq!(handle.phase(), Phase::Exited);
}

#[test]
fn a_stop_answers_what_is_pipelined() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.send([get("/wait"), get("/"), get("/bytes/5")].concat());
    fixture.gate().wait_for(1);
    let gate = fixture.gate().clone();
    let handle = fixture.running().handle().clone();
    let stopping = spawn(move || fixture.into_running().stop());
    assert!(handle.wait_draining(DEADLINE).is_draining());
    gate.open();
    assert_eq!((client.reply().said().as_str(), client.reply().status), ("200 waited", 200));
    assert_eq!(expect_last(&mut client, 200).text(), "abcde");
    stopping.join().unwrap().unwrap();
}

#[test]
fn a_stop_that_is_too_slow_cuts() {
    let fixture = with_timeouts(quick().drain(BRIEF));
    let mut client = fixture.client();
    client.send(get("/wait"));
    fixture.gate().wait_for(1);
    let gate = fixture.gate().clone();
    let outcome = fixture.into_running().stop();
    gate.open();
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error}");
    assert_eq!(error.to_string(), "1 requests were cut at the end of the drain");
}

/// Requests that still keep the process are counted in the error.
#[test]
fn a_stop_beyond_its_deadline_counts_parked_requests() {
    let fixture = with_timeouts(quick().drain(PATIENT));
    let mut handled = fixture.client();
    handled.send(get("/wait"));
    fixture.gate().wait_for(1);
    let mut half = fixture.client();
    half.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf");
    let mut reading = Client::narrow(fixture.address());
    reading.send("GET /stream/100000000 HTTP/1.0\r\n\r\n");
    eventually("all have started", || fixture.stats().in_flight == 3);
    let gate = fixture.gate().clone();
    let error = fixture.into_running().stop().unwrap_err();
    assert_eq!(error.to_string(), "3 requests were cut at the end of the drain");
    half.expect_fin();
    gate.open();
    match reading.try_reply_to("GET") {
        Ok(reply) => assert_eq!(reply.trailing, How::Cut(End::Reset), "only a reset shows it"),
        Err(end) => assert_eq!(end, End::Reset),
    }
}

/// A duration that can't be added to an instant means "never".
#[test]
fn durations_without_end() {
    const NEVER: Duration = Duration::MAX;
    let timeouts = Timeouts::new()
        .head(NEVER)
        .idle(NEVER)
        .body_stall(NEVER)
        .response_stall(NEVER)
        .rate_grace(NEVER)
        .queue_wait(NEVER)
        .ready(NEVER)
        .probation(NEVER)
        .drain(NEVER)
        .lame_duck(Duration::ZERO)
        .idle_grace(NEVER);
    let rules = RouteLimits::new().body_stall(NEVER).response_stall(NEVER);
    let gate = Gate::default();
    let mine = limited(rules, |mut req: Request| req.text());
    let routes = routes(&gate).post("/mine", mine);
    let server = Server::new(routes).listen("127.0.0.1:0").workers(2).timeouts(timeouts);
    let fixture = Fixture::of(gate, server);
    let mut client = fixture.client();
    client.expect_kept();
    for path in ["/echo", "/mine", "/count", "/discard"] {
        let request = post(path, b"hello");
        let (start, rest) = request.split_at(request.len() - 2);
        for piece in [&start[..10], &start[10..]] {
            client.send(piece);
            eventually("it is started", || fixture.stats().in_flight == 1);
        }
        client.send(rest);
        assert_eq!(client.reply().status, 200, "{path}");
        client.expect_kept();
    }
    let mut reading = Client::narrow(fixture.address());
    reading.send(get("/big/5000000"));
    assert_eq!(reading.reply().body.len(), 5_000_000);
    let mut streaming = fixture.client();
    streaming.send(get("/detached"));
    assert_eq!(streaming.reply().text(), "one\ntwo\n");
    drop((client, reading, streaming));
    fixture.stop().unwrap();
}

#[test]
fn an_abort_does_not_wait_for_the_listeners() {
    let fixture = Fixture::new();
    let (address, handle) = (fixture.address(), fixture.running().handle().clone());
    handle.shutdown();
    handle.abort();
    fixture.stop().unwrap();
    let refused = std::net::TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

/// Clients that read everything at once are seldom parked; they too are cut.
#[test]
fn an_abort_cuts_clients_that_keep_reading() {
    let router = Router::new().get("/endless", |_: Request| Body::from_reader(std::io::repeat(b'x')));
    let running = Server::new(router).listen("127.0.0.1:0").workers(2).timeouts(quick()).spawn().unwrap();
    let address = running.addresses()[0];
    let reading: Vec<_> = (0..12)
        .map(|_| {
            let mut client = std::net::TcpStream::connect(address).unwrap();
            client.write_all(get("/endless").as_bytes()).unwrap();
            client.read_exact(&mut [0; 1 << 16]).unwrap();
            spawn(move || std::io::copy(&mut client, &mut std::io::sink()))
        })
        .collect();
    let handle = running.handle().clone();
    handle.shutdown();
    handle.abort();
    assert!(running.stop().is_err(), "some were cut");
    eventually("each client sees an end", || reading.iter().all(JoinHandle::is_finished));
}

/// A handler notices the drain by polling, by waiting, and beside a stream.
#[test]
fn handlers_see_the_drain_at_once() {
    const FOR_EVER: Duration = Duration::from_secs(3600);
    let router = Router::new()
        .get("/polls", |req: Request| {
            eventually("it drains", || req.is_draining());
            "seen"
        })
        .get(
            "/waits",
            |req: Request| if req.drain().wait(FOR_EVER).is_draining() { "seen" } else { "not seen" },
        )
        .get("/streams", |req: Request| {
            let drain = req.drain();
            Body::writer(move |out| {
                out.write_all(if drain.wait(FOR_EVER).is_draining() { b"seen" } else { b"not seen" })
            })
        });
    let running = Server::new(router).listen("127.0.0.1:0").timeouts(quick()).spawn().unwrap();
    let mut clients = ["/polls", "/waits", "/streams"].map(|path| {
        let mut client = Client::to(running.addresses()[0]);
        client.send(get(path));
        client
    });
    let handle = running.handle().clone();
    eventually("all have started", || handle.stats().in_flight == 3);
    let stopping = spawn(move || running.stop());
    for client in &mut clients {
        assert_eq!(expect_last(client, 200).text(), "seen");
    }
    drop(clients);
    stopping.join().unwrap().unwrap();
}

#[test]
fn the_grace_serves_one_more() {
    let fixture = with_timeouts(quick().idle_grace(DEADLINE));
    let mut client = fixture.client();
    client.expect_kept();
    let handle = fixture.running().handle().clone();
    let stopping = spawn(move || fixture.into_running().stop());
    assert!(handle.wait_draining(DEADLINE).is_draining());
    client.send(get("/"));
    expect_last(&mut client, 200);
    stopping.join().unwrap().unwrap();
}

fn hello() -> Server {
    Server::new(|_: Request| "hello\n")
}

/// The start fails with this kind of error, whose text has all of `texts`.
#[track_caller]
fn expect_error(server: Server, kind: ErrorKind, texts: &[&str]) {
    let error = server.spawn().map(|running| running.addresses().to_vec()).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!(format!("{error:?}"), error.to_string());
    for text in texts {
        assert!(error.to_string().contains(text), "{text:?} in {error}");
    }
}

#[test]
fn what_can_not_be_meant() {
    let any = "127.0.0.1:0";
    expect_error(hello(), ErrorKind::Config, &["nothing to listen on", "`listen`"]);
    expect_error(
        hello().listen(any).workers(0),
        ErrorKind::Config,
        &["needs 1 to 10000 workers", "Server::workers(0)"],
    );
    expect_error(
        hello().listen(any).workers(10_001),
        ErrorKind::Config,
        &["1 to 10000 workers", "Server::workers(10001)"],
    );
    let routes = || Router::new().get("/a/{x}", |_: Request| "").post("/a/{y}", |_: Request| "");
    let names = ["/a/{x}", "/a/{y}", "GET", "POST", "conflicts"];
    expect_error(Server::new(routes()).listen(any), ErrorKind::Config, &names);
    expect_error(hello().listen(Listen::new(any).handler(routes())), ErrorKind::Config, &names);
    let twice = Router::new().get("/a", |_: Request| "").get("/a", |_: Request| "");
    expect_error(Server::new(twice).listen(any), ErrorKind::Config, &["GET /a", "twice"]);
    let failing = || hello().process(ProcessConfig::new().before_ready(|| Err("the cache is cold")));
    expect_error(failing().listen(any), ErrorKind::Config, &["before_ready", "the cache is cold"]);
}

#[test]
fn what_can_not_be_bound() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = taken.local_addr().unwrap().to_string();
    expect_error(hello().listen(&name), ErrorKind::Bind, &[&name, "another process uses it"]);
    expect_error(hello().listen("127.0.0.1:0").listen(&name), ErrorKind::Bind, &[&name]);
    expect_error(hello().admin(&name), ErrorKind::Bind, &[&name]);
    for name in ["8001", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "", "http://h:80/"] {
        expect_error(hello().listen(name), ErrorKind::Bind, &[name, "ADDRESS:PORT", "unix:PATH"]);
    }
    expect_error(hello().listen("a b:1"), ErrorKind::Bind, &["a b:1", "check the host name"]);
    expect_error(hello().listen("192.0.2.1:0"), ErrorKind::Bind, &["192.0.2.1:0", "no such address"]);
    let folder = tempfile::tempdir().unwrap();
    let path = format!("unix:{}/missing/socket", folder.path().display());
    expect_error(hello().listen(&path), ErrorKind::Bind, &[&path, "No such file"]);
    let long = format!("unix:{}/{}", folder.path().display(), "x".repeat(200));
    expect_error(hello().listen(&long), ErrorKind::Bind, &[&long]);
    if nix::unistd::geteuid().is_root() {
        skip::skip("a port without permission, since root may bind all");
    } else {
        expect_error(
            hello().listen("127.0.0.1:1"),
            ErrorKind::Bind,
            &["127.0.0.1:1", "CAP_NET_BIND_SERVICE"],
        );
    }
}

#[test]
fn a_unix_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let name = format!("unix:{}", path.display());
    // A path in use; then left behind; then no socket at all.
    let living = std::os::unix::net::UnixListener::bind(&path).unwrap();
    expect_error(hello().listen(&name), ErrorKind::Bind, &[&name, "another process uses it"]);
    drop(living);
    assert!(path.exists());
    hello().listen(&name).spawn().unwrap().stop().unwrap();
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    expect_error(hello().listen(&name), ErrorKind::Bind, &[&name]);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

/// A start that fails half-way leaves nothing behind.
#[test]
fn a_server_that_fails_to_start_lets_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let name = format!("unix:{}", path.display());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = taken.local_addr().unwrap().to_string();
    expect_error(hello().listen(&name).listen(&busy), ErrorKind::Bind, &[&busy]);
    hello().listen(&name).spawn().unwrap().stop().unwrap();
}
