//! Real clients against the server. Each is skipped with a note if it is not installed.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use heirloom::CloseReason;

use crate::support::*;

/// The program's name if it runs here.
fn installed(program: &str, probe: &[&str]) -> bool {
    let found = Command::new(program).args(probe).stdout(Stdio::null()).stderr(Stdio::null()).status();
    // wrk knows no option that it takes for success.
    let found = found.is_ok_and(|status| status.success() || program == "wrk");
    if !found {
        skip::skip(&format!("{program} {} does not run here", probe.join(" ")));
    }
    found
}

#[track_caller]
fn run(program: &str, args: &[impl AsRef<OsStr>], stdin: &[u8]) -> Output {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut pipe, stdin) = (child.stdin.take().unwrap(), stdin.to_vec());
    // Beside the reading of what it says; it may end without having read all.
    let writer = spawn(move || drop(pipe.write_all(&stdin)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

#[track_caller]
fn text(program: &str, args: &[impl AsRef<OsStr>], stdin: &[u8]) -> String {
    let output = run(program, args, stdin);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// curl's own proxies and files are none of ours.
#[track_caller]
fn curl(fixture: &Fixture, args: &[&str], paths: &[&str], stdin: &[u8]) -> String {
    let mut all: Vec<String> =
        ["-q", "-sS", "--noproxy", "*", "--max-time", "20"].iter().map(|arg| (*arg).to_owned()).collect();
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    all.extend(paths.iter().map(|path| format!("http://{}{path}", fixture.address())));
    text("curl", &all, stdin)
}

#[test]
fn curl_gets_and_posts() {
    if !installed("curl", &["--version"]) {
        return;
    }
    let fixture = Fixture::new();
    assert_eq!(curl(&fixture, &[], &["/"], b""), "Hello, World!");
    let head = curl(&fixture, &["-I"], &["/"], b"");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\nContent-Length: 13\r\n"), "{head}");
    assert_eq!(curl(&fixture, &["-I", "-o", "/dev/null", "-w", "%{http_code}"], &["/stream"], b""), "200");
    assert_patterned(curl(&fixture, &[], &["/stream"], b"").as_bytes(), 10_000);
    assert_patterned(curl(&fixture, &[], &["/big/3000000"], b"").as_bytes(), 3_000_000);
    assert_eq!(curl(&fixture, &["-0"], &["/"], b""), "Hello, World!");
    assert_patterned(curl(&fixture, &["-0"], &["/stream"], b"").as_bytes(), 10_000);
    assert_eq!(curl(&fixture, &["-o", "/dev/null", "-w", "%{http_code}"], &["/204"], b""), "204");
    assert_eq!(curl(&fixture, &["-d", "hello"], &["/echo"], b""), "hello");
}

#[test]
fn curl_waits_for_100() {
    if !installed("curl", &["--version"]) {
        return;
    }
    let fixture = Fixture::new();
    let body = patterned(1_500_000);
    let expect = ["-H", "Expect: 100-continue", "--expect100-timeout", "15", "--data-binary", "@-"];
    for (path, wanted) in [("/echo", None), ("/count", Some("1500000"))] {
        let answer = curl(&fixture, &expect, &[path], &body);
        match wanted {
            Some(wanted) => assert_eq!(answer, wanted),
            None => assert_patterned(answer.as_bytes(), body.len()),
        }
    }
    // It gets the refusal at once, and does not send the body.
    let beyond = patterned(3 << 20);
    let report = [&expect[..], &["-o", "/dev/null", "-w", "%{http_code} %{size_upload}"]].concat();
    assert_eq!(curl(&fixture, &report, &["/echo"], &beyond), "413 0");
    assert_eq!(curl(&fixture, &report, &["/nowhere"], &beyond), "404 0");
}

#[test]
fn curl_uploads_in_chunks() {
    if !installed("curl", &["--version"]) {
        return;
    }
    let fixture = Fixture::new();
    let body = patterned(1_000_000);
    assert_patterned(curl(&fixture, &["-T", "-"], &["/echo"], &body).as_bytes(), body.len());
    assert_eq!(curl(&fixture, &["-T", "-", "-X", "POST"], &["/count"], &body), "1000000");
}

/// It neither waits nor stops sending before it has read the response, which must reach it.
#[test]
fn curl_sees_a_refusal_while_it_sends() {
    if !installed("curl", &["--version"]) {
        return;
    }
    let fixture = Fixture::new();
    let beyond = patterned(5 << 20);
    let report = ["-T", "-", "-H", "Expect:", "-o", "/dev/null", "-w", "%{http_code}"];
    for _ in 0..20 {
        assert_eq!(curl(&fixture, &report, &["/echo"], &beyond), "413");
    }
}

#[test]
fn curl_keeps_its_connection() {
    if !installed("curl", &["--version"]) {
        return;
    }
    let fixture = Fixture::new();
    let write = ["-w", "%{num_connects}\n"];
    assert_eq!(curl(&fixture, &write, &["/", "/sleep/1", "/stream/0"], b""), "Hello, World!1\nok\n0\n0\n");
    fixture.expect_closes(CloseReason::ClientClosed, 1);
    assert_eq!(fixture.stats().accepted, 1);
}

#[test]
fn apache_bench_has_no_failure() {
    if !installed("ab", &["-V"]) {
        return;
    }
    let fixture = Fixture::new();
    let url = format!("http://{}/", fixture.address());
    for keep_alive in [None, Some("-k")] {
        let mut args: Vec<&str> = ["-q", "-n", "2000", "-c", "10"].to_vec();
        args.extend(keep_alive);
        args.push(&url);
        let report = text("ab", &args, b"");
        let lines: Vec<String> =
            report.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let has = |wanted: &str| lines.iter().any(|line| line == wanted);
        assert!(has("Complete requests: 2000") && has("Failed requests: 0"), "{report}");
        assert!(!report.contains("Non-2xx"), "{report}");
        assert_eq!(has("Keep-Alive requests: 2000"), keep_alive.is_some(), "{report}");
    }
    assert_eq!(fixture.stats().responses, [0, 4_000, 0, 0, 0]);
}

#[test]
fn wrk_has_no_socket_error() {
    if !installed("wrk", &["-v"]) {
        return;
    }
    let fixture = Fixture::new();
    for path in ["/", "/stream", "/bytes/100000"] {
        let url = format!("http://{}{path}", fixture.address());
        let report = text("wrk", &["-t1", "-c16", "-d1s", "--timeout", "20s", &url], b"");
        assert!(report.contains("requests in"), "{report}");
        assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{report}");
    }
}

#[test]
fn python_requests() {
    if !installed("python3", &["-c", "import requests"]) {
        return;
    }
    let fixture = Fixture::new();
    let script = r#"
import sys, requests
url = sys.argv[1]
s = requests.Session()
s.trust_env = False
def pieces():
    for i in range(100):
        yield b'x' * 1000
for i in range(20):
    assert s.get(url + '/', timeout=20).text == 'Hello, World!'
r = s.head(url + '/big/12345', timeout=20)
assert r.headers['Content-Length'] == '12345' and r.content == b''
assert s.post(url + '/echo', data=pieces(), timeout=20).content == b'x' * 100000
assert s.post(url + '/count', data=pieces(), timeout=20).text == '100000'
assert s.post(url + '/discard', data=pieces(), timeout=20).text == 'ok\n'
assert s.put(url + '/echo', data=b'y' * 200000, timeout=20).content == b'y' * 200000
assert len(s.get(url + '/stream', timeout=20).content) == 10000
assert s.get(url + '/panic', timeout=20).status_code == 500
assert s.get(url + '/204', timeout=20).status_code == 204
with s.get(url + '/stream/1000000', stream=True, timeout=20) as r:
    assert sum(len(c) for c in r.iter_content(1000)) == 1000000
try:
    s.get(url + '/fails/error', timeout=20).content
    raise SystemExit('a cut response passed for whole')
except requests.exceptions.RequestException:
    pass
print('done')
"#;
    let url = format!("http://{}", fixture.address());
    assert_eq!(text("python3", &["-c", script, &url], b""), "done\n");
    // One connection for all, except for the cut ones.
    assert_eq!(fixture.stats().accepted, 1);
}

#[test]
fn node_fetch() {
    if !installed("node", &["-e", "fetch"]) {
        return;
    }
    let fixture = Fixture::new();
    let script = r#"
const url = process.argv[1];
const assert = require('assert');
(async () => {
  for (let i = 0; i < 20; i++) assert.equal(await (await fetch(url + '/')).text(), 'Hello, World!');
  const many = await Promise.all([...Array(50)].map(() => fetch(url + '/stream').then((r) => r.text())));
  assert(many.every((text) => text.length === 10000));
  const body = 'x'.repeat(300000);
  assert.equal(await (await fetch(url + '/echo', { method: 'POST', body })).text(), body);
  const stream = new ReadableStream({
    start(c) { for (let i = 0; i < 10; i++) c.enqueue(new Uint8Array(1000)); c.close(); },
  });
  const counted = await fetch(url + '/count', { method: 'POST', body: stream, duplex: 'half' });
  assert.equal(await counted.text(), '10000');
  assert.equal((await fetch(url + '/big/100', { method: 'HEAD' })).headers.get('content-length'), '100');
  assert.equal((await fetch(url + '/204')).status, 204);
  await assert.rejects(fetch(url + '/fails/error').then((r) => r.text()));
  await assert.rejects(fetch(url + '/fails/early?2000').then((r) => r.text()));
  console.log('done');
  process.exit(0);
})().catch((e) => { console.error(e); process.exit(1); });
"#;
    let url = format!("http://{}", fixture.address());
    assert_eq!(text("node", &["-e", script, &url], b""), "done\n");
}
