//! A server for clients that take all they can get: `greedy --listen ADDR --workers N`. Each route does what
//! costs a worker time, and `/ok` says what has been done so far.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use heirloom::Handle;
use heirloom::prelude::*;
use heirloom::wrap::AccessLog;

use super::{MainResult, start_log};

/// Requests that handlers have started, and pieces that were pulled from responses.
#[derive(Default)]
struct Done {
    calls: AtomicU64,
    pulled: AtomicU64,
}

pub(super) fn main(args: &[String]) -> MainResult {
    heirloom::handover::init()?;
    start_log();
    let flag = |name: &str| Some(args.iter().position(|arg| arg == name)? + 1).and_then(|at| args.get(at));
    let handle = Handle::new();
    let workers = flag("--workers").and_then(|n| n.parse().ok()).unwrap_or(4);
    Ok(Server::new(router(&handle))
        .with_handle(handle)
        .listen(flag("--listen").map_or("127.0.0.1:0", |name| name))
        .workers(workers)
        .limits(Limits::new().body_bytes(64 << 20))
        .serve()?)
}

fn router(handle: &Handle) -> impl Handler {
    let (done, stats) = (Arc::new(Done::default()), handle.clone());
    let pulling = |source: fn(&Arc<Done>) -> Body| {
        let done = Arc::clone(&done);
        move |_: Request| ([(header::CONTENT_TYPE, "text/plain")], source(&done))
    };
    let router = Router::new()
        .get("/computed", pulling(computed))
        .get("/slow", pulling(slow))
        .get("/nothing", pulling(nothing))
        .get("/text", pulling(|done| Body::from_reader(Text(Arc::clone(done)))))
        .post("/echo", |req: Request| req.into_body())
        .post("/discard", streaming(discard));
    let (asked, calls) = (Arc::clone(&done), Arc::clone(&done));
    let router = router
        .get("/ok", move |_: Request| {
            let Done { calls, pulled } = &*asked;
            let (calls, pulled) = (calls.load(Ordering::SeqCst), pulled.load(Ordering::SeqCst));
            format!("{calls} {pulled} {}", stats.stats().open)
        })
        .get("/sleep/{ms}", move |req: Request| {
            calls.calls.fetch_add(1, Ordering::SeqCst);
            sleep(req.param("ms").and_then(|ms| ms.parse().ok()).unwrap_or(0));
            "ok\n"
        });
    #[cfg(feature = "gzip")]
    let router = router.wrap(heirloom::wrap::Gzip::new());
    router.wrap(AccessLog::new())
}

/// Reads all of it, in small pieces.
fn discard(mut req: Request) -> Result<String, std::io::Error> {
    let (mut piece, mut all, mut reads) = ([0; 1 << 10], 0, 0);
    loop {
        match req.body_mut().read(&mut piece)? {
            0 => return Ok(format!("{all} {reads}")),
            n => (all, reads) = (all + n, reads + 1),
        }
    }
}

/// Endless, with a millisecond of work for each chunk.
fn computed(done: &Arc<Done>) -> Body {
    let done = Arc::clone(done);
    Body::from_chunks(std::iter::repeat_with(move || {
        done.pulled.fetch_add(1, Ordering::SeqCst);
        let until = Instant::now() + Duration::from_millis(1);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        Ok(vec![b'x'; 64])
    }))
}

/// Endless, with a chunk every 5 ms.
fn slow(done: &Arc<Done>) -> Body {
    let done = Arc::clone(done);
    Body::from_chunks(std::iter::repeat_with(move || {
        done.pulled.fetch_add(1, Ordering::SeqCst);
        sleep(5);
        Ok(vec![b'x'; 64])
    }))
}

/// Endless, with a millisecond of work for each empty chunk.
fn nothing(done: &Arc<Done>) -> Body {
    let done = Arc::clone(done);
    Body::from_chunks(std::iter::repeat_with(move || {
        done.pulled.fetch_add(1, Ordering::SeqCst);
        sleep(1);
        Ok("")
    }))
}

/// Endless, as fast as it is read.
struct Text(Arc<Done>);

impl Read for Text {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.pulled.fetch_add(1, Ordering::SeqCst);
        buf.fill(b'x');
        Ok(buf.len())
    }
}

fn sleep(ms: u64) {
    #[expect(clippy::disallowed_methods, reason = "stands for work that takes time")]
    std::thread::sleep(Duration::from_millis(ms));
}
