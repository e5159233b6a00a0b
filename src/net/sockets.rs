//! Which sockets serve the addresses that a program listens on: inherited ones, by name or else by address, and new ones.
//!
//! A socket keeps every name it has had. A successor uses its predecessor's names for the sockets that it adopts, and passes
//! each socket on under all its names: the text of its own `listen`, and the inherited names. So connections of any
//! generation still find their listener, and a generation with an earlier configuration, or of a version that compares only
//! the text, finds the socket. Where an inherited `[::]` serves `0.0.0.0`, the latter is one more name of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::base::error::{Error, ErrorKind};
use crate::base::log::{Escaped, info, warn};
use crate::base::sys;
use crate::net::listener::{Listener, ListenerConfig, Place};
use crate::process::handover::{FileId, Owner, Passed};

/// The open listeners of a program.
#[derive(Default)]
pub(crate) struct OpenedListeners {
    pub(crate) listeners: Vec<Listener>,
    /// The names that the predecessor gives to the sockets that were inherited.
    pub(crate) adopted: Vec<String>,
}

/// Opens a socket for each of `configs`: the inherited one with its name, or else with its address, or else a new one.
/// `bound` is called with each new one at once, because the next may fail.
///
/// A socket at `[::]` also accepts IPv4, unless `0.0.0.0` with the same port is a listener too. This can't be changed once
/// it is bound. So an inherited socket may serve both addresses, and two inherited sockets may serve a single `[::]`.
///
/// A program that lists no listener, except reserved ones, serves every socket that systemd has passed.
///
/// # Errors
/// An address that can't be bound, and two names for one address.
pub(crate) fn open(
    configs: Vec<ListenerConfig>,
    passed: Vec<Passed>,
    bound: &mut dyn FnMut(&Listener),
) -> Result<OpenedListeners, Error> {
    let mut sockets = InheritedSockets::new(passed);
    let claims = claims(configs, &sockets)?;
    let mut opened = OpenedListeners::default();
    for (index, claim) in claims.iter().enumerate() {
        let listener = match claim.socket {
            // The first of the claims that share it has taken it.
            Some(socket) if claims.iter().take(index).any(|other| other.socket == Some(socket)) => continue,
            Some(socket) => {
                let sharers: Vec<&Claim> =
                    claims.iter().filter(|other| other.socket == Some(socket)).collect();
                let Some(inherited) = sockets.take(socket) else { continue };
                let (listener, names) = adopt(&sharers, inherited)?;
                opened.adopted.extend(names);
                // The new one is first, because the next generation adopts the first of this name. The old one has
                // the clients that wait in its queue.
                if let Some(mut anew) = listener.rebind() {
                    anew.names.clone_from(&listener.names);
                    bound(&anew);
                    opened.listeners.push(anew);
                }
                listener
            }
            None => {
                let only_v6 = claims.iter().any(|other| claim.is_beside(other));
                let advice = || overlapping(claim, only_v6, &opened.listeners, &claims, &sockets);
                let listener = Listener::bind(claim.config.clone(), &claim.place, only_v6, advice)?;
                bound(&listener);
                listener
            }
        };
        info!("listening on {}", listener.address(); listener:% = Escaped(&listener.config.name));
        opened.listeners.push(listener);
    }
    for socket in sockets.all.iter().filter(|socket| socket.fd.is_some() && socket.owner == Owner::Systemd) {
        warn!(
            "nothing listens on {}, which systemd has passed: its clients wait for an answer",
            socket.shown();
            listener:% = Escaped(socket.shown())
        );
    }
    Ok(opened)
}

/// A socket that the predecessor has.
struct InheritedSocket {
    /// The names that the predecessor gives to it.
    names: Vec<String>,
    /// None when it has been taken.
    fd: Option<Arc<OwnedFd>>,
    inode: Option<u64>,
    /// The file of a unix socket, where the predecessor knows it.
    file: Option<FileId>,
    owner: Owner,
    /// None where the socket can't be used: its adoption is an error.
    place: Option<Place>,
    only_v6: bool,
}

impl InheritedSocket {
    fn is_at(&self, place: &Place) -> bool {
        self.place.as_ref() == Some(place)
    }

    /// Its address: the port in its name may be 0.
    fn shown(&self) -> String {
        match &self.place {
            Some(Place::Tcp(addresses)) => addresses.iter().map(SocketAddr::to_string).collect(),
            _ => self.names.first().cloned().unwrap_or_default(),
        }
    }

    /// The port of a socket at `[::]` for both families.
    fn dual_port(&self) -> Option<u16> {
        self.place.as_ref().and_then(Place::v6_wildcard).filter(|_| !self.only_v6)
    }
}

struct InheritedSockets {
    all: Vec<InheritedSocket>,
    /// The names in the predecessor's order, each with its index in `all`.
    names: Vec<(String, usize)>,
}

impl InheritedSockets {
    fn new(passed: Vec<Passed>) -> InheritedSockets {
        let (mut all, mut names): (Vec<InheritedSocket>, Vec<_>) = (Vec::new(), Vec::new());
        for Passed { name, fd, file, owner } in passed {
            let inode = sys::file_id(fd.as_raw_fd()).map(|(_, inode)| inode);
            let known = all.iter().position(|other| inode.is_some() && other.inode == inode);
            let socket = known.unwrap_or(all.len());
            match all.get_mut(socket) {
                Some(inherited) => inherited.names.push(name.clone()),
                None => {
                    let bound = SockRef::from(&fd);
                    let local = bound.local_addr().ok();
                    let address = local.as_ref().and_then(SockAddr::as_socket);
                    let path = name.strip_prefix("unix:").map(Path::new);
                    let path = path.or_else(|| local.as_ref().and_then(SockAddr::as_pathname));
                    let place = address.map(Place::tcp).or_else(|| path.map(Place::unix));
                    let only_v6 = bound.only_v6().unwrap_or(false);
                    all.push(InheritedSocket {
                        names: vec![name.clone()],
                        fd: Some(fd),
                        inode,
                        file,
                        owner,
                        place,
                        only_v6,
                    });
                }
            }
            names.push((name, socket));
        }
        InheritedSockets { all, names }
    }

    fn take(&mut self, socket: usize) -> Option<InheritedSocket> {
        let inherited = self.all.get_mut(socket)?;
        let kept = InheritedSocket {
            names: inherited.names.clone(),
            place: inherited.place.clone(),
            fd: None,
            ..*inherited
        };
        Some(std::mem::replace(inherited, kept))
    }

    fn get(&self, socket: Option<usize>) -> Option<&InheritedSocket> {
        self.all.get(socket?)
    }

    /// The first socket for which `holds` is true.
    fn find(&self, holds: &dyn Fn(usize, &InheritedSocket) -> bool) -> Option<usize> {
        self.all
            .iter()
            .enumerate()
            .find(|(socket, inherited)| holds(*socket, inherited))
            .map(|(socket, _)| socket)
    }

    /// Those that systemd has passed, in its order.
    fn of_systemd(&self) -> impl Iterator<Item = usize> {
        let all = self.all.iter().enumerate();
        all.filter(|(_, inherited)| inherited.owner == Owner::Systemd).map(|(socket, _)| socket)
    }

    /// Whether no other socket has one of its names. The predecessor distinguishes sockets of one name by their number,
    /// so they are adopted by that name only.
    fn has_own_names(&self, inherited: &InheritedSocket) -> bool {
        let is_own = |name: &String| self.names.iter().filter(|(other, _)| other == name).count() == 1;
        inherited.names.iter().all(is_own)
    }
}

/// An address that is to be served, and the inherited socket that serves it.
struct Claim {
    config: ListenerConfig,
    /// The first of several addresses that can be bound.
    place: Place,
    socket: Option<usize>,
    /// The socket takes the IPv4 part of a `[::]`, and keeps the name that it has.
    is_part: bool,
}

impl Claim {
    /// Whether `other` is the IPv4 wildcard with the port of this one's IPv6 wildcard.
    fn is_beside(&self, other: &Claim) -> bool {
        self.place.v6_wildcard().is_some_and(|port| other.place.v4_wildcard() == Some(port))
    }
}

fn claims(configs: Vec<ListenerConfig>, sockets: &InheritedSockets) -> Result<Vec<Claim>, Error> {
    let mut names: Vec<&(String, usize)> = sockets.names.iter().collect();
    let by_name: Vec<Option<usize>> = configs
        .iter()
        .map(|config| {
            let at = names.iter().position(|(name, _)| *name == config.name)?;
            Some(names.remove(at).1)
        })
        .collect();
    let lists_none = configs.iter().all(|config| config.reserved);
    let mut claims: Vec<Claim> = Vec::new();
    for (config, socket) in configs.into_iter().zip(by_name) {
        let known = sockets.get(socket).and_then(|inherited| {
            let literal = config.name.parse::<SocketAddr>().ok().map(Place::tcp);
            literal.or_else(|| inherited.place.clone())
        });
        let place = known.map_or_else(|| Place::resolve(&config.name), Ok)?;
        claims.push(Claim { config, place, socket, is_part: false });
    }
    // A socket at the address itself comes before one that may also serve another address.
    for find in [at_its_address, of_both_families] {
        for index in 0..claims.len() {
            let unserved = claims.get(index).filter(|claim| claim.socket.is_none());
            let found = unserved.and_then(|claim| find(claim, &claims, sockets));
            if let Some(claim) = claims.get_mut(index).filter(|_| found.is_some()) {
                claim.socket = found;
            }
        }
    }
    let parts: Vec<Claim> = claims.iter().filter_map(|claim| v4_part(claim, &claims, sockets)).collect();
    claims.extend(parts);
    if lists_none {
        let rest: Vec<Claim> =
            sockets.of_systemd().filter_map(|socket| unlisted(socket, &claims, sockets)).collect();
        claims.extend(rest);
    }
    Ok(claims)
}

/// A socket of systemd that no listener has, by the name that it has.
fn unlisted(socket: usize, claims: &[Claim], sockets: &InheritedSockets) -> Option<Claim> {
    let inherited = sockets.get(Some(socket)).filter(|_| is_free(socket, claims))?;
    let (name, place) = inherited.names.first().cloned().zip(inherited.place.clone())?;
    Some(Claim { config: ListenerConfig::new(name, 0), place, socket: Some(socket), is_part: false })
}

fn is_free(socket: usize, claims: &[Claim]) -> bool {
    !claims.iter().any(|claim| claim.socket == Some(socket))
}

fn at_its_address(claim: &Claim, claims: &[Claim], sockets: &InheritedSockets) -> Option<usize> {
    claim.place.each().into_iter().find_map(|place| {
        sockets.find(&|socket, inherited| {
            is_free(socket, claims) && inherited.is_at(&place) && sockets.has_own_names(inherited)
        })
    })
}

/// A socket at `[::]`, for `0.0.0.0` with the same port.
fn of_both_families(claim: &Claim, _: &[Claim], sockets: &InheritedSockets) -> Option<usize> {
    let port = claim.place.v4_wildcard()?;
    sockets.find(&|_, inherited| inherited.dual_port() == Some(port))
}

/// The predecessor's `0.0.0.0` for a lone `[::]` that does not take IPv4 itself.
fn v4_part(claim: &Claim, claims: &[Claim], sockets: &InheritedSockets) -> Option<Claim> {
    let port = claim.place.v6_wildcard()?;
    let takes_v4 = sockets.get(claim.socket).is_some_and(|inherited| !inherited.only_v6);
    if takes_v4 || claims.iter().any(|other| claim.is_beside(other)) || !takes_both_by_default() {
        return None;
    }
    let place = Place::tcp((Ipv4Addr::UNSPECIFIED, port).into());
    let socket = sockets.find(&|socket, inherited| {
        is_free(socket, claims) && inherited.is_at(&place) && sockets.has_own_names(inherited)
    })?;
    Some(Claim { config: claim.config.clone(), place, socket: Some(socket), is_part: true })
}

/// Whether `net.ipv6.bindv6only` is off.
fn takes_both_by_default() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, None).and_then(|socket| socket.only_v6()).is_ok_and(|only| !only)
}

/// One listener for all claims on the socket, and the names that the predecessor gives to it.
fn adopt(sharers: &[&Claim], inherited: InheritedSocket) -> Result<(Listener, Vec<String>), Error> {
    let both = inherited.dual_port();
    // The claim for the address that it is bound to comes first.
    let main = sharers.iter().find(|claim| claim.place.v6_wildcard().is_some()).or(sharers.first());
    let (Some(main), Some(fd)) = (main, inherited.fd) else {
        return Err(Error::new(ErrorKind::Inherit, "a listener was inherited twice"));
    };
    for other in sharers.iter().filter(|other| !std::ptr::eq(**other, *main)) {
        let (one, two) = (&main.config.name, &other.config.name);
        if both.is_none() {
            let text = format!("can't listen on {one} and on {two}, which are one address: remove one");
            return Err(Error::config(text));
        }
        if !main.config.has_settings_of(&other.config) {
            let text = format!(
                "can't listen on {one} and on {two} with settings that differ, for the inherited socket of {one} \
                 accepts IPv4 too: give both the same handler, workers and TLS, or stop the service and start it again"
            );
            return Err(Error::new(ErrorKind::Bind, text));
        }
        info!(
            "{two} is served by the inherited socket of {one}, which also accepts IPv4";
            listener:% = Escaped(two)
        );
    }
    let is_new_name =
        sharers.iter().all(|claim| !claim.is_part && !inherited.names.contains(&claim.config.name));
    if both.is_some() && main.place.v4_wildcard().is_some() {
        warn!(
            "{} is served by an inherited socket for both families: it also accepts IPv6 until the service is stopped \
             and started again",
            main.config.name;
            listener:% = Escaped(&main.config.name)
        );
    } else if is_new_name {
        info!(
            "{} inherits the socket of {}", main.config.name, inherited.names.join(" and ");
            listener:% = Escaped(&main.config.name)
        );
    }
    let mut names: Vec<String> = Vec::new();
    let given = sharers.iter().filter(|claim| !claim.is_part).map(|claim| &claim.config.name);
    for name in given.chain(&inherited.names) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let name = main.config.name.clone();
    let InheritedSocket { file, owner, .. } = inherited;
    let mut listener = Listener::adopt(main.config.clone(), Passed { name, fd, file, owner })?;
    listener.names = names;
    Ok((listener, inherited.names))
}

/// What to do where an address is in use by this server or by the generation before it.
fn overlapping(
    claim: &Claim,
    only_v6: bool,
    listeners: &[Listener],
    claims: &[Claim],
    sockets: &InheritedSockets,
) -> Option<String> {
    let ours = listeners
        .iter()
        .find(|listener| listener.place().overlaps(listener.is_only_v6(), &claim.place, only_v6));
    if let Some(listener) = ours {
        let text =
            format!(": this server listens on {} too, which overlaps: remove one", listener.config.name);
        return Some(text);
    }
    let in_the_way = |inherited: &InheritedSocket| {
        inherited.place.as_ref().is_some_and(|place| place.overlaps(inherited.only_v6, &claim.place, only_v6))
    };
    let socket = sockets.find(&|_, inherited| in_the_way(inherited))?;
    let name = sockets.get(Some(socket))?.shown();
    Some(match claims.iter().find(|claim| claim.socket == Some(socket)) {
        Some(claim) => {
            format!(": this server listens on {} too, which overlaps: remove one", claim.config.name)
        }
        None => format!(
            ": the generation before this one listens on {name}, which overlaps: keep that, or stop the service and \
             start it again"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs(names: &[&str]) -> Vec<ListenerConfig> {
        names.iter().map(|name| ListenerConfig::new((*name).to_owned(), 0)).collect()
    }

    fn inherited(listeners: &[(&str, &Listener)]) -> Vec<Passed> {
        let inherit = |(name, listener): &(&str, &Listener)| Passed {
            name: (*name).to_owned(),
            fd: Arc::new(listener.fd.try_clone().unwrap()),
            file: None,
            owner: Owner::Server,
        };
        listeners.iter().map(inherit).collect()
    }

    fn fresh(names: &[&str]) -> Vec<Listener> {
        open(configs(names), Vec::new(), &mut |_| {}).unwrap().listeners
    }

    #[test]
    fn sockets_of_one_name_are_matched_in_order() {
        let old = fresh(&["127.0.0.1:0", "127.0.0.1:0"]);
        let address = |listener: &Listener| listener.socket_addr().unwrap();
        let heirs = || inherited(&[("127.0.0.1:0", &old[0]), ("127.0.0.1:0", &old[1])]);
        let new = open(configs(&["127.0.0.1:0", "127.0.0.1:0"]), heirs(), &mut |_| {}).unwrap();
        assert_eq!(new.adopted, ["127.0.0.1:0", "127.0.0.1:0"]);
        assert_eq!(
            new.listeners.iter().map(address).collect::<Vec<_>>(),
            [address(&old[0]), address(&old[1])]
        );
        // Under that name the predecessor would take it for the first socket.
        let second = address(&old[1]).to_string();
        let error = open(configs(&[&second]), heirs(), &mut |_| {}).err().unwrap().to_string();
        assert!(error.contains(&format!("the generation before this one listens on {second}")), "{error}");
    }

    #[test]
    fn a_socket_keeps_all_its_names() {
        let old = fresh(&["127.0.0.1:0"]);
        let now = old[0].address();
        let new = open(configs(&[&now]), inherited(&[("127.0.0.1:0", &old[0])]), &mut |_| {}).unwrap();
        assert_eq!(
            (&new.adopted[..], &new.listeners[0].names[..]),
            (&["127.0.0.1:0".to_owned()][..], &[now.clone(), "127.0.0.1:0".to_owned()][..])
        );
        // It is found by each of them, and taken once.
        let both = || inherited(&[(&now, &old[0]), ("127.0.0.1:0", &old[0])]);
        for name in [&*now, "127.0.0.1:0"] {
            let next = open(configs(&[name]), both(), &mut |_| {}).unwrap();
            assert_eq!(next.adopted, [now.clone(), "127.0.0.1:0".to_owned()], "{name}");
            assert_eq!(next.listeners.len(), 1);
        }
        let error = open(configs(&[&now, "127.0.0.1:0"]), both(), &mut |_| {}).err().unwrap().to_string();
        assert_eq!(
            error,
            format!("can't listen on {now} and on 127.0.0.1:0, which are one address: remove one")
        );
    }

    #[test]
    fn one_socket_for_both_wildcards_has_one_handler() {
        let Ok(old) = open(configs(&["[::]:0"]), Vec::new(), &mut |_| {}) else {
            return crate::base::skip::skip("this host has no IPv6");
        };
        let old = &old.listeners[0];
        let port = old.socket_addr().unwrap().port();
        let (v4, v6) = (format!("0.0.0.0:{port}"), format!("[::]:{port}"));
        let mut differ = configs(&[&v4, &v6]);
        differ[1].handler_index = 1;
        let error = open(differ, inherited(&[(&v6, old)]), &mut |_| {}).err().unwrap().to_string();
        assert!(error.contains("give both the same handler"), "{error}");
        let one = open(configs(&[&v4, &v6]), inherited(&[("[::]:0", old)]), &mut |_| {}).unwrap();
        assert_eq!(one.adopted, ["[::]:0"]);
        assert_eq!(one.listeners.len(), 1);
        assert_eq!(one.listeners[0].names, [v4, v6, "[::]:0".to_owned()]);
    }
}
