//! WebSockets (RFC 6455): the handshake, and a socket for threads that may block. The framing is
//! `tungstenite`'s.

// `protocol_state` says how threads share the socket.

mod closing;
mod handshake;
mod moving;
mod protocol_state;

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use tungstenite::protocol::frame::coding::CloseCode;

use crate::base::limits::within_reach;
use crate::base::log::debug;
use crate::base::sync::lock;
use crate::net::transfer::StreamKind;
use crate::web::body::Body;
use crate::web::broadcast::{Broadcast, Overflow, Subscription, Taken};
use crate::web::resume::{Passage, StreamState};
use crate::web::upgrade::{Duplex, Parts, Upgraded, Wants};
use crate::{Request, Response};
use handshake::HandshakeRequest;
#[cfg(any(test, fuzzing))]
pub(crate) use moving::check_details;
pub use moving::resumed;
use protocol_state::{Moving, ProtocolState, ReadOutcome};

/// A message of a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Text.
    Text(String),
    /// Binary data.
    Binary(Bytes),
}

/// Sizes and durations that bound one WebSocket. A time of `None` is no limit; a zero for `silence`, `stall` or
/// `closing` cuts the client off at once.
///
/// ```
/// use heirloom::websocket::WebSocketOptions;
/// let options = WebSocketOptions::new().message_bytes(16 << 20);
/// # let _ = options;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct WebSocketOptions {
    message_bytes: usize,
    unsent_bytes: usize,
    ping: Duration,
    silence: Duration,
    stall: Duration,
    closing: Duration,
}

impl WebSocketOptions {
    /// The defaults.
    pub fn new() -> WebSocketOptions {
        WebSocketOptions::default()
    }

    /// Bytes of a message from the client, in however many fragments. Default 2 MiB; above it the WebSocket is closed
    /// with 1009 (message too big).
    pub fn message_bytes(mut self, bytes: usize) -> WebSocketOptions {
        self.message_bytes = bytes;
        self
    }

    /// Bytes that the client has not read yet, above which [`WebSocketSender::try_send`] fails and nothing more is read
    /// from the client, whose Pings would have to be answered. Default 1 MiB.
    pub fn unsent_bytes(mut self, bytes: usize) -> WebSocketOptions {
        self.unsent_bytes = bytes;
        self
    }

    /// Without a byte from the client, until it is sent a Ping. Default 20 s.
    pub fn ping(mut self, time: impl Into<Option<Duration>>) -> WebSocketOptions {
        self.ping = within_reach(time);
        self
    }

    /// Without a byte from the client, a Pong included, until the connection is closed. Default 60 s.
    pub fn silence(mut self, time: impl Into<Option<Duration>>) -> WebSocketOptions {
        self.silence = within_reach(time);
        self
    }

    /// Without the client reading a byte, while there are bytes for it, until the connection is closed. Default 30 s.
    pub fn stall(mut self, time: impl Into<Option<Duration>>) -> WebSocketOptions {
        self.stall = within_reach(time);
        self
    }

    /// For the client to answer a Close of the server. Default 5 s; then the connection is closed.
    pub fn closing(mut self, time: impl Into<Option<Duration>>) -> WebSocketOptions {
        self.closing = within_reach(time);
        self
    }
}

impl Default for WebSocketOptions {
    fn default() -> WebSocketOptions {
        WebSocketOptions {
            message_bytes: 2 << 20,
            unsent_bytes: 1 << 20,
            ping: Duration::from_secs(20),
            silence: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            closing: Duration::from_secs(5),
        }
    }
}

/// A WebSocket, on a thread of its own (RFC 6455).
///
/// ```
/// use heirloom::websocket::WebSocket;
/// use heirloom::prelude::*;
///
/// fn echo(req: Request) -> Response {
///     WebSocket::upgrade(&req).speak(|socket| {
///         while let Some(message) = socket.read()? {
///             socket.send(message)?;
///         }
///         Ok(())
///     })
/// }
/// let router = Router::new().get("/echo", echo);
/// let response = router.call(http::Request::get("/echo").body(Body::empty()).unwrap());
/// assert_eq!(response.status(), StatusCode::UPGRADE_REQUIRED, "no WebSocket client");
/// ```
///
/// Pings are answered, and sent to a silent client, while a thread is in [`WebSocket::read`], so one should be. Other threads
/// send by a [`WebSocketSender`].
///
/// When the process drains, after a handover or at a stop, a Close with 1001 (going away) is sent at once, whatever the
/// thread does; the client may reconnect to the next generation. `read` continues to return messages that the client sent
/// before it received the Close, then None; `send` fails. A WebSocket that is [`resumable`](crate::ResponseExt::resumable) moves to
/// the next generation instead, by [`hand_over`](WebSocket::hand_over).
///
/// Extensions, such as compression, are not supported.
pub struct WebSocket {
    shared: Arc<WebSocketSession>,
    protocol: Option<String>,
    read_timeout: Option<Duration>,
    /// The state for the next process.
    handed_over: Option<Vec<u8>>,
}

/// Sends on a [`WebSocket`] from any thread. Clones send on the same WebSocket. It does not keep the WebSocket open: after
/// the close, sending fails.
///
/// Messages from several threads are not interleaved.
#[derive(Clone)]
pub struct WebSocketSender {
    shared: Weak<WebSocketSession>,
}

/// A request for a WebSocket, and the settings for its response; see [`WebSocket::upgrade`].
#[derive(Debug)]
#[must_use = "`speak` makes the response"]
pub struct WebSocketUpgrade {
    asked: Result<HandshakeRequest, handshake::Rejection>,
    options: WebSocketOptions,
    protocol: Option<String>,
    origins: AllowedOrigins,
}

/// The sites whose pages may open the WebSocket.
#[derive(Debug)]
enum AllowedOrigins {
    /// The server's own, and these.
    Also(Vec<String>),
    Any,
}

struct WebSocketSession {
    io: Arc<dyn Duplex>,
    passage: Passage,
    options: WebSocketOptions,
    /// This lock is never held while a thread waits.
    protocol_state: Mutex<ProtocolState>,
    /// The reading thread is to return to its code, once.
    is_woken: AtomicBool,
}

impl WebSocket {
    /// Checks a request for a WebSocket. The response of [`WebSocketUpgrade::speak`] is a 101; 426 with `Upgrade` and
    /// `Sec-WebSocket-Version: 13` if the request is not for a WebSocket, or for another version; 400 if it is malformed; 405
    /// for a method other than GET; 403 for a browser's page of another site.
    pub fn upgrade(req: &Request) -> WebSocketUpgrade {
        WebSocketUpgrade {
            asked: handshake::read(req),
            options: WebSocketOptions::default(),
            protocol: None,
            origins: AllowedOrigins::Also(Vec::new()),
        }
    }

    /// Waits for the next message; None when the WebSocket is closed, or [moves](WebSocket::is_moving) to the next process.
    ///
    /// # Errors
    /// `TimedOut` after the [read timeout](WebSocket::set_read_timeout) or a [wake](WebSocketSender::wake): nothing is lost, read
    /// again.
    /// All others end the WebSocket: `InvalidData` for a violation of the protocol (the client gets 1002, 1007 or 1009),
    /// `UnexpectedEof` if the client closed without a Close, `ConnectionAborted` if it does not answer or does not read, and
    /// those of the connection.
    pub fn read(&mut self) -> io::Result<Option<Message>> {
        let deadline = self.read_timeout.and_then(|time| Instant::now().checked_add(time));
        match self.shared.read(deadline)? {
            ReadOutcome::Message(message) => Ok(Some(message)),
            ReadOutcome::End | ReadOutcome::Moving => Ok(None),
            ReadOutcome::Nothing => Err(ErrorKind::TimedOut.into()),
        }
    }

    /// How long a read waits before it fails with `TimedOut`; None, the default: indefinitely. A drain and silent clients are
    /// noticed without it.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }

    /// Sends a message, and waits until the socket has accepted it.
    ///
    /// # Errors
    /// `BrokenPipe` once it is closed, also because the process drains; `ConnectionAborted` if the client does not read for too
    /// long; those of the connection.
    pub fn send(&self, message: impl Into<Message>) -> io::Result<()> {
        self.shared.send(message.into())
    }

    /// Whether `read` has returned None because the WebSocket moves to the next process. All that the client has sent since the
    /// last message goes there. Until `speak` returns, messages can still be sent.
    pub fn is_moving(&self) -> bool {
        self.shared.lock().moving() == Moving::Told
    }

    /// Gives the WebSocket to the next process, where the code of [`resumed`] continues it with `state`, when `speak` returns. If
    /// the WebSocket does not move, because it is closed, this does nothing: it is the last line of a handler, after its loop.
    /// A handler that does not call it ends the WebSocket with 1001.
    ///
    /// Messages that were accepted for sending are sent before it moves. Then sending fails with `BrokenPipe`, also by a
    /// [`WebSocketSender`].
    ///
    /// # Errors
    /// `InvalidInput` if the state is longer than 64 KiB.
    pub fn hand_over(&mut self, state: impl Into<StreamState>) -> io::Result<()> {
        let state = state.into().checked()?;
        self.handed_over = self.is_moving().then_some(state);
        Ok(())
    }

    /// A sender for other threads.
    pub fn sender(&self) -> WebSocketSender {
        // No read waits meanwhile: it borrows the WebSocket mutably.
        self.shared.io.expect_rings();
        WebSocketSender { shared: Arc::downgrade(&self.shared) }
    }

    /// Sends a Close with a registered code (1000 to 1003, 1007 to 1014) or an own one from 3000 to 4999, and at most 123 bytes
    /// of reason; a longer reason is truncated. `read` then returns further messages, and None when the client has answered.
    /// Without this call, the WebSocket is closed with 1000 when `speak` returns, or with 1011 if it fails or panics. On a
    /// closed WebSocket this does nothing.
    ///
    /// # Errors
    /// `InvalidInput` for a code that must not be sent.
    pub fn close(&self, code: u16, reason: &str) -> io::Result<()> {
        self.shared.close(code, reason)
    }

    /// Code and reason of the client's Close, once `read` has returned None for it; 1005 if it had no code. None if the client
    /// has not sent a Close, or one with a forbidden code: that is answered by 1002, and is an error of `read`.
    pub fn closed_with(&self) -> Option<(u16, String)> {
        self.shared.lock().said().map(|(code, reason)| (code, reason.to_owned()))
    }

    /// The selected subprotocol, see [`WebSocketUpgrade::protocols`].
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// The other end of the connection, see [`RequestExt::peer_addr`](crate::RequestExt::peer_addr).
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.shared.passage.conn_info().peer
    }
}

impl WebSocketUpgrade {
    /// Replaces the default bounds.
    pub fn options(mut self, options: WebSocketOptions) -> WebSocketUpgrade {
        self.options = options;
        self
    }

    /// Supported subprotocols, the best first: the first one that the client also offers is selected. If there is none, none
    /// is selected; a browser that has offered some then closes.
    pub fn protocols(mut self, ours: &[&str]) -> WebSocketUpgrade {
        if let Ok(asked) = &self.asked {
            let offered = |name: &&&str| asked.protocols.iter().any(|theirs| theirs == **name);
            self.protocol = ours.iter().find(offered).map(|name| (*name).to_owned());
        }
        self
    }

    /// Allows pages of these sites, such as `https://example.org`, too. By default only pages of this server, by the request's
    /// `Host`, may open the WebSocket, because a browser would let any page do so and send this site's cookies. Clients that
    /// are not browsers are always allowed.
    pub fn origins(mut self, also: &[&str]) -> WebSocketUpgrade {
        if let AllowedOrigins::Also(all) = &mut self.origins {
            all.extend(also.iter().map(|site| (*site).to_owned()));
        }
        self
    }

    /// Allows pages of any site, for services that use no cookies.
    pub fn any_origin(mut self) -> WebSocketUpgrade {
        self.origins = AllowedOrigins::Any;
        self
    }

    /// The response; if it is a 101, `speak` gets the WebSocket on a thread of its own. When it returns, the WebSocket is
    /// closed, unless it was closed before. Its error is only logged, at debug level.
    ///
    /// At most [`Limits::detached_threads`](crate::Limits::detached_threads) run at once; above that
    /// the client gets 503.
    pub fn speak(self, speak: impl FnOnce(&mut WebSocket) -> io::Result<()> + Send + 'static) -> Response {
        let asked = match self.asked {
            Ok(asked) => asked,
            Err(refusal) => return handshake::refuse(refusal),
        };
        if let (Some(origin), AllowedOrigins::Also(also)) = (&asked.origin, &self.origins) {
            if !handshake::is_same(origin, &asked.host)
                && !also.iter().any(|site| site.eq_ignore_ascii_case(origin))
            {
                debug!("a WebSocket for a page of {origin}, on {}: 403", asked.host);
                return handshake::refuse((StatusCode::FORBIDDEN, "this Origin is not allowed"));
            }
        }
        let (options, protocol) = (self.options, self.protocol);
        let mut response = handshake::accept(&asked, protocol.as_deref());
        *response.body_mut() = Body::upgrade(move |io| {
            run(io, Terms { options, protocol, silent: Duration::ZERO, resumed: false }, speak);
        });
        response
    }
}

/// What was agreed with the client, and how long it has been silent.
struct Terms {
    options: WebSocketOptions,
    protocol: Option<String>,
    silent: Duration,
    /// Another process had the WebSocket, or has refused it.
    resumed: bool,
}

fn run(io: Upgraded, terms: Terms, speak: impl FnOnce(&mut WebSocket) -> io::Result<()>) {
    let Terms { options, protocol, silent, resumed } = terms;
    let Parts { io, early, passage } = io.into_parts();
    let now = Instant::now();
    let heard = now.checked_sub(silent).unwrap_or(now);
    let mut protocol_state = ProtocolState::new(Arc::clone(&io), early, options.clone(), heard);
    match (passage.may_open(StreamKind::WebSocket), resumed) {
        (true, _) => protocol_state.may_move(),
        (false, true) => protocol_state.came_back(),
        (false, false) => {}
    }
    let protocol_state = Mutex::new(protocol_state);
    let shared = Arc::new(WebSocketSession {
        io: Arc::clone(&io),
        passage,
        options,
        protocol_state,
        is_woken: AtomicBool::new(false),
    });
    let notified = Arc::downgrade(&shared);
    io.at_drain(Box::new(move || {
        if let Some(shared) = notified.upgrade() {
            shared.look_at_drain();
        }
    }));
    // The drain may have started already.
    shared.look_at_drain();
    let mut socket =
        WebSocket { shared: Arc::clone(&shared), protocol, read_timeout: None, handed_over: None };
    let outcome = catch_unwind(AssertUnwindSafe(|| speak(&mut socket)));
    let WebSocket { handed_over, protocol, .. } = socket;
    if let (Ok(Ok(())), Some(state)) = (&outcome, handed_over) {
        if shared.leave(protocol, state) {
            return;
        }
    }
    let code = match &outcome {
        Ok(Ok(())) => CloseCode::Normal,
        Ok(Err(e)) => {
            debug!("a WebSocket ended: {e}");
            CloseCode::Error
        }
        Err(_) => CloseCode::Error,
    };
    shared.finish(code);
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

impl WebSocketSession {
    fn lock(&self) -> MutexGuard<'_, ProtocolState> {
        lock(&self.protocol_state)
    }

    /// In a drain the WebSocket moves to the next process, or is closed.
    fn look_at_drain(&self) {
        if self.passage.conn_info().drain.is_draining() {
            let moves = self.passage.is_open(StreamKind::WebSocket);
            let mut protocol_state = self.lock();
            if moves {
                protocol_state.ask_to_move();
            } else if protocol_state.stay() {
                protocol_state.close(CloseCode::Away.into(), "", Instant::now());
                // A reading or sending thread sees the error.
                let _ = protocol_state.pump();
            }
        }
    }

    /// `Nothing` at the deadline.
    fn read(&self, deadline: Option<Instant>) -> io::Result<ReadOutcome> {
        loop {
            self.look_at_drain();
            let (all_sent, hears, due) = {
                let mut protocol_state = self.lock();
                let found = protocol_state.take();
                let was_choked = protocol_state.is_choked();
                // Pongs, and the answer to a Close.
                let all_sent = protocol_state.pump();
                match found? {
                    // No event reports bytes that have been read already.
                    ReadOutcome::Nothing if was_choked && !protocol_state.is_choked() => continue,
                    ReadOutcome::Nothing => {}
                    found => return Ok(found),
                }
                let Some(due) = protocol_state.due(Instant::now())? else { return Ok(ReadOutcome::End) };
                (all_sent?, !protocol_state.is_choked(), due)
            };
            let now = Instant::now();
            // Reset before the code looks at what has changed. A wake that comes after this look ends the wait.
            if self.is_woken.swap(false, Ordering::SeqCst) || deadline.is_some_and(|deadline| now >= deadline)
            {
                return Ok(ReadOutcome::Nothing);
            }
            let until = deadline.map_or(due, |deadline| due.min(deadline));
            let wants = Wants { read: hears, write: !all_sent, ring: true };
            self.io.wait(wants, Some(until.saturating_duration_since(now)))?;
        }
    }

    fn send(&self, message: Message) -> io::Result<()> {
        self.look_at_drain();
        let end = self.lock().say(message)?;
        loop {
            let stalls = {
                let mut protocol_state = self.lock();
                if protocol_state.pump()? || protocol_state.sent_in_all() >= end {
                    return Ok(());
                }
                if Instant::now() >= protocol_state.stalls() {
                    protocol_state.give_up();
                    return Err(io::Error::new(ErrorKind::ConnectionAborted, "the client does not read"));
                }
                protocol_state.stalls()
            };
            let left = stalls.saturating_duration_since(Instant::now());
            self.io.wait(Wants { write: true, ..Wants::default() }, Some(left))?;
        }
    }

    fn try_send(&self, message: Message) -> io::Result<()> {
        self.look_at_drain();
        let mut protocol_state = self.lock();
        if protocol_state.is_open() && protocol_state.unsent() > self.options.unsent_bytes {
            return Err(io::Error::new(ErrorKind::WouldBlock, "the client is slow"));
        }
        protocol_state.say(message)?;
        let all_sent = protocol_state.pump()?;
        drop(protocol_state);
        if !all_sent {
            // The reading thread sends the rest.
            self.io.ring();
        }
        Ok(())
    }

    fn close(&self, code: u16, reason: &str) -> io::Result<()> {
        if !closing::may_be_sent(code) {
            return Err(io::Error::new(ErrorKind::InvalidInput, format!("invalid Close code: {code}")));
        }
        let mut protocol_state = self.lock();
        protocol_state.close(code, reason, Instant::now());
        let _ = protocol_state.pump();
        drop(protocol_state);
        // From now on the reading thread does not wait indefinitely.
        self.io.ring();
        Ok(())
    }

    /// Sends a Close, unless one was sent, and waits for the client's for a limited time.
    fn finish(&self, code: CloseCode) {
        {
            let mut protocol_state = self.lock();
            protocol_state.do_not_move();
            let is_draining = self.passage.conn_info().drain.is_draining();
            let code = if is_draining { CloseCode::Away } else { code };
            protocol_state.close(code.into(), "", Instant::now());
        }
        // Later messages are dropped.
        while !self.lock().is_over() {
            if let Err(e) = self.read(None) {
                debug!("a WebSocket was not closed cleanly: {e}");
            }
        }
        let deadline = Instant::now() + self.options.closing;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.lock().pump().unwrap_or(true) || left.is_zero() {
                return;
            }
            let _ = self.io.wait(Wants { write: true, ..Wants::default() }, Some(left));
        }
    }
}

impl WebSocketSender {
    /// As [`WebSocket::send`]: waits until the socket has accepted the message.
    ///
    /// # Errors
    /// As [`WebSocket::send`].
    pub fn send(&self, message: impl Into<Message>) -> io::Result<()> {
        self.shared()?.send(message.into())
    }

    /// Sends without waiting, for a thread that serves many clients: bytes that the socket does not accept at once are sent
    /// while the WebSocket's own thread is in [`WebSocket::read`].
    ///
    /// # Errors
    /// `WouldBlock` if more than [`WebSocketOptions::unsent_bytes`] wait for the client already; the message
    /// is not sent then. Others as [`WebSocket::send`].
    pub fn try_send(&self, message: impl Into<Message>) -> io::Result<()> {
        self.shared()?.try_send(message.into())
    }

    /// As [`WebSocket::close`].
    ///
    /// # Errors
    /// As [`WebSocket::close`].
    pub fn close(&self, code: u16, reason: &str) -> io::Result<()> {
        match self.shared() {
            Ok(shared) => shared.close(code, reason),
            Err(_) => Ok(()),
        }
    }

    /// Makes the thread in [`WebSocket::read`] return to its code, by `TimedOut`, now or at its next read that would wait: for
    /// something other than the client that it has to look at. Several wakes before that are one. On a closed WebSocket this does
    /// nothing. [`Broadcast::wake`] wakes many.
    pub fn wake(&self) {
        if let Ok(shared) = self.shared() {
            shared.is_woken.store(true, Ordering::SeqCst);
            shared.io.ring();
        }
    }

    /// Whether messages can be sent: neither side has sent a Close.
    pub fn is_open(&self) -> bool {
        self.shared().is_ok_and(|shared| shared.lock().is_open())
    }

    fn shared(&self) -> io::Result<Arc<WebSocketSession>> {
        let closed = || io::Error::new(ErrorKind::BrokenPipe, "the WebSocket is closed");
        self.shared.upgrade().ok_or_else(closed)
    }
}

impl<T: Clone + Into<Message> + Send + 'static> Broadcast<T> {
    /// Sends each value to a WebSocket too, until the result is dropped or the WebSocket is closed. Its queue is the bytes that
    /// the client has not read ([`WebSocketOptions::unsent_bytes`]); what that does not take is lost, or closes the WebSocket
    /// ([`Overflow`]). At a drain the WebSocket itself is closed. A feature: `websocket`.
    ///
    /// ```
    /// use heirloom::broadcast::Broadcast;
    /// use heirloom::prelude::*;
    /// use heirloom::websocket::{Message, WebSocket};
    ///
    /// /// Each client gets what any client says.
    /// fn chat(req: Request, room: Broadcast<String>) -> Response {
    ///     WebSocket::upgrade(&req).speak(move |socket| {
    ///         let _member = room.attach(socket.sender());
    ///         while let Some(message) = socket.read()? {
    ///             if let Message::Text(text) = message {
    ///                 room.send(text);
    ///             }
    ///         }
    ///         Ok(())
    ///     })
    /// }
    /// let room = Broadcast::new(100);
    /// let router = Router::new().get("/chat", move |req: Request| chat(req, room.clone()));
    /// # router.check().unwrap();
    /// ```
    pub fn attach(&self, sender: WebSocketSender) -> Subscription {
        let overflow = self.overflow_policy();
        self.subscribe_by(move |value| match sender.try_send(value) {
            Ok(()) => Taken::Yes,
            Err(e) if e.kind() == ErrorKind::WouldBlock && overflow == Overflow::DropOldest => Taken::Lost,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let _ = sender.close(CloseCode::Policy.into(), "too slow");
                Taken::Ended
            }
            Err(_) => Taken::Ended,
        })
    }
}

impl<T: Clone + Send + 'static> Broadcast<T> {
    /// Each value that is sent wakes the thread that reads this WebSocket ([`WebSocketSender::wake`]), until the result is dropped or the
    /// WebSocket is closed. The values themselves are not sent to the client: the hub is a bell, which says that a store has something
    /// new. A feature: `websocket`.
    ///
    /// ```
    /// use heirloom::broadcast::Broadcast;
    /// use heirloom::prelude::*;
    /// use heirloom::websocket::WebSocket;
    /// use std::io::{self, ErrorKind};
    /// # fn stored_after(_: u64) -> io::Result<Vec<(u64, String)>> { Ok(Vec::new()) }
    /// # fn store(_: &str) -> io::Result<()> { Ok(()) }
    ///
    /// /// Sends what the store has behind `last`, and stores what the client says.
    /// fn follow(socket: &mut WebSocket, bell: &Broadcast<()>, mut last: u64) -> io::Result<()> {
    ///     let _woken = bell.wake(socket.sender());
    ///     loop {
    ///         for (id, text) in stored_after(last)? {
    ///             socket.send(text)?;
    ///             last = id;
    ///         }
    ///         match socket.read() {
    ///             Ok(Some(message)) => {
    ///                 store(message.as_text().unwrap_or_default())?;
    ///                 bell.send(());
    ///             }
    ///             Ok(None) => return Ok(()),
    ///             Err(e) if e.kind() == ErrorKind::TimedOut => {} // the bell
    ///             Err(e) => return Err(e),
    ///         }
    ///     }
    /// }
    ///
    /// let bell = Broadcast::new(1);
    /// let chat = move |req: Request| {
    ///     let bell = bell.clone();
    ///     WebSocket::upgrade(&req).speak(move |socket| follow(socket, &bell, 0))
    /// };
    /// let router = Router::new().get("/chat", chat);
    /// # router.check().unwrap();
    /// ```
    pub fn wake(&self, sender: WebSocketSender) -> Subscription {
        self.subscribe_by(move |_| {
            sender.wake();
            if sender.is_open() { Taken::Yes } else { Taken::Ended }
        })
    }
}

impl Message {
    /// The text of a text message.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Message::Text(text) => Some(text),
            Message::Binary(_) => None,
        }
    }

    /// The content, text or binary.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
        }
    }
}

impl From<String> for Message {
    fn from(text: String) -> Message {
        Message::Text(text)
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Message {
        Message::Text(text.to_owned())
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Message {
        Message::Binary(bytes)
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Message {
        Message::Binary(bytes.into())
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket")
            .field("peer", &self.peer_addr())
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for WebSocketSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketSender").finish_non_exhaustive()
    }
}
