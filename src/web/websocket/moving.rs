//! A WebSocket that moves to the next process: what was agreed with the client travels, with the bytes that were not read.

use std::borrow::Cow;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Terms, WebSocket, WebSocketOptions, WebSocketSession, run};
use crate::base::limits::within_reach;
use crate::base::log::debug;
use crate::base::percent::decoded_text;
use crate::base::words::{pairs, value_of};
use crate::net::transfer::StreamKind;
use crate::process::handover::escape;
use crate::web::resume::{Resume, ResumedTask, StreamState};
use crate::web::upgrade::Wants;

/// How a WebSocket of another process continues here, on a thread of its own: for
/// [`Server::resume`](crate::Server::resume). `speak` gets the state that the other process's code gave to
/// [`WebSocket::hand_over`]. The client notices nothing: its next message is read here, even if half of it had arrived there.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::websocket::{self, WebSocket};
/// use std::io;
///
/// /// Numbers the client's messages, over all upgrades of the program.
/// fn count(socket: &mut WebSocket, mut n: u64) -> io::Result<()> {
///     while socket.read()?.is_some() {
///         n += 1;
///         socket.send(n.to_string())?;
///     }
///     socket.hand_over(n.to_string())
/// }
///
/// let start = |req: Request| WebSocket::upgrade(&req).speak(|socket| count(socket, 0)).resumable("count");
/// let server = Server::new(Router::new().get("/count", start))
///     .resume("count", websocket::resumed(|socket, state| count(socket, state.parse()?)));
/// # let _ = server;
/// ```
///
/// Options and the subprotocol are those that the other process used.
pub fn resumed(
    speak: impl Fn(&mut WebSocket, StreamState) -> io::Result<()> + Send + Sync + 'static,
) -> Resume {
    let speak = Arc::new(speak);
    Resume::new(StreamKind::WebSocket, move |details, state| {
        let (speak, terms) = (Arc::clone(&speak), Terms::decode(details));
        ResumedTask::Upgrade(Box::new(move |io| run(io, terms, |socket| speak(socket, state))))
    })
}

impl WebSocketSession {
    /// Leaves for the next process, when all messages that were accepted are sent. False if the WebSocket has ended meanwhile.
    pub(super) fn leave(&self, protocol: Option<String>, state: Vec<u8>) -> bool {
        match self.send_all() {
            Ok((unread, heard)) => {
                let (options, silent) = (self.options.clone(), heard.elapsed());
                let terms = Terms { options, protocol, silent, resumed: true };
                self.passage.leave(StreamKind::WebSocket, terms.encode(), state, unread);
                true
            }
            Err(e) => {
                debug!("a WebSocket ended before it could move: {e}");
                false
            }
        }
    }

    /// Returns the unread bytes, and when the client was last heard. A client that reads slowly has until the drain deadline.
    fn send_all(&self) -> io::Result<(Vec<u8>, Instant)> {
        loop {
            let stalls = {
                let mut protocol_state = self.lock();
                if let Some(unread) = protocol_state.leave()? {
                    return Ok((unread, protocol_state.heard()));
                }
                protocol_state.stalls()
            };
            let left = stalls.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(ErrorKind::ConnectionAborted, "the client does not read"));
            }
            self.io.wait(Wants { write: true, ..Wants::default() }, Some(left))?;
        }
    }
}

impl Terms {
    fn encode(&self) -> String {
        let WebSocketOptions { message_bytes, unsent_bytes, ping, silence, stall, closing } = &self.options;
        let times = [ping, silence, stall, closing].map(|time| time.as_millis().to_string()).join(",");
        let protocol = self.protocol.as_ref().map(|name| format!(" protocol={}", escape(name.as_bytes())));
        format!(
            "bytes={message_bytes},{unsent_bytes} times_ms={times} silent_ms={}{}",
            self.silent.as_millis(),
            protocol.unwrap_or_default()
        )
    }

    /// What another version does not say, or says in another way, is as by default.
    fn decode(details: &str) -> Terms {
        let fields = pairs(details);
        let field = |key: &str| value_of(&fields, key).unwrap_or_default();
        let ms = |text: &str| text.parse().ok().map(Duration::from_millis);
        let mut options = WebSocketOptions::new();
        if let Some((message, unsent)) = field("bytes").split_once(',') {
            if let (Ok(message), Ok(unsent)) = (message.parse(), unsent.parse()) {
                options = options.message_bytes(message).unsent_bytes(unsent);
            }
        }
        let times: Vec<Duration> = field("times_ms").split(',').filter_map(ms).map(within_reach).collect();
        if let [ping, silence, stall, closing] = times[..] {
            options = options.ping(ping).silence(silence).stall(stall).closing(closing);
        }
        let protocol = decoded_text(field("protocol")).filter(|name| !name.is_empty()).map(Cow::into_owned);
        Terms { options, protocol, silent: ms(field("silent_ms")).unwrap_or_default(), resumed: true }
    }
}

/// For `fuzz/`: any details from another process decode to terms, which stay the same when they are encoded and decoded again.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_details(details: &str) {
    let terms = Terms::decode(details);
    let again = Terms::decode(&terms.encode());
    assert_eq!((again.options, again.protocol, again.silent), (terms.options, terms.protocol, terms.silent));
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::base::phase::{Phase, PhaseWatch};
    use crate::base::sync::lock;
    use crate::net::conn_info::ConnInfo;
    use crate::web::resume::{Exit, Leaving, Passage};
    use crate::web::upgrade::{Duplex, Parts, Upgraded};
    use crate::web::websocket::{Message, WebSocketSender};

    /// A client that sends nothing more, and keeps what it gets.
    #[derive(Default)]
    struct Silent(Mutex<Vec<u8>>);

    impl Duplex for Silent {
        fn try_read(&self, _: &mut [u8]) -> io::Result<usize> {
            Err(ErrorKind::WouldBlock.into())
        }

        fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
            lock(&self.0).extend_from_slice(buf);
            Ok(buf.len())
        }

        fn wait(&self, _: Wants, _: Option<Duration>) -> io::Result<bool> {
            panic!("nothing is to be waited for");
        }

        fn expect_rings(&self) {}

        fn ring(&self) {}

        fn at_drain(&self, _: Box<dyn FnOnce() + Send>) {}

        fn shutdown_write(&self) {}
    }

    /// A short frame, masked by zeros.
    fn frame(first: u8, payload: &str) -> Vec<u8> {
        [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload.as_bytes()].concat()
    }

    /// Runs `speak` on a WebSocket with this name, to which these bytes have come. Returns what it has sent.
    fn run_with(
        name: Option<&str>,
        came: Vec<u8>,
        watch: &PhaseWatch,
        speak: impl FnOnce(&mut WebSocket) -> io::Result<()>,
    ) -> (Vec<u8>, Option<Leaving>) {
        let conn_info = Arc::new(ConnInfo::new(None, watch.clone(), 1));
        let exit = name.map(|name| Exit { name: name.into(), resume: resumed(|_, _| Ok(())) });
        let (io, passage) = (Arc::new(Silent::default()), Passage::new(exit, conn_info));
        let parts = Parts { io: Arc::clone(&io) as _, early: came, passage: passage.clone() };
        let terms = Terms::decode("");
        run(Upgraded::new(parts, Duration::ZERO), terms, speak);
        (std::mem::take(&mut *lock(&io.0)), passage.take())
    }

    #[test]
    fn unread_messages_leave_and_accepted_ones_are_sent() {
        let watch = PhaseWatch::new();
        watch.set_continued(vec!["a".to_owned()]);
        let behind = [frame(0x81, "two"), frame(0x01, "thr"), frame(0x89, "p")[..3].to_vec()].concat();
        let came = [frame(0x89, "?"), frame(0x81, "one"), behind.clone()].concat();
        let mut sender: Option<WebSocketSender> = None;
        let (sent, leaving) = run_with(Some("a"), came, &watch, |socket| {
            assert_eq!(socket.read()?, Some(Message::from("one")));
            let other = sender.insert(socket.sender());
            watch.set(Phase::HandedOver);
            assert!(!socket.is_moving(), "it does not know yet");
            other.send("late")?;
            assert_eq!((socket.read()?, socket.is_moving()), (None, true));
            socket.send("later")?;
            assert!(other.is_open());
            socket.hand_over("state")
        });
        let said = [&[0x8a, 1, b'?', 0x81, 4][..], b"late", &[0x81, 5], b"later"].concat();
        assert_eq!(sent.escape_ascii().to_string(), said.escape_ascii().to_string());
        let leaving = leaving.unwrap();
        assert_eq!((leaving.unread, leaving.continuation.state), (behind, b"state".to_vec()));
        let sender = sender.unwrap();
        assert_eq!(sender.send("too late").unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert!(!sender.is_open());
    }

    #[test]
    fn without_its_state_it_ends_with_1001() {
        let watch = PhaseWatch::new();
        watch.set_continued(vec!["a".to_owned()]);
        watch.set(Phase::HandedOver);
        // The client's answer has come already.
        let close = frame(0x88, "\u{3}\u{69}");
        for (name, hands_over) in [(Some("a"), false), (Some("b"), true)] {
            let (sent, leaving) = run_with(name, close.clone(), &watch, |socket| match hands_over {
                true => socket.hand_over(()),
                false => socket.read().map(|_| assert!(socket.is_moving())),
            });
            assert_eq!(sent, [0x88, 2, 3, 0xe9], "{name:?}");
            assert!(leaving.is_none());
        }
    }

    #[test]
    fn what_has_come_back_is_answered_before_it_ends() {
        let watch = PhaseWatch::new();
        watch.set(Phase::HandedOver);
        let came = [frame(0x81, "one"), frame(0x81, "two"), frame(0x88, "\u{3}\u{69}")].concat();
        let (sent, leaving) = run_with(None, came, &watch, |socket| {
            while let Some(message) = socket.read()? {
                socket.send(message)?;
            }
            socket.hand_over(())
        });
        let said = [&[0x81, 3][..], b"one", &[0x81, 3], b"two", &[0x88]].concat();
        assert!(sent.starts_with(&said), "{}", sent.escape_ascii());
        assert!(leaving.is_none());
    }

    #[test]
    fn a_handler_that_is_late_stays() {
        let watch = PhaseWatch::new();
        watch.set_continued(vec!["a".to_owned()]);
        let came = [frame(0x81, "one"), frame(0x88, "\u{3}\u{69}")].concat();
        let (sent, leaving) = run_with(Some("a"), came, &watch, |socket| {
            let other = socket.sender();
            watch.set(Phase::HandedOver);
            other.send("asked")?;
            watch.end_leaving();
            // It does not know anything yet, and is not disturbed before it reads.
            other.send("late")?;
            assert_eq!(socket.read()?, Some(Message::from("one")));
            assert_eq!((socket.read()?, socket.is_moving()), (None, false));
            socket.hand_over(())
        });
        let said = [&[0x81, 5][..], b"asked", &[0x81, 4], b"late", &[0x88, 2, 3, 0xe9]].concat();
        assert_eq!(sent.escape_ascii().to_string(), said.escape_ascii().to_string());
        assert!(leaving.is_none());
    }

    /// What it knows holds: it gets no further message, so it can only leave.
    #[test]
    fn a_handler_that_was_asked_in_time_may_answer_late() {
        let watch = PhaseWatch::new();
        watch.set_continued(vec!["a".to_owned()]);
        watch.set(Phase::HandedOver);
        let (sent, leaving) = run_with(Some("a"), frame(0x81, "one"), &watch, |socket| {
            assert_eq!((socket.read()?, socket.is_moving()), (None, true));
            watch.end_leaving();
            assert_eq!((socket.read()?, socket.is_moving()), (None, true));
            socket.hand_over("state")
        });
        assert!(sent.is_empty());
        assert_eq!(leaving.unwrap().unread, frame(0x81, "one"));
    }

    #[test]
    fn a_close_under_way_ends_here_and_an_unread_one_moves() {
        let watch = PhaseWatch::new();
        watch.set_continued(vec!["a".to_owned()]);
        let answer = frame(0x88, "\u{f}\u{20}");
        let (sent, leaving) = run_with(Some("a"), answer, &watch, |socket| {
            socket.close(4000, "x")?;
            watch.set(Phase::HandedOver);
            assert_eq!((socket.read()?, socket.is_moving()), (None, false));
            socket.hand_over(())
        });
        assert_eq!((sent, leaving.is_none()), (vec![0x88, 3, 0x0f, 0xa0, b'x'], true));
        let close = frame(0x88, "\u{3}\u{69}");
        let came = [frame(0x81, "one"), close.clone()].concat();
        let watch = PhaseWatch::new();
        watch.set_continued(vec!["a".to_owned()]);
        let (sent, leaving) = run_with(Some("a"), came, &watch, |socket| {
            assert_eq!(socket.read()?, Some(Message::from("one")));
            watch.set(Phase::HandedOver);
            assert_eq!((socket.read()?, socket.is_moving()), (None, true));
            socket.hand_over(())
        });
        assert_eq!((sent.len(), leaving.unwrap().unread), (0, close));
    }

    #[test]
    fn a_state_that_is_too_long_ends_it_with_1001() {
        let watch = PhaseWatch::new();
        watch.set_continued(vec!["a".to_owned()]);
        watch.set(Phase::HandedOver);
        let (sent, leaving) = run_with(Some("a"), frame(0x88, "\u{3}\u{69}"), &watch, |socket| {
            assert_eq!((socket.read()?, socket.is_moving()), (None, true));
            let e = socket.hand_over(vec![0; (64 << 10) + 1]).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidInput);
            Err(e)
        });
        assert_eq!((sent, leaving.is_none()), (vec![0x88, 2, 3, 0xe9], true));
    }

    /// A client that takes a few bytes at a time, and now and then none.
    #[derive(Default)]
    struct Slow(Mutex<(Vec<u8>, usize)>);

    impl Duplex for Slow {
        fn try_read(&self, _: &mut [u8]) -> io::Result<usize> {
            Err(ErrorKind::WouldBlock.into())
        }

        fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
            let mut lock = lock(&self.0);
            lock.1 += 1;
            if lock.1 % 3 == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            let n = buf.len().min(lock.1 % 7 + 1);
            lock.0.extend_from_slice(&buf[..n]);
            Ok(n)
        }

        fn wait(&self, _: Wants, _: Option<Duration>) -> io::Result<bool> {
            std::thread::yield_now();
            Ok(true)
        }

        fn ring(&self) {}

        fn expect_rings(&self) {}

        fn at_drain(&self, _: Box<dyn FnOnce() + Send>) {}

        fn shutdown_write(&self) {}
    }

    /// Of the text messages that these bytes are: each one's sender and number.
    fn numbered(mut bytes: &[u8]) -> Vec<(u8, usize)> {
        let mut all = Vec::new();
        while let [0x81, len, rest @ ..] = bytes {
            let (text, rest) = rest.split_at(usize::from(*len));
            let (sender, number) = std::str::from_utf8(text).unwrap().split_once(' ').unwrap();
            all.push((sender.parse().unwrap(), number.parse().unwrap()));
            bytes = rest;
        }
        assert!(bytes.is_empty(), "half a frame is left: {bytes:?}");
        all
    }

    /// Two threads wait for the socket, two do not, while it leaves.
    #[test]
    fn what_was_accepted_of_other_threads_is_sent_before_it_leaves() {
        for _ in 0..50 {
            let watch = PhaseWatch::new();
            watch.set_continued(vec!["a".to_owned()]);
            let conn_info = Arc::new(ConnInfo::new(None, watch.clone(), 1));
            let exit = Exit { name: "a".into(), resume: resumed(|_, _| Ok(())) };
            let (io, passage) = (Arc::new(Slow::default()), Passage::new(Some(exit), conn_info));
            let parts = Parts { io: Arc::clone(&io) as _, early: Vec::new(), passage: passage.clone() };
            let mut threads = Vec::new();
            run(Upgraded::new(parts, Duration::ZERO), Terms::decode(""), |socket| {
                let (has_sent, sent) = std::sync::mpsc::channel();
                for of in 0..4_u8 {
                    let (sender, has_sent) = (socket.sender(), has_sent.clone());
                    let send_all = move || {
                        let mut n = 0;
                        loop {
                            let message = format!("{of} {n}");
                            let sent = if of < 2 { sender.send(message) } else { sender.try_send(message) };
                            match sent {
                                Ok(()) => n += 1,
                                Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                                Err(e) => {
                                    assert_eq!(e.kind(), ErrorKind::BrokenPipe);
                                    return n;
                                }
                            }
                            let _ = has_sent.send(of);
                        }
                    };
                    threads.push(std::thread::Builder::new().spawn(send_all).unwrap());
                }
                let mut waited_for = vec![0, 1, 2, 3];
                while !waited_for.is_empty() {
                    let of = sent.recv().unwrap();
                    waited_for.retain(|one| *one != of);
                }
                watch.set(Phase::HandedOver);
                assert_eq!((socket.read()?, socket.is_moving()), (None, true));
                socket.hand_over(())
            });
            assert!(passage.take().is_some());
            let accepted: Vec<usize> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            let all = numbered(&lock(&io.0).0);
            for (of, accepted) in (0..).zip(accepted) {
                let numbers: Vec<usize> =
                    all.iter().filter(|(sender, _)| *sender == of).map(|(_, number)| *number).collect();
                assert_eq!(numbers, (0..accepted).collect::<Vec<_>>(), "thread {of}");
            }
        }
    }

    #[test]
    fn what_was_agreed_survives_the_way() {
        let options = WebSocketOptions::new().message_bytes(7).unsent_bytes(8).ping(Duration::from_millis(9));
        for (options, protocol) in [
            (options.clone(), Some("chat v2,a".to_owned())),
            (options.silence(None).closing(Duration::ZERO), None),
        ] {
            let terms = Terms { options, protocol, silent: Duration::from_millis(1234), resumed: true };
            let arrived = Terms::decode(&terms.encode());
            assert_eq!(arrived.options, terms.options);
            assert_eq!((arrived.protocol, arrived.silent), (terms.protocol, terms.silent));
        }
        for odd in ["", "bytes=1 times_ms=1,2,3 silent_ms=x protocol=", "bytes=-1,2 times_ms=a,b,c,d later=1"]
        {
            let terms = Terms::decode(odd);
            assert_eq!((terms.options, terms.protocol), (WebSocketOptions::new(), None), "{odd}");
            check_details(odd);
        }
    }
}
