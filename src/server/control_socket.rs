//! Opens the control socket: inherits it from the predecessor, or binds it.

use std::io::{self, ErrorKind};
use std::path::Path;

use crate::base::error::{self, Error};
use crate::net::listener::bind_private;
use crate::process::control::socket::{Bound, PassedSocket};

/// # Errors
/// A path that can't be bound.
pub(super) fn open(path: &Path) -> Result<Bound, Error> {
    let failed = |e: io::Error| {
        let advice = match e.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => ": its directory must exist",
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ": its directory must be writable",
            ErrorKind::AddrInUse => ": another server has it",
            ErrorKind::AlreadyExists => ": remove it, or name another path",
            ErrorKind::InvalidInput => ": a path of a socket has 1 to 107 bytes",
            _ => "",
        };
        let text = format!("can't open the control socket {}{advice}", path.display());
        Error::io(error::ErrorKind::Config, text, e)
    };
    let absolute = std::path::absolute(path).map_err(failed)?;
    let predecessors = match PassedSocket::take().map(|passed| Bound::inherited(passed, &absolute)) {
        Some(Ok(bound)) => return Ok(bound),
        Some(Err(elsewhere)) => Some(elsewhere),
        None => None,
    };
    // Bound by the path as it was given, which may be shorter than the absolute one.
    let (fd, file) = bind_private(path).map_err(failed)?;
    Ok(Bound::new(fd, absolute, file).replacing(predecessors))
}
