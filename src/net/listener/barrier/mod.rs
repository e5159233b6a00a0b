//! Keeps new TCP connections away from a listening socket that is about to be closed: SYNs are dropped, while
//! handshakes in progress complete.
//!
//! A minimum for the hop limit of arriving packets (`IP_MINTTL`, `IPV6_MINHOPCOUNT`) needs no privilege. The kernel checks it
//! for a SYN, and not for the packet that completes a handshake. Most hosts start their packets at 64 or 128, so a
//! minimum of 255 excludes them. IPv4 and IPv6 have an option each, and a dual-stack socket needs both. An accepted
//! socket inherits the minimum, and receives nothing until it is set back to 0; its client then sends the dropped bytes
//! again. The minimum fails in two cases, which are not known beforehand: for clients on the same link or host that start
//! their packets at 255, and for handshakes that the kernel keeps in a SYN cookie, because there it checks the last packet
//! too. A packet filter works in both cases. Current kernels allow it only with CAP_NET_ADMIN, so it is used where it is
//! allowed. Accepted sockets inherit it as well.
//!
//! Measured with `tcp_syncookies=2`, 24 stops each: 1 reset with the limit, 0 with the filter. "Accept until EAGAIN, then
//! close" would reset clients that connect between the two.
//!
//! Both belong to the socket, not to a descriptor, and so affect every process that has it. Therefore a barrier is put up
//! only where no other generation has the socket, and a process that begins to accept lifts a barrier that a killed one may
//! have left.

use std::io;
use std::os::fd::BorrowedFd;

use libc::c_int;
use socket2::{SockFilter, SockRef};

use crate::base::sys;

/// The greatest hop limit. Only packets that were sent with it and not forwarded arrive with it.
const MOST_HOPS: c_int = 255;

const SMALLEST: [(c_int, c_int); 2] =
    [(libc::IPPROTO_IP, libc::IP_MINTTL), (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT)];
const STARTING: [(c_int, c_int); 2] =
    [(libc::IPPROTO_IP, libc::IP_TTL), (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS)];

/// Which SYNs a barrier drops.
#[derive(Debug)]
pub(super) enum Barrier {
    /// It drops every SYN; without the filter, every one that was sent with a hop limit below 255.
    Closed,
    /// There is no filter, for this reason, and this host starts its own packets at 255.
    OpenToThisHost(io::Error),
    /// It drops nothing: neither way is available. The error says why there is no filter.
    Open(io::Error),
}

impl Barrier {
    /// Puts up a barrier. For the last process that has `listener`.
    pub(super) fn put_up(listener: BorrowedFd<'_>) -> Barrier {
        let Err(refused) = SockRef::from(&listener).attach_filter(&no_syn()) else { return Barrier::Closed };
        match limit(listener) {
            Ok(()) if passes_limit(listener) => Barrier::OpenToThisHost(refused),
            Ok(()) => Barrier::Closed,
            Err(_) => Barrier::Open(refused),
        }
    }
}

/// Removes a barrier from a socket. True if there was one.
pub(super) fn lift(socket: BorrowedFd<'_>) -> bool {
    let mut was_there = SockRef::from(&socket).detach_filter().is_ok();
    for (level, name) in SMALLEST {
        if sys::option(socket, level, name).is_ok_and(|hops| hops != 0) {
            was_there |= sys::set_option(socket, level, name, 0).is_ok();
        }
    }
    was_there
}

fn limit(listener: BorrowedFd<'_>) -> io::Result<()> {
    let [v4, v6] = SMALLEST;
    sys::set_option(listener, v4.0, v4.1, MOST_HOPS)?;
    if SockRef::from(&listener).local_addr()?.is_ipv6() {
        sys::set_option(listener, v6.0, v6.1, MOST_HOPS)?;
    }
    Ok(())
}

/// Whether this host's own packets start high enough to pass.
fn passes_limit(listener: BorrowedFd<'_>) -> bool {
    STARTING.iter().any(|(level, name)| sys::option(listener, *level, *name).is_ok_and(|n| n >= MOST_HOPS))
}

/// A classic BPF program for a TCP listener, which sees segments from the TCP header on, whatever the
/// IP version: those with SYN and without ACK are dropped, so no handshake begins. A client repeats
/// its SYN after a second, and is refused if the listener is closed by then.
fn no_syn() -> [SockFilter; 5] {
    const FLAGS_AT: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    #[expect(clippy::cast_possible_truncation, reason = "these are short")]
    let code = |code: u32| code as u16;
    [
        SockFilter::new(code(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS), 0, 0, FLAGS_AT),
        SockFilter::new(code(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K), 0, 0, SYN | ACK),
        SockFilter::new(code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), 0, 1, SYN),
        SockFilter::new(code(libc::BPF_RET | libc::BPF_K), 0, 0, 0),
        SockFilter::new(code(libc::BPF_RET | libc::BPF_K), 0, 0, u32::MAX),
    ]
}

#[cfg(test)]
mod tests;
