//! The configuration of one listener.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::error::Error;
use crate::net::listener::ListenerConfig;
#[cfg(feature = "proxy")]
use crate::net::proxies::Proxies;
#[cfg(feature = "tls")]
use crate::net::tls::Tls;
use crate::web::handler::{Handler, verify};

/// Configuration of one listener, for [`Server::listen`](crate::Server::listen). Anything not set here falls back to the
/// server's setting.
///
/// ```no_run
/// use heirloom::prelude::*;
///
/// fn main() -> Result<(), heirloom::Error> {
///     let site = Router::new().get("/", |_: Request| "hello\n");
///     let office = Router::new().get("/report", |_: Request| "all is well\n");
///     Server::new(site)
///         .listen("0.0.0.0:8001")
///         .listen(Listen::new("127.0.0.1:8002").handler(office).workers(4).backlog(128))
///         .serve()
/// }
/// ```
pub struct Listen {
    config: ListenerConfig,
    pub(crate) handler: Option<Arc<dyn Handler>>,
    pub(crate) workers: Option<usize>,
    backlog: Option<u32>,
}

impl Listen {
    /// A listener at `ADDRESS:PORT`, `HOST:PORT` or `unix:PATH`. Port 0 takes a free one, which later
    /// generations keep. The string is the listener's name at a handover: a successor that is configured with the same
    /// string, or with the same address in another spelling, inherits the socket, whatever its other settings.
    ///
    /// `[::]:PORT` accepts IPv4 clients too, unless there is a listener at `0.0.0.0:PORT`. Other addresses that overlap are
    /// an error at startup.
    pub fn new(name: impl ToString) -> Listen {
        Listen {
            config: ListenerConfig::new(name.to_string(), 0),
            handler: None,
            workers: None,
            backlog: None,
        }
    }

    /// The handler for this listener. Default: the server's handler.
    #[must_use]
    pub fn handler(mut self, handler: impl Handler) -> Listen {
        self.handler = Some(Arc::new(handler));
        self
    }

    /// The number of workers for this listener alone, in addition to those of [`Server::workers`](crate::Server::workers):
    /// neither waits for the other's handlers. Their threads are named `worker-0:8002`, `worker-1:8002` and so on, by the
    /// port, or by the file name of a unix socket. Default: the listener shares the server's workers.
    ///
    /// They have values of [`Server::per_worker`](crate::Server::per_worker), like all workers. If each listener has its own
    /// workers, the server's are not started.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Listen {
        self.workers = Some(workers);
        self
    }

    /// Speaks TLS, and HTTP/1.1 within. [`Server::serve`](crate::Server::serve) reads the files that `tls` names.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Listen {
        self.config.tls = Some(tls);
        self
    }

    // The condition is on the argument, since one on `Listen` itself, which has no parameters, would be an error here.
    #[cfg(not(feature = "tls"))]
    #[doc(hidden)]
    #[must_use]
    pub fn tls<T: crate::web::missing::Tls>(self, tls: T) -> Listen {
        tls.never()
    }

    /// Believes what these proxies say about their clients, and nobody else: see [`Proxies`] and
    /// [`guide::proxies`](crate::guide::proxies). Default: nobody is believed. A feature: `proxy`.
    #[cfg(feature = "proxy")]
    #[must_use]
    pub fn trust_proxies(mut self, proxies: Proxies) -> Listen {
        self.config.proxies = Some(proxies);
        self
    }

    #[cfg(not(feature = "proxy"))]
    #[doc(hidden)]
    #[must_use]
    pub fn trust_proxies<P: crate::web::missing::Proxies>(self, proxies: P) -> Listen {
        proxies.never()
    }

    /// How many connections the kernel queues until they are accepted. Default 1,024; the kernel limits it to
    /// `net.core.somaxconn`. Beyond it TCP clients retry a second later, and clients of a unix socket get `EAGAIN` or wait.
    ///
    /// After a handover the value of the new generation applies.
    #[must_use]
    pub fn backlog(mut self, connections: u32) -> Listen {
        self.backlog = Some(connections);
        self
    }

    /// Probes a TCP connection on which nothing has arrived for `idle`, to detect a client whose host or network has failed
    /// where no timeout of the server applies: on event streams, WebSockets and other upgraded connections. In whole seconds,
    /// at least one. The system sets the interval and number of probes (`net.ipv4.tcp_keepalive_intvl`,
    /// `tcp_keepalive_probes`). Default: no probes. A unix socket has none.
    ///
    /// Each connection keeps the value it was accepted with, in later generations too.
    #[must_use]
    pub fn keepalive(mut self, idle: Duration) -> Listen {
        self.config.keepalive = Some(idle);
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    #[cfg(feature = "tls")]
    pub(crate) fn reads_certificates(&self) -> Result<(), Error> {
        self.config.tls.as_ref().map_or(Ok(()), Tls::reload)
    }

    /// Whether it has a handler or workers of its own.
    pub(crate) fn has_own_handler_or_pool(&self) -> bool {
        self.handler.is_some() || self.workers.is_some()
    }

    pub(crate) fn config(&self, handler_index: usize) -> ListenerConfig {
        let mut config = ListenerConfig { handler_index, ..self.config.clone() };
        if let Some(backlog) = self.backlog {
            config.backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        }
        config
    }

    /// The suffix of its workers' names, which fits beside their number into the kernel's 15 bytes.
    pub(crate) fn mark(&self) -> String {
        let name = self.name();
        // The name of a thread can't contain a NUL; that of an abstract socket does.
        format!(":{}", name.rsplit(['/', ':', '\0']).next().unwrap_or(name))
    }

    /// # Errors
    /// Invalid settings.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let odd = |what: &str| Err(Error::config(format!("the listener {} {what}", self.name())));
        if self.workers == Some(0) {
            return odd("needs a worker: Listen::workers(0)");
        }
        if self.backlog == Some(0) {
            return odd("needs a backlog of at least 1: Listen::backlog(0)");
        }
        if self.config.keepalive.is_some_and(|idle| idle < Duration::from_secs(1)) {
            return odd("can't be probed more often than once a second: Listen::keepalive");
        }
        #[cfg(feature = "proxy")]
        if let Some(fault) = self.config.proxies.as_ref().and_then(Proxies::fault) {
            return odd(&fault);
        }
        match self.handler.as_deref().map_or(Ok(()), verify) {
            Ok(()) => Ok(()),
            Err(text) => Err(Error::config(text)),
        }
    }
}

impl From<&str> for Listen {
    fn from(name: &str) -> Listen {
        Listen::new(name)
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Listen {
        Listen::new(address)
    }
}

impl From<String> for Listen {
    fn from(name: String) -> Listen {
        Listen::new(name)
    }
}

impl From<&String> for Listen {
    fn from(name: &String) -> Listen {
        Listen::new(name)
    }
}

impl fmt::Debug for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listen")
            .field("name", &self.config.name)
            .field("workers", &self.workers)
            .field("backlog", &self.backlog)
            .field("keepalive", &self.config.keepalive)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_of_worker_names() {
        for (name, mark) in [
            ("127.0.0.1:8002", ":8002"),
            ("[::1]:8002", ":8002"),
            ("localhost:0", ":0"),
            ("unix:/run/app/app.sock", ":app.sock"),
            ("unix:app.sock", ":app.sock"),
            ("", ":"),
        ] {
            assert_eq!(Listen::new(name).mark(), mark, "{name}");
        }
    }

    #[test]
    fn invalid_settings() {
        let said = |listen: Listen| listen.check().unwrap_err().to_string();
        assert_eq!(
            said(Listen::new("a:1").workers(0)),
            "the listener a:1 needs a worker: Listen::workers(0)"
        );
        assert_eq!(
            said(Listen::new("a:1").backlog(0)),
            "the listener a:1 needs a backlog of at least 1: Listen::backlog(0)"
        );
        assert_eq!(
            said(Listen::new("a:1").keepalive(Duration::from_millis(999))),
            "the listener a:1 can't be probed more often than once a second: Listen::keepalive"
        );
        let most = Listen::new("a:1").workers(1).backlog(u32::MAX).keepalive(Duration::MAX);
        most.check().unwrap();
        assert_eq!(most.config(3).backlog, i32::MAX);
        assert_eq!(most.config(3).handler_index, 3);
    }
}
