//! Descriptors beyond those of connections, under a low NOFILE limit: a request that gets none is answered by 503, and nothing else stops.

use std::fs;

use tempfile::TempDir;
use testkit::{Client, Proc, until};

use crate::TESTKIT;

/// All but two of the connections that a limit of 256 allows.
const CLIENTS: usize = 190;

/// A directory with a file that is larger than a socket's buffers.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::File::create(folder.path().join("big")).unwrap().set_len(256 << 20).unwrap();
    fs::write(folder.path().join("small"), "small\n").unwrap();
    folder
}

fn start(folder: &TempDir) -> Proc {
    let at = folder.path().to_str().unwrap();
    let line = "ulimit -n 256 && exec \"$@\"";
    Proc::start_as_said("sh", &["-c", line, "sh", TESTKIT, "file_server", "127.0.0.1:0", at])
}

/// Clients that get the file and don't read it, and clients that get a 503.
fn ask_for_the_file(server: &Proc, path: &str) -> (Vec<Client>, Vec<Client>) {
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.client()).collect();
    clients.iter_mut().for_each(|client| client.ask(path));
    let is_served = |client: &mut Client| match client.head() {
        Ok((200, _)) => true,
        Ok((503, fields)) => {
            assert!(fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("retry-after")), "{fields:?}");
            false
        }
        other => panic!("{other:?}"),
    };
    clients.into_iter().map(|mut client| (is_served(&mut client), client)).fold(
        (Vec::new(), Vec::new()),
        |(mut served, mut refused), (is_served, client)| {
            if is_served {
                served.push(client)
            } else {
                refused.push(client)
            }
            (served, refused)
        },
    )
}

fn upload(server: &Proc) -> (u16, bool) {
    let mut client = server.client();
    // Longer than is kept in memory.
    let body = vec![b'x'; 200 << 10];
    client.send(format!("POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(&body);
    let (status, fields) = client.head().unwrap();
    (status, fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("retry-after")))
}

fn held_up(path: &str) {
    let folder = folder();
    let server = start(&folder);
    let (served, refused) = ask_for_the_file(&server, path);
    assert!(served.len() >= 16 && refused.len() >= 100, "{} {}", served.len(), refused.len());
    // Requests that need no file are answered as usual.
    for _ in 0..3 {
        assert_eq!(server.get("/ok").ok().text(), "ok\n");
    }
    let small = server.get("/files/small").ok();
    assert_eq!((small.status, small.header("retry-after").is_some()), (503, true));
    assert_eq!(upload(&server), (503, true));

    let new = server.handover();
    assert_eq!(server.get("/pid").ok().number(), new.as_raw());
    assert_eq!(server.get("/files/small").ok().text(), "small\n", "the new process has its own");
    assert_eq!(upload(&server).0, 200);
    drop((served, refused));

    let (served, refused) = ask_for_the_file(&server, path);
    assert!(served.len() >= 16 && !refused.is_empty());
    drop((served, refused));
    until("the descriptors are given back", || server.get("/files/small").ok().status == 200);
    for line in ["can't accept", "can't open", "can't keep", "] 500: "] {
        assert_eq!(server.lines(line), Vec::<String>::new());
    }
    server.stop();
}

#[test]
fn unread_files_cost_no_connection_and_no_handover() {
    held_up("/files/big");
}

#[test]
fn nor_do_those_that_handlers_open() {
    held_up("/own");
}

/// As many uploads as are possible at once; each is one temporary file.
#[test]
fn endless_uploads_cost_no_connection_and_no_handover() {
    let folder = folder();
    let server = start(&folder);
    let half = |_| {
        let mut client = server.client();
        client.send("POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 200000\r\n\r\n");
        client.send(vec![b'x'; 100 << 10]);
        client
    };
    let mut clients: Vec<Client> = (0..CLIENTS).map(half).collect();
    server.wait_for("no descriptor is left for a temporary file: 503");
    assert_eq!(server.get("/ok").ok().text(), "ok\n");
    let new = server.handover();
    assert_eq!(server.get("/pid").ok().number(), new.as_raw());
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    for client in &mut clients {
        client.send(vec![b'x'; 200_000 - (100 << 10)]);
        let (status, _) = client.head().unwrap();
        *statuses.entry(status).or_default() += 1;
    }
    assert_eq!(statuses.keys().copied().collect::<Vec<_>>(), [200, 503], "{statuses:?}");
    assert!(statuses[&200] >= 16, "{statuses:?}");
    for line in ["can't accept", "can't keep"] {
        assert_eq!(server.lines(line), Vec::<String>::new());
    }
    server.stop();
}
