//! Server-sent events, the stream that a browser's `EventSource` reads (HTML standard, §9.2).

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};

use crate::base::phase::{Drain, Waited};
use crate::net::conn_info::ClientWatch;
use crate::net::transfer::StreamKind;
use crate::web::body::Body;
use crate::web::broadcast::Subscriber;
use crate::web::request::RequestExt;
use crate::web::response::IntoResponse;
use crate::web::resume::{DetachedOut, Passage, Resume, ResumedTask, StreamState};
use crate::{Request, Response};

/// Proxies and clients consider a silent connection dead, and only a write shows the server that a client is dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How often a stream without events looks whether its client has closed: it has one of a limited number of threads.
const LOOK: Duration = Duration::from_secs(1);

/// A response of server-sent events, written by `write` on a thread of its own; see
/// [`Body::writer`]. It is `text/event-stream`, not to be cached or buffered by proxies.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::sse::{self, Event};
/// use std::time::Duration;
///
/// /// Counts, and resumes after the last number that the client has received.
/// fn count(req: Request) -> Response {
///     sse::response(&req, |events| {
///         let last = events.last_id().and_then(|id| id.parse().ok()).unwrap_or(0);
///         for n in last + 1_u64.. {
///             events.send(&Event::data(format!("number {n}")).id(n))?;
///             if events.wait(Duration::from_secs(1))?.is_draining() {
///                 break;
///             }
///         }
///         Ok(())
///     })
/// }
/// let router = Router::new().get("/count", count);
/// # router.check().unwrap();
/// ```
///
/// When the process drains, [`EventWriter::wait`] returns `Draining`, and the next [`send`](EventWriter::send) is the last
/// one: the stream ends. `EventSource` then reconnects, after a handover to the next generation, and sends the id of the last
/// event as `Last-Event-ID`. A stream that is [`resumable`](crate::ResponseExt::resumable) continues there without a reconnect,
/// see [`resumed`].
pub fn response(
    req: &Request,
    write: impl FnOnce(&mut EventWriter<'_>) -> io::Result<()> + Send + 'static,
) -> Response {
    let last_id = req.headers().get("last-event-id");
    let last_id = last_id.map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
    let (drain, client) = (req.drain(), req.client_watch());
    let body = Body::detached(move |out| {
        let mut events = EventWriter::new(out, drain, client);
        events.last_id = last_id;
        // The head shows the client that it is connected; some proxies wait for more than that.
        events.comment("")?;
        events.run(write)
    });
    let fields = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
        // nginx would buffer events.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (fields, body).into_response()
}

/// How an event stream of another process continues here, on a thread of its own: for
/// [`Server::resume`](crate::Server::resume). `write` gets the state that the other process's code gave to
/// [`EventWriter::hand_over`]. The client notices nothing.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::sse::{self, Event, EventWriter};
/// use std::{io, time::Duration};
///
/// /// Counts on, over all upgrades of the program.
/// fn count(events: &mut EventWriter<'_>, mut n: u64) -> io::Result<()> {
///     loop {
///         n += 1;
///         events.send(&Event::data(n).id(n))?;
///         if events.wait(Duration::from_secs(1))?.is_draining() {
///             return events.hand_over(n.to_string());
///         }
///     }
/// }
///
/// let start = |req: Request| sse::response(&req, |events| count(events, 0)).resumable("count");
/// let server = Server::new(Router::new().get("/count", start))
///     .resume("count", sse::resumed(|events, state| count(events, state.parse()?)));
/// # let _ = server;
/// ```
pub fn resumed(
    write: impl Fn(&mut EventWriter<'_>, StreamState) -> io::Result<()> + Send + Sync + 'static,
) -> Resume {
    let write = Arc::new(write);
    Resume::new(StreamKind::Events, move |_, state| {
        let write = Arc::clone(&write);
        ResumedTask::Stream(Box::new(move |out| {
            let Some(passage) = out.passage() else { return Err(ErrorKind::Unsupported.into()) };
            let conn_info = Arc::clone(passage.conn_info());
            let drain = conn_info.drain.clone();
            EventWriter::new(out, drain, ClientWatch::of(Some(conn_info))).run(|events| write(events, state))
        }))
    })
}

/// Writes server-sent events; see [`response`].
pub struct EventWriter<'a> {
    out: &'a mut dyn DetachedOut,
    /// None if the stream ends with the process.
    passage: Option<Passage>,
    /// The bytes of one event, which are sent at once.
    text: Vec<u8>,
    drain: Drain,
    client: ClientWatch,
    last_id: Option<String>,
    wrote: Instant,
    /// Whether the program's code knows that the process drains.
    notified: bool,
    /// Whether an error has reported it.
    ended: bool,
    /// Whether a write has failed, perhaps in the middle of an event.
    broken: bool,
    /// Whether the stream leaves: the next process writes.
    left: bool,
}

/// One event: data, and optionally a name, an id and a retry time.
///
/// ```
/// use heirloom::sse::Event;
/// let event = Event::data("two\nlines").id(7).name("note");
/// assert_eq!(event.to_string(), "event: note\nid: 7\ndata: two\ndata: lines\n\n");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    data: Option<String>,
    name: Option<String>,
    id: Option<String>,
    retry: Option<Duration>,
}

impl Event {
    /// An event with this text, of any number of lines.
    pub fn data(data: impl fmt::Display) -> Event {
        Event { data: Some(data.to_string()), ..Event::default() }
    }

    /// Sets how long the client waits before it reconnects, in milliseconds; it causes no event there. Browsers wait a few
    /// seconds by default.
    pub fn retry(after: Duration) -> Event {
        Event { retry: Some(after), ..Event::default() }
    }

    /// The name for the client's `addEventListener(name, ...)`; without a name `onmessage` receives the event. The name
    /// ends at a line break.
    pub fn name(mut self, name: impl fmt::Display) -> Event {
        self.name = Some(one_line(&name.to_string()));
        self
    }

    /// The id that the client sends as `Last-Event-ID` when it reconnects after this event. It ends at a line break.
    pub fn id(mut self, id: impl fmt::Display) -> Event {
        self.id = Some(one_line(&id.to_string()));
        self
    }
}

/// The event in the format of the stream.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            writeln!(f, "event: {name}")?;
        }
        if let Some(id) = &self.id {
            writeln!(f, "id: {id}")?;
        }
        if let Some(retry) = self.retry {
            writeln!(f, "retry: {}", retry.as_millis())?;
        }
        for line in self.data.iter().flat_map(|data| lines(data)) {
            writeln!(f, "data: {line}")?;
        }
        writeln!(f)
    }
}

impl EventWriter<'_> {
    fn new(out: &mut dyn DetachedOut, drain: Drain, client: ClientWatch) -> EventWriter<'_> {
        let passage = out.passage().cloned();
        EventWriter {
            out,
            passage,
            text: Vec::new(),
            drain,
            client,
            last_id: None,
            wrote: Instant::now(),
            notified: false,
            ended: false,
            broken: false,
            left: false,
        }
    }

    /// Runs the program's code.
    fn run(mut self, write: impl FnOnce(&mut EventWriter<'_>) -> io::Result<()>) -> io::Result<()> {
        match write(&mut self) {
            Ok(()) if self.broken => Err(gone()),
            Err(_) if self.ended => Ok(()),
            other => other,
        }
    }

    /// Sends one event, at once, as one piece.
    ///
    /// # Errors
    /// The client has disconnected, or has read nothing for [`Timeouts::response_stall`](crate::Timeouts::response_stall).
    /// `Interrupted` if the process drains and neither [`wait`](EventWriter::wait) nor
    /// [`is_draining`](EventWriter::is_draining) has reported it: the event was sent, and is the last one. A `?` then ends the
    /// stream properly. Not as long as the stream may move to the next process.
    pub fn send(&mut self, event: &Event) -> io::Result<()> {
        self.write_event(event)?;
        let may_move = || self.passage.as_ref().is_some_and(|passage| passage.is_open(StreamKind::Events));
        if !self.notified && self.drain.is_draining() && !may_move() {
            self.ended = true;
            return Err(io::Error::new(ErrorKind::Interrupted, "the process is draining: the stream ends"));
        }
        Ok(())
    }

    fn write_event(&mut self, event: &Event) -> io::Result<()> {
        self.text.clear();
        write!(self.text, "{event}")?;
        self.write_text()
    }

    /// Sends a comment, which the client ignores.
    ///
    /// # Errors
    /// The client has disconnected.
    pub fn comment(&mut self, text: &str) -> io::Result<()> {
        self.text.clear();
        for line in lines(text) {
            writeln!(self.text, ":{line}")?;
        }
        self.write_text()
    }

    /// Waits until the process drains, for `time` at most. At [`Waited::Draining`] the stream should end. Meanwhile
    /// the client gets a comment every 15 s, which shows both sides that the other one is there. Code that waits for
    /// something else calls this with `Duration::ZERO` from time to time:
    ///
    /// ```
    /// # use heirloom::sse::{Event, EventWriter};
    /// # use std::sync::mpsc::{Receiver, RecvTimeoutError};
    /// # use std::{io, time::Duration};
    /// fn pass_on(news: &Receiver<String>, events: &mut EventWriter<'_>) -> io::Result<()> {
    ///     while !events.wait(Duration::ZERO)?.is_draining() {
    ///         match news.recv_timeout(Duration::from_secs(1)) {
    ///             Ok(text) => events.send(&Event::data(text))?,
    ///             Err(RecvTimeoutError::Timeout) => {}
    ///             Err(RecvTimeoutError::Disconnected) => break,
    ///         }
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// The client has disconnected: noticed by a write or, before the wait and each second, by
    /// [`RequestExt::is_client_gone`].
    pub fn wait(&mut self, time: Duration) -> io::Result<Waited> {
        let deadline = Instant::now().checked_add(time);
        loop {
            if self.client.is_gone() {
                return Err(gone());
            }
            let now = Instant::now();
            let left = deadline.map_or(KEEP_ALIVE, |deadline| deadline.saturating_duration_since(now));
            let quiet = KEEP_ALIVE.saturating_sub(now.saturating_duration_since(self.wrote));
            if self.drain.wait(left.min(quiet).min(LOOK)).is_draining() {
                self.notified = true;
                return Ok(Waited::Draining);
            }
            if self.wrote.elapsed() >= KEEP_ALIVE {
                self.comment("")?;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Waited::TimedOut);
            }
        }
    }

    /// Sends the values of a [`Broadcast`](crate::broadcast::Broadcast), each as the event that `event` makes of it, until the
    /// process drains or the hub is gone. Meanwhile the client gets a comment every 15 s. Values that a slow client has
    /// lost are left out.
    ///
    /// # Errors
    /// As [`send`](EventWriter::send), and `ConnectionAborted` if the client was too slow for the hub
    /// ([`Overflow::Disconnect`](crate::broadcast::Overflow::Disconnect)): the client sees a stream that is cut, and reconnects.
    pub fn follow<T>(
        &mut self,
        mut values: Subscriber<T>,
        mut event: impl FnMut(T) -> Event,
    ) -> io::Result<()> {
        loop {
            match values.recv_timeout(LOOK) {
                // The values before a drain are still sent: it ends the subscription, not this.
                Ok(value) => self.write_event(&event(value))?,
                Err(RecvTimeoutError::Timeout) if self.client.is_gone() => return Err(gone()),
                Err(RecvTimeoutError::Timeout) if self.wrote.elapsed() < KEEP_ALIVE => {}
                Err(RecvTimeoutError::Timeout) => self.comment("")?,
                Err(RecvTimeoutError::Disconnected) if values.is_too_slow() => {
                    return Err(io::Error::new(ErrorKind::ConnectionAborted, "the client is too slow"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.notified |= self.drain.is_draining();
                    return Ok(());
                }
            }
        }
    }

    /// Gives the stream to the next process, where the code of [`resumed`] continues it with `state`, and returns at once; the
    /// thread should end then. The stream moves if it is [`resumable`](crate::ResponseExt::resumable), the next program
    /// resumes its name, and the drain was reported. In all other cases this does nothing, and the stream ends as usual.
    ///
    /// # Errors
    /// `InvalidInput` if the state is longer than 64 KiB.
    pub fn hand_over(&mut self, state: impl Into<StreamState>) -> io::Result<()> {
        let state = state.into().checked()?;
        let moves = self.is_moving();
        if let Some(passage) = self.passage.as_ref().filter(|_| moves) {
            passage.leave(StreamKind::Events, String::new(), state, Vec::new());
            self.left = true;
        }
        Ok(())
    }

    /// Whether the process drains and the stream moves to its successor, by [`hand_over`](EventWriter::hand_over).
    pub fn is_moving(&self) -> bool {
        let is_open = |passage: &Passage| passage.is_open(StreamKind::Events);
        self.notified && !self.broken && self.passage.as_ref().is_some_and(is_open)
    }

    /// Whether the process is about to end; then the stream should end too.
    pub fn is_draining(&mut self) -> bool {
        self.notified |= self.drain.is_draining();
        self.notified
    }

    /// A handle that reports the drain, for [`Broadcast::subscribe_until`](crate::broadcast::Broadcast::subscribe_until) and
    /// other threads.
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// The id of the last event that the client received on an earlier connection. None in a stream that was resumed.
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    fn write_text(&mut self) -> io::Result<()> {
        if self.left {
            return Err(io::Error::new(ErrorKind::BrokenPipe, "the stream has moved"));
        }
        // After an error, part of an event may have been sent.
        self.broken = true;
        self.out.write_all(&self.text)?;
        self.out.flush()?;
        self.broken = false;
        self.wrote = Instant::now();
        Ok(())
    }
}

impl fmt::Debug for EventWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventWriter").field("last_id", &self.last_id).finish_non_exhaustive()
    }
}

fn gone() -> io::Error {
    io::Error::new(ErrorKind::BrokenPipe, "the client is gone")
}

/// CR, LF and CRLF end a line; an empty string is one line.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

fn one_line(text: &str) -> String {
    // A NUL makes a browser ignore an id.
    text.split(['\r', '\n', '\0']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::phase::{Phase, PhaseWatch};
    use crate::net::conn_info::ConnInfo;
    use crate::web::body::BodyKind;

    #[test]
    fn events_as_text() {
        for (event, text) in [
            (Event::data(""), "data: \n\n"),
            (Event::data("a"), "data: a\n\n"),
            (Event::data("a\nb\r\nc\rd\n"), "data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"),
            (Event::data("a").id("7\nid: 8").name("x\r\ndata: y"), "event: x\nid: 7\ndata: a\n\n"),
            (Event::data("a").id("7\u{0}"), "id: 7\ndata: a\n\n"),
            (Event::retry(Duration::from_millis(1500)), "retry: 1500\n\n"),
            (Event::retry(Duration::ZERO).id(1), "id: 1\nretry: 0\n\n"),
        ] {
            assert_eq!(event.to_string(), text);
        }
    }

    /// What `write` sends, and how it ends, in a process of this phase.
    fn written(
        phase: Phase,
        write: impl FnOnce(&mut EventWriter<'_>) -> io::Result<()> + Send + 'static,
    ) -> (String, io::Result<()>) {
        let watch = PhaseWatch::new();
        watch.set(phase);
        let conn_info = Arc::new(ConnInfo::new(None, watch, 1));
        let mut req = Request::default();
        req.body_mut().set_received(conn_info, bytes::Bytes::new());
        req.headers_mut().insert("last-event-id", "41".parse().unwrap());
        let response = response(&req, write);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let BodyKind::Detached(write) = response.into_body().take_kind() else { panic!("not detached") };
        let mut out = Vec::new();
        let end = write(&mut out);
        (String::from_utf8(out).unwrap(), end)
    }

    #[test]
    fn a_stream_begins_with_a_comment_and_ends_with_its_writer() {
        let (text, end) = written(Phase::Serving, |events| {
            assert_eq!(events.last_id(), Some("41"));
            assert!(!events.is_draining() && !events.wait(Duration::from_millis(1))?.is_draining());
            events.send(&Event::data("a"))?;
            events.comment("b\nc")?;
            Err(io::Error::other("no more"))
        });
        assert_eq!(text, ":\ndata: a\n\n:b\n:c\n");
        assert_eq!(end.unwrap_err().to_string(), "no more");
    }

    #[test]
    fn a_drain_ends_streams_that_do_not_check_for_it() {
        let (text, end) = written(Phase::HandedOver, |events| {
            loop {
                events.send(&Event::data("a"))?;
            }
        });
        assert_eq!((&*text, end.is_ok()), (":\ndata: a\n\n", true));
        let (text, end) = written(Phase::Draining, |events| {
            assert!(events.wait(Duration::MAX)?.is_draining());
            events.send(&Event::data("b"))?;
            events.send(&Event::data("c"))
        });
        assert_eq!((&*text, end.is_ok()), (":\ndata: b\n\ndata: c\n\n", true));
        let (_, end) = written(Phase::Draining, |events| {
            assert!(events.is_draining());
            events.send(&Event::data("b"))?;
            Err(io::Error::other("failed"))
        });
        assert!(end.is_err());
    }
}
