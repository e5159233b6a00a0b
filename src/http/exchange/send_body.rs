//! A response body on its way out: pulled from its source a piece at a time, whenever the client
//! has taken the last one.

use std::io::{self, ErrorKind, IoSlice, Read};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use bytes::{Buf, Bytes};

use super::on_end::Ending;
use super::output::{Sent, write_out};
use super::progress::{After, ExchangeStage, Unread};
use super::refuse::broken;
use super::send_file::{FileSent, OutgoingFile};
use super::stall_limits::Blocked;
use super::worker::{WorkerState, method_and_path};
use super::{Disposition, Exchange, Flow};
use crate::base::close_reason::CloseReason;
use crate::base::contain_panic::panic_text;
use crate::base::log::error;
use crate::http::codec::encode::{self, BodyFraming, LAST_CHUNK};
use crate::net::stream::Stream;
use crate::web::body::BodyKind;

/// Bodies up to this are copied behind their head, to go out in one write.
const COPY_BYTES: usize = 32 << 10;
/// A piece of a source.
const PIECE_BYTES: usize = 64 << 10;
/// The most bytes of a file, or of memory, in one system call, so that a fast client does not keep the worker in the
/// kernel.
const SEND_BYTES: u64 = 1 << 20;

/// A response whose body is on its way.
pub(super) struct Sending {
    pub(super) body: OutgoingBody,
    pub(super) after: After,
    pub(super) unread: Option<Box<Unread>>,
    /// The head of the request, for the log.
    pub(super) head: Bytes,
    pub(super) ending: Option<Ending>,
}

/// How much of a request's head is kept while its response waits for the client.
const HEAD_KEPT: usize = 1 << 10;

impl Sending {
    /// Keeps the start of a long head, which is enough for the log: its bytes are not counted.
    pub(super) fn shorten_head(&mut self) {
        let is_long = self.head.len() > 2 * HEAD_KEPT;
        if let Some(start) = self.head.get(..HEAD_KEPT).filter(|_| is_long) {
            // The space ends the target.
            self.head = [start, b" "].concat().into();
        }
    }
}

impl Exchange<'_> {
    /// Goes on with a response whose body is not all written.
    pub(super) fn send_body(&mut self, sending: Box<Sending>) -> Flow {
        // The source is code of the program too, and may take long.
        self.worker.current_request.begin(&sending.head, Instant::now());
        let flow = self.send_pieces(sending);
        self.worker.current_request.end();
        (self.turn.now, self.turn.is_current) = (Instant::now(), false);
        self.finish(flow?)
    }

    fn send_pieces(&mut self, mut sending: Box<Sending>) -> Flow<After> {
        // How much the client has taken in this turn, if the server has not waited for it yet.
        let mut taken = 0usize;
        let mut is_first = true;
        loop {
            match sending.body.flush(&mut self.worker.out, &self.client.stream) {
                Ok(sent) if sent.all => self.note_taken(sent.bytes),
                Ok(sent) => {
                    self.client.progress.stage = ExchangeStage::Response(sending);
                    return ControlFlow::Break(self.park_blocked(sent));
                }
                Err(e) => return ControlFlow::Break(broken(&e)),
            }
            if !std::mem::take(&mut is_first) && sending.body.has_more() {
                self.turn.now = Instant::now();
                if self.is_over() {
                    Blocked::requeue(&mut self.client.progress.blocked, taken, self.turn.now);
                    self.client.progress.stage = ExchangeStage::Response(sending);
                    return ControlFlow::Break(self.requeue());
                }
            }
            match self.pull(&mut sending) {
                Some(Pulled::Piece) => {}
                Some(Pulled::Sent(bytes)) => match &mut self.client.progress.blocked {
                    Some(blocked) => blocked.take(bytes, Instant::now()),
                    None => taken = taken.saturating_add(bytes),
                },
                Some(Pulled::Blocked) => {
                    self.client.progress.stage = ExchangeStage::Response(sending);
                    return ControlFlow::Break(self.park_blocked(Sent { bytes: taken, all: false }));
                }
                Some(Pulled::End) => {
                    let given = sending.body.given;
                    self.end_after_output(sending.ending.take(), given);
                    self.note_last(sending.after, &sending.head);
                    self.unread = sending.unread;
                    return ControlFlow::Continue(sending.after);
                }
                None => return ControlFlow::Break(self.cut_response(sending)),
            }
        }
    }

    /// Gets the next piece of a body. None if its source failed or panicked.
    fn pull(&mut self, sending: &mut Sending) -> Option<Pulled> {
        match &sending.body.source {
            // These don't block: most pages of a file are in memory, too.
            BodySource::Bytes(_) | BodySource::Ended => {}
            BodySource::File(_) => self.queue.before_computing(),
            // The user's code, which may block.
            BodySource::Reader(_) => self.queue.before_blocking(self.worker.index),
        }
        let Sending { body, head, ending, .. } = sending;
        let WorkerState { piece, out, .. } = &mut *self.worker;
        let stream = &self.client.stream;
        let pulled = catch_unwind(AssertUnwindSafe(|| body.pull(piece, out, stream)));
        ending.iter_mut().for_each(|ending| ending.set_bytes(body.given));
        // A source that has ended is complete, even if its drop panics.
        self.drop_users(body.take_ended(), head);
        match pulled {
            Ok(Ok(pulled)) => return Some(pulled),
            Ok(Err(e)) => {
                error!("{}: its response's source failed: {e}", method_and_path(head));
                self.drop_users(e, head);
            }
            Err(panic) => {
                error!("{}: its response's source panicked: {}", method_and_path(head), panic_text(&*panic));
                self.worker.counters.panicked();
                self.drop_users(panic, head);
            }
        }
        None
    }

    fn cut_response(&mut self, sending: Box<Sending>) -> Disposition {
        let disposition = cut(&sending.body, CloseReason::ResponseFailed);
        // The head, and answers before it, may not be written yet: they wait for a file's first piece.
        let _ = self.try_flush();
        let head = sending.head.clone();
        self.drop_users(sending, &head);
        self.last_head = Some(head);
        disposition
    }
}

/// Ends an incomplete response. The client must see that it is incomplete: where its framing can't show it, by a reset.
pub(super) fn cut(body: &OutgoingBody, reason: CloseReason) -> Disposition {
    if body.ends_with_connection() { Disposition::Reset(reason) } else { Disposition::Close(reason) }
}

/// A body on its way.
pub(super) struct OutgoingBody {
    /// Written after the worker's buffer, without being copied there.
    bytes: Bytes,
    source: BodySource,
    /// The source has given everything.
    ended: bool,
    framing: BodyFraming,
    /// How much of the announced length is left.
    left: u64,
    /// Bytes of the body so far.
    given: u64,
}

/// Where the next piece comes from.
enum BodySource {
    Bytes(Bytes),
    File(OutgoingFile),
    Reader(Box<dyn Read + Send>),
    Ended,
}

/// The outcome of a pull.
#[derive(PartialEq, Eq)]
enum Pulled {
    Piece,
    /// So many bytes are sent already.
    Sent(usize),
    /// The socket takes no more now.
    Blocked,
    End,
}

impl OutgoingBody {
    /// Copies a small body in memory to `out`. False if it is another one.
    #[inline]
    pub(super) fn copy_small(kind: &BodyKind, out: &mut Vec<u8>) -> bool {
        match kind {
            BodyKind::Bytes(bytes) if bytes.len() <= COPY_BYTES => {
                out.extend_from_slice(bytes);
                true
            }
            _ => false,
        }
    }

    /// A body that is not copied. None if there is nothing to send.
    pub(super) fn new(kind: BodyKind, framing: BodyFraming) -> Option<OutgoingBody> {
        let (bytes, source) = match kind {
            BodyKind::Bytes(bytes) => {
                let mut bytes = bytes.into_bytes();
                let rest = split(&mut bytes);
                (bytes, BodySource::Bytes(rest))
            }
            BodyKind::File { file, share, descriptor, .. } => {
                (Bytes::new(), BodySource::File(OutgoingFile::new(file, [share, descriptor])))
            }
            BodyKind::Source { source, .. } => (Bytes::new(), BodySource::Reader(source)),
            BodyKind::Empty | BodyKind::Detached(_) | BodyKind::Upgrade(_) => return None,
        };
        let left = if let BodyFraming::Length(length) = framing { length } else { 0 };
        let given = bytes.len() as u64;
        Some(OutgoingBody { bytes, source, ended: false, framing, left, given })
    }

    /// Whether only the end of the connection ends the body.
    pub(super) fn ends_with_connection(&self) -> bool {
        self.framing == BodyFraming::UntilClose
    }

    /// Whether there is more to pull.
    fn has_more(&self) -> bool {
        match &self.source {
            BodySource::Bytes(rest) => !rest.is_empty(),
            BodySource::File(_) | BodySource::Reader(_) => {
                self.left > 0 || !matches!(self.framing, BodyFraming::Length(_))
            }
            BodySource::Ended => false,
        }
    }

    /// Writes the pulled bytes, after those in `out`.
    fn flush(&mut self, out: &mut Vec<u8>, stream: &Stream) -> io::Result<Sent> {
        if self.given == 0 && matches!(self.source, BodySource::File(_)) {
            // The first piece can be read without waiting, and goes out with the head.
            return Ok(Sent::ALL);
        }
        let mut bytes = 0usize;
        while !self.bytes.is_empty() {
            match stream.write_vectored(&[IoSlice::new(out), IoSlice::new(&self.bytes)]) {
                Ok(n) => {
                    let of_out = n.min(out.len());
                    out.drain(..of_out);
                    self.bytes.advance(n.saturating_sub(of_out));
                    bytes = bytes.saturating_add(n);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(Sent { bytes, all: false }),
                Err(e) => return Err(e),
            }
        }
        let rest = write_out(out, stream)?;
        Ok(Sent { bytes: bytes.saturating_add(rest.bytes), all: rest.all })
    }

    /// The source, once it has ended: the caller contains a panic of its drop.
    fn take_ended(&mut self) -> Option<BodySource> {
        self.ended.then(|| std::mem::replace(&mut self.source, BodySource::Ended))
    }

    /// Asks the source for a piece and frames it. `out` is empty, except for the first piece of a file.
    ///
    /// # Errors
    /// Those of the source, and `UnexpectedEof` if it has less than was announced.
    fn pull(&mut self, piece: &mut Vec<u8>, out: &mut Vec<u8>, stream: &Stream) -> io::Result<Pulled> {
        let room = match self.framing {
            BodyFraming::Length(_) => {
                usize::try_from(self.left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES))
            }
            _ => PIECE_BYTES,
        };
        let source: &mut dyn Read = match &mut self.source {
            BodySource::Bytes(rest) if !rest.is_empty() => {
                self.bytes = std::mem::take(rest);
                *rest = split(&mut self.bytes);
                self.given = self.given.saturating_add(self.bytes.len() as u64);
                return Ok(Pulled::Piece);
            }
            BodySource::Bytes(_) | BodySource::Ended => return Ok(Pulled::End),
            BodySource::File(_) | BodySource::Reader(_) if room == 0 => {
                self.ended = true;
                return Ok(Pulled::End);
            }
            BodySource::File(file) if self.given > 0 => {
                let most = usize::try_from(self.left.min(SEND_BYTES)).unwrap_or(PIECE_BYTES);
                match file.send(stream, most) {
                    FileSent::Bytes(0) => return Err(self.too_short()),
                    FileSent::Bytes(n) => {
                        self.count(n);
                        return Ok(Pulled::Sent(n));
                    }
                    FileSent::Blocked => return Ok(Pulled::Blocked),
                    FileSent::ByCopy => file,
                }
            }
            BodySource::File(file) => file,
            BodySource::Reader(reader) => reader,
        };
        piece.resize(PIECE_BYTES, 0);
        let piece = piece.get_mut(..room).unwrap_or_default();
        let n = match source.read(piece) {
            // It is pulled again after other connections have been served.
            Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(Pulled::Piece),
            read => read?,
        };
        let piece = piece.get(..n).ok_or_else(beyond_room)?;
        self.frame(piece, out)?;
        Ok(Pulled::Piece)
    }

    /// Writes a piece of the source. An empty one is its end.
    fn frame(&mut self, piece: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self.framing {
            BodyFraming::Length(_) if piece.is_empty() => return Err(self.too_short()),
            BodyFraming::Chunked if piece.is_empty() => out.extend_from_slice(LAST_CHUNK),
            BodyFraming::Chunked => encode::chunk(out, piece),
            _ => out.extend_from_slice(piece),
        }
        self.ended = piece.is_empty();
        self.count(piece.len());
        Ok(())
    }

    fn count(&mut self, bytes: usize) {
        self.given = self.given.saturating_add(bytes as u64);
        self.left = self.left.saturating_sub(bytes as u64);
    }

    fn too_short(&self) -> io::Error {
        let text = format!("it ended {} bytes before its announced length", self.left);
        io::Error::new(ErrorKind::UnexpectedEof, text)
    }
}

/// Shortens `bytes` to the size of one system call. Returns the rest.
fn split(bytes: &mut Bytes) -> Bytes {
    let most = usize::try_from(SEND_BYTES).unwrap_or(usize::MAX);
    bytes.split_off(most.min(bytes.len()))
}

fn beyond_room() -> io::Error {
    io::Error::other("it returned a length beyond its buffer")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_is_in_memory_goes_a_piece_at_a_time() {
        let (client, server) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let stream = Stream::Unix(Arc::new(server));
        let len = 2 * SEND_BYTES + 7;
        let body = BodyKind::Bytes(vec![b'x'; usize::try_from(len).unwrap()].into());
        let mut out = b"head".to_vec();
        let mut outgoing = OutgoingBody::new(body, BodyFraming::Length(len)).unwrap();
        let reader = std::thread::Builder::new().spawn(move || io::copy(&mut &client, &mut io::sink()));
        let mut all_of = |outgoing: &mut OutgoingBody| {
            let mut bytes = 0;
            loop {
                let sent = outgoing.flush(&mut out, &stream).unwrap();
                bytes += sent.bytes as u64;
                if sent.all {
                    return bytes;
                }
                std::thread::yield_now();
            }
        };
        let mut pieces = vec![(all_of(&mut outgoing), outgoing.has_more())];
        while outgoing.pull(&mut Vec::new(), &mut Vec::new(), &stream).unwrap() == Pulled::Piece {
            pieces.push((all_of(&mut outgoing), outgoing.has_more()));
        }
        assert_eq!(pieces, [(SEND_BYTES + 4, true), (SEND_BYTES, true), (7, false)]);
        assert_eq!(outgoing.given, len);
        drop((outgoing, stream));
        assert_eq!(reader.unwrap().join().unwrap().unwrap(), len + 4);
    }

    #[test]
    fn of_a_long_head_the_log_keeps_the_start() {
        let kept = |head: &str| {
            let body = BodyKind::Source { source: Box::new(io::empty()), left: None };
            let body = OutgoingBody::new(body, BodyFraming::Chunked).unwrap();
            let mut sending = Sending {
                body,
                after: After::Keep,
                unread: None,
                head: head.to_owned().into(),
                ending: None,
            };
            sending.shorten_head();
            sending.shorten_head();
            sending.head
        };
        let fields = "x: y\r\n".repeat(1_000);
        let short = "GET /a HTTP/1.1\r\n\r\n";
        assert_eq!(kept(short), short);
        let long = kept(&format!("GET /a HTTP/1.1\r\n{fields}\r\n"));
        assert!(long.len() <= HEAD_KEPT + 1 && long.starts_with(b"GET /a HTTP/1.1\r\nx: y\r\n"));
        let path = "a".repeat(5_000);
        let long = kept(&format!("GET /{path} HTTP/1.1\r\n\r\n"));
        let said = method_and_path(&long);
        assert!(said.starts_with("GET /aaa") && said.len() == HEAD_KEPT, "{said}");
    }
}
