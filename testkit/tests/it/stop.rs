//! A stop costs no accepted request, and its end can be forced.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use testkit::{
    Addr, Begin, Client, End, Exit, Outcome, Proc, Signal, beside, get, kitchen_sink, pass, slow_ok, until,
};

const STOPS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];

fn listeners_closed(server: &Proc) {
    server.wait_for("listener * is closed");
}

#[test]
fn a_stop_completes_started_requests_and_refuses_new_ones() {
    for (signal, server) in STOPS.map(|signal| (signal, kitchen_sink!())) {
        let mut started = [server.client(), server.client()];
        started.iter_mut().for_each(Client::begin);
        server.in_flight(server.pid(), 2);

        server.signal(signal);
        server.wait_for(&format!("{signal} from pid {}", std::process::id()));
        listeners_closed(&server);
        assert_eq!(server.get("/ok"), Outcome::Refused);
        for client in &mut started {
            let response = client.finish().ok();
            assert_eq!((response.text(), response.closes()), ("ok", true));
        }
        drop(started);
        assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
        server.wait_gone();
    }
}

#[test]
fn a_second_stop_ends_it_at_once_and_names_what_it_cut() {
    let servers = STOPS.map(|signal| (signal, slow_ok!(60)));
    for (signal, server) in &servers {
        let mut client = server.client();
        client.ask("/ok?secret=1");
        server.wait_for("handling request 1");
        server.signal(*signal);
        server.wait_for("draining (stop requested): 1 requests in flight");
        // The handler's next seconds: later than the time of one request to stop.
        let seconds = server.count("handling request");
        server.wait_for_nth("handling request", seconds + 2);

        server.signal(*signal);
        assert_eq!(server.wait_exit(server.pid()), Exit::Status(1));
        let line = server.wait_for("abort: cut GET /ok");
        assert!(!line.contains("secret"), "{line}");
        server.wait_for("1 requests were cut");
        assert!(matches!(client.answer(), Outcome::Reset | Outcome::ClosedSilently));
    }
}

#[test]
fn two_signals_at_once_are_one_wish() {
    let server = slow_ok!(2);
    let mut client = server.client();
    client.ask("/ok");
    server.wait_for("handling request 1");
    server.signal(Signal::SIGTERM);
    server.signal(Signal::SIGINT);
    server.wait_for("SIGTERM from");
    server.wait_for("SIGINT from");
    assert_eq!(client.answer().ok().text(), "ok\n");
    drop(client);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
}

#[test]
fn a_keep_alive_client_is_notified_before_the_close() {
    let server = kitchen_sink!();
    let mut client = server.client();
    assert!(!client.get("/ok").ok().closes());
    server.signal(Signal::SIGTERM);
    listeners_closed(&server);
    assert!(client.get("/ok").ok().closes());
    assert_eq!(client.end(), End::Fin);
    drop(client);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
}

#[test]
fn of_pipelined_requests_only_the_last_response_closes() {
    let server = kitchen_sink!();
    let mut client = server.client();
    for path in ["/until-drain", "/ok", "/pid", "/generation"] {
        client.ask(path);
    }
    server.in_flight(server.pid(), 1);
    server.signal(Signal::SIGTERM);
    let closes = [(); 4].map(|()| client.answer().ok().closes());
    assert_eq!(closes, [false, false, false, true]);
    assert_eq!(client.end(), End::Fin);
    drop(client);
    server.wait_gone();
}

#[test]
fn an_idle_connection_is_closed_after_the_grace() {
    let server = kitchen_sink!("--idle-grace-ms", "400");
    let (mut used, mut fresh) = (server.client(), server.client());
    used.get("/ok").ok();
    let since = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!((used.end(), fresh.end()), (End::Fin, End::Fin));
    assert!(since.elapsed() >= Duration::from_millis(400));
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
}

#[test]
fn a_lame_duck_is_not_ready_and_still_accepts() {
    let server = kitchen_sink!("--lame-duck-ms", "600000", "--admin", "127.0.0.2:0");
    let admin = &server.addrs()[1];
    assert_eq!(get(admin, "/readyz").ok().status, 200);
    server.signal(Signal::SIGTERM);
    server.wait_for("lame duck:");
    assert_eq!(get(admin, "/readyz").ok().status, 503);
    assert_eq!(get(admin, "/healthz").ok().status, 200);
    assert_eq!(server.get("/readyz").ok().status, 503);
    assert_eq!(server.get("/ok").ok().text(), "ok\n");
    // Later than the time of one request to stop.
    pass(Duration::from_millis(600));
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
}

#[test]
fn operators_see_the_drain_to_its_end() {
    let server = kitchen_sink!("--admin", "127.0.0.2:0");
    let admin = server.addrs()[1].clone();
    let mut client = server.client();
    client.begin();
    server.in_flight(server.pid(), 1);
    server.signal(Signal::SIGTERM);
    listeners_closed(&server);
    assert_eq!(server.get("/ok"), Outcome::Refused);
    let ready = get(&admin, "/readyz").ok();
    assert_eq!((ready.status, ready.closes()), (503, true));
    assert_eq!(get(&admin, "/healthz").ok().status, 200);
    assert_eq!(client.finish().ok().text(), "ok");
    drop(client);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
    assert_eq!(get(&admin, "/readyz"), Outcome::Refused);
}

/// Two requests are always in flight: there is no gap in which to notify the client.
#[test]
fn a_busy_client_is_notified_after_the_grace() {
    let server = kitchen_sink!("--idle-grace-ms", "400");
    let mut client = server.client();
    client.ask("/sleep/5");
    client.ask("/sleep/5");
    assert!(!client.answer().ok().closes());
    server.signal(Signal::SIGTERM);
    loop {
        client.ask("/sleep/5");
        if client.answer().ok().closes() {
            break;
        }
    }
    assert_eq!(client.end(), End::Fin);
    drop(client);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
}

/// A request that has its response needs nothing more.
#[test]
fn an_unfinished_body_is_waited_for_within_the_grace() {
    let server = kitchen_sink!("--idle-grace-ms", "400", "--drain-timeout-ms", "20000");
    let mut client = server.client();
    client.send("POST /discard HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nabc");
    assert!(!client.answer().ok().closes());
    server.signal(Signal::SIGTERM);
    assert_eq!(client.end(), End::Fin);
    drop(client);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
}

#[test]
fn the_drain_deadline_aborts_and_names_what_it_cut() {
    let server = kitchen_sink!("--drain-timeout-ms", "700");
    let mut client = server.client();
    client.ask("/sleep/60000");
    server.in_flight(server.pid(), 1);
    let since = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(1));
    assert!(since.elapsed() >= Duration::from_millis(700));
    server.wait_for("abort: cut GET /sleep/60000");
}

#[test]
fn what_waits_for_a_worker_is_served_before_the_end() {
    let server = kitchen_sink!("--workers", "1");
    let mut clients: Vec<Client> = (0..20).map(|_| server.client()).collect();
    clients[0].ask("/until-drain");
    server.in_flight(server.pid(), 1);
    clients[1..].iter_mut().for_each(|client| client.ask("/ok"));
    server.signal(Signal::SIGTERM);
    assert_eq!(clients[0].answer().ok().text(), "told\n");
    for client in &mut clients[1..] {
        assert_eq!(client.answer().ok().text(), "ok\n");
    }
    drop(clients);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
}

#[test]
fn an_event_stream_is_ended_by_its_handler() {
    let server = kitchen_sink!();
    let mut client = server.client();
    client.ask("/events");
    let (status, _) = client.head().expect("a head");
    assert_eq!(status, 200);
    server.signal(Signal::SIGTERM);
    let rest = client.rest().expect("an orderly end");
    // The drain may find it in its first event, which is its last then.
    assert!(String::from_utf8_lossy(&rest).contains("data: "));
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
}

#[test]
fn a_hup_during_a_stop_starts_nothing() {
    let server = kitchen_sink!("--lame-duck-ms", "300");
    let mut client = server.client();
    client.begin();
    server.in_flight(server.pid(), 1);
    server.signal(Signal::SIGTERM);
    server.wait_for("lame duck:");
    server.signal(Signal::SIGHUP);
    server.wait_for_nth("SIGHUP from", 1);
    server.wait_for("draining (stop requested)");
    server.signal(Signal::SIGHUP);
    server.wait_for_nth("SIGHUP from", 2);
    assert_eq!(client.finish().ok().text(), "ok");
    drop(client);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
    assert_eq!(server.count(" as child "), 0);
}

#[test]
fn an_upgraded_connection_is_notified_and_waited_for() {
    let server = kitchen_sink!();
    let mut client = upgraded(&server, "/upgrade");
    client.send("hello");
    assert_eq!(client.take(5).expect("an echo"), b"hello");
    server.signal(Signal::SIGTERM);
    assert_eq!(client.rest().expect("an orderly end"), b"bye\n");
    drop(client);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
}

#[test]
fn streams_that_never_end_are_cut_at_the_deadline() {
    let server = kitchen_sink!("--drain-timeout-ms", "700");
    let mut stream = server.client();
    stream.ask("/events/stubborn");
    assert_eq!(stream.head().expect("a head").0, 200);
    let _silent = upgraded(&server, "/upgrade/stubborn");
    let since = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(1));
    assert!(since.elapsed() >= Duration::from_millis(700));
    server.wait_for("abort: cut GET /events/stubborn, detached, for");
    server.wait_for("abort: cut GET /upgrade/stubborn, detached, for");
    server.wait_for("2 requests were cut");
}

fn upgraded(server: &Proc, path: &str) -> Client {
    let mut client = server.client();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"));
    assert_eq!(client.head().expect("a head").0, 101);
    client
}

#[test]
fn a_handler_that_waits_for_the_drain_is_notified() {
    let server = kitchen_sink!();
    let mut client = server.client();
    client.ask("/until-drain");
    server.in_flight(server.pid(), 1);
    server.signal(Signal::SIGTERM);
    assert_eq!(client.answer().ok().text(), "told\n");
    drop(client);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
}

/// An answer or an orderly end, whenever they send.
#[test]
fn no_client_that_sends_within_the_grace_is_reset() {
    const GRACE: Duration = Duration::from_millis(1000);
    let server = kitchen_sink!("--idle-grace-ms", "1000");
    let mut clients: Vec<Client> = (0..400).map(|_| server.client()).collect();
    clients.iter_mut().step_by(2).for_each(|client| assert!(client.get("/ok").is_ok()));
    server.open(server.pid(), clients.len());
    let since = Instant::now();
    server.signal(Signal::SIGTERM);
    let (count, mut asked) = (clients.len() as u32, 0);
    for (n, client) in (0..).zip(&mut clients) {
        // Up to the end as a client sees it: deadlines are kept to a quarter of a second.
        until("its instant", || since.elapsed() >= 2 * GRACE * n / count);
        if !client.has_ended() {
            client.ask("/ok");
            asked += 1;
        }
    }
    let outcomes: Vec<Outcome> = clients.iter_mut().map(Client::answer).collect();
    let answered = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let wrong: Vec<_> = outcomes.iter().filter(|o| !o.is_ok() && **o != Outcome::ClosedSilently).collect();
    eprintln!("{asked} of {count} asked, {answered} were answered, the others saw a FIN");
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(answered >= clients.len() / 4, "{answered}");
    drop(clients);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
}

/// A client in the kernel's queue is accepted when there is a descriptor for it.
#[test]
fn a_stop_serves_the_queue_when_descriptors_run_out() {
    let program = env!("CARGO_BIN_EXE_kitchen_sink");
    let line = format!("ulimit -n 40; exec '{program}' --listen 127.0.0.1:0 --workers 2 --idle-grace-ms 250");
    let server = Proc::start_as_said("sh", &["-c", &line]);
    let mut clients: Vec<Client> = (0..80).map(|_| server.client()).collect();
    clients.iter_mut().for_each(|client| client.ask("/ok"));
    server.wait_for("at the limit of 8 connections");
    server.signal(Signal::SIGTERM);
    server.wait_for("can't accept: ");
    for mut client in clients {
        assert_eq!(client.answer().ok().text(), "ok\n");
    }
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
}

/// Connections that the kernel has accepted are served; later ones are refused.
#[test]
fn a_stop_resets_no_connected_client() {
    // Side by side: each lasts for the second after which a client repeats its SYN.
    const LANES: usize = 4;
    let stops = std::env::var("HEIRLOOM_STOPS").map_or(40, |stops| stops.parse().expect("a number"));
    let lane = |lane: usize| {
        let stop_some =
            move || (lane..stops).step_by(LANES).flat_map(|_| stop_under_fire()).collect::<Vec<_>>();
        beside("a lane", stop_some)
    };
    let lanes: Vec<_> = (0..LANES).map(lane).collect();
    let fired: Vec<Fired> = lanes.into_iter().flat_map(|lane| lane.join().expect("a lane")).collect();
    let served: usize = fired.iter().map(|fired| fired.served).sum();
    eprintln!("{stops} stops, {} clients, {served} served, then refused", fired.len());
    let wrong: Vec<_> = fired.iter().filter(|fired| fired.others != [Outcome::Refused]).collect();
    assert!(wrong.is_empty(), "{} of {}: {wrong:?}", wrong.len(), fired.len());
}

/// A client that connects anew for each request, some at a time, until one is not served.
#[derive(Debug)]
struct Fired {
    served: usize,
    others: Vec<Outcome>,
}

fn fire(at: &Addr, at_a_time: usize, served_in_all: &AtomicUsize) -> Fired {
    let mut fired = Fired { served: 0, others: Vec::new() };
    while fired.others.is_empty() {
        let mut clients: Vec<Client> = Vec::new();
        while clients.len() < at_a_time && !clients.last().is_some_and(Client::has_ended) {
            clients.push(Client::to(at));
        }
        clients.iter_mut().for_each(|client| client.ask("/ok"));
        for mut client in clients {
            match client.answer() {
                outcome if outcome.is_ok() => fired.served += 1,
                other => fired.others.push(other),
            }
        }
        served_in_all.fetch_add(at_a_time, Ordering::Relaxed);
    }
    fired
}

fn stop_under_fire() -> Vec<Fired> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let server =
        kitchen_sink!("--workers", "2", "--listen", "[::]:0", "--unix", path.to_str().expect("text"));
    let Addr::Tcp(both) = server.addrs().swap_remove(1) else { panic!("of another family") };
    let v4 = Addr::Tcp((Ipv4Addr::LOCALHOST, both.port()).into());
    let v6 = Addr::Tcp((Ipv6Addr::LOCALHOST, both.port()).into());
    let targets = [server.addr(), v4, v6, Addr::Unix(path)];
    let served = Arc::new(AtomicUsize::new(0));
    let firing = |(at, at_a_time): (Addr, usize)| {
        let served = Arc::clone(&served);
        beside("a client", move || fire(&at, at_a_time, &served))
    };
    let clients: Vec<_> =
        targets.into_iter().flat_map(|at| [(at.clone(), 1), (at, 32)]).map(firing).collect();
    until("all are in full swing", || served.load(Ordering::Relaxed) > 100 * clients.len());
    server.signal(Signal::SIGTERM);
    let fired = clients.into_iter().map(|client| client.join().expect("a client")).collect();
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
    fired
}

/// Its client has a 503 and its worker works on: nothing is lost, so the stop waits for it as for any handler.
#[test]
fn a_stop_waits_for_a_handler_past_its_deadline() {
    let server = kitchen_sink!();
    let mut client = server.client();
    client.ask("/late/3000");
    let response = client.answer().ok();
    assert_eq!((response.status, response.closes()), (503, true));
    server.wait_for(
        "GET /late/{ms}: past its deadline, 503: in its handler for * of 300.0ms, on heirloom-worker-*",
    );
    server.signal(Signal::SIGTERM);
    server.wait_for("draining (stop requested): 1 requests in flight");
    server
        .wait_for("GET /late/{ms}: has returned past its deadline, in its handler for 3.*s of 300.0ms, on *");
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
}

#[test]
fn a_forced_stop_names_a_handler_past_its_deadline() {
    let server = kitchen_sink!();
    let mut client = server.client();
    client.ask("/late/60000");
    assert_eq!(client.answer().ok().status, 503);
    server.signal(Signal::SIGTERM);
    server.wait_for("draining (stop requested): 1 requests in flight");
    pass(Duration::from_millis(600));
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(1));
    server.wait_for("abort: cut GET /late/60000");
}
