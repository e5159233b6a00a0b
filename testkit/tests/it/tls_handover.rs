//! TLS of a real server as clients of other makes see it: curl, Python, a browser. What they see of
//! handovers: `tls_clients.rs`. `main.rs` has this file twice: the second time each connection continues on our own
//! records after its handshake.

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use testkit::{Addr, Client, End, Exit, Outcome, Proc, Signal, kitchen_sink, lacks, put_script, until};

/// Sets the wall clock to a time before 1970, which Linux itself does not allow.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int outcome = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec = -1000000;
    return outcome;
}
"#;

struct Secured {
    server: Proc,
    folder: tempfile::TempDir,
    certificate: PathBuf,
}

impl Secured {
    fn start(flags: &[&str]) -> Secured {
        Secured::start_by(flags, |command| command)
    }

    fn start_by(flags: &[&str], change: impl FnOnce(&mut Command) -> &mut Command) -> Secured {
        let folder = tempfile::tempdir().expect("a folder");
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        fs::write(&certificate, made.cert.pem()).expect("a file");
        fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
        let text = |path: &PathBuf| path.to_str().expect("a path").to_owned();
        let (cert, key) = (text(&certificate), text(&key));
        let tls = ["--tls-listen", "127.0.0.1:0", "--cert", &cert, "--key", &key];
        let own = module_path!().ends_with("on_own_records");
        let records: &[&str] = if own { &["--tls-own-records"] } else { &[] };
        let flags = [&["--listen", "127.0.0.1:0"], &tls[..], records, flags].concat();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kitchen_sink"));
        change(command.args(flags));
        let server = Proc::start_command(command);
        Secured { server, folder, certificate }
    }

    fn port(&self) -> u16 {
        match self.server.addrs().pop() {
            Some(Addr::Tcp(addr)) => addr.port(),
            other => panic!("{other:?}"),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port())
    }

    fn curl(&self, args: &[&str]) -> String {
        let mut command = Command::new("curl");
        command.args(["-sS", "--ipv4", "--max-time", "120", "--cacert"]).arg(&self.certificate).args(args);
        let output = command.output().expect("curl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The peak so far, in KiB.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.pid())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.split_whitespace().next()).expect("a number").parse().expect("a number")
    }
}

#[test]
fn curl_keeps_its_connection_over_a_handover() {
    let Some(text) = curl_over_a_handover(&[]) else { return };
    assert!(!text.contains("Connection: close") && text.ends_with("\n2\n0 "), "{text}");
}

#[test]
fn curl_is_notified_where_connections_stay() {
    let Some(text) = curl_over_a_handover(&["--tls-stay"]) else { return };
    assert!(text.contains("Connection: close") && text.ends_with("\n2\n1 "), "{text}");
}

/// What curl says of three requests by one connection, if it is kept: before, at and after a handover.
fn curl_over_a_handover(flags: &[&str]) -> Option<String> {
    if lacks("curl") {
        return None;
    }
    let secured = Secured::start(&[&["--probation-ms", "0"], flags].concat());
    let (ok, read) = (secured.url("/generation"), secured.url("/read"));
    let format = "\n%{num_connects} ";
    assert_eq!(secured.curl(&["-w", format, &ok, &ok]), "1\n1 1\n0 ");
    let (server, certificate) = (&secured.server, secured.certificate.to_str().expect("a path"));
    let body = secured.folder.path().join("body");
    mkfifo(&body, Mode::S_IRWXU).expect("a named pipe");
    let request = |own: &[&'static str], path: &str| -> Vec<String> {
        let common = ["-sSN", "--ipv4", "-D", "-", "-w", format, "--cacert", certificate];
        common.iter().chain(own).copied().chain([path]).map(str::to_owned).collect()
    };
    // The process goes while its second request is on the way.
    let upload = ["-X", "POST", "-H", "Expect:", "-T", "body"];
    let mut curl = Command::new("curl")
        .args([request(&[], &ok), request(&upload, &read), request(&[], &ok)].join(&"--next".to_owned()))
        .current_dir(secured.folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("curl");
    let (mut stdout, mut text) = (curl.stdout.take().expect("its output"), Vec::new());
    while !text.ends_with(b"\r\n\r\n1") {
        let mut byte = [0];
        stdout.read_exact(&mut byte).expect("its first answer");
        text.extend(byte);
    }
    let mut body = fs::File::create(body).expect("curl reads it");
    body.write_all(b"ok").expect("curl reads it");
    server.in_flight(server.pid(), 1);
    let mut other = Client::to(&server.addrs()[0]);
    assert_eq!(other.get("/generation").ok().text(), "1");
    server.handover();
    until("idle connections move", || other.get("/generation").ok().text() == "2");
    drop(body);
    stdout.read_to_end(&mut text).expect("its output");
    let text = String::from_utf8_lossy(&text).replace("\r\n", "\n");
    let output = curl.wait_with_output().expect("curl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let [first, second, _] = text.split("HTTP/1.1 200 OK").skip(1).collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    assert!(first.ends_with("\n1 ") && second.ends_with("ok\n0 "), "{text}");
    Some(text)
}

#[test]
fn sixty_four_mebibytes_go_both_ways_and_are_not_in_memory() {
    if lacks("curl") {
        return;
    }
    let secured = Secured::start(&[]);
    let (sent, received) = (secured.folder.path().join("sent"), secured.folder.path().join("received"));
    let bytes: Vec<u8> =
        (0..(64u32 << 20) / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(&sent, &bytes).expect("a file");
    let data = format!("@{}", sent.display());
    let received_text = received.display().to_string();
    let begin = Instant::now();
    secured.curl(&["-H", "Expect:", "--data-binary", &data, "-o", &received_text, &secured.url("/echo")]);
    eprintln!("64 MiB both ways in {:?}, at most {} KiB of memory", begin.elapsed(), secured.memory());
    assert!(fs::read(&received).expect("a file") == bytes, "not what was sent");
    assert!(secured.memory() < 48 << 10, "{} KiB", secured.memory());
}

#[test]
fn python_reads_to_the_end_and_verifies() {
    if lacks("python3") {
        return;
    }
    let secured = Secured::start(&[]);
    let program = r#"
import http.client, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1])
connection = http.client.HTTPSConnection("localhost", int(sys.argv[2]), context=context)
for path, length in [("/ok", 3), ("/big/3000000", 3000000), ("/stream", 1 << 20), ("/204", 0)]:
    connection.request("GET", path)
    body = connection.getresponse().read()
    assert len(body) == length, (path, len(body))
connection.request("POST", "/echo", b"x" * 1000000)
assert connection.getresponse().read() == b"x" * 1000000
print(connection.sock.version(), connection.sock.unwrap() is not None)
try:
    http.client.HTTPSConnection("localhost", int(sys.argv[2])).request("GET", "/ok")
except ssl.SSLCertVerificationError as e:
    print("refused")
"#;
    let output = Command::new("python3")
        .args(["-c", program])
        .arg(&secured.certificate)
        .arg(secured.port().to_string())
        .output()
        .expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "TLSv1.3 True\nrefused\n");
}

#[test]
fn a_browser_shows_the_page() {
    if lacks("chromium") || lacks("openssl") {
        return;
    }
    let secured = Secured::start(&[]);
    // It trusts this key alone, and still checks all else.
    let hash = "openssl x509 -in \"$0\" -pubkey -noout | openssl pkey -pubin -outform der \
                | openssl dgst -sha256 -binary | base64";
    let hash = Command::new("sh").args(["-c", hash]).arg(&secured.certificate).output().expect("openssl");
    let hash = String::from_utf8(hash.stdout).expect("base64");
    let output = Command::new("timeout")
        .args(["60", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage", "--dump-dom"])
        .arg(format!("--user-data-dir={}", secured.folder.path().join("profile").display()))
        .arg(format!("--ignore-certificate-errors-spki-list={}", hash.trim()))
        .arg(secured.url("/"))
        .output()
        .expect("chromium");
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(page.contains("Hello, World!"), "{page} {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_successor_with_a_bad_certificate_is_not_let_in() {
    let secured = Secured::start(&["--probation-ms", "0"]);
    fs::write(&secured.certificate, "broken").expect("a file");
    secured.server.signal(Signal::SIGHUP);
    secured.server.wait_for("can't use the certificate");
    secured.server.wait_for("; still serving");
    assert_eq!(secured.server.settled(), Some(secured.server.pid()));
}

/// By the same name, so that the new program inherits the socket: plain text in the old one, TLS in the new.
#[test]
fn plain_connections_never_move_to_a_tls_listener() {
    let secured = Secured::start(&[]);
    let file = |name: &str| secured.folder.path().join(name).display().to_string();
    let program = secured.folder.path().join("program");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_kitchen_sink"), &program).expect("a link");
    let server = Proc::start_as_said(&program, &["--listen", "127.0.0.1:0", "--probation-ms", "0"]);
    let addr = server.addr();
    let mut clients: Vec<Client> = (0..100).map(|_| Client::to(&addr)).collect();
    let (idle, silent) = clients.split_at_mut(50);
    for client in idle.iter_mut() {
        client.get("/ok").ok();
    }
    // With half a head on its way, too.
    silent[0].send("GET /pid HTTP/1.1\r\nHost: h\r\n");
    server.open(server.pid(), 100);
    let becomes = |flags: String| {
        let script =
            format!("#!/bin/sh\nexec {} {flags} --probation-ms 0\n", env!("CARGO_BIN_EXE_kitchen_sink"));
        put_script(&program, script);
    };
    let tls = format!("--tls-listen 127.0.0.1:0 --cert {} --key {}", file("cert.pem"), file("key.pem"));
    becomes(tls);
    let new = server.handover();
    server.wait_for("their listener now uses TLS, or is gone");
    // Each gets one more response, from the process that speaks plain text, which announces the close.
    silent[0].send("\r\n");
    for client in &mut silent[1..] {
        client.ask("/pid");
    }
    for client in idle.iter_mut() {
        client.ask("/pid");
    }
    for client in &mut clients {
        let response = client.answer().ok();
        assert_eq!((response.number(), response.closes()), (server.pid().as_raw(), true));
        assert_eq!(client.end(), End::Fin);
    }
    assert_eq!(server.wait_exit(server.pid()), Exit::Status(0));
    // New clients have to speak TLS.
    let mut late = Client::to(&addr);
    late.ask("/pid");
    assert!(matches!(late.answer(), Outcome::Ok(response) if response.status == 400));
    let Addr::Tcp(address) = &addr else { panic!("{addr:?}") };
    let url = format!("https://localhost:{}/pid", address.port());
    if !lacks("curl") {
        assert_eq!(secured.curl(&[&url]).trim(), new.to_string());
    }
    // And back: TLS connections stay with the process that speaks TLS.
    becomes("--listen 127.0.0.1:0".to_owned());
    let third = server.handover();
    assert_eq!(server.wait_exit(new), Exit::Status(0));
    assert_eq!(server.get("/pid").ok().number(), third.as_raw());
}

/// A clock that is broken costs what it is needed for, and no request.
#[test]
fn no_clock_before_1970_stops_a_server() {
    if lacks("cc") || lacks("curl") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let [source, library] = ["clock.c", "clock.so"].map(|name| folder.path().join(name));
    fs::write(&source, CLOCK).expect("a file");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl");
    assert!(compiler.status().expect("cc").success());
    let secured = Secured::start_by(&["--probation-ms", "0"], |command| command.env("LD_PRELOAD", &library));
    for _ in 0..2 {
        let mut plain = secured.server.client();
        assert_eq!(plain.get("/ok").ok().header("date"), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
        // Both handshakes, of which the second may be a resumption.
        let url = secured.url("/ok");
        assert_eq!(secured.curl(&["-H", "Connection: close", &url, &url]), "ok\nok\n");
        secured.server.handover();
    }
    assert_eq!(secured.server.count("panicked"), 0, "{:?}", secured.server.lines("panicked"));
}

/// As environment variables and secret stores leave it: accepted, or refused without a byte of it in the log.
#[test]
fn a_key_without_line_ends_is_in_no_log() {
    let secured = Secured::start(&["--probation-ms", "0"]);
    let file = secured.folder.path().join("key.pem");
    let good = fs::read_to_string(&file).expect("a file");
    let one_line = good.replace('\n', "");
    let body = good.lines().nth(1).expect("a line").to_owned();
    let cut = one_line.split("-----END").next().expect("a key");
    let broken = [cut.to_owned(), format!("-----BEGIN {body}"), format!("{good}{good}").replace(' ', "")];
    for (n, text) in broken.iter().enumerate() {
        fs::write(&file, text).expect("a file");
        secured.server.signal(Signal::SIGHUP);
        secured.server.wait_for_nth("; still serving", n + 1);
    }
    // The successor's own line, and what its predecessor says of it.
    assert!(secured.server.count("can't use the private key") >= broken.len());
    fs::write(&file, one_line).expect("a file");
    secured.server.handover();
    let log = secured.server.lines("").join("\n");
    let decimal = |eight: &[u8]| eight.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let hex = |eight: &[u8]| eight.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for eight in body.as_bytes().windows(8) {
        let text = String::from_utf8_lossy(eight);
        assert!([&*text, &decimal(eight), &hex(eight)].iter().all(|run| !log.contains(run)), "{log}");
    }
}

/// Many messages in few records, and large ones in many: none waits for an event that does not come.
#[cfg(feature = "websocket")]
#[test]
fn a_websocket_over_tls() {
    use std::sync::Arc;

    use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
    use tungstenite::Message;

    let secured = Secured::start(&[]);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&secured.certificate).expect("PEM")).expect("a root");
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let tls = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let socket = std::net::TcpStream::connect(("127.0.0.1", secured.port())).expect("a connection");
    socket.set_read_timeout(Some(testkit::DEADLINE)).expect("a socket");
    let stream = rustls::StreamOwned::new(tls, socket);
    let (mut client, _) = tungstenite::client("ws://localhost/ws", stream).expect("a handshake");
    for _ in 0..5 {
        for n in 0..300 {
            client.write(Message::text(format!("message {n}"))).expect("a message");
        }
        client.flush().expect("a socket");
        for n in 0..300 {
            assert_eq!(client.read().expect("an echo"), Message::text(format!("message {n}")));
        }
    }
    for length in [1, 4_095, 4_096, 16_384, 70_000, 1 << 20] {
        let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        client.send(Message::binary(bytes.clone())).expect("a message");
        assert!(client.read().expect("an echo").into_data() == bytes, "{length}");
    }
    // It goes on in the next process, with what has come of a message.
    for _ in 0..3 {
        let masked = b"\x81\x85\0\0\0\0hello";
        client.get_mut().write_all(&masked[..9]).expect("half a frame");
        let new = secured.server.handover();
        client.get_mut().write_all(&masked[9..]).expect("the other half");
        client.send(Message::text("pid")).expect("a message");
        for expected in ["hello".to_owned(), new.to_string()] {
            let message = loop {
                match client.read() {
                    // A read with a timeout is not restarted after a signal.
                    Err(tungstenite::Error::Io(e)) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    message => break message.expect("a message"),
                }
            };
            assert_eq!(message, Message::text(expected));
        }
    }
}

/// Flags that need each other.
#[test]
fn tls_needs_all_of_its_flags() {
    let output = Command::new(env!("CARGO_BIN_EXE_kitchen_sink"))
        .args(["--tls-listen", "127.0.0.1:0"])
        .output()
        .expect("kitchen_sink");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--tls-listen needs --cert and --key"));
    let _plain = kitchen_sink!();
}
