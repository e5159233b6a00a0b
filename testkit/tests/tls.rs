//! TLS of a real server as clients of other makes see it: curl, Python, a browser. What handovers cost
//! them is counted by `storm --tls`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use testkit::{Addr, Proc, Signal, kitchen_sink, lacks, pass};

struct Secured {
    server: Proc,
    folder: tempfile::TempDir,
    certificate: PathBuf,
}

impl Secured {
    fn start(flags: &[&str]) -> Secured {
        let folder = tempfile::tempdir().expect("a folder");
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        fs::write(&certificate, made.cert.pem()).expect("a file");
        fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
        let text = |path: &PathBuf| path.to_str().expect("a path").to_owned();
        let (cert, key) = (text(&certificate), text(&key));
        let tls = ["--tls-listen", "127.0.0.1:0", "--cert", &cert, "--key", &key];
        let flags = [&["--listen", "127.0.0.1:0"], &tls[..], flags].concat();
        let server = Proc::start_as_said(env!("CARGO_BIN_EXE_kitchen_sink"), &flags);
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

    /// In KiB, at most so far.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.pid())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.split_whitespace().next()).expect("a number").parse().expect("a number")
    }
}

#[test]
fn curl_keeps_its_connection_and_is_told_of_the_handover() {
    if lacks("curl") {
        return;
    }
    let secured = Secured::start(&["--probation-ms", "0"]);
    let (ok, sleep) = (secured.url("/generation"), secured.url("/sleep/1500"));
    let format = "\n%{num_connects} ";
    assert_eq!(secured.curl(&["-w", format, &ok, &ok]), "1\n1 1\n0 ");
    // The process goes while its second request is on the way.
    let (server, certificate) = (&secured.server, &secured.certificate);
    std::thread::scope(|scope| {
        let curl = std::thread::Builder::new()
            .spawn_scoped(scope, || {
                let mut command = Command::new("curl");
                command.args(["-sS", "--ipv4", "-D", "-", "-w", format, "--cacert"]).arg(certificate);
                command.args([&ok, &sleep, &ok]).output().expect("curl")
            })
            .expect("a thread");
        pass(Duration::from_millis(300));
        server.signal(Signal::SIGHUP);
        let output = curl.join().expect("curl");
        let text = String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let [first, second, third] = text.split("HTTP/1.1 200 OK").skip(1).collect::<Vec<_>>()[..] else {
            panic!("{text}")
        };
        assert!(first.ends_with("\n1 ") && second.ends_with("ok\n\n0 "), "{text}");
        assert!(second.contains("Connection: close") && third.contains("\n2\n1 "), "{text}");
    });
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
}

/// Flags that want each other.
#[test]
fn tls_needs_all_of_its_flags() {
    let output = Command::new(env!("CARGO_BIN_EXE_kitchen_sink"))
        .args(["--tls-listen", "127.0.0.1:0"])
        .output()
        .expect("kitchen_sink");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("--tls-listen, --cert and --key want each other")
    );
    let _plain = kitchen_sink!();
}
