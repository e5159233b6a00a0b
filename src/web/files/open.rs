//! Opening a file beneath a directory and nowhere else, without ever waiting for it.
//!
//! The kernel resolves the name (`openat2`, RESOLVE_BENEATH), so that no rename can happen between a check and the open.
//! `O_NONBLOCK` opens pipes and devices without waiting; only regular files are read.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::Mode;

/// Which symbolic links are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    /// Links that don't lead out.
    Inside,
    None,
}

/// What a path leads to.
pub(super) enum Opened {
    File(File),
    Directory,
    /// A device, a pipe, a socket.
    Other,
}

/// How often a name is resolved at most. Beside two processes that do nothing but rename, one resolution in a hundred
/// fails, and three in a row were not seen; a lease fails each time, at less than 1 µs.
const TRIES: usize = 32;

/// A pipe without a writer, or a device, must not block the open. 32-bit targets open no file beyond 2 GiB without
/// O_LARGEFILE.
fn read_only() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_LARGEFILE | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY
}

/// `name` is relative and has no `..`; neither is relied on.
pub(super) fn beneath(root: &Path, name: &str, links: Links) -> io::Result<Opened> {
    let root = open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    if links == Links::None {
        resolve |= ResolveFlag::RESOLVE_NO_SYMLINKS;
    }
    let how = OpenHow::new().flags(read_only()).resolve(resolve);
    // EAGAIN has two causes: a rename, anywhere on the host, while the kernel resolved a `..` of a link, so that it can't
    // exclude that this leads out; and a lease on the file.
    let is_final = |opened: &nix::Result<OwnedFd>| !matches!(opened, Err(Errno::EAGAIN | Errno::EINTR));
    let mut opened = openat2(&root, name, how);
    for _ in 1..TRIES {
        if is_final(&opened) {
            break;
        }
        opened = openat2(&root, name, how);
    }
    match opened {
        Ok(fd) => found(fd),
        // Kernels before Linux 5.6, and sandboxes that forbid the call.
        Err(Errno::ENOSYS | Errno::EPERM) => found(step_by_step(root, name)?),
        Err(e) => Err(e.into()),
    }
}

/// Opens each name in the directory of the previous one; links are not followed.
fn step_by_step(root: OwnedFd, name: &str) -> nix::Result<OwnedFd> {
    let (folders, last) = name.rsplit_once('/').unwrap_or(("", name));
    let mut at = root;
    for folder in folders.split('/').filter(|folder| !folder.is_empty()) {
        if folder == ".." {
            return Err(Errno::EXDEV);
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        at = openat(&at, folder, flags, Mode::empty())?;
    }
    if last == ".." {
        return Err(Errno::EXDEV);
    }
    openat(&at, last, read_only() | OFlag::O_NOFOLLOW, Mode::empty())
}

/// A file that the program names itself.
pub(super) fn trusted(path: &Path) -> io::Result<Opened> {
    found(open(path, read_only(), Mode::empty())?)
}

fn found(fd: OwnedFd) -> io::Result<Opened> {
    let file = File::from(fd);
    let facts = file.metadata()?;
    Ok(match () {
        () if facts.is_file() => Opened::File(file),
        () if facts.is_dir() => Opened::Directory,
        () => Opened::Other,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn without_openat2_nothing_leads_out_either() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "in").unwrap();
        fs::write(folder.path().join("secret"), "out").unwrap();
        symlink("a/b/file", root.join("link")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("a", root.join("way")).unwrap();
        let at = |name: &str| {
            let root = open(&root, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
            step_by_step(root, name).map(|_| ())
        };
        for name in ["a/b/file", "a/b", ".", "a//b/file"] {
            assert_eq!(at(name), Ok(()), "{name}");
        }
        for name in ["link", "up/secret", "../secret", "a/../../secret", "..", "way/b/file", "no"] {
            assert!(at(name).is_err(), "{name}");
        }
    }
}
