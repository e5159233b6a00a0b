//! Listeners with their own workers, backlog and keepalive.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use heirloom::ErrorKind;
use heirloom::prelude::*;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::support::{Client, eventually, spawn};

fn thread_name(_: Request) -> String {
    thread::current().name().unwrap_or_default().to_owned()
}

/// Both ways: one of the two has all its workers in handlers, and the other one answers.
#[test]
fn neither_waits_for_the_handlers_of_the_other() {
    const WORKERS: usize = 2;
    let (all_in, let_go) = (Arc::new(Barrier::new(WORKERS + 1)), Arc::new(Barrier::new(WORKERS + 1)));
    let (comes, goes) = (Arc::clone(&all_in), Arc::clone(&let_go));
    let block = move |_: Request| {
        comes.wait();
        goes.wait();
        "done"
    };
    let server = Server::new(Router::new().get("/block", block).get("/", thread_name))
        .listen("127.0.0.1:0")
        .listen(Listen::new("127.0.0.1:0").workers(WORKERS))
        .workers(WORKERS)
        .spawn()
        .unwrap();
    let [shared, own] = server.addresses() else { panic!("two") };
    assert_eq!(server.handle().stats().workers, 4);
    for (blocked, other, name) in [(*shared, *own, "worker-"), (*own, *shared, "heirloom-worker-")] {
        let asked = [(); WORKERS].map(|()| spawn(move || Client::to(blocked).get("/block").text()));
        all_in.wait();
        for _ in 0..10 {
            let reply = Client::to(other).get("/").text();
            assert!(reply.starts_with(name), "{reply}");
        }
        let_go.wait();
        assert!(asked.into_iter().all(|asked| asked.join().unwrap() == "done"));
    }
    assert!(Client::to(*own).get("/").text().ends_with(":0"), "whose it is");
    server.stop().unwrap();
}

#[test]
fn where_each_has_its_own_the_server_has_no_others() {
    let started = Arc::new(Mutex::new(BTreeSet::new()));
    let names = Arc::clone(&started);
    let values = PerWorker::new(move || {
        names.lock().unwrap().insert(thread::current().name().unwrap().to_owned());
        Ok::<_, String>(())
    });
    let folder = tempfile::tempdir().unwrap();
    let name = format!("unix:{}", folder.path().join("app.sock").display());
    let server = Server::new(thread_name)
        .per_worker(&values)
        .listen(Listen::new("127.0.0.1:0").workers(2).handler(|_: Request| "first"))
        .listen(Listen::new(name).workers(1))
        .spawn()
        .unwrap();
    assert_eq!(server.handle().stats().workers, 3);
    let all = ["worker-0:0", "worker-1:0", "worker-0:app.sock"].map(str::to_owned);
    assert_eq!(*started.lock().unwrap(), BTreeSet::from(all));
    assert_eq!(Client::to(server.addresses()[0]).get("/").text(), "first");
    server.stop().unwrap();
}

#[test]
fn what_can_not_be_meant_names_the_listener() {
    for (listen, words) in [
        (Listen::new("127.0.0.1:0").workers(0), "127.0.0.1:0 needs a worker"),
        (Listen::new("unix:/run/x").backlog(0), "unix:/run/x needs a backlog"),
        (Listen::new("[::1]:0").keepalive(Duration::ZERO), "[::1]:0 can't be probed"),
    ] {
        let error = Server::new(thread_name).listen(listen).spawn().unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.kind(), ErrorKind::Config);
    }
    // Each of them could be meant.
    let two = Server::new(thread_name).listen(Listen::new("127.0.0.1:0").workers(9_990)).workers(11);
    let error = two.listen("127.0.0.1:0").spawn().unwrap_err();
    assert_eq!(error.to_string(), "too many workers over all listeners: 10001, at most 10000");
}

/// How many connections the kernel takes of those that come now.
fn connectable(path: &Path) -> usize {
    let address = SockAddr::unix(path).unwrap();
    let connect = || {
        let client = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        client.set_nonblocking(true)?;
        client.connect(&address).map(|()| client)
    };
    std::iter::from_fn(|| connect().ok()).collect::<Vec<Socket>>().len()
}

#[test]
fn the_kernel_queues_as_many_as_the_backlog() {
    let folder = tempfile::tempdir().unwrap();
    for backlog in [3, 17] {
        let path = folder.path().join(backlog.to_string());
        // So that the server accepts no more than one.
        let limits = Limits::new().connections_per_listener(1);
        let listen = Listen::new(format!("unix:{}", path.display())).backlog(backlog);
        let server = Server::new(thread_name).limits(limits).listen(listen).spawn().unwrap();
        let _accepted = std::os::unix::net::UnixStream::connect(&path).unwrap();
        eventually("it is accepted", || server.handle().stats().open == 1);
        // The kernel accepts one more than the backlog.
        assert_eq!(connectable(&path), backlog as usize + 1);
    }
}

/// Only operators have places beyond that.
#[test]
fn workers_of_its_own_are_no_way_around_the_connection_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let limits = Limits::new().connections(1);
    let listen = Listen::new(format!("unix:{}", path.display())).workers(1).backlog(5);
    let server = Server::new(thread_name).limits(limits).listen(listen).spawn().unwrap();
    let _accepted = std::os::unix::net::UnixStream::connect(&path).unwrap();
    eventually("it is accepted", || server.handle().stats().open == 1);
    assert_eq!(connectable(&path), 6);
}

/// The kernel's timer on the server's end of a connection: 2 is keepalive.
fn timer(server: SocketAddr, client: SocketAddr) -> u8 {
    let of = |addr: SocketAddr| format!(":{:04X}", addr.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut ours = rows.filter(|row| row[1].ends_with(&of(server)) && row[2].ends_with(&of(client)));
    u8::from_str_radix(ours.next().expect("it is open")[5].split(':').next().unwrap(), 16).unwrap()
}

#[test]
fn connections_are_probed_where_that_is_asked_for() {
    let server = Server::new(thread_name)
        .listen("127.0.0.1:0")
        .listen(Listen::new("127.0.0.1:0").keepalive(Duration::from_secs(60)))
        .spawn()
        .unwrap();
    let [plain, probed] = server.addresses() else { panic!("two") };
    let clients = [plain, probed].map(|addr| TcpStream::connect(addr).unwrap());
    eventually("both are accepted", || server.handle().stats().open == 2);
    let timers =
        clients.each_ref().map(|client| timer(client.peer_addr().unwrap(), client.local_addr().unwrap()));
    assert_eq!(timers, [0, 2]);
}
