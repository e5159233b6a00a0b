//! Servers in one process: as in tests of a program, several at once, on free ports.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use heirloom::prelude::*;
use heirloom::{Phase, RunningServer};

use crate::support::{Client, eventually, spawn};

fn named(name: &'static str) -> RunningServer {
    Server::new(move |_: Request| name).listen("127.0.0.1:0").workers(2).spawn().unwrap()
}

#[test]
fn several_run_at_once_and_know_nothing_of_each_other() {
    let servers = ["a", "b", "c", "d"].map(|name| (name, named(name)));
    for (name, server) in &servers {
        assert_eq!(Client::to(server.addresses()[0]).get("/").text(), *name);
    }
    let [(_, a), (_, b), rest @ ..] = servers;
    let (stopped, address) = (a.handle().clone(), a.addresses()[0]);
    a.stop().unwrap();
    assert_eq!(stopped.phase(), Phase::Exited);
    assert!(TcpStream::connect(address).is_err(), "it is closed");
    assert_eq!(b.handle().phase(), Phase::Serving);
    assert_eq!(Client::to(b.addresses()[0]).get("/").text(), "b");
    assert_eq!(b.handle().stats().requests, 2, "its own only");
    for (name, server) in rest {
        assert_eq!(Client::to(server.addresses()[0]).get("/").text(), name);
    }
}

#[test]
fn dropping_one_finishes_what_it_began_and_ends_it() {
    let (count, began) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, begins) = (count.clone(), began.clone());
    let handler = move |req: Request| {
        begins.fetch_add(1, Ordering::SeqCst);
        assert!(req.drain().wait(crate::support::DEADLINE).is_draining());
        counted.fetch_add(1, Ordering::SeqCst);
        "finished"
    };
    let server = Server::new(handler).listen("127.0.0.1:0").spawn().unwrap();
    let address = server.addresses()[0];
    let asked = spawn(move || Client::to(address).get("/").text());
    eventually("it is handled", || began.load(Ordering::SeqCst) == 1);
    drop(server);
    assert_eq!(count.load(Ordering::SeqCst), 1);
    assert_eq!(asked.join().unwrap(), "finished");
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn its_addresses_are_in_the_order_of_its_listeners() {
    let server = Server::new(|_: Request| "first")
        .listen("127.0.0.1:0")
        .listen(Listen::new("127.0.0.1:0").handler(|_: Request| "second"))
        .admin("127.0.0.1:0")
        .spawn()
        .unwrap();
    let [first, second, admin] = server.addresses() else { panic!("three") };
    assert_eq!(Client::to(*first).get("/").text(), "first");
    assert_eq!(Client::to(*second).get("/").text(), "second");
    assert_eq!(Client::to(*admin).get("/healthz").text(), "ok\n");
}

#[test]
fn it_serves_when_spawn_returns() {
    for _ in 0..50 {
        assert_eq!(named("a").handle().phase(), Phase::Serving);
    }
}

/// Signals are a process's, so only one server has them; those that run beside it don't.
#[test]
fn one_with_signals_runs_beside_others_and_a_second_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let name = format!("unix:{}", path.display());
    let first = Server::new(|_: Request| "with signals").listen(name);
    let handle = first.handle();
    let serving = spawn(move || first.serve());
    eventually("it serves", || handle.phase() == Phase::Serving);

    let beside = named("beside");
    assert_eq!(Client::to(beside.addresses()[0]).get("/").text(), "beside");
    let second = Server::new(|_: Request| "no").listen("127.0.0.1:0").serve().unwrap_err();
    assert!(second.to_string().contains("signals"), "{second}");
    assert_eq!(Client::to(beside.addresses()[0]).get("/").text(), "beside");
    assert_eq!(handle.phase(), Phase::Serving, "the refused one has changed nothing");

    handle.shutdown();
    serving.join().unwrap().unwrap();
    assert_eq!(Client::to(beside.addresses()[0]).get("/").text(), "beside", "the other one goes on");
    beside.stop().unwrap();
    assert!(!path.exists());
}
