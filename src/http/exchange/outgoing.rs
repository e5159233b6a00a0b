//! A response body on its way out: pulled from its source a piece at a time, whenever the client
//! has taken the last one. Files go by `sendfile` where the connection is plain text.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Read};

use bytes::{Buf, Bytes};

use crate::base::budget::Share;
use crate::http::codec::encode::{self, BodyFraming, LAST_CHUNK};
use crate::net::stream::Stream;
use crate::web::body::Kind;

/// A piece of a source.
const PIECE_BYTES: usize = 64 << 10;
/// As much of a file, or of bytes in memory, goes in one call, so that a fast client does not keep us in the
/// kernel.
const SEND_BYTES: u64 = 1 << 20;

pub(super) struct Outgoing {
    /// Behind what is in the worker's buffer, without being copied there.
    bytes: Bytes,
    /// Behind that, to be gone on with a piece at a time.
    rest: Bytes,
    source: Option<Box<dyn Read + Send>>,
    file: Option<Held>,
    /// The source has given all that it is asked for.
    ended: bool,
    framing: BodyFraming,
    /// Of the length that was announced.
    left: u64,
    /// Bytes of the body, so far.
    given: u64,
}

/// A file with what it holds of a budget.
struct Held {
    file: File,
    _shares: [Option<Share>; 2],
    /// `sendfile` can't be had for it.
    by_copy: bool,
}

/// How much of what was to be written the socket took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) bytes: usize,
    pub(super) all: bool,
}

/// What a pull goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pulls {
    Nothing,
    /// Which is in memory mostly.
    File,
    /// The user's code, which may block.
    Source,
}

/// What a pull brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pulled {
    Piece,
    /// Written already.
    Sent(usize),
    /// To be gone on with when the client takes more.
    Blocked,
    End,
}

impl Outgoing {
    /// None: all of it is in `out`.
    pub(super) fn new(kind: Kind, framing: BodyFraming, out: &mut Vec<u8>, copy: usize) -> Option<Outgoing> {
        let left = match framing {
            BodyFraming::Length(len) => len,
            _ => 0,
        };
        let with = |mut bytes: Bytes, source, file| {
            let rest = split(&mut bytes);
            let given = bytes.len() as u64;
            Some(Outgoing { bytes, rest, source, file, ended: false, framing, left, given })
        };
        match kind {
            Kind::Bytes(bytes) if bytes.len() <= copy => {
                out.extend_from_slice(&bytes);
                None
            }
            Kind::Bytes(bytes) => with(bytes, None, None),
            Kind::File { file, share, descriptor, .. } => {
                let shares = [share, descriptor];
                with(Bytes::new(), None, Some(Held { file, _shares: shares, by_copy: false }))
            }
            Kind::Source { source, .. } => with(Bytes::new(), Some(source), None),
            Kind::Empty | Kind::Detached(_) | Kind::Upgrade(_) => None,
        }
    }

    /// Nothing more to pull; for what is in `out` only.
    pub(super) fn done() -> Outgoing {
        let framing = BodyFraming::None;
        let (bytes, rest) = (Bytes::new(), Bytes::new());
        Outgoing { bytes, rest, source: None, file: None, ended: true, framing, left: 0, given: 0 }
    }

    /// Whether there is more to pull.
    pub(super) fn has_more(&self) -> bool {
        let pulls = self.source.is_some() || self.file.is_some();
        let has_all = matches!(self.framing, BodyFraming::Length(_)) && self.left == 0;
        !self.rest.is_empty() || (pulls && !has_all)
    }

    /// Whether only the end of the connection ends the body.
    pub(super) fn ends_with_connection(&self) -> bool {
        self.framing == BodyFraming::UntilClose
    }

    /// Whether the next piece is there without waiting, to go out with the head.
    pub(super) fn joins_head(&self) -> bool {
        self.file.is_some() && self.given == 0
    }

    pub(super) fn pulls(&self) -> Pulls {
        match (&self.source, &self.file) {
            (Some(_), _) => Pulls::Source,
            (None, Some(_)) => Pulls::File,
            (None, None) => Pulls::Nothing,
        }
    }

    /// Bytes of the body that were pulled from it.
    pub(super) fn given(&self) -> u64 {
        self.given
    }

    /// Writes what has been pulled.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>, stream: &Stream) -> io::Result<Sent> {
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

    /// The source, once it has ended: for who can drop what is the user's.
    pub(super) fn take_ended(&mut self) -> Option<Box<dyn Read + Send>> {
        self.source.take_if(|_| self.ended)
    }

    /// Asks the source for a piece and frames it; `out` is empty, but for the first piece of a file.
    ///
    /// # Errors
    /// Those of the source, and `UnexpectedEof` if it has less than was announced.
    pub(super) fn pull(
        &mut self,
        piece: &mut Vec<u8>,
        out: &mut Vec<u8>,
        stream: &Stream,
    ) -> io::Result<Pulled> {
        if !self.rest.is_empty() {
            self.bytes = std::mem::take(&mut self.rest);
            self.rest = split(&mut self.bytes);
            self.given = self.given.saturating_add(self.bytes.len() as u64);
            return Ok(Pulled::Piece);
        }
        if self.source.is_none() && self.file.is_none() {
            return Ok(Pulled::End);
        }
        let room = match self.framing {
            BodyFraming::Length(_) => {
                usize::try_from(self.left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES))
            }
            _ => PIECE_BYTES,
        };
        if room == 0 {
            self.ended = true;
            return Ok(Pulled::End);
        }
        if let Some(sent) = self.send_file(stream)? {
            return Ok(sent);
        }
        piece.resize(PIECE_BYTES, 0);
        let mut read = |buf: &mut [u8]| match (&mut self.file, &mut self.source) {
            (Some(held), _) => held.file.read(buf),
            (None, Some(source)) => source.read(buf),
            (None, None) => Ok(0),
        };
        let piece = piece.get_mut(..room).unwrap_or_default();
        let n = match read(piece) {
            // Asked again, when others have been served.
            Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(Pulled::Piece),
            read => read?,
        };
        let piece = piece.get(..n).ok_or_else(beyond_room)?;
        self.given = self.given.saturating_add(n as u64);
        match (n, self.framing) {
            (0, BodyFraming::Length(_)) => return Err(self.too_short()),
            (0, BodyFraming::Chunked) => {
                out.extend_from_slice(LAST_CHUNK);
                self.ended = true;
            }
            (0, _) => self.ended = true,
            (_, BodyFraming::Chunked) => encode::chunk(out, piece),
            (_, _) => {
                out.extend_from_slice(piece);
                self.left = self.left.saturating_sub(n as u64);
            }
        }
        Ok(Pulled::Piece)
    }

    /// None if there is no file, or its bytes are to be read: the first ones, to go out with the
    /// head, and all where the kernel can't do it.
    fn send_file(&mut self, stream: &Stream) -> io::Result<Option<Pulled>> {
        let Some(held) = self.file.as_mut().filter(|held| !held.by_copy && self.given > 0) else {
            return Ok(None);
        };
        let most = usize::try_from(self.left.min(SEND_BYTES)).unwrap_or(PIECE_BYTES);
        match stream.send_file(&held.file, most) {
            Ok(0) => Err(self.too_short()),
            Ok(n) => {
                self.given = self.given.saturating_add(n as u64);
                self.left = self.left.saturating_sub(n as u64);
                Ok(Some(Pulled::Sent(n)))
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(Some(Pulled::Blocked)),
            // Whose fault it is a read and a write will tell, if it is one.
            Err(_) => {
                held.by_copy = true;
                Ok(None)
            }
        }
    }

    fn too_short(&self) -> io::Error {
        let text = format!("it ended {} bytes before its announced length", self.left);
        io::Error::new(ErrorKind::UnexpectedEof, text)
    }
}

/// Leaves what goes in one call; the rest.
fn split(bytes: &mut Bytes) -> Bytes {
    let most = usize::try_from(SEND_BYTES).unwrap_or(usize::MAX);
    bytes.split_off(most.min(bytes.len()))
}

fn beyond_room() -> io::Error {
    io::Error::other("it returned a length beyond its buffer")
}

/// Writes a buffer; what the socket does not take stays in it.
pub(super) fn write_out(out: &mut Vec<u8>, stream: &Stream) -> io::Result<Sent> {
    write_by(|rest| stream.write(rest), out)
}

/// As `write_out`, where our side is shut right after it.
pub(super) fn write_last(out: &mut Vec<u8>, stream: &Stream) -> io::Result<Sent> {
    write_by(|rest| stream.write_last(rest), out)
}

fn write_by(mut write: impl FnMut(&[u8]) -> io::Result<usize>, out: &mut Vec<u8>) -> io::Result<Sent> {
    let mut bytes = 0usize;
    while let Some(rest) = out.get(bytes..).filter(|rest| !rest.is_empty()) {
        match write(rest) {
            Ok(n) => bytes = bytes.saturating_add(n),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                out.drain(..bytes);
                return Ok(Sent { bytes, all: false });
            }
            Err(e) => return Err(e),
        }
    }
    out.clear();
    Ok(Sent { bytes, all: true })
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("framing", &self.framing)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_is_in_memory_goes_a_piece_at_a_time() {
        let (client, server) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let stream = Stream::new(server.into(), true);
        let len = 2 * SEND_BYTES + 7;
        let body = Kind::Bytes(vec![b'x'; usize::try_from(len).unwrap()].into());
        let mut out = b"head".to_vec();
        let mut outgoing = Outgoing::new(body, BodyFraming::Length(len), &mut out, 9).unwrap();
        let reader = std::thread::Builder::new().spawn(move || io::copy(&mut &client, &mut io::sink()));
        let mut all_of = |outgoing: &mut Outgoing| {
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
        assert_eq!(outgoing.given(), len);
        drop((outgoing, stream));
        assert_eq!(reader.unwrap().join().unwrap().unwrap(), len + 4);
    }
}
