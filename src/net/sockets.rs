//! Which sockets serve what a program listens on: those that the predecessor has, by name or else by address, and new
//! ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;

use socket2::{Domain, SockRef, Socket, Type};

use crate::base::error::{Error, ErrorKind};
use crate::base::log::{info, warn};
use crate::net::conn_info::canonical;
use crate::net::listener::{Listener, Place, Wanted};
use crate::process::handover::{FileId, Passed};

/// The listeners of a program, open.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    pub(crate) listeners: Vec<Listener>,
    /// What the predecessor calls the sockets that were inherited.
    pub(crate) adopted: Vec<String>,
}

/// Opens a socket for each of `wanted`: the one of `inherited` with its name, or else with its address, or else a new
/// one, which `bound` is given at once, as the next may fail.
///
/// A socket at `[::]` takes IPv4, too, unless `0.0.0.0` with the same port is wanted beside it. Whether it does can't be
/// changed once it is bound. So one that was inherited may serve both, and of two that were inherited both may serve
/// a lone `[::]`.
///
/// # Errors
/// What can't be bound, and two names for one address.
pub(crate) fn open(
    wanted: Vec<Wanted>,
    inherited: Vec<Passed<OwnedFd>>,
    bound: &mut dyn FnMut(&Listener),
) -> Result<Opened, Error> {
    let mut heirlooms = Heirlooms::new(inherited);
    let claims = claims(wanted, &heirlooms)?;
    let mut opened = Opened::default();
    for (index, claim) in claims.iter().enumerate() {
        let listener = match claim.socket {
            // It came with the first of those that share it.
            Some(socket) if claims.iter().take(index).any(|other| other.socket == Some(socket)) => continue,
            Some(socket) => {
                let sharers: Vec<&Claim> =
                    claims.iter().filter(|other| other.socket == Some(socket)).collect();
                let Some(heirloom) = heirlooms.take(socket) else { continue };
                let (listener, names) = adopt(&sharers, heirloom)?;
                opened.adopted.extend(names);
                // First, for the next generation adopts the first of this name. The other one has what waits in its
                // queue.
                if let Some(mut anew) = listener.bound_anew() {
                    anew.names.clone_from(&listener.names);
                    bound(&anew);
                    opened.listeners.push(anew);
                }
                listener
            }
            None => {
                let only_v6 = claims.iter().any(|other| claim.is_beside(other));
                let ours = || overlapping(claim, only_v6, &opened.listeners, &claims, &heirlooms);
                let listener = Listener::bind(claim.wanted.clone(), &claim.place, only_v6, ours)?;
                bound(&listener);
                listener
            }
        };
        info!("listening on {}", listener.address());
        opened.listeners.push(listener);
    }
    Ok(opened)
}

/// A socket that the predecessor has.
#[derive(Debug)]
struct Heirloom {
    /// What the predecessor calls it; more than one name if it serves more than one, or did.
    names: Vec<String>,
    /// None when it has been taken.
    fd: Option<OwnedFd>,
    inode: Option<u64>,
    /// The file of a unix socket, where the predecessor knows it.
    file: Option<FileId>,
    /// None: odd, which shows when it is adopted.
    place: Option<Place>,
    only_v6: bool,
}

impl Heirloom {
    fn is_at(&self, place: &Place) -> bool {
        self.place.as_ref() == Some(place)
    }

    /// Its port may be 0 in its name.
    fn shown(&self) -> String {
        match &self.place {
            Some(Place::Tcp(addresses)) => addresses.iter().map(SocketAddr::to_string).collect(),
            _ => self.names.first().cloned().unwrap_or_default(),
        }
    }

    /// At `[::]` for both families.
    fn dual_port(&self) -> Option<u16> {
        self.place.as_ref().and_then(Place::v6_wildcard).filter(|_| !self.only_v6)
    }
}

#[derive(Debug)]
struct Heirlooms {
    all: Vec<Heirloom>,
    /// In the predecessor's order, with the place in `all`.
    names: Vec<(String, usize)>,
}

impl Heirlooms {
    fn new(inherited: Vec<Passed<OwnedFd>>) -> Heirlooms {
        let (mut all, mut names): (Vec<Heirloom>, Vec<_>) = (Vec::new(), Vec::new());
        for Passed { name, fd, file } in inherited {
            let inode = rustix::fs::fstat(&fd).ok().map(|found| found.st_ino);
            let known = all.iter().position(|other| inode.is_some() && other.inode == inode);
            let socket = known.unwrap_or(all.len());
            match all.get_mut(socket) {
                Some(heirloom) => heirloom.names.push(name.clone()),
                None => {
                    let socket = SockRef::from(&fd);
                    let address = socket.local_addr().ok().and_then(|address| address.as_socket());
                    let place = match (address, name.strip_prefix("unix:")) {
                        (Some(address), _) => Some(Place::tcp(address)),
                        (None, Some(path)) => Some(Place::unix(Path::new(path))),
                        (None, None) => None,
                    };
                    let only_v6 = socket.only_v6().unwrap_or(false);
                    all.push(Heirloom {
                        names: vec![name.clone()],
                        fd: Some(fd),
                        inode,
                        file,
                        place,
                        only_v6,
                    });
                }
            }
            names.push((name, socket));
        }
        Heirlooms { all, names }
    }

    fn take(&mut self, socket: usize) -> Option<Heirloom> {
        let heirloom = self.all.get_mut(socket)?;
        let kept =
            Heirloom { names: heirloom.names.clone(), place: heirloom.place.clone(), fd: None, ..*heirloom };
        Some(std::mem::replace(heirloom, kept))
    }

    fn get(&self, socket: Option<usize>) -> Option<&Heirloom> {
        self.all.get(socket?)
    }

    /// The first for which this holds.
    fn find(&self, holds: impl Fn(usize, &Heirloom) -> bool) -> Option<usize> {
        self.all
            .iter()
            .enumerate()
            .find(|(socket, heirloom)| holds(*socket, heirloom))
            .map(|(socket, _)| socket)
    }

    /// The predecessor tells sockets of one name by their number, so all of them are adopted or none.
    fn has_own_names(&self, heirloom: &Heirloom) -> bool {
        let is_own = |name: &String| self.names.iter().filter(|(other, _)| other == name).count() == 1;
        heirloom.names.iter().all(is_own)
    }
}

/// What is wanted, where that is, and the inherited socket that serves it.
#[derive(Debug)]
struct Claim {
    wanted: Wanted,
    /// Where more than one: the first that can be had.
    place: Place,
    socket: Option<usize>,
    /// It takes the IPv4 part of a `[::]`, and keeps the name that it has.
    is_part: bool,
}

impl Claim {
    /// `other` is the IPv4 wildcard with the port of this one's IPv6 wildcard.
    fn is_beside(&self, other: &Claim) -> bool {
        self.place.v6_wildcard().is_some_and(|port| other.place.v4_wildcard() == Some(port))
    }
}

fn claims(wanted: Vec<Wanted>, heirlooms: &Heirlooms) -> Result<Vec<Claim>, Error> {
    let mut names: Vec<&(String, usize)> = heirlooms.names.iter().collect();
    let by_name: Vec<Option<usize>> = wanted
        .iter()
        .map(|wanted| {
            let at = names.iter().position(|(name, _)| *name == wanted.name)?;
            Some(names.remove(at).1)
        })
        .collect();
    let mut claims: Vec<Claim> = Vec::new();
    for (wanted, socket) in wanted.into_iter().zip(by_name) {
        let known = heirlooms.get(socket).and_then(|heirloom| {
            let literal = wanted.name.parse::<SocketAddr>().ok().map(Place::tcp);
            literal.or_else(|| heirloom.place.clone())
        });
        let place = known.map_or_else(|| Place::resolve(&wanted.name), Ok)?;
        claims.push(Claim { wanted, place, socket, is_part: false });
    }
    // By address, and only then by a socket that may serve another one, too.
    for find in [at_its_address, of_both_families] {
        for index in 0..claims.len() {
            let unserved = claims.get(index).filter(|claim| claim.socket.is_none());
            let found = unserved.and_then(|claim| find(claim, &claims, heirlooms));
            if let Some(claim) = claims.get_mut(index).filter(|_| found.is_some()) {
                claim.socket = found;
            }
        }
    }
    let parts: Vec<Claim> = claims.iter().filter_map(|claim| v4_part(claim, &claims, heirlooms)).collect();
    claims.extend(parts);
    Ok(claims)
}

fn is_free(socket: usize, claims: &[Claim]) -> bool {
    !claims.iter().any(|claim| claim.socket == Some(socket))
}

fn at_its_address(claim: &Claim, claims: &[Claim], heirlooms: &Heirlooms) -> Option<usize> {
    claim.place.each().into_iter().find_map(|place| {
        heirlooms.find(|socket, heirloom| {
            is_free(socket, claims) && heirloom.is_at(&place) && heirlooms.has_own_names(heirloom)
        })
    })
}

/// One at `[::]`, for `0.0.0.0` with the same port.
fn of_both_families(claim: &Claim, _: &[Claim], heirlooms: &Heirlooms) -> Option<usize> {
    let port = claim.place.v4_wildcard()?;
    heirlooms.find(|_, heirloom| heirloom.dual_port() == Some(port))
}

/// The predecessor's `0.0.0.0` for a lone `[::]` that does not take IPv4 itself.
fn v4_part(claim: &Claim, claims: &[Claim], heirlooms: &Heirlooms) -> Option<Claim> {
    let port = claim.place.v6_wildcard()?;
    let takes_v4 = heirlooms.get(claim.socket).is_some_and(|heirloom| !heirloom.only_v6);
    if takes_v4 || claims.iter().any(|other| claim.is_beside(other)) || !takes_both_by_default() {
        return None;
    }
    let place = Place::tcp((Ipv4Addr::UNSPECIFIED, port).into());
    let socket = heirlooms.find(|socket, heirloom| {
        is_free(socket, claims) && heirloom.is_at(&place) && heirlooms.has_own_names(heirloom)
    })?;
    Some(Claim { wanted: claim.wanted.clone(), place, socket: Some(socket), is_part: true })
}

/// `net.ipv6.bindv6only` is off.
fn takes_both_by_default() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, None).and_then(|socket| socket.only_v6()).is_ok_and(|only| !only)
}

/// One listener for all who share the socket, and what the predecessor calls it.
fn adopt(sharers: &[&Claim], heirloom: Heirloom) -> Result<(Listener, Vec<String>), Error> {
    let both = heirloom.dual_port();
    // What it is bound to is what it is first of all.
    let main = sharers.iter().find(|claim| claim.place.v6_wildcard().is_some()).or(sharers.first());
    let (Some(main), Some(fd)) = (main, heirloom.fd) else {
        return Err(Error::new(ErrorKind::Inherit, "a listener was inherited twice"));
    };
    for other in sharers.iter().filter(|other| !std::ptr::eq(**other, *main)) {
        let (one, two) = (&main.wanted.name, &other.wanted.name);
        if both.is_none() {
            let text = format!("can't listen on {one} and on {two}, which are one address: remove one");
            return Err(Error::config(text));
        }
        if !main.wanted.has_settings_of(&other.wanted) {
            let text = format!(
                "can't listen on {one} and on {two} with settings that differ, for the inherited socket of {one} \
                 takes IPv4, too: give both the same handler, workers and TLS, or stop the service and start it again"
            );
            return Err(Error::new(ErrorKind::Bind, text));
        }
        info!("{two} is served by the inherited socket of {one}, which also accepts IPv4");
    }
    let is_new_name =
        sharers.iter().all(|claim| !claim.is_part && !heirloom.names.contains(&claim.wanted.name));
    if both.is_some() && main.place.v4_wildcard().is_some() {
        warn!(
            "{} is served by an inherited socket for both families: it also accepts IPv6 until the service is stopped \
             and started again",
            main.wanted.name
        );
    } else if is_new_name {
        info!("{} inherits the socket of {}", main.wanted.name, heirloom.names.join(" and "));
    }
    let mut names: Vec<String> = Vec::new();
    let wanted = sharers.iter().filter(|claim| !claim.is_part).map(|claim| &claim.wanted.name);
    for name in wanted.chain(&heirloom.names) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let name = main.wanted.name.clone();
    let mut listener = Listener::adopt(main.wanted.clone(), Passed { name, fd, file: heirloom.file })?;
    listener.names = names;
    Ok((listener, heirloom.names))
}

/// Who of us, or of the generation before, has what is in use, and what to do.
fn overlapping(
    claim: &Claim,
    only_v6: bool,
    listeners: &[Listener],
    claims: &[Claim],
    heirlooms: &Heirlooms,
) -> Option<String> {
    let ours = listeners
        .iter()
        .find(|listener| listener.place().overlaps(listener.is_only_v6(), &claim.place, only_v6));
    if let Some(listener) = ours {
        let text =
            format!(": this server listens on {} too, which overlaps: remove one", listener.wanted.name);
        return Some(text);
    }
    let in_the_way = |heirloom: &Heirloom| {
        heirloom.place.as_ref().is_some_and(|place| place.overlaps(heirloom.only_v6, &claim.place, only_v6))
    };
    let socket = heirlooms.find(|_, heirloom| in_the_way(heirloom))?;
    let name = heirlooms.get(Some(socket))?.shown();
    Some(match claims.iter().find(|claim| claim.socket == Some(socket)) {
        Some(claim) => {
            format!(": this server listens on {} too, which overlaps: remove one", claim.wanted.name)
        }
        None => format!(
            ": the generation before this one listens on {name}, which overlaps: keep that, or stop the service and \
             start it again"
        ),
    })
}

impl Place {
    fn tcp(address: SocketAddr) -> Place {
        Place::Tcp(vec![canonical(address)])
    }

    /// Each address on its own.
    fn each(&self) -> Vec<Place> {
        match self {
            Place::Tcp(addresses) => {
                let fixed = addresses.iter().filter(|address| address.port() != 0);
                fixed.map(|address| Place::tcp(*address)).collect()
            }
            Place::Unix(_) => vec![self.clone()],
        }
    }

    fn v4_wildcard(&self) -> Option<u16> {
        self.wildcard(Ipv4Addr::UNSPECIFIED.into())
    }

    fn v6_wildcard(&self) -> Option<u16> {
        self.wildcard(Ipv6Addr::UNSPECIFIED.into())
    }

    /// The port, if it is a known one of this address and no other.
    fn wildcard(&self, ip: IpAddr) -> Option<u16> {
        match self {
            Place::Tcp(addresses) => match addresses[..] {
                [address] if canonical(address).ip() == ip && address.port() != 0 => Some(address.port()),
                _ => None,
            },
            Place::Unix(_) => None,
        }
    }

    /// The kernel takes only one of them.
    fn overlaps(&self, only_v6: bool, other: &Place, others_only_v6: bool) -> bool {
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

/// `ip` is a wildcard for what `other` is one of.
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
        // The first of both families, or of IPv6 alone.
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
            // Another port each time.
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

    fn wanted(names: &[&str]) -> Vec<Wanted> {
        names.iter().map(|name| Wanted::new((*name).to_owned(), 0)).collect()
    }

    fn inherited(listeners: &[(&str, &Listener)]) -> Vec<Passed<OwnedFd>> {
        let inherit = |(name, listener): &(&str, &Listener)| Passed {
            name: (*name).to_owned(),
            fd: listener.fd.try_clone().unwrap(),
            file: None,
        };
        listeners.iter().map(inherit).collect()
    }

    fn fresh(names: &[&str]) -> Vec<Listener> {
        open(wanted(names), Vec::new(), &mut |_| {}).unwrap().listeners
    }

    #[test]
    fn sockets_of_one_name_are_matched_in_order() {
        let old = fresh(&["127.0.0.1:0", "127.0.0.1:0"]);
        let address = |listener: &Listener| listener.socket_addr().unwrap();
        let heirs = || inherited(&[("127.0.0.1:0", &old[0]), ("127.0.0.1:0", &old[1])]);
        let new = open(wanted(&["127.0.0.1:0", "127.0.0.1:0"]), heirs(), &mut |_| {}).unwrap();
        assert_eq!(new.adopted, ["127.0.0.1:0", "127.0.0.1:0"]);
        assert_eq!(
            new.listeners.iter().map(address).collect::<Vec<_>>(),
            [address(&old[0]), address(&old[1])]
        );
        // To the predecessor it would be the first of that name.
        let second = address(&old[1]).to_string();
        let error = open(wanted(&[&second]), heirs(), &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains(&format!("the generation before this one listens on {second}")), "{error}");
    }

    #[test]
    fn a_socket_is_called_by_all_the_names_it_has_had() {
        let old = fresh(&["127.0.0.1:0"]);
        let now = old[0].address();
        let new = open(wanted(&[&now]), inherited(&[("127.0.0.1:0", &old[0])]), &mut |_| {}).unwrap();
        assert_eq!(
            (&new.adopted[..], &new.listeners[0].names[..]),
            (&["127.0.0.1:0".to_owned()][..], &[now.clone(), "127.0.0.1:0".to_owned()][..])
        );
        // By each of which it is found, and taken once.
        let both = || inherited(&[(&now, &old[0]), ("127.0.0.1:0", &old[0])]);
        for name in [&*now, "127.0.0.1:0"] {
            let next = open(wanted(&[name]), both(), &mut |_| {}).unwrap();
            assert_eq!(next.adopted, [now.clone(), "127.0.0.1:0".to_owned()], "{name}");
            assert_eq!(next.listeners.len(), 1);
        }
        let error = open(wanted(&[&now, "127.0.0.1:0"]), both(), &mut |_| {}).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("can't listen on {now} and on 127.0.0.1:0, which are one address: remove one")
        );
    }

    #[test]
    fn one_socket_for_both_wildcards_has_one_handler() {
        let Ok(old) = open(wanted(&["[::]:0"]), Vec::new(), &mut |_| {}) else {
            return eprintln!("SKIPPED: this host has no IPv6");
        };
        let old = &old.listeners[0];
        let port = old.socket_addr().unwrap().port();
        let (v4, v6) = (format!("0.0.0.0:{port}"), format!("[::]:{port}"));
        let mut differ = wanted(&[&v4, &v6]);
        differ[1].site = 1;
        let error = open(differ, inherited(&[(&v6, old)]), &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("give both the same handler"), "{error}");
        let one = open(wanted(&[&v4, &v6]), inherited(&[("[::]:0", old)]), &mut |_| {}).unwrap();
        assert_eq!(one.adopted, ["[::]:0"]);
        assert_eq!(one.listeners.len(), 1);
        assert_eq!(one.listeners[0].names, [v4, v6, "[::]:0".to_owned()]);
    }
}
