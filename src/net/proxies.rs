//! The proxies in front of a listener: which addresses are trusted, and which of their statements are believed.
//!
//! **The program says what its proxies set, and only that is believed.** A proxy passes on, unread, each field that it
//! does not know: behind one that sets `X-Forwarded-For`, a `Forwarded` is the client's own text. So no way of saying it
//! is preferred to another by the server, and there is no default.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The proxies in front of a listener, for [`Listen::trust_proxies`](crate::Listen::trust_proxies): their addresses, and how
/// they say whom a request is from. Everybody else's statements are ignored. A feature: `proxy`.
///
/// ```no_run
/// use heirloom::Proxies;
/// use heirloom::prelude::*;
///
/// fn main() -> Result<(), heirloom::Error> {
///     let handler = |req: Request| format!("hello {}\n", req.client());
///     Server::new(handler)
///         // nginx on this host and in this network, which sets X-Forwarded-For, -Proto and -Host.
///         .listen(Listen::new("10.0.0.5:8001").trust_proxies(Proxies::new(["127.0.0.1", "10.0.0.0/8"]).x_forwarded()))
///         // HAProxy in TCP mode, with `send-proxy-v2`, by a unix socket.
///         .listen(Listen::new("unix:/run/app.sock").trust_proxies(Proxies::new(["unix"]).proxy_protocol()))
///         .serve()
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxies {
    /// The first address of each network, and its mask.
    v4: Vec<(Ipv4Addr, Ipv4Addr)>,
    v6: Vec<(Ipv6Addr, Ipv6Addr)>,
    /// Every client of a unix socket is one.
    unix: bool,
    fields: ForwardedFields,
    proxy_protocol: bool,
    /// The first entry that is none.
    invalid: Option<String>,
}

/// The fields by which proxies say whom a request is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForwardedFields {
    None,
    /// RFC 7239.
    Standard,
    /// `X-Forwarded-For`, `-Proto` and `-Host`.
    X,
}

impl Proxies {
    /// `addresses` are IP addresses (`"10.0.0.2"`), networks (`"10.0.0.0/8"`, `"fd00::/8"`), or `"unix"` for all clients of a
    /// unix socket. [`Server::serve`](crate::Server::serve) reports what is none of these.
    pub fn new<T: AsRef<str>>(addresses: impl IntoIterator<Item = T>) -> Proxies {
        let mut proxies = Proxies {
            v4: Vec::new(),
            v6: Vec::new(),
            unix: false,
            fields: ForwardedFields::None,
            proxy_protocol: false,
            invalid: None,
        };
        for address in addresses {
            let address = address.as_ref();
            match (address, network(address)) {
                ("unix", _) => proxies.unix = true,
                (_, Some(IpNet::V4(net))) => proxies.v4.push((net.network(), net.netmask())),
                (_, Some(IpNet::V6(net))) => proxies.v6.push((net.network(), net.netmask())),
                _ => proxies.invalid = proxies.invalid.or_else(|| Some(address.to_owned())),
            }
        }
        proxies
    }

    /// The proxies set `X-Forwarded-For`, and with it `X-Forwarded-Proto` and `X-Forwarded-Host`. Each must set or delete all
    /// three: what a client sends in a field that its proxy passes on is believed.
    #[must_use]
    pub fn x_forwarded(mut self) -> Proxies {
        self.fields = ForwardedFields::X;
        self
    }

    /// The proxies set `Forwarded` (RFC 7239), whose parameters `for`, `proto` and `host` are read.
    #[must_use]
    pub fn forwarded(mut self) -> Proxies {
        self.fields = ForwardedFields::Standard;
        self
    }

    /// Each connection starts with a header of the PROXY protocol, version 1 or 2, before TLS if the listener has that. A
    /// connection from elsewhere, or without a valid header, is closed and logged.
    ///
    /// [`RequestExt::peer_addr`](crate::RequestExt::peer_addr) is the address in the header then, and
    /// [`Limits::connections_per_peer`](crate::Limits::connections_per_peer) counts by it. Of the types of version 2
    /// only that of TLS is read, for [`Client::is_https`](crate::Client::is_https).
    #[must_use]
    pub fn proxy_protocol(mut self) -> Proxies {
        self.proxy_protocol = true;
        self
    }

    /// Whether this is the address of a trusted proxy. None is a client of a unix socket.
    #[inline]
    pub(crate) fn trust(&self, address: Option<IpAddr>) -> bool {
        match address {
            Some(IpAddr::V4(address)) => self.trust_v4(address),
            Some(IpAddr::V6(address)) => self.trust_v6(address),
            None => self.unix,
        }
    }

    #[inline]
    fn trust_v4(&self, address: Ipv4Addr) -> bool {
        self.v4.iter().any(|(first, mask)| address & *mask == *first)
    }

    #[inline(never)]
    fn trust_v6(&self, address: Ipv6Addr) -> bool {
        match address.to_ipv4_mapped() {
            Some(address) => self.trust_v4(address),
            None => self.v6.iter().any(|(first, mask)| address & *mask == *first),
        }
    }

    pub(crate) fn fields(&self) -> ForwardedFields {
        self.fields
    }

    pub(crate) fn uses_protocol(&self) -> bool {
        self.proxy_protocol
    }

    /// What is wrong with the settings, if anything is.
    pub(crate) fn fault(&self) -> Option<String> {
        if let Some(invalid) = &self.invalid {
            return Some(format!("trusts {invalid:?}, which is neither an address, a network nor \"unix\""));
        }
        if self.v4.is_empty() && self.v6.is_empty() && !self.unix {
            return Some("has an empty list of proxies: Listen::trust_proxies".to_owned());
        }
        (self.fields == ForwardedFields::None && !self.proxy_protocol).then(|| {
            "believes nothing of its proxies: call Proxies::x_forwarded, forwarded or proxy_protocol"
                .to_owned()
        })
    }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(|address: IpAddr| IpNet::from(address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_by_address_and_network() {
        let proxies = Proxies::new(["10.0.0.0/8", "192.0.2.7", "fd00::/8", "2001:db8::1"]).x_forwarded();
        let cases = [
            ("10.0.0.1", true),
            ("10.255.255.255", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("::ffff:10.1.2.3", true),
            ("fd12::1", true),
            ("2001:db8::1", true),
            ("2001:db8::2", false),
            ("127.0.0.1", false),
        ];
        // All of one family are none of the other.
        let all = |network| Proxies::new([network]).trust("10.0.0.1".parse().ok());
        assert!(all("0.0.0.0/0") && !all("::/0") && !all("::ffff:0:0/96"));
        for (address, trusted) in cases {
            assert_eq!(proxies.trust(Some(address.parse().unwrap())), trusted, "{address}");
        }
        assert!(!proxies.trust(None) && Proxies::new(["unix"]).trust(None));
        assert!(!Proxies::new(["unix"]).trust(Some("127.0.0.1".parse().unwrap())));
    }

    #[test]
    fn settings_that_can_not_be_meant() {
        let fault = |proxies: Proxies| proxies.fault().unwrap_or_default();
        assert_eq!(
            fault(Proxies::new(["10.0.0.0/8", "localhost", "x"]).forwarded()),
            "trusts \"localhost\", which is neither an address, a network nor \"unix\""
        );
        for text in ["", "10.0.0.0/33", "10.0.0", "10.0.0.1:80", "[::1]", "*", "unix:/x"] {
            assert!(fault(Proxies::new([text]).forwarded()).contains("which is neither"), "{text}");
        }
        assert!(fault(Proxies::new([""; 0]).forwarded()).contains("empty list"));
        assert!(fault(Proxies::new(["::1"])).contains("believes nothing"));
        for proxies in [Proxies::new(["::1"]).forwarded(), Proxies::new(["unix"]).proxy_protocol()] {
            assert_eq!(proxies.fault(), None);
        }
    }
}
