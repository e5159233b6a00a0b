//! No HTTP server, but the limit of the machine: for each core an epoll loop that reads, counts ends
//! of heads and writes as many fixed answers. Nothing is parsed, and there are no timeouts. It makes no system call that a
//! server could do without.

use heirloom_bench::work;
use nix::errno::Errno;
use nix::libc::MSG_MORE;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::sockopt::TcpNoDelay;
use nix::sys::socket::{MsgFlags, recv, send, setsockopt};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Date: Wed, 25 Nov 2026 18:00:00 GMT\r\n\r\nHello, World!";
const END: &[u8] = b"\r\n\r\n";
const LISTENER: u64 = u64::MAX;

struct Connection {
    socket: TcpStream,
    /// How much of the end of a head has been read.
    matched: usize,
}

impl Connection {
    /// False when the connection is over.
    fn turn(&mut self, buffer: &mut [u8], answers: &[u8]) -> bool {
        let socket = self.socket.as_raw_fd();
        let got = match recv(socket, buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return false,
            Ok(got) => &buffer[..got],
            Err(error) => return error == Errno::EAGAIN,
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
        // The end of the connection goes with the last answer, in one segment.
        let more = MsgFlags::from_bits_retain(if last { MSG_MORE } else { 0 });
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT | more;
        let answers = &answers[..heads * ANSWER.len()];
        (answers.is_empty() || send(socket, answers, flags) == Ok(answers.len())) && !last
    }
}

/// Accepts one connection for each event, because the next `epoll_wait`, which is needed anyway, reports the others. A
/// connection is read before it is registered, and registered only if it stays.
fn serve(listener: &TcpListener) -> Result<(), heirloom_bench::Error> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE, LISTENER))?;
    // By descriptor.
    let mut connections: Vec<Option<Connection>> = Vec::new();
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
                // One call: the flag that makes a socket non-blocking is given with each read and write instead.
                let Ok((socket, _)) = listener.accept() else { continue };
                let mut connection = Connection { socket, matched: 0 };
                if connection.turn(&mut buffer, &answers) {
                    let key = connection.socket.as_raw_fd() as usize;
                    epoll.add(&connection.socket, EpollEvent::new(EpollFlags::EPOLLIN, key as u64))?;
                    if connections.len() <= key {
                        connections.resize_with(key + 1, || None);
                    }
                    connections[key] = Some(connection);
                }
            } else if let Some(slot) = connections.get_mut(event.data() as usize)
                && let Some(connection) = slot
                && !connection.turn(&mut buffer, &answers)
            {
                *slot = None;
            }
        }
    }
}

fn main() -> Result<(), heirloom_bench::Error> {
    let listener = TcpListener::bind(work::listen())?;
    listener.set_nonblocking(true)?;
    // Accepted sockets inherit it.
    setsockopt(&listener, TcpNoDelay, &true)?;
    let cores = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..cores).map(|_| scope.spawn(|| serve(&listener).map_err(|e| e.to_string()))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a panic")?.map_err(Into::into))
    })
}
