//! Connections that have left HTTP for another protocol: both directions at once, early bytes, timeouts, and the drain.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use heirloom::prelude::*;
use heirloom::upgrade::Upgraded;
use heirloom::{RunningServer, Waited};

use crate::support::*;

struct Scene {
    running: RunningServer,
    reports: mpsc::Receiver<String>,
}

impl Scene {
    fn with(speak: fn(Upgraded) -> io::Result<String>) -> Scene {
        let (report, reports) = mpsc::channel();
        let report = Mutex::new(report);
        let handler = move |_: Request| {
            let report = report.lock().unwrap().clone();
            let body = Body::upgrade(move |io| {
                let said = speak(io);
                report.send(said.unwrap_or_else(|e| format!("{:?}", e.kind()))).unwrap();
            });
            (StatusCode::SWITCHING_PROTOCOLS, [(header::UPGRADE, "test")], body)
        };
        let router = Router::new().get("/", handler);
        let running = Server::new(router).listen("127.0.0.1:0").workers(1).timeouts(quick()).spawn().unwrap();
        Scene { running, reports }
    }

    fn open(&self, mut client: Client, early: &str) -> Client {
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: test\r\n\r\n{early}"
        ));
        assert_eq!(client.reply().status, 101);
        client
    }

    fn client(&self, early: &str) -> Client {
        self.open(Client::to(self.running.addresses()[0]), early)
    }

    #[track_caller]
    fn expect_report(&self, wanted: &str) {
        assert_eq!(self.reports.recv_timeout(DEADLINE).unwrap(), wanted);
    }
}

#[test]
fn two_threads_have_a_direction_each() {
    let scene = Scene::with(|io| {
        let (mut reader, mut writer) = io.split();
        thread::scope(|scope| {
            let bytes = scope.spawn(move || {
                let mut all = Vec::new();
                reader.read_to_end(&mut all).map(|_| all)
            });
            // More than the sockets' buffers hold, while the client has not started to read.
            writer.write_all(&patterned(8 << 20))?;
            writer.end();
            let all = bytes.join().unwrap()?;
            assert_patterned(&all, 8 << 20);
            Ok("both".into())
        })
    });
    let first = String::from_utf8(patterned(10)).unwrap();
    let mut client = scene.client(&first);
    let writer = spawn({
        let mut twin = client.twin();
        move || {
            twin.send(&patterned(8 << 20)[10..]);
            twin.half_close();
        }
    });
    assert_patterned(&client.take(8 << 20), 8 << 20);
    client.expect_fin();
    writer.join().unwrap();
    scene.expect_report("both");
}

#[test]
fn a_wait_distinguishes_bytes_end_silence_and_drain() {
    let scene = Scene::with(|mut io| {
        assert!(io.peer_addr().is_some_and(|peer| peer.ip().is_loopback()));
        let mut said = String::new();
        loop {
            match io.wait(Some(Duration::from_millis(20)))? {
                Waited::TimedOut => io.write_all(b".")?,
                Waited::Readable => {
                    let mut buf = [0; 3];
                    let n = io.read(&mut buf)?;
                    said.push_str(std::str::from_utf8(&buf[..n]).unwrap());
                    io.write_all(format!("{n}").as_bytes())?;
                    if n == 0 {
                        return Ok(said);
                    }
                }
                Waited::Draining => {
                    assert!(io.is_draining() && io.wait(None)? == Waited::Draining);
                    io.write_all(b"bye")?;
                    // Reads go on, and end when the client does.
                    io.read_to_string(&mut said)?;
                    return Ok(said);
                }
            }
        }
    });
    // Early bytes are available at once; those beyond one read remain.
    let mut client = scene.client("early");
    let mut heard = String::new();
    while !heard.ends_with("32.") {
        heard.push(char::from(client.take(1)[0]));
    }
    client.half_close();
    while !heard.ends_with('0') {
        heard.push(char::from(client.take(1)[0]));
    }
    client.expect_fin();
    scene.expect_report("early");
    let mut client = scene.client("");
    assert_eq!(client.take(1), b".");
    scene.running.handle().shutdown();
    let mut heard = String::new();
    while !heard.ends_with("bye") {
        heard.push(char::from(client.take(1)[0]));
    }
    client.send("last words");
    client.half_close();
    client.expect_fin();
    scene.expect_report("last words");
    scene.running.stop().unwrap();
}

#[test]
fn a_wait_without_end_is_ended_by_the_drain() {
    let scene = Scene::with(|mut io| Ok(format!("{:?}", io.wait(None)?)));
    let mut client = scene.client("");
    eventually("it waits", || scene.running.handle().stats().detached == 1);
    scene.running.handle().shutdown();
    client.expect_fin();
    scene.expect_report("Draining");
    scene.running.stop().unwrap();
}

#[test]
fn reads_and_writes_have_timeouts() {
    let scene = Scene::with(|mut io| {
        io.set_read_timeout(Some(Duration::from_millis(5)));
        assert_eq!(io.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
        io.set_write_timeout(Some(Duration::from_millis(50)));
        let end = io.write_all(&vec![0; 64 << 20]);
        Ok(format!("{:?}", end.unwrap_err().kind()))
    });
    let client = scene.open(Client::narrow(scene.running.addresses()[0]), "");
    scene.expect_report("TimedOut");
    drop(client);
}

#[test]
fn a_client_that_is_gone_is_an_error_or_an_end() {
    let scene = Scene::with(|mut io| {
        loop {
            match io.wait(None)? {
                Waited::Readable if io.read(&mut [0; 64])? == 0 => return Ok("end".into()),
                _ => {}
            }
        }
    });
    drop(scene.client("x"));
    scene.expect_report("end");
    scene.client("x").reset();
    let reports = scene.reports.recv_timeout(DEADLINE).unwrap();
    assert!(reports == "ConnectionReset" || reports == "end", "{reports}");
    eventually("nothing is left", || scene.running.handle().stats().detached == 0);
}

#[test]
fn a_half_that_outlives_its_closure_is_disconnected() {
    let scene = Scene::with(|io| {
        let (mut reader, mut writer) = io.split();
        let (done, wait) = mpsc::channel();
        spawn(move || {
            let read = reader.read(&mut [0; 8]).map_err(|e| e.kind());
            done.send(format!("{read:?}")).unwrap();
        });
        writer.write_all(b"bye")?;
        drop(writer);
        // The client ends when it sees that we have.
        Ok(wait.recv_timeout(DEADLINE).unwrap())
    });
    let mut client = scene.client("");
    assert_eq!(client.take(3), b"bye");
    client.half_close();
    client.expect_fin();
    scene.expect_report("Ok(0)");
}
