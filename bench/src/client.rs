//! Connections of a load program that is one epoll loop: what wrk cannot do (a new connection for
//! each request, a fixed rate) needs a client that costs as little as wrk.

use crate::Error;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What every measured server answers to `/`.
const END: &[u8] = crate::work::HELLO.as_bytes();
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

pub struct Client {
    stream: TcpStream,
    got: Vec<u8>,
}

/// What a look at a connection has found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Found {
    /// Not all of the answer is here.
    Nothing,
    Answer,
    /// The server has closed, after the answer or without one.
    Closed {
        answered: bool,
    },
}

impl Client {
    pub fn connect(address: SocketAddr) -> Result<Client, Error> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_WITHIN)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Client { stream, got: Vec::new() })
    }

    /// One write: a request of a few bytes fits any socket buffer that is empty.
    pub fn send(&mut self, request: &[u8]) -> Result<(), Error> {
        self.got.clear();
        Ok(self.stream.write_all(request)?)
    }

    pub fn look(&mut self) -> Result<Found, Error> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Ok(Found::Closed { answered: self.answered()? }),
            Ok(n) => self.got.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Found::Nothing),
            Err(error) => return Err(error.into()),
        }
        Ok(if self.answered()? { Found::Answer } else { Found::Nothing })
    }

    fn answered(&self) -> Result<bool, Error> {
        if !self.got.ends_with(END) {
            return Ok(false);
        }
        if !self.got.starts_with(b"HTTP/1.1 200 ") {
            return Err("not 200".into());
        }
        Ok(true)
    }
}

/// Clients by their number.
pub struct Clients {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Clients {
    pub fn new() -> Result<Clients, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Clients { epoll, events: vec![EpollEvent::empty(); 256] })
    }

    pub fn add(&self, client: &Client, number: usize) -> Result<(), Error> {
        Ok(self.epoll.add(&client.stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?)
    }

    /// The numbers of those that have something to read.
    pub fn ready(&mut self, within: EpollTimeout) -> Result<Vec<usize>, Error> {
        let count = self.epoll.wait(&mut self.events, within)?;
        Ok(self.events.iter().take(count).map(|event| event.data() as usize).collect())
    }
}
