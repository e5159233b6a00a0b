//! Where a socket is bound, or is to be bound: addresses and paths, and which of them overlap.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use super::cannot_listen;
use crate::base::error::Error;
use crate::net::conn_info::canonical;
use crate::process::systemd::CAN_NOTIFY;
use crate::process::systemd::activation::PREFIX;

/// The place where a socket is bound, or is to be bound.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// The first of these that can be bound.
    Tcp(Vec<SocketAddr>),
    Unix(PathBuf),
}

impl Place {
    /// Every spelling of a path is the same place.
    pub(crate) fn unix(path: &Path) -> Place {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let folder = absolute.parent().and_then(|folder| folder.canonicalize().ok());
        Place::Unix(match folder.zip(absolute.file_name()) {
            Some((folder, name)) => folder.join(name),
            None => absolute,
        })
    }

    /// Looks up `ADDRESS:PORT`, `HOST:PORT` or `unix:PATH`. IPv4 comes first, because most clients resolve `localhost` so.
    ///
    /// # Errors
    /// A name without an address.
    pub(crate) fn resolve(name: &str) -> Result<Place, Error> {
        match name.strip_prefix("unix:") {
            // For an empty path the kernel would choose an abstract name.
            Some("") => Err(cannot_listen(name, ErrorKind::InvalidInput.into(), None)),
            Some(path) => Ok(Place::unix(Path::new(path))),
            None if name.starts_with(PREFIX) => {
                let advice = if CAN_NOTIFY {
                    ": systemd has passed no socket of this FileDescriptorName="
                } else {
                    ": this needs the feature systemd"
                };
                Err(cannot_listen(name, ErrorKind::NotFound.into(), Some(advice.to_owned())))
            }
            None => {
                let found = name.to_socket_addrs().map_err(|e| cannot_listen(name, e, None))?;
                let (mut addresses, of_v6): (Vec<_>, Vec<_>) = found.partition(SocketAddr::is_ipv4);
                addresses.extend(of_v6);
                Ok(Place::Tcp(addresses))
            }
        }
    }

    pub(crate) fn tcp(address: SocketAddr) -> Place {
        Place::Tcp(vec![canonical(address)])
    }

    /// Each address by itself.
    pub(crate) fn each(&self) -> Vec<Place> {
        match self {
            Place::Tcp(addresses) => {
                let fixed = addresses.iter().filter(|address| address.port() != 0);
                fixed.map(|address| Place::tcp(*address)).collect()
            }
            Place::Unix(_) => vec![self.clone()],
        }
    }

    pub(crate) fn v4_wildcard(&self) -> Option<u16> {
        self.wildcard(Ipv4Addr::UNSPECIFIED.into())
    }

    pub(crate) fn v6_wildcard(&self) -> Option<u16> {
        self.wildcard(Ipv6Addr::UNSPECIFIED.into())
    }

    /// The port, if this is the only address and its port is fixed.
    fn wildcard(&self, ip: IpAddr) -> Option<u16> {
        match self {
            Place::Tcp(addresses) => match addresses[..] {
                [address] if canonical(address).ip() == ip && address.port() != 0 => Some(address.port()),
                _ => None,
            },
            Place::Unix(_) => None,
        }
    }

    /// Whether the kernel would bind only one of the two places. `only_v6` and `others_only_v6`: the socket is for IPv6 alone.
    pub(crate) fn overlaps(&self, only_v6: bool, other: &Place, others_only_v6: bool) -> bool {
        match (self, other) {
            (Place::Unix(path), Place::Unix(other)) => path == other,
            (Place::Tcp(addresses), Place::Tcp(others)) => addresses.iter().any(|address| {
                others.iter().any(|other| {
                    let (address, other) = (canonical(*address), canonical(*other));
                    address.port() != 0
                        && address.port() == other.port()
                        && (address.ip() == other.ip()
                            || covers(address.ip(), only_v6, other.ip())
                            || covers(other.ip(), others_only_v6, address.ip()))
                })
            }),
            _ => false,
        }
    }
}

/// Whether `ip` is a wildcard address that includes `other`.
fn covers(ip: IpAddr, only_v6: bool, other: IpAddr) -> bool {
    ip.is_unspecified() && (ip.is_ipv4() == other.is_ipv4() || (ip.is_ipv6() && !only_v6))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Place {
        Place::Tcp(vec![text.parse().unwrap()])
    }

    #[test]
    fn which_addresses_overlap() {
        // Whether they overlap with the first for both families, and with the first for IPv6 alone.
        let cases = [
            ("127.0.0.1:1", "127.0.0.1:1", true, true),
            ("127.0.0.1:1", "127.0.0.1:2", false, false),
            ("127.0.0.1:1", "127.0.0.2:1", false, false),
            ("0.0.0.0:1", "127.0.0.1:1", true, true),
            ("0.0.0.0:1", "[::1]:1", false, false),
            ("[::]:1", "127.0.0.1:1", true, false),
            ("[::]:1", "0.0.0.0:1", true, false),
            ("[::]:1", "[::1]:1", true, true),
            ("[::]:1", "[::]:1", true, true),
            ("[::]:1", "[::ffff:127.0.0.1]:1", true, false),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true, true),
            ("[::ffff:0.0.0.0]:1", "127.0.0.1:1", true, true),
            ("[::1]:1", "127.0.0.1:1", false, false),
            // Port 0 is a different port each time.
            ("127.0.0.1:0", "127.0.0.1:0", false, false),
        ];
        for (one, two, both, v6) in cases {
            assert_eq!(at(one).overlaps(false, &at(two), true), both, "{one} {two}");
            assert_eq!(at(two).overlaps(true, &at(one), false), both, "{two} {one}");
            assert_eq!(at(one).overlaps(true, &at(two), true), v6, "{one} alone, {two}");
        }
        let unix = |path: &str| Place::unix(Path::new(path));
        assert!(unix("/tmp/a").overlaps(false, &unix("/tmp/./a"), false));
        assert!(!unix("/tmp/a").overlaps(false, &unix("/tmp/b"), false));
        assert!(!unix("/tmp/a").overlaps(false, &at("0.0.0.0:1"), false));
    }
}
