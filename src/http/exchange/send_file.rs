//! A file as a response body, sent by `sendfile` where the connection is plain text.
//!
//! **A file's first piece is read, the rest goes by `sendfile`**, so that a small file shares one write with its head.
//! Any error of `sendfile` means going on by read and write, which show whose error it is. Where SIGPIPE is not ignored
//! `sendfile` is not used: it has no flag that suppresses the signal.

use std::fs::File;
use std::io::{self, ErrorKind, Read};

use crate::base::budget::Share;
use crate::net::stream::Stream;

/// A file, with its shares of budgets.
pub(super) struct OutgoingFile {
    file: File,
    _shares: [Option<Share>; 2],
    /// `sendfile` does not work for this file.
    by_copy: bool,
}

/// The outcome of a `sendfile`.
pub(super) enum FileSent {
    Bytes(usize),
    /// The socket takes nothing now.
    Blocked,
    /// The bytes are to be read and written.
    ByCopy,
}

impl OutgoingFile {
    pub(super) fn new(file: File, shares: [Option<Share>; 2]) -> OutgoingFile {
        OutgoingFile { file, _shares: shares, by_copy: false }
    }

    /// Sends at most `most` bytes. 0 bytes mean the end of the file.
    pub(super) fn send(&mut self, stream: &Stream, most: usize) -> FileSent {
        if self.by_copy {
            return FileSent::ByCopy;
        }
        match stream.send_file(&self.file, most) {
            Ok(n) => FileSent::Bytes(n),
            Err(e) if e.kind() == ErrorKind::WouldBlock => FileSent::Blocked,
            Err(_) => {
                self.by_copy = true;
                FileSent::ByCopy
            }
        }
    }
}

impl Read for OutgoingFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read(buf)
    }
}
