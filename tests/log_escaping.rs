//! Input of clients is escaped in the log. A separate process, because there is one logger for each.

mod support;

use std::io;
use std::sync::{Mutex, PoisonError};

use heirloom::prelude::*;
use heirloom::wrap::AccessLog;
use log::kv::{Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};

use support::{Fixture, eventually, quick};

struct Kept;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Log for Kept {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(record.args().to_string());
        // As a logger for terminals may print them.
        let _ = record.key_values().visit(&mut KeyValues(&mut lines));
    }

    fn flush(&self) {}
}

struct KeyValues<'a>(&'a mut Vec<String>);

impl<'kvs> VisitSource<'kvs> for KeyValues<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        self.0.push(format!("[{key}] {value}"));
        Ok(())
    }
}

/// A forged line, a terminal's red, C1 controls, line separators, reversed text, a backslash.
const SENT: &str =
    "%0A%5BERROR%5D%20forged%0D%1B%5B31m%7F%C2%9B%C2%85%E2%80%A8%E2%80%AE%E2%81%A6%E2%80%8E%D8%9C%5Cn";
const SHOWN: &str =
    "\\n[ERROR] forged\\r\\u{1b}[31m\\u{7f}\\u{9b}\\u{85}\\u{2028}\\u{202e}\\u{2066}\\u{200e}\\u{61c}\\\\n";

#[test]
fn a_line_of_the_log_is_one_line_whatever_a_client_sends() {
    log::set_logger(&Kept).unwrap();
    log::set_max_level(LevelFilter::Trace);
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !std::thread::current().name().is_some_and(|name| name.starts_with("heirloom")) {
            usual(panic);
        }
    }));
    let sent = |req: &Request| req.param("text").unwrap().to_owned();
    let router = Router::new()
        .get("/panics/{text}", move |req: Request| -> Response { panic!("{}", sent(&req)) })
        .get("/fails/{text}", move |req: Request| -> io::Result<()> { Err(io::Error::other(sent(&req))) })
        .get("/breaks/{text}", move |req: Request| {
            struct Breaks(String);
            impl io::Read for Breaks {
                fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                    Err(io::Error::other(self.0.clone()))
                }
            }
            Body::from_reader(Breaks(sent(&req)))
        })
        .get("/tag/{text}", move |req: Request| {
            heirloom::Validators::new().etag(sent(&req)).mark("x".into_response())
        })
        .wrap(AccessLog::new());
    let fixture = Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").workers(2).timeouts(quick()));
    for path in ["panics", "fails", "breaks", "tag"] {
        let mut client = fixture.client();
        // The characters that a target and a value may have as they are.
        let raw = "\u{85}\u{9b}\u{202e}\u{2066}";
        client.send(format!(
            "GET /{path}/{SENT}?{raw} HTTP/1.1\r\nHost: h\r\nUser-Agent: {raw}\\\"\r\n\r\nGET /{raw} HTTP/1.1\r\nHost: h\r\n\r\n"
        ));
        let _ = client.try_take();
    }
    let has = |part: &str| LINES.lock().unwrap().iter().any(|line| line.contains(part));
    for line in [
        format!("a handler panicked ({SHOWN})"),
        format!("500: {SHOWN}"),
        format!("its response's source failed: {SHOWN}"),
        format!("invalid entity tag: {SHOWN}"),
        "target=\"/\\u{85}\\u{9b}\\u{202e}\\u{2066}\"".to_owned(),
        "[listener] 127.0.0.1:0".to_owned(),
        "[phase] serving".to_owned(),
        "[generation] ".to_owned(),
        "[method] GET".to_owned(),
        "[status] 500".to_owned(),
        "[end] complete".to_owned(),
        "[agent] \\u{85}\\u{9b}\\u{202e}\\u{2066}\\\\\"".to_owned(),
        "agent=\"\\u{85}\\u{9b}\\u{202e}\\u{2066}\\\\\\\"\"".to_owned(),
    ] {
        eventually(&line, || has(&line));
    }
    fixture.stop().unwrap();
    for line in LINES.lock().unwrap().iter() {
        let strange = line
            .chars()
            .find(|c| c.is_control() || (c.is_whitespace() && *c != ' ') || (*c > '\u{7f}' && *c != 'µ'));
        assert_eq!(strange, None, "{line:?}");
    }
}
