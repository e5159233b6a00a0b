//! Files whose content the kernel generates on reading: those of procfs, sysfs and the like. Neither their length (0, or a
//! page) nor their times describe the content. They are recognized by the type of the file system, which is looked up only
//! for files without a block on a disk. They are sent from memory, because a second read may return something else.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt;

use nix::sys::statfs::{
    BPF_FS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC, FsType, PROC_SUPER_MAGIC,
    SECURITYFS_MAGIC, SELINUX_MAGIC, SMACK_MAGIC, SYSFS_MAGIC, TRACEFS_MAGIC, fstatfs,
};

/// The most bytes that are read of one. All of it is read at once, because the content may differ a moment later.
pub(super) const MOST_BYTES: u64 = 4 << 20;

const MADE: [FsType; 10] = [
    PROC_SUPER_MAGIC,
    SYSFS_MAGIC,
    CGROUP_SUPER_MAGIC,
    CGROUP2_SUPER_MAGIC,
    DEBUGFS_MAGIC,
    TRACEFS_MAGIC,
    SECURITYFS_MAGIC,
    SELINUX_MAGIC,
    SMACK_MAGIC,
    BPF_FS_MAGIC,
];

/// The content of such a file. None for an ordinary file, which is read when it is sent.
///
/// # Errors
/// It can't be read, or it is more than [`MOST_BYTES`].
pub(super) fn content(file: &mut File, facts: &Metadata) -> io::Result<Option<Vec<u8>>> {
    // Generated files occupy no blocks. Nearly all others do, so that this costs them nothing.
    if facts.blocks() > 0 {
        return Ok(None);
    }
    let is_made = fstatfs(&*file).is_ok_and(|of| MADE.contains(&of.filesystem_type()));
    if !is_made && facts.len() > MOST_BYTES {
        return Ok(None);
    }
    let mut content = Vec::new();
    // Whole pages are read, because some of these files refuse other lengths.
    let read = file.by_ref().take(MOST_BYTES.saturating_add(4_096)).read_to_end(&mut content);
    // From an open, EINVAL means an impossible name; here the error is the file's.
    read.map_err(|e| if e.raw_os_error() == Some(libc::EINVAL) { io::Error::other(e) } else { e })?;
    if content.len() as u64 > MOST_BYTES {
        return Err(io::Error::other(format!("more than {MOST_BYTES} bytes, and no known length")));
    }
    // An empty or a sparse file, or a file system that counts no blocks. If the length differs, as with some FUSE file
    // systems, the bytes that were read are the content.
    if !is_made && content.len() as u64 == facts.len() {
        file.rewind()?;
        return Ok(None);
    }
    Ok(Some(content))
}
