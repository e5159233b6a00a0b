//! Clients with TLS libraries of other makes keep their connections over ten handovers: OpenSSL in Python, by itself and in
//! curl, Java's, and BoringSSL in a browser. What they do is in `tls_clients/`. None of them sees an end of a connection, and
//! each has one handshake: who would connect again unnoticed is counted on its way. The many clients with `rustls` are those of
//! `storm --tls`.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use testkit::{Browser, lacks, until};

use crate::outside::{Outside, Relay, Scene};

const HANDOVERS: usize = 10;

#[test]
fn python_keeps_its_connections() {
    if lacks("python3") {
        return;
    }
    for version in ["TLSv1_2", "TLSv1_3"] {
        let scene = Scene::start();
        let mut python = Outside::start("python3", |command| {
            let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tls_clients/client.py");
            command
                .args([program, &scene.address().port().to_string()])
                .arg(scene.authority.file())
                .arg(version)
        });
        let first = python.ask("get");
        let rest = first.strip_prefix("1 1 ").unwrap_or_else(|| panic!("{first}"));
        assert!(rest.ends_with(" False"), "{first}");
        for n in 0..HANDOVERS {
            // In turn in the middle of a request, or of a record, and while the connections are idle.
            if n % 2 == 0 {
                let share = n as f64 / HANDOVERS as f64;
                assert_eq!(python.ask(&format!("half {share}")), "sent");
                scene.hand_over(|| assert_eq!(python.ask("rest"), "answered False"));
            } else {
                scene.hand_over(|| ());
            }
            // By the same port, which no other connection has.
            assert_eq!(python.ask("get"), format!("{} 1 {rest}", n + 2));
        }
        assert_eq!(python.ask("resume"), format!("{} True", HANDOVERS + 1));
        python.end();
    }
}

#[test]
fn java_keeps_its_connections() {
    if lacks("java") || lacks("javac") {
        return;
    }
    for version in ["TLSv1.2", "TLSv1.3"] {
        let scene = Scene::start();
        let relay = Relay::to(scene.address());
        let mut java = Outside::start("java", |command| {
            let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tls_clients/Client.java");
            let options = ["-XX:TieredStopAtLevel=1", "-Djdk.httpclient.keepalive.timeout=600"];
            command
                .args(options)
                .args([program, &relay.port.to_string()])
                .arg(scene.authority.file())
                .arg(version)
        });
        assert_eq!(java.ask("get"), "1");
        for n in 0..HANDOVERS {
            if n % 2 == 0 {
                assert_eq!(java.ask("half"), "sent");
                scene.hand_over(|| assert_eq!(java.ask("rest"), "answered false"));
            } else {
                scene.hand_over(|| ());
            }
            assert_eq!(java.ask("get"), (n + 2).to_string());
        }
        assert_eq!((relay.connections(), relay.ended_by_server()), (2, 0));
        java.end();
    }
}

/// It uploads what pipes give it, one after the other, and waits for each while its connection is idle.
#[test]
fn curl_uses_its_connection_again() {
    if lacks("curl") {
        return;
    }
    for version in ["1.2", "1.3"] {
        let scene = Scene::start();
        let pipes: Vec<_> = (0..=HANDOVERS).map(|n| scene.authority.path(&format!("pipe{n}"))).collect();
        let curl = Outside::start("curl", |command| {
            let limit = ["--tls-max", version, if version == "1.2" { "--tlsv1.2" } else { "--tlsv1.3" }];
            command
                .args(["-sS", "--ipv4", "-X", "POST", "-H", "Expect:", "--cacert"])
                .arg(scene.authority.file());
            command.args(limit).args(["-w", "%{stderr}%{num_connects} %{http_code} by %{local_port}\\n"]);
            for pipe in &pipes {
                mkfifo(pipe, Mode::S_IRWXU).unwrap();
                command.arg("-T").arg(pipe).arg(format!("https://localhost:{}/echo", scene.address().port()));
            }
            command
        });
        let begin = |pipe: &Path| OpenOptions::new().write(true).open(pipe).unwrap();
        for (n, pipe) in pipes.iter().enumerate() {
            let mut upload = begin(pipe);
            writeln!(upload, "first half {n}").unwrap();
            if n > 0 && n % 2 == 0 {
                scene.server.in_flight(scene.server.newest(), 1);
                scene.hand_over(|| {
                    writeln!(upload, "second half {n}").unwrap();
                    drop(upload);
                });
            } else {
                writeln!(upload, "second half {n}").unwrap();
                drop(upload);
            }
            curl.output.wait_for_nth(&format!("first half {n}"), 1);
            curl.output.wait_for_nth(&format!("second half {n}"), 1);
            curl.output.wait_for_nth(" 200 by ", n + 1);
            // Its connection rests until there is something in the next pipe.
            if n % 2 == 0 && n < HANDOVERS {
                scene.hand_over(|| ());
            }
        }
        let reports = curl.output.lines_with(" 200 by ");
        let port = reports[0].strip_prefix("1 200 by ").unwrap_or_else(|| panic!("{reports:?}"));
        assert!(reports[1..].iter().all(|report| *report == format!("0 200 by {port}")), "{reports:#?}");
        curl.end();
    }
}

/// `K` asks for a KeyUpdate in return, `k` does not: both while the connection is idle, before and after it moves, and in the
/// middle of a request.
#[test]
fn openssl_changes_its_keys_around_handovers() {
    if lacks("openssl") {
        return;
    }
    let scene = Scene::start();
    let mut openssl = Outside::start("openssl", |command| {
        command.args([
            "s_client",
            "-connect",
            &scene.address().to_string(),
            "-servername",
            "localhost",
            "-tls1_3",
        ]);
        command.arg("-msg").arg("-verify_return_error").arg("-CAfile").arg(scene.authority.file())
    });
    let mut keys = 0;
    let mut change_keys = |openssl: &mut Outside, letter: &str| {
        openssl.say(&format!("{letter}\n"));
        keys += 1;
        openssl.output.wait_for_nth("KEYUPDATE", keys);
    };
    let mut responses = 0;
    // With the KeyUpdate that was asked for, which need not come before.
    let mut answered = |openssl: &Outside| {
        responses += 1;
        let lines =
            |lines: &[String], _: bool| lines.iter().filter(|line| *line == "ok").count() >= responses;
        assert!(openssl.output.wait(lines), "{:#?}", openssl.output.lines_with(""));
        if responses > 1 {
            openssl.output.wait_for_nth("<<< *, KeyUpdate", responses - 1);
        }
    };
    let (head, rest) = ("GET /ok HTTP/1.1\r\n", "Host: localhost\r\n\r\n");
    openssl.say(&format!("{head}{rest}"));
    answered(&openssl);
    for n in 0..HANDOVERS {
        // An update that is owed at the move, or just received.
        let letter = if n % 2 == 0 { "K" } else { "k" };
        change_keys(&mut openssl, letter);
        let divided = n % 4 < 2;
        if divided {
            openssl.say(head);
        }
        scene.hand_over(|| change_keys(&mut openssl, "K"));
        change_keys(&mut openssl, letter);
        if !divided {
            openssl.say(head);
        }
        openssl.say(rest);
        answered(&openssl);
    }
    assert!(openssl.output.lines_with("lert").is_empty(), "{:#?}", openssl.output.lines_with("lert"));
    assert!(!openssl.output.lines_with("").iter().any(|line| line.eq_ignore_ascii_case("connection: close")));
    openssl.end();
}

/// It fetches without a pause, and never notices that the process has changed. It opens as many connections as it likes; none
/// of them is closed, and no close is announced.
#[test]
fn a_browser_keeps_its_connection() {
    let scene = Scene::start();
    let relay = Relay::to(scene.address());
    let url = format!("https://localhost:{}/", relay.port);
    let Some(browser) = Browser::open_with(&url, &["--ignore-certificate-errors"]) else { return };
    let mut page = browser.page();
    until("the page is there", || page.evaluate("document.body.innerText") == "Hello, World!");
    page.evaluate(
        "window.failures = [];
         window.seen = [];
         (async () => {
             while (window.seen) {
                 try {
                     const response = await fetch('/generation', { cache: 'no-store' });
                     const text = await response.text();
                     if (/close/i.test(response.headers.get('connection'))) failures.push('closes');
                     if (seen.at(-1) !== text) seen.push(text);
                 } catch (problem) {
                     failures.push(String(problem));
                 }
             }
         })();
         true",
    );
    until("it fetches", || page.evaluate("seen.length") == 1);
    for n in 0..HANDOVERS {
        scene.hand_over(|| ());
        until("the successor answers", || page.evaluate("+seen.at(-1)") == n + 2);
    }
    assert_eq!(page.evaluate("failures.join()"), "");
    assert_eq!(page.evaluate("seen.join()"), "1,2,3,4,5,6,7,8,9,10,11");
    assert_eq!(relay.ended_by_server(), 0);
}
