//! Whole exchanges over a socket pair, on the calling thread, which plays acceptor, queue and client. So the output depends
//! only on the bytes and on where they are split.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use http::Method;
use litemap::LiteMap;

use super::http1::{cut, tight};
use crate::base::budget::Budget;
use crate::base::close_reason::CloseReason;
use crate::base::file_budget::FileBudget;
use crate::base::limits::{Limits, Timeouts};
use crate::base::phase::{Phase, PhaseWatch};
use crate::base::status::{AllCounters, Stats};
use crate::base::wait_group::WaitGroup;
use crate::http::exchange::deadline::Deadlines;
use crate::http::exchange::detached::Detached;
use crate::http::exchange::{
    Common, CurrentRequest, HandlerBox, ListenerHandler, Progress, Stores, WorkerState, serve,
};
use crate::net::acceptor::{Parking, PoolPlan};
use crate::net::conn_info::ConnInfo;
use crate::net::connection::{Cause, Connection, Ready};
use crate::net::scheduler::latency::HandlerLatency;
use crate::net::scheduler::queue::{Parker, Popped, Queue, Taken};
use crate::net::slots::SlotId;
use crate::net::stream::{Peek, Stream};
use crate::web::body::Body;
use crate::web::handler::{Handler, RouteLimits, RouteMatch, RouteRules, Routes, Seal};
use crate::web::request::RequestExt;
use crate::{Request, Response};

/// The most turns of a worker with one connection; more would be an endless loop.
const TURNS: usize = 100_000;

/// All bytes that a client sends before it disconnects, at once and in pieces.
pub fn exchange(data: &[u8]) {
    let (cuts, input) = cut(data);
    let whole = Rehearsal::new().run(input, &[input.len()]);
    let pieces = Rehearsal::new().run(input, &cuts);
    let whole = replies(&whole, input);
    assert_eq!(whole, replies(&pieces, input), "in pieces {cuts:?}: {}", input.escape_ascii());
}

/// A worker, a connection and its client.
struct Rehearsal {
    common: Common,
    queue: Queue<Ready<Progress>>,
    parker: Parker,
    worker: WorkerState,
    all_counters: AllCounters,
    slot: SlotId,
    client: UnixStream,
    said: Vec<u8>,
    ended: bool,
}

impl Rehearsal {
    fn new() -> Rehearsal {
        let (ours, client) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        client.set_nonblocking(true).unwrap();
        let (limits, timeouts) = (tight(), Timeouts::default());
        let pools = PoolPlan { workers: vec![1], of_handler: vec![0] };
        let parking = Arc::new(Parking::new(&limits, &[false], 1, pools, timeouts.idle).unwrap());
        let phase = PhaseWatch::new();
        let all_counters = AllCounters::default();
        let (memory, disk) = (Budget::new(limits.buffered_bytes), Budget::new(limits.temporary_bytes));
        let files = FileBudget::new(Budget::new(u64::MAX), disk, None);
        let stores = Stores { memory, files: Arc::new(files) };
        let wait_group = WaitGroup::new();
        let worker = WorkerState::new(
            0,
            all_counters.register(),
            Arc::new(CurrentRequest::default()),
            wait_group.clone(),
            None,
        );
        let stream = Stream::Unix(Arc::new(ours));
        let slot = parking.slots.claim().unwrap();
        let conn_info = Arc::new(ConnInfo::new(None, phase.clone(), 1));
        let connection = Connection::new(stream, slot, (0, 0), conn_info, Progress::default());
        let queue = Queue::new(1, 1);
        queue.push(&mut vec![Ready::new(Box::new(connection), Cause::Event)]);
        let handler_index =
            ListenerHandler { handler: HandlerBox(Arc::new(Mirror)), latency: HandlerLatency::new() };
        let detached =
            Detached::new(0, Budget::new(0), phase.clone(), all_counters.register(), LiteMap::new());
        let common = Common {
            handlers: vec![handler_index],
            parking,
            limits,
            timeouts,
            stores,
            phase,
            wait_group,
            detached: Arc::new(detached),
            deadlines: Arc::new(Deadlines::new(None, Limits::default(), all_counters.register())),
            error_pages: None,
        };
        let (said, ended) = (Vec::new(), false);
        Rehearsal { common, queue, parker: Parker::new(0), worker, all_counters, slot, client, said, ended }
    }

    /// All bytes of the server's output for this input, whose pieces are sent one by one, when the earlier ones are handled.
    fn run(mut self, input: &[u8], cuts: &[usize]) -> Vec<u8> {
        self.turns(false);
        let mut from = 0;
        for &to in cuts {
            while from < to && !self.ended {
                match self.client.write(&input[from..to]) {
                    Ok(n) => from += n,
                    Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
                }
                self.turns(false);
            }
        }
        if !self.ended {
            let _ = self.client.shutdown(Shutdown::Write);
            self.turns(true);
        }
        assert!(self.ended, "the client has ended, and the connection has not");
        assert_eq!(self.common.parking.open(), 0, "its place is free");
        assert_eq!(self.common.wait_group.count(), 0, "nothing is in flight");
        assert_eq!(
            self.common.stores.memory.held() + self.common.stores.files.temporary.held(),
            0,
            "budgets are free"
        );
        let mut stats = Stats::new(1, Phase::Serving);
        self.all_counters.add_up(&mut stats);
        let failed = |(reason, n): &(CloseReason, u64)| *reason == CloseReason::ResponseFailed && *n > 0;
        assert!(stats.panics == 0 && !stats.closes.iter().any(failed), "{:?}", stats.closes);
        self.said
    }

    /// Runs until the connection is parked and has nothing to read or to write.
    fn turns(&mut self, client_ended: bool) {
        for _ in 0..TURNS {
            let untaken = Taken::directly();
            let (mut ready, taken) = match self.common.parking.take(self.slot) {
                Some(client) => (Ready::new(client, Cause::Event), untaken),
                None if self.queue.has_waiting() => match self.queue.pop(&self.parker) {
                    Popped::Work(ready, taken) => (ready, taken),
                    Popped::Closed => return,
                },
                None => {
                    self.hear();
                    self.ended = true;
                    return;
                }
            };
            self.hear();
            if ready.connection.lingering().is_some() {
                self.common.parking.close(ready.connection);
                self.hear();
                self.ended = true;
                return;
            }
            ready.connection.poll.may_have_ended |= client_ended;
            let before = self.said.len();
            serve(ready, taken, &mut self.worker, &self.common, &self.queue);
            self.hear();
            if let Some(client) = self.common.parking.take(self.slot) {
                let rests = client.stream.peek() == Peek::Nothing
                    && client.lingering().is_none()
                    && self.said.len() == before;
                let deadline = crate::net::acceptor::Deadline::At(std::time::Instant::now());
                assert!(self.common.parking.park(client, deadline).is_ok(), "an event was missed");
                if rests {
                    return;
                }
            }
        }
        panic!("it goes in circles");
    }

    fn hear(&mut self) {
        let mut piece = [0; 16 << 10];
        loop {
            match self.client.read(&mut piece) {
                Ok(0) => return,
                Ok(n) => self.said.extend_from_slice(&piece[..n]),
                // A server that closes before it has read everything causes a reset.
                Err(e) => {
                    assert!(matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset), "{e}");
                    return;
                }
            }
        }
    }
}

/// Answers with the request that the handler saw.
struct Mirror;

impl Handler for Mirror {
    fn call(&self, mut request: Request) -> Response {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let mut said = format!("{method} {} {:?}\n", request.uri(), request.version()).into_bytes();
        for (name, value) in request.headers() {
            said.extend_from_slice(&[name.as_str().as_bytes(), b"=", value.as_bytes(), b"\n"].concat());
        }
        // A streamed body is left to the server: a read here would wait for this thread.
        if path != "/left" {
            said.extend_from_slice(&request.body_mut().read_bytes().unwrap());
        }
        for (name, value) in request.trailers().into_iter().flatten() {
            said.extend_from_slice(&[name.as_str().as_bytes(), b"=", value.as_bytes(), b"\n"].concat());
        }
        let status = path.strip_prefix("/status/").and_then(|status| status.parse().ok());
        let body = match path.as_str() {
            "/pieces" => Body::from_reader(std::io::Cursor::new(said)),
            "/big" => said.repeat(2_000).into(),
            _ => said.into(),
        };
        let response = http::Response::builder().header("x-asked", method.as_str());
        let response = if path == "/close" { response.header("connection", "close") } else { response };
        // An interim or switching status is not for handlers without the connection.
        let status = status.filter(|status| (200..=999u16).contains(status)).unwrap_or(200);
        response.status(status).body(body).unwrap()
    }

    fn routes(&self, _: Seal) -> Option<&dyn Routes> {
        Some(self)
    }
}

impl Routes for Mirror {
    fn find_route(&self, method: &Method, path: &str, found: &mut RouteMatch) {
        let limits = RouteLimits { body_bytes: (path == "/small").then_some(3), ..RouteLimits::new() };
        found.add_rules(&RouteRules { limits, streaming: path == "/left" });
        if path == "/nowhere" {
            let response = http::Response::builder().status(404).header("x-asked", method.as_str());
            found.refuse(response.body(Body::from("not found\n")).unwrap());
        }
    }
}

/// Every response as a text without its date. Interim ones are left out, because the server sends a 100 only if the body
/// has not arrived yet. Each response must be well-formed, and nothing follows the last one.
fn replies(mut said: &[u8], input: &[u8]) -> Vec<String> {
    let mut replies = Vec::new();
    let mut closed = false;
    while !said.is_empty() {
        assert!(!closed, "more after the last: {}", said.escape_ascii());
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut fields);
        let parsed = response.parse(said);
        let Ok(httparse::Status::Complete(len)) = parsed else {
            panic!("{parsed:?}: {}", said.escape_ascii())
        };
        let status = response.code.unwrap();
        let field = |name: &str| {
            let mut found = response.headers.iter().filter(|f| f.name.eq_ignore_ascii_case(name));
            let value = found.next().map(|field| std::str::from_utf8(field.value).unwrap());
            assert!(found.next().is_none(), "{name} twice");
            value
        };
        let mut text = format!("{status}");
        for field in response.headers.iter().filter(|field| field.name != "Date") {
            text += &format!("|{}: {}", field.name, field.value.escape_ascii());
        }
        assert!(status < 200 || field("date").is_some());
        closed = field("connection").is_some_and(|options| options.contains("close"));
        let asked = field("x-asked");
        let no_body = asked == Some("HEAD") || status < 200 || matches!(status, 204 | 304);
        let tunnel = asked == Some("CONNECT") && (200..300).contains(&status);
        said = &said[len..];
        let length = field("content-length").map(|length| length.parse::<usize>().unwrap());
        let body = match length {
            _ if no_body || tunnel => Vec::new(),
            Some(length) => {
                // The exchange's own refusals don't contain the request: with HEAD they have no body.
                let length = if asked.is_none() && said.is_empty() { 0 } else { length };
                let (body, rest) = said.split_at_checked(length).expect("a whole body");
                said = rest;
                body.to_vec()
            }
            None if field("transfer-encoding") == Some("chunked") => chunked(&mut said),
            None => {
                assert!(closed, "a body without an end");
                std::mem::take(&mut said).to_vec()
            }
        };
        text += &format!("|{}", body.escape_ascii());
        if status >= 200 {
            replies.push(text);
        } else {
            assert_eq!(status, 100, "{text}");
        }
    }
    // Each request's head ends with an empty line; one more answer may refuse the rest of the input.
    let ends = input.windows(2).filter(|two| two == b"\n\n").count()
        + input.windows(3).filter(|three| three == b"\n\r\n").count();
    assert!(replies.len() <= ends + 1, "{} answers to {ends} heads", replies.len());
    replies
}

fn chunked(said: &mut &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((at, size))) = httparse::parse_chunk_size(said) else {
            panic!("chunk size: {}", said.escape_ascii())
        };
        let (chunk, rest) = said[at..].split_at_checked(size as usize).expect("a whole chunk");
        body.extend_from_slice(chunk);
        *said = rest.strip_prefix(b"\r\n").expect("CRLF after a chunk");
        if size == 0 {
            return body;
        }
    }
}
