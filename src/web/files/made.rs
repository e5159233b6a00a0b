//! Files whose content the kernel makes while it is read: those of procfs, sysfs and the like. Their length says nothing of it
//! (it is 0, or a page), and neither do their times.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt;

use nix::sys::statfs::{
    BPF_FS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC, FsType, PROC_SUPER_MAGIC,
    SECURITYFS_MAGIC, SELINUX_MAGIC, SMACK_MAGIC, SYSFS_MAGIC, TRACEFS_MAGIC, fstatfs,
};

/// Of such content. It is read at once, for it may be another one a moment later.
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

/// The content of such a file. None for one that has what its length says, and is read where it is sent.
///
/// # Errors
/// It can't be read, or it is more than [`MOST_BYTES`].
pub(super) fn content(file: &mut File, facts: &Metadata) -> io::Result<Option<Vec<u8>>> {
    // What takes room somewhere is not made: nearly all files, at no cost.
    if facts.blocks() > 0 {
        return Ok(None);
    }
    let is_made = fstatfs(&*file).is_ok_and(|of| MADE.contains(&of.filesystem_type()));
    if !is_made && facts.len() > MOST_BYTES {
        return Ok(None);
    }
    let mut content = Vec::new();
    // Whole pages: some of these files refuse odd lengths.
    let read = file.by_ref().take(MOST_BYTES.saturating_add(4_096)).read_to_end(&mut content);
    // An open that fails so means a name that can't be; here it is the file.
    read.map_err(|e| if e.raw_os_error() == Some(libc::EINVAL) { io::Error::other(e) } else { e })?;
    if content.len() as u64 > MOST_BYTES {
        return Err(io::Error::other(format!(
            "more than {MOST_BYTES} bytes, and no length that says how many"
        )));
    }
    // Empty or sparse, or of a file system that counts no blocks. Where it is not what the length says, as in FUSE's own
    // ways of making files, there is nothing else to go by than what was read.
    if !is_made && content.len() as u64 == facts.len() {
        file.rewind()?;
        return Ok(None);
    }
    Ok(Some(content))
}
