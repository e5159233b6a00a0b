//! What a handler may ask of a request beyond its head.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use crate::Request;
use crate::handler::Matched;
use crate::phase::{Drain, PhaseWatch};
#[cfg(feature = "tls")]
use crate::tls::TlsInfo;

/// What came after a chunked body, kept in the request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Trailers(pub(crate) HeaderMap);

/// Questions to a [`Request`]. One made by hand, as in a test, has no peer and comes from a first
/// generation that never drains.
///
/// ```
/// use heirloom::prelude::*;
/// let router = Router::new().get("/users/{id}/{*rest}", |req: Request| {
///     let params: Vec<_> = req.params().map(|(_, value)| value).collect();
///     format!("{} {:?}", params.join(" "), req.query_str())
/// });
/// let mut response = router.call(http::Request::get("/users/J%C3%B8/a/b?c=d").body(Body::empty()).unwrap());
/// assert_eq!(response.body_mut().read_text().unwrap(), "Jø a/b Some(\"c=d\")");
/// ```
pub trait RequestExt: sealed::Sealed {
    /// The part of the path that stands for `{name}` or `{*name}` in the route's pattern,
    /// percent-decoded. None if the pattern has no such parameter.
    ///
    /// The path is matched before it is decoded, so the value of `{name}` may contain a `/` that
    /// the client sent as `%2F`, and any value may contain `..`: look before
    /// using it as the name of a file.
    fn param(&self, name: &str) -> Option<&str>;

    /// Every parameter of the path with its value, in the pattern's order.
    fn params(&self) -> impl Iterator<Item = (&str, &str)>;

    /// The pattern of the route that matched, such as `/users/{id}`: what to count and log requests
    /// under. None for a fallback, and outside a router.
    fn pattern(&self) -> Option<&str>;

    /// What follows the `?`, as the client sent it.
    fn query_str(&self) -> Option<&str>;

    /// The head as the client sent it, from the request line to the empty line, for who needs the
    /// case, the order or the spelling of its fields. Empty for a request made by hand.
    fn head_text(&self) -> &[u8];

    /// The fields after a chunked body (RFC 9112 §7.1.2). None if there were none, and on streaming
    /// routes.
    fn trailers(&self) -> Option<&HeaderMap>;

    /// The other end of the connection: the client, or the proxy before it. None on a unix socket.
    fn peer_addr(&self) -> Option<SocketAddr>;

    /// What was agreed upon by TLS: version, cipher suite, the name asked for, the client's certificates.
    /// None without TLS.
    #[cfg(feature = "tls")]
    fn tls(&self) -> Option<&TlsInfo>;

    /// Which generation serves this request: 1 for the process started by hand, 2 for its
    /// successor, and so on.
    fn generation(&self) -> u32;

    /// Whether this process is about to end, because it was told to stop or because a successor
    /// has taken over. A handler that lasts should come to an end then.
    fn draining(&self) -> bool;

    /// Waits until this process drains; false if it does not within `timeout`.
    fn wait_draining(&self, timeout: Duration) -> bool;

    /// [`RequestExt::draining`] to take along where the request does not go: into a stream that
    /// outlives it.
    fn drain(&self) -> Drain;

    /// Reads what is left of the body into memory.
    ///
    /// # Errors
    /// As [`Body::read_bytes`](crate::Body::read_bytes).
    fn bytes(&mut self) -> io::Result<Bytes>;

    /// Reads what is left of the body as text.
    ///
    /// # Errors
    /// As [`Body::read_text`](crate::Body::read_text): `InvalidData` if it is not UTF-8.
    fn text(&mut self) -> io::Result<String>;
}

impl RequestExt for Request {
    fn param(&self, name: &str) -> Option<&str> {
        self.params().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    fn params(&self) -> impl Iterator<Item = (&str, &str)> {
        let matched = self.extensions().get::<Matched>();
        matched.into_iter().flat_map(|m| m.pattern.names.iter().zip(&m.values)).map(|(n, v)| (&**n, &**v))
    }

    fn pattern(&self) -> Option<&str> {
        let matched = self.extensions().get::<Matched>().map(|m| &*m.pattern.text);
        matched.or_else(|| self.body().is_routed().then(|| self.uri().path()))
    }

    fn query_str(&self) -> Option<&str> {
        self.uri().query()
    }

    fn head_text(&self) -> &[u8] {
        self.body().head()
    }

    fn trailers(&self) -> Option<&HeaderMap> {
        self.extensions().get::<Trailers>().map(|trailers| &trailers.0)
    }

    fn peer_addr(&self) -> Option<SocketAddr> {
        self.body().origin().and_then(|o| o.peer)
    }

    #[cfg(feature = "tls")]
    fn tls(&self) -> Option<&TlsInfo> {
        self.body().origin().and_then(|o| o.tls.as_ref())
    }

    fn generation(&self) -> u32 {
        self.body().origin().map_or(1, |o| o.generation)
    }

    fn draining(&self) -> bool {
        self.body().origin().is_some_and(|o| o.phase.get().is_draining())
    }

    fn wait_draining(&self, timeout: Duration) -> bool {
        self.drain().wait(timeout)
    }

    fn drain(&self) -> Drain {
        Drain::of(self.body().origin().map_or_else(PhaseWatch::new, |o| o.phase.clone()))
    }

    fn bytes(&mut self) -> io::Result<Bytes> {
        self.body_mut().read_bytes()
    }

    fn text(&mut self) -> io::Result<String> {
        self.body_mut().read_text()
    }
}

mod sealed {
    /// So that methods can be added later.
    pub trait Sealed {}
    impl Sealed for crate::Request {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::body::Kind;
    use crate::origin::Origin;
    use crate::{Body, Phase};

    #[test]
    fn a_request_made_by_hand_has_no_origin() {
        let mut req = Request::new(Body::from("text"));
        assert_eq!((req.peer_addr(), req.generation(), req.draining()), (None, 1, false));
        assert!(!req.wait_draining(Duration::from_millis(1)));
        assert_eq!((req.param("a"), req.pattern(), req.query_str()), (None, None, None));
        assert_eq!(req.params().count(), 0);
        assert_eq!(req.text().unwrap(), "text");
        assert_eq!(req.bytes().unwrap(), "");
    }

    #[test]
    fn a_served_request_tells_its_connection_and_process() {
        let phase = PhaseWatch::new();
        let peer = Some(SocketAddr::from(([127, 0, 0, 1], 9)));
        let origin = Arc::new(Origin::new(peer, phase.clone(), 3));
        let req = Request::new(Body::received(Kind::Empty, origin, Bytes::new()));
        let drain = req.drain();
        assert_eq!((req.peer_addr(), req.generation(), req.draining()), (peer, 3, false));
        assert!(!drain.draining());
        phase.set(Phase::HandedOver);
        assert!(req.draining() && req.wait_draining(Duration::ZERO));
        assert!(drain.draining() && drain.clone().wait(Duration::MAX));
    }
}
