//! How many connections each listener has, and each peer, where that is limited.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::base::sync::lock;

pub(super) struct ConnectionCounts {
    by_listener: Box<[AtomicUsize]>,
    /// Listeners whose connections count for no peer.
    reserved: Box<[bool]>,
    /// None where peers are not counted, which saves a lock for each connection.
    by_peer: Option<Mutex<HashMap<IpAddr, usize>>>,
}

impl ConnectionCounts {
    /// `reserved` says of each listener whether it is reserved for operators.
    pub(super) fn new(reserved: &[bool], counts_peers: bool) -> ConnectionCounts {
        ConnectionCounts {
            by_listener: reserved.iter().map(|_| AtomicUsize::new(0)).collect(),
            reserved: reserved.into(),
            by_peer: counts_peers.then(Mutex::default),
        }
    }

    /// How many connections this listener has.
    pub(super) fn of_listener(&self, listener: usize) -> usize {
        self.by_listener.get(listener).map_or(0, |count| count.load(Ordering::SeqCst))
    }

    /// The counts of peers, if connections of this listener count.
    fn counts(&self, listener: usize) -> Option<&Mutex<HashMap<IpAddr, usize>>> {
        self.by_peer.as_ref().filter(|_| self.reserved.get(listener) != Some(&true))
    }

    /// Counts one more. Returns how many the peer has now, 0 if peers are not counted there.
    pub(super) fn enter(&self, listener: usize, peer: Option<SocketAddr>) -> usize {
        if let Some(count) = self.by_listener.get(listener) {
            count.fetch_add(1, Ordering::SeqCst);
        }
        self.enter_peer(listener, peer)
    }

    /// Counts one more of the peer alone.
    pub(super) fn enter_peer(&self, listener: usize, peer: Option<SocketAddr>) -> usize {
        let (Some(by_peer), Some(peer)) = (self.counts(listener), peer) else { return 0 };
        let mut by_peer = lock(by_peer);
        let count = by_peer.entry(address(peer)).or_default();
        *count += 1;
        *count
    }

    pub(super) fn leave(&self, listener: usize, peer: Option<SocketAddr>) {
        if let Some(count) = self.by_listener.get(listener) {
            count.fetch_sub(1, Ordering::SeqCst);
        }
        let (Some(by_peer), Some(peer)) = (self.counts(listener), peer) else { return };
        let mut by_peer = lock(by_peer);
        if let Some(count) = by_peer.get_mut(&address(peer)) {
            *count -= 1;
            if *count == 0 {
                by_peer.remove(&address(peer));
            }
        }
    }
}

/// The address that identifies a peer: an IPv4 client is the same at a listener for both families, and an IPv6 host may use
/// a whole /64.
fn address(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_counts_until_it_ends() {
        let counts = ConnectionCounts::new(&[false, false, true], true);
        let peer = |text: &str| Some(text.parse().unwrap());
        let cases = [
            ("1.2.3.4:5", 1),
            ("1.2.3.4:6", 2),
            ("[::ffff:1.2.3.4]:7", 3),
            ("1.2.3.5:5", 1),
            ("[2001:db8::1]:5", 1),
            ("[2001:db8::ffff:1]:5", 2),
            ("[2001:db8:0:1::1]:5", 1),
        ];
        for (text, count) in cases {
            assert_eq!(counts.enter(1, peer(text)), count, "{text}");
        }
        assert_eq!(counts.enter(0, None), 0, "a unix socket has no peers");
        assert_eq!(counts.enter(2, peer("1.2.3.4:9")), 0, "an operator's connection counts for no peer");
        counts.leave(2, peer("1.2.3.4:9"));
        assert_eq!(counts.of_listener(2), 0);
        assert_eq!((counts.of_listener(0), counts.of_listener(1)), (1, 7));
        for (text, _) in cases {
            counts.leave(1, peer(text));
        }
        assert_eq!(counts.of_listener(1), 0);
        assert!(
            counts.by_peer.unwrap().into_inner().unwrap().is_empty(),
            "nothing is left of those that ended"
        );
    }
}
