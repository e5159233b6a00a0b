//! Reads at most so many bytes of a file. Compiled once: std's loop is 1,000 lines of LLVM IR for each type of reader.

use std::fs::File;
use std::io::{self, Read};

pub(crate) fn at_most(bytes: u64, mut file: &File) -> io::Result<Vec<u8>> {
    let (file, mut read): (&mut dyn Read, _) = (&mut file, Vec::new());
    file.take(bytes).read_to_end(&mut read)?;
    Ok(read)
}

/// # Errors
/// Also where it is no UTF-8.
pub(crate) fn text(bytes: u64, file: &File) -> io::Result<String> {
    let read = at_most(bytes, file)?;
    String::from_utf8(read).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}
