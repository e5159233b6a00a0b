//! Bodies that are too long for memory, while the disk is full: they get 507, and no other client notices.

use std::fs;
use std::process::Command;

use tempfile::TempDir;
use testkit::{Client, Crowd, Proc, skip, unshare, until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");

const KIB: usize = 1 << 10;

fn upload(body: &[u8]) -> Vec<u8> {
    let head = format!("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[track_caller]
fn expect_echoed(client: &mut Client, body: &[u8]) {
    let response = client.answer().ok();
    assert!(response.status == 200 && response.body == body, "{response:?}");
}

/// Bytes of bodies, as the server counts them.
fn on_disk(server: &Proc) -> usize {
    let metrics = server.get("/metrics").ok();
    let bytes = metrics.text().lines().find_map(|line| line.strip_prefix("heirloom_temporary_bytes "));
    bytes.unwrap().parse().unwrap()
}

/// The connection is closed, because the rest of the body is not read.
#[track_caller]
fn expect_refused(client: &mut Client) {
    let response = client.answer().ok();
    assert_eq!((response.status, response.closes()), (507, true), "{response:?}");
}

/// A server whose bodies go to a private disk of a mebibyte; and where that is.
fn with_small_disk() -> Option<(TempDir, Proc)> {
    let words = unshare(&["--mount"])?;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_str().unwrap();
    let mount = format!("mount -t tmpfs -o size=1m none {at}");
    let tried = Command::new(&words[0]).args(&words[1..]).args(["sh", "-c", &mount]).output().unwrap();
    if !tried.status.success() {
        skip(&format!("no mount of its own: {}", String::from_utf8_lossy(&tried.stderr)));
        return None;
    }
    let line = format!("{mount} && TMPDIR={at} exec \"$@\"");
    let rest = ["sh", "-c", &line, "sh", PROGRAM, "--listen", "127.0.0.1:0"].map(str::to_owned);
    let server = Proc::start_as_said(&words[0], &[&words[1..], &rest].concat());
    Some((folder, server))
}

#[test]
fn a_full_disk_costs_long_bodies_only() {
    let Some((folder, server)) = with_small_disk() else { return };
    let crowd = Crowd::of(&server.addr());
    let body = vec![b'b'; 600 * KIB];
    // Most of it is on the disk, so that the next one does not fit.
    let mut first = server.client();
    let request = upload(&body);
    first.send(&request[..request.len() - 1]);
    until("it is on the disk", || on_disk(&server) > 500 * KIB);
    for n in 1..=3 {
        let mut next = server.client();
        next.send(upload(&body));
        expect_refused(&mut next);
        server.wait_for_nth("can't write a request body to a temporary file: No space left", n);
    }
    // Requests that need no disk are served, as are earlier clients; and then the disk has space again.
    let mut short = server.client();
    short.send(upload(&body[..KIB]));
    expect_echoed(&mut short, &body[..KIB]);
    first.send(&request[request.len() - 1..]);
    expect_echoed(&mut first, &body);
    let mut last = server.client();
    last.send(&request);
    expect_echoed(&mut last, &body);
    // Another program has filled it, up to the last page.
    let filler = format!("/proc/{}/root{}/filler", server.pid(), folder.path().display());
    assert!(fs::write(&filler, vec![0; 2 << 20]).is_err());
    let mut client = server.client();
    client.send(&request);
    expect_refused(&mut client);
    fs::remove_file(&filler).unwrap();
    let mut client = server.client();
    client.send(&request);
    expect_echoed(&mut client, &body);
    assert_eq!(crowd.stop().failed, []);
    server.stop();
}

/// A process that writes more than the file size limit is killed by a signal.
#[test]
fn a_limit_of_file_sizes_costs_long_bodies_only() {
    // The unit is 512 bytes or 1 KiB.
    let line = "ulimit -f 400 && exec \"$@\"";
    let server = Proc::start_as_said("sh", &["-c", line, "sh", PROGRAM, "--listen", "127.0.0.1:0"]);
    let crowd = Crowd::of(&server.addr());
    let body = vec![b'b'; 600 * KIB];
    for _ in 0..2 {
        let mut client = server.client();
        client.send(upload(&body));
        expect_refused(&mut client);
        let mut client = server.client();
        client.send(upload(&body[..150 * KIB]));
        expect_echoed(&mut client, &body[..150 * KIB]);
    }
    server.wait_for("can't write a request body to a temporary file: file too large");
    assert_eq!(crowd.stop().failed, []);
    server.stop();
}
