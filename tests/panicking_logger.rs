//! A logger that panics, as `println!` does on a pipe without a reader, loses its lines and
//! nothing else. Alone in its process, which has one logger.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use heirloom::prelude::*;
use log::{LevelFilter, Log, Metadata, Record};

use support::{Client, End, How, eventually};

struct Panics;

const BROKEN: &str = "failed printing to stdout: Broken pipe";

static LINES: AtomicUsize = AtomicUsize::new(0);

impl Log for Panics {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, _: &Record<'_>) {
        LINES.fetch_add(1, Ordering::SeqCst);
        std::panic::panic_any(BROKEN);
    }

    fn flush(&self) {}
}

#[test]
fn a_logger_that_panics_loses_its_lines_and_nothing_else() {
    log::set_logger(&Panics).unwrap();
    log::set_max_level(LevelFilter::Trace);
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref() != Some(&BROKEN) {
            usual(panic);
        }
    }));
    let router = Router::new()
        .get("/", |_: Request| "well")
        .get("/panics", |_: Request| -> &'static str { panic!("a handler") })
        .get("/stream", |_: Request| {
            Body::writer(|out| {
                out.write_all(b"streamed")?;
                Err(std::io::Error::other("in the end"))
            })
        });
    let handler = router.wrap(heirloom::wrap::AccessLog::new());
    let server = Server::new(handler).listen("127.0.0.1:0").workers(1).spawn().unwrap();
    let address = server.addresses()[0];
    let well = |lines: usize| {
        assert_eq!(Client::to(address).get("/").text(), "well");
        assert!(LINES.load(Ordering::SeqCst) > lines, "something was to be said");
        LINES.load(Ordering::SeqCst)
    };
    let lines = well(0);
    // Lines of a worker, of the end of a connection, of a detached thread.
    assert_eq!(Client::to(address).get("/panics").status, 500);
    let lines = well(lines);
    let mut client = Client::to(address);
    client.send("what is this\r\n\r\n");
    assert_eq!(client.reply().status, 400);
    drop(client);
    let lines = well(lines);
    let mut client = Client::to(address);
    let reply = client.get("/stream");
    assert_eq!((reply.text().as_str(), reply.trailing), ("streamed", How::Cut(End::Fin)));
    eventually("it has ended", || server.handle().stats().detached == 0);
    well(lines);
    assert_eq!(server.handle().stats().workers_replaced, 0);
    server.stop().unwrap();
}
