//! Files as bodies, by `sendfile` where possible: whole, in pieces, to slow clients, and files
//! that change meanwhile.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use heirloom::prelude::*;
use heirloom::{CloseReason, RouteLimits, limited};

use crate::support::*;

/// A file with `len` bytes of the pattern, from its start.
fn file(len: usize) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&patterned(len)).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

fn serve(router: Router) -> Fixture {
    Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").workers(2).timeouts(quick()))
}

fn sized(req: Request) -> Body {
    let len = req.param("n").unwrap().parse().unwrap();
    Body::from_file(file(len), len as u64)
}

#[test]
fn every_length_arrives_whole() {
    let fixture = serve(Router::new().get("/{n}", sized).get("/", |_: Request| "Hello, World!"));
    let mut client = fixture.client();
    for len in [0, 1, 100, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 1 << 20, (5 << 20) + 77] {
        let reply = client.get(&format!("/{len}"));
        assert_eq!((reply.status, reply.field("content-length")), (200, Some(&*len.to_string())));
        assert_patterned(&reply.body, len);
        client.expect_kept();
    }
    // Pipelined, and HEAD between.
    client.send([get("/70000"), get("/300000").replace("GET", "HEAD"), get("/5"), get("/")].concat());
    assert_patterned(&client.reply().body, 70_000);
    assert_eq!(client.reply_to("HEAD").field("content-length"), Some("300000"));
    assert_patterned(&client.reply().body, 5);
    assert_eq!(client.reply().said(), "200 Hello, World!");
}

#[test]
fn slow_clients_get_it_whole_and_hold_no_worker() {
    const LEN: usize = 10 << 20;
    let fixture = serve(Router::new().get("/{n}", sized).get("/", |_: Request| "Hello, World!"));
    let mut slow: Vec<Client> = (0..8).map(|_| Client::narrow(fixture.address())).collect();
    slow.iter_mut().for_each(|client| client.send(get(&format!("/{LEN}"))));
    eventually("all have started", || fixture.stats().in_flight == 8);
    fixture.client().expect_kept();
    for client in &mut slow {
        assert_patterned(&client.reply().body, LEN);
        client.expect_kept();
    }
}

#[test]
fn to_a_unix_socket_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let server = Server::new(Router::new().get("/{n}", sized)).listen("127.0.0.1:0");
    let _running = server.listen(format!("unix:{}", path.display())).workers(1).spawn().unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET /3000000 HTTP/1.0\r\n\r\n").unwrap();
    let mut all = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut all).unwrap();
    assert_patterned(&all[all.len() - 3_000_000..], 3_000_000);
}

#[test]
fn it_begins_where_the_file_stands_and_ends_where_it_was_said() {
    let from = |at| {
        let mut file = file(300_000);
        file.seek(SeekFrom::Start(at)).unwrap();
        file
    };
    let fixture = serve(Router::new().get("/", move |_: Request| Body::from_file(from(100_000), 150_000)));
    let body = fixture.client().get("/").body;
    assert_eq!(body, patterned(300_000)[100_000..250_000]);
}

#[test]
fn a_shrinking_file_is_cut_visibly_and_a_growing_one_is_not() {
    const LEN: u64 = 8 << 20;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changes");
    std::fs::write(&path, patterned(LEN as usize)).unwrap();
    let opened = path.clone();
    let router = Router::new().get("/", move |_: Request| Body::from_file(File::open(&opened).unwrap(), LEN));
    let fixture = serve(router);

    let mut client = Client::narrow(fixture.address());
    client.send(get("/"));
    client.sip(1);
    let mut growing = OpenOptions::new().append(true).open(&path).unwrap();
    growing.write_all(b"and more").unwrap();
    assert_patterned(&client.reply().body, LEN as usize);

    let mut client = Client::narrow(fixture.address());
    client.send(get("/"));
    client.sip(1);
    growing.set_len(100_000).unwrap();
    let reply = client.reply();
    assert_eq!((reply.status, reply.trailing), (200, How::Cut(End::Fin)));
    assert!(reply.body.len() < LEN as usize);
    fixture.expect_closes(CloseReason::ResponseFailed, 1);
}

#[test]
fn a_file_that_can_not_be_read_is_visibly_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("write_only");
    let router = Router::new().get("/", move |_: Request| Body::from_file(File::create(&path).unwrap(), 9));
    let fixture = serve(router);
    assert_eq!(fixture.client().get("/").trailing, How::Cut(End::Fin));
    fixture.expect_closes(CloseReason::ResponseFailed, 1);
}

#[test]
fn a_client_that_leaves_in_the_middle_leaves_nothing_behind() {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let reported = Arc::clone(&ends);
    let router = Router::new().get("/{n}", move |req: Request| {
        let reported = Arc::clone(&reported);
        sized(req).into_response().on_end(move |end| reported.lock().unwrap().push((end.complete, end.bytes)))
    });
    let fixture = serve(router);
    let mut client = Client::narrow(fixture.address());
    client.send(get("/20000000"));
    client.sip(1);
    client.reset();
    fixture.expect_closes(CloseReason::Broken, 1);
    eventually("the end is reported", || !ends.lock().unwrap().is_empty());
    let (complete, bytes) = ends.lock().unwrap()[0];
    assert!(!complete && bytes > 0 && bytes < 20_000_000, "{bytes}");
}

/// Limits of a route override those of the server, for requests and for responses.
#[test]
fn a_route_has_its_own_patience() {
    let hasty = || {
        let short = Duration::from_millis(100);
        RouteLimits::new().body_stall(short).response_stall(short)
    };
    let slow = RouteLimits::new().body_rate(1 << 40).response_rate(1 << 40);
    let text = |mut req: Request| req.text();
    let router = Router::new()
        .post("/hasty", limited(hasty(), text))
        .post("/hasty/streaming", streaming(limited(hasty(), text)))
        .get("/hasty/{n}", limited(hasty(), sized))
        .get("/hasty/bytes", limited(hasty(), |_: Request| vec![0; 50 << 20]))
        .get(
            "/hasty/detached",
            limited(hasty(), |_: Request| {
                Body::writer(|out| {
                    let piece = [0; 1 << 20];
                    (0..50).try_for_each(|_| out.write_all(&piece))
                })
            }),
        )
        .post("/fast", limited(slow.clone(), text))
        .get("/fast/{n}", limited(slow, sized))
        .post("/patient", text)
        .get("/patient/{n}", sized);
    let timeouts = quick().rate_grace(Duration::from_millis(100));
    let limits = Limits::new().body_rate(None).response_rate(None);
    let server = Server::new(router).listen("127.0.0.1:0").workers(4).timeouts(timeouts).limits(limits);
    let fixture = Fixture::with(|_| server);
    let part = |path| {
        let mut client = fixture.client();
        let request = post(path, &[b'x'; 5_000]);
        client.send(&request[..request.len() - 2_500]);
        client
    };
    let mut patient = part("/patient");
    let mut reading = Client::narrow(fixture.address());
    reading.send(get("/patient/20000000"));
    for path in ["/hasty", "/hasty/streaming", "/fast"] {
        assert_eq!(part(path).reply().status, 408, "{path}");
    }
    let paths = ["/hasty/20000000", "/hasty/bytes", "/fast/20000000"];
    for (path, n) in paths.into_iter().zip(1..) {
        let mut client = Client::narrow(fixture.address());
        client.send(get(path));
        fixture.expect_closes(CloseReason::ResponseTimeout, n);
        let reply = client.reply();
        assert!(matches!(reply.trailing, How::Cut(_)), "{path}: {:?} {}", reply.trailing, reply.body.len());
    }
    let mut client = Client::narrow(fixture.address());
    client.send(get("/hasty/detached"));
    fixture.expect_closes(CloseReason::Detached, 1);
    assert!(matches!(client.reply().trailing, How::Cut(_)));
    // Others had the server's time.
    patient.send([b'x'; 2_500]);
    assert_eq!(patient.reply().status, 200);
    assert_patterned(&reading.reply().body, 20_000_000);
}
