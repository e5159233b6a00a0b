//! Both sides in one thread, over a socket that takes and gives as many bytes as the test sets. Each test runs twice: over
//! `rustls`, and over our records, on which the session continues after its handshake.

use std::collections::VecDeque;

use rustls::ClientConnection;

use super::rustls_engine::OVERHEAD;
use super::*;
use crate::net::tls::testing;

fn is_carried() -> bool {
    module_path!().ends_with("tests_when_carried")
}

/// The server's end: bytes to it and from it.
#[derive(Default)]
struct Wire {
    to_server: VecDeque<u8>,
    to_client: Vec<u8>,
    /// How many bytes it takes before it blocks.
    room: usize,
    /// How many bytes it has taken in all.
    took: usize,
    ended: bool,
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.to_server.len().min(buf.len());
        if n == 0 && !self.ended {
            return Err(ErrorKind::WouldBlock.into());
        }
        for (place, byte) in buf.iter_mut().zip(self.to_server.drain(..n)) {
            *place = byte;
        }
        Ok(n)
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.room.min(buf.len());
        if n == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.room -= n;
        self.took += n;
        self.to_client.extend_from_slice(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Pair {
    server: TlsSession,
    client: ClientConnection,
    wire: Wire,
}

impl Pair {
    fn new() -> Pair {
        let tls = testing::listener("localhost.pem");
        let tls = if is_carried() { tls.carried_at_once() } else { tls };
        tls.reload().unwrap();
        let client = testing::client();
        Pair { server: TlsSession::new(tls), client, wire: Wire { room: usize::MAX, ..Wire::default() } }
    }

    fn agreed() -> Pair {
        let mut pair = Pair::new();
        while pair.server.shake_hands(&mut pair.wire).unwrap() != Handshake::Done {
            pair.of_client();
        }
        pair.of_client();
        assert_eq!(pair.server.is_on_records(), is_carried());
        pair
    }

    /// Exchanges all bytes in both directions. Returns the plaintext that the client can read then.
    fn of_client(&mut self) -> Vec<u8> {
        let mut plain = Vec::new();
        let said = std::mem::take(&mut self.wire.to_client);
        let mut said = &said[..];
        while !said.is_empty() {
            self.client.read_tls(&mut said).unwrap();
            self.client.process_new_packets().unwrap();
            let _ = self.client.reader().read_to_end(&mut plain);
        }
        let mut out = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut out).unwrap();
        }
        self.wire.to_server.extend(out);
        plain
    }

    fn says(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.client.writer().write_all(bytes).unwrap();
        let mut out = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut out).unwrap();
        }
        out
    }

    fn read(&mut self, room: usize) -> io::Result<Vec<u8>> {
        let mut buf = vec![0; room];
        let n = self.server.read(&mut self.wire, &mut buf)?;
        buf.truncate(n);
        Ok(buf)
    }

    #[track_caller]
    fn blocks(&mut self) {
        assert_eq!(self.read(10).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn a_handshake_goes_on_with_every_byte() {
    let mut pair = Pair::new();
    assert_eq!((pair.server.is_handshaking(), pair.server.began()), (true, None));
    assert_eq!(pair.server.shake_hands(&mut pair.wire).unwrap(), Handshake::Reads);
    assert_eq!(pair.server.write(&mut pair.wire, &[b"early"]).unwrap_err().kind(), ErrorKind::NotConnected);
    pair.wire.room = 0;
    let mut turns = 0;
    loop {
        pair.of_client();
        let mut comes = std::mem::take(&mut pair.wire.to_server);
        let mut done = false;
        while let Some(byte) = comes.pop_front() {
            pair.wire.to_server.push_back(byte);
            while pair.server.shake_hands(&mut pair.wire).unwrap() == Handshake::Writes {
                assert!(pair.server.began().is_some());
                pair.wire.room = 1;
            }
            turns += 1;
            done = !pair.server.is_handshaking();
        }
        if done {
            break;
        }
    }
    assert!(turns > 200, "{turns}");
    assert_eq!(pair.server.info().unwrap().server_name(), Some("localhost"));
    assert_eq!(pair.server.hold(), 0, "an idle connection keeps nothing");
}

#[test]
fn all_bytes_are_read_however_they_are_split() {
    let said: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    for (piece, room) in
        [(usize::MAX, 64 << 10), (usize::MAX, 1_000), (1_000, 64 << 10), (7, 13), (40_000, 16 << 10)]
    {
        let mut pair = Pair::agreed();
        pair.blocks();
        let sent: Vec<u8> = said.chunks(30_000).flat_map(|part| pair.says(part)).collect();
        let mut read = Vec::new();
        for piece in sent.chunks(piece.min(sent.len())) {
            pair.wire.to_server.extend(piece);
            // Reads as an exchange does: as long as no event is needed.
            while let Ok(some) = pair.read(room) {
                assert!(!some.is_empty());
                read.extend(some);
                if pair.server.is_drained() {
                    assert!(!pair.server.has_more() && pair.wire.to_server.is_empty());
                    break;
                }
            }
        }
        assert!(read == said, "{piece} {room}");
        assert_eq!((pair.server.hold(), pair.server.holds_part()), (0, false));
    }
}

#[test]
fn a_part_of_a_record_shows() {
    let mut pair = Pair::agreed();
    let mut sent = pair.says(b"whole");
    let last = sent.pop().unwrap();
    pair.wire.to_server.extend(sent);
    assert!(!pair.server.holds_part());
    pair.blocks();
    assert!(pair.server.holds_part() && !pair.server.has_more());
    pair.wire.to_server.push_back(last);
    assert_eq!(pair.read(100).unwrap(), b"whole");
    assert!(!pair.server.holds_part());
}

#[test]
fn writes_are_reported_once_sent_piece_by_piece() {
    let said: Vec<u8> = (0..50_000u32).map(|n| (n % 251) as u8).collect();
    for room in [1, 100, 5_000, 20_000, usize::MAX] {
        let mut pair = Pair::agreed();
        let (mut reported, mut got, before) = (0, Vec::new(), pair.wire.took);
        pair.wire.room = room;
        while reported < said.len() {
            let (head, rest) = said[reported..].split_at(10.min(said.len() - reported));
            match pair.server.write(&mut pair.wire, &[head, rest]) {
                Ok(n) => {
                    assert!(n > 0 && n <= WRITE_BYTES);
                    reported += n;
                }
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::WouldBlock);
                    assert!(pair.server.hold() <= WRITE_BYTES + 4 * OVERHEAD, "{}", pair.server.hold());
                    pair.wire.room = room;
                }
            }
            // No byte is reported as sent that is not.
            let took = pair.wire.took - before;
            assert!(
                reported <= took && took <= reported + WRITE_BYTES + 4 * OVERHEAD,
                "{reported} of {took}"
            );
            if room > 1_000 {
                got.extend(pair.of_client());
            }
        }
        got.extend(pair.of_client());
        assert!(got == said, "{room}");
        assert_eq!(pair.server.hold(), 0);
    }
}

#[test]
fn the_end_is_sent_once_and_last() {
    let mut pair = Pair::agreed();
    pair.wire.room = 10;
    assert_eq!(
        pair.server.write(&mut pair.wire, &[&[b'x'; 1_000]]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    pair.wire.room = 1_000;
    while let Ok(1..) = pair.server.write(&mut pair.wire, &[&[b'x'; 1_000]]) {
        if pair.server.hold() == 0 {
            break;
        }
        pair.wire.room = 1_000;
    }
    pair.wire.room = 5;
    assert!(!pair.server.say_end(&mut pair.wire).unwrap());
    assert_eq!(pair.server.write(&mut pair.wire, &[b"more"]).unwrap_err().kind(), ErrorKind::NotConnected);
    pair.wire.room = 1_000;
    assert!(pair.server.say_end(&mut pair.wire).unwrap() && pair.server.say_end(&mut pair.wire).unwrap());
    let received = pair.of_client();
    assert!(received.iter().all(|byte| *byte == b'x') && received.len() >= 1_000);
    assert_eq!(pair.client.reader().read(&mut [0]).unwrap(), 0, "close_notify");
}

#[test]
fn a_close_notify_is_distinguished_from_a_bare_end() {
    for announced in [true, false] {
        let mut pair = Pair::agreed();
        let sent = pair.says(b"last");
        pair.wire.to_server.extend(sent);
        if announced {
            pair.client.send_close_notify();
            pair.of_client();
        } else {
            pair.wire.ended = true;
        }
        assert_eq!(pair.read(100).unwrap(), b"last");
        assert!(announced || !pair.server.is_drained() || pair.read(1).is_err());
        for _ in 0..2 {
            match pair.read(100) {
                Ok(none) => assert!(announced && none.is_empty()),
                Err(e) => assert!(!announced && e.kind() == ErrorKind::UnexpectedEof, "{e}"),
            }
        }
        // The other direction is open.
        assert_eq!(pair.server.write(&mut pair.wire, &[b"answer"]).unwrap(), 6);
        assert_eq!(pair.of_client(), b"answer");
    }
}

#[test]
fn what_can_be_no_message_does_not_fill_memory() {
    let mut pair = Pair::new();
    // A handshake message that claims to be 16 MiB long, in records of 16 KiB.
    let mut record = vec![22, 3, 1, 0x40, 0];
    record.extend([1, 0xff, 0xff, 0xff]);
    record.resize(5 + (16 << 10), 0);
    let more: Vec<u8> = [&[22, 3, 1, 0x40, 0][..], &[0; 16 << 10]].concat();
    pair.wire.to_server.extend(record);
    for _ in 0..64 {
        match pair.server.shake_hands(&mut pair.wire) {
            Ok(outcome) => assert_eq!(outcome, Handshake::Reads),
            Err(_) => return assert!(pair.server.hold() < 2 * MOST_BYTES),
        }
        assert!(pair.server.hold() < 2 * MOST_BYTES, "{}", pair.server.hold());
        pair.wire.to_server.extend(&more);
    }
    panic!("without end");
}

#[test]
fn keys_change_between_two_halves_of_anything() {
    let mut pair = Pair::agreed();
    for n in 0..20 {
        pair.client.refresh_traffic_keys().unwrap();
        let sent = pair.says(&[n; 100]);
        let (first, second) = sent.split_at(sent.len() * usize::from(n) / 20);
        pair.wire.to_server.extend(first);
        let mut read = pair.read(200).unwrap_or_default();
        assert_eq!(pair.server.write(&mut pair.wire, &[&[n; 50]]).unwrap(), 50, "in the middle of a record");
        pair.wire.to_server.extend(second);
        read.extend(pair.read(200).unwrap_or_default());
        assert_eq!(read, [n; 100]);
        assert_eq!(pair.of_client(), [n; 50]);
    }
}
