//! What a program says of one of its listeners.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::base::error::Error;
use crate::net::listener::ListenerConfig;
#[cfg(feature = "tls")]
use crate::net::tls::Tls;
use crate::web::handler::{Handler, verify};

/// A listener and what is its own, for [`Server::listen`](crate::Server::listen). What it has not
/// of its own is the server's.
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
    /// generations keep. The text is the listener's name at a handover: a successor that asks for the same
    /// text, or for the same address in another spelling, inherits the socket, whatever else it says of it.
    ///
    /// `[::]:PORT` takes IPv4 clients, too, unless there is a listener at `0.0.0.0:PORT`. Other addresses that overlap
    /// are an error at the start.
    pub fn new(name: impl Into<String>) -> Listen {
        Listen { config: ListenerConfig::new(name.into(), 0), handler: None, workers: None, backlog: None }
    }

    /// Who answers here. Default: the server's handler.
    #[must_use]
    pub fn handler(mut self, handler: impl Handler) -> Listen {
        self.handler = Some(Arc::new(handler));
        self
    }

    /// Workers for this listener alone, beside those of [`Server::workers`](crate::Server::workers):
    /// neither waits for the other's handlers. Their threads are called `worker-0:8002`, `worker-1:8002` and
    /// so on, by the port, or by the file name of a unix socket. Default: the server's workers.
    ///
    /// They begin with what [`Server::per_worker`](crate::Server::per_worker) gives, as all do. When each
    /// listener has its own, the server's are not started.
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

    /// How many connections the kernel holds that nobody has accepted yet. Default 1,024; the kernel's own
    /// bound is `net.core.somaxconn`, and more counts as that. Beyond it clients try again on TCP, a second
    /// later, and are told so (`EAGAIN`) or wait on a unix socket.
    ///
    /// After a handover that of the new generation holds.
    #[must_use]
    pub fn backlog(mut self, connections: u32) -> Listen {
        self.backlog = Some(connections);
        self
    }

    /// Probes a TCP connection on which nothing has come for `idle`, so that a client that has vanished without
    /// a word is found also where no timeout of the server's holds: on event streams, WebSockets and other
    /// upgraded connections. In whole seconds, a second at least. How often and how many times it is probed
    /// is the system's (`net.ipv4.tcp_keepalive_intvl`, `tcp_keepalive_probes`). Default: no probes. A unix
    /// socket has none.
    ///
    /// Each connection keeps what it was accepted with, in later generations, too.
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

    /// Whether it is more than another door to what the server has.
    pub(crate) fn has_own_site(&self) -> bool {
        self.handler.is_some() || self.workers.is_some()
    }

    pub(crate) fn config(&self, site: usize) -> ListenerConfig {
        let mut config = ListenerConfig { site, ..self.config.clone() };
        if let Some(backlog) = self.backlog {
            config.backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        }
        config
    }

    /// What its workers' names end with: what fits beside their number into the kernel's 15 bytes.
    pub(crate) fn mark(&self) -> String {
        let name = self.name();
        // No name of a thread holds a NUL; that of an abstract socket does.
        format!(":{}", name.rsplit(['/', ':', '\0']).next().unwrap_or(name))
    }

    /// # Errors
    /// What can't be meant.
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
    fn whose_a_worker_is() {
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
    fn what_can_not_be_meant() {
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
        assert_eq!(most.config(3).site, 3);
    }
}
