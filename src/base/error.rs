//! Failures before serving starts and at its end. While the server serves, every failure is a response, a closed
//! connection with its reason, or a handover that did not happen.

use std::fmt;
use std::io;

/// Why [`Server::serve`](crate::Server::serve) did not start, or did not end well.
///
/// The text names what was wrong and what to do; `{:?}` prints the same, since that is what
/// `fn main() -> Result<(), heirloom::Error>` shows. [`kind`](Error::kind) is for programs.
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<io::Error>,
}

/// What kind of failure an [`Error`] is.
///
/// ```no_run
/// use heirloom::ErrorKind;
/// use heirloom::prelude::*;
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     match Server::new(|_: Request| "ok\n").listen("127.0.0.1:8001").serve() {
///         Ok(()) => ExitCode::SUCCESS,
///         // Some requests took longer than the drain. Everything else was served.
///         Err(e) if e.kind() == ErrorKind::Aborted => ExitCode::SUCCESS,
///         Err(e) => {
///             eprintln!("{e}");
///             ExitCode::FAILURE
///         }
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration is a mistake, a file that it names can't be used, or a hook failed before this process served.
    Config,
    /// A listener can't be bound.
    Bind,
    /// The descriptors that a predecessor passed on are not what it says.
    Inherit,
    /// The operating system refused something that the server needs, or one of its threads panicked.
    System,
    /// Requests were aborted: they were still in flight at the drain deadline, or at a second TERM.
    Aborted,
    /// This generation could not take over, and its predecessor continues to serve.
    RolledBack,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, context: impl Into<String>) -> Error {
        Error { kind, context: context.into(), source: None }
    }

    pub(crate) fn io(kind: ErrorKind, context: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error { kind, context: context.into(), source: Some(source.into()) }
    }

    pub(crate) fn config(context: impl Into<String>) -> Error {
        Error::new(ErrorKind::Config, context)
    }

    /// The operating system refused something that the server needs.
    pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
        move |e| Error::io(ErrorKind::System, what, e)
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// Whether the process or the host has reached its limit of open files, which is temporary.
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
