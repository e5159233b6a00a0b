//! What can go wrong before serving starts, and at its end. While serving, every failure is a
//! response, a closed connection with its reason, or a handover that did not happen.

use std::fmt;
use std::io;

/// Why [`Server::serve`](crate::Server::serve) did not start, or did not end well.
///
/// The text names what was wrong and what to do; `{:?}` prints the same, since that is what
/// `fn main() -> Result<(), heirloom::Error>` shows.
pub struct Error {
    kind: Kind,
    context: String,
    source: Option<io::Error>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Configuration that can't be meant.
    Config,
    /// A listener that can't be bound.
    Bind,
    /// What a predecessor left us is not what it says.
    Inherit,
    /// The operating system refused something the server can't do without.
    System,
    /// Requests were cut at the end of the drain.
    Cut,
    /// This generation failed its own check and was rolled back.
    RolledBack,
}

impl Error {
    pub(crate) fn new(kind: Kind, context: impl Into<String>) -> Error {
        Error { kind, context: context.into(), source: None }
    }

    pub(crate) fn io(kind: Kind, context: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error { kind, context: context.into(), source: Some(source.into()) }
    }

    /// The operating system refused what the server can't do without.
    pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
        move |e| Error::io(Kind::System, what, e)
    }

    /// Whether the server ended at the drain deadline, cutting requests that were still in flight.
    pub fn is_cut(&self) -> bool {
        self.kind == Kind::Cut
    }

    /// Whether a listener could not be bound.
    pub fn is_bind(&self) -> bool {
        self.kind == Kind::Bind
    }
}

/// Whether this process or this host has as many files open as it may: that passes.
pub(crate) fn lacks_descriptor(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}
