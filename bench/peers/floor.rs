//! No HTTP server, but the limit of the machine: for each core an epoll loop that reads, counts ends
//! of heads and writes as many fixed answers. Nothing is parsed, nothing is parked, no timeouts.

use heirloom_bench::work;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Date: Wed, 25 Nov 2026 18:00:00 GMT\r\n\r\nHello, World!";
const END: &[u8] = b"\r\n\r\n";
const LISTENER: u64 = u64::MAX;

struct Connection {
    stream: TcpStream,
    /// How much of the end of a head has been read.
    matched: usize,
}

impl Connection {
    /// False when the connection is over.
    fn turn(&mut self, buffer: &mut [u8], answers: &[u8]) -> bool {
        let got = match self.stream.read(buffer) {
            Ok(0) => return false,
            Ok(got) => &buffer[..got],
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        };
        let mut heads = 0;
        for byte in got {
            self.matched = match byte {
                byte if *byte == END[self.matched] => self.matched + 1,
                b'\r' => 1,
                _ => 0,
            };
            if self.matched == END.len() {
                (heads, self.matched) = (heads + 1, 0);
            }
        }
        let last = got.ends_with(b"Connection: close\r\n\r\n");
        self.stream.write_all(&answers[..heads * ANSWER.len()]).is_ok() && !last
    }
}

fn serve(listener: &TcpListener) -> Result<(), heirloom_bench::Error> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE, LISTENER))?;
    let mut connections = HashMap::new();
    let mut buffer = vec![0; 16 * 1024];
    let answers = ANSWER.repeat(buffer.len() / END.len());
    let mut events = [EpollEvent::empty(); 256];
    loop {
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        for event in &events[..count] {
            if event.data() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    stream.set_nonblocking(true)?;
                    let key = stream.as_raw_fd() as u64;
                    epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, key))?;
                    connections.insert(key, Connection { stream, matched: 0 });
                }
            } else if let Some(connection) = connections.get_mut(&event.data())
                && !connection.turn(&mut buffer, &answers)
            {
                connections.remove(&event.data());
            }
        }
    }
}

fn main() -> Result<(), heirloom_bench::Error> {
    let listener = TcpListener::bind(work::listen())?;
    listener.set_nonblocking(true)?;
    let cores = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..cores).map(|_| scope.spawn(|| serve(&listener).map_err(|e| e.to_string()))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a panic")?.map_err(Into::into))
    })
}
