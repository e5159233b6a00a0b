//! An upload of any length needs little memory, in a process of its own: its peak is measured.
#![cfg(feature = "multipart")]

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;

use heirloom::prelude::*;

#[path = "support/skip.rs"]
mod skip;

const FILE_BYTES: u64 = 64 << 20;
/// Far more than the pieces in memory, and far less than the file.
const MOST: u64 = 8 << 20;

fn count(mut req: Request) -> Result<String, InputError> {
    let mut form = req.multipart()?;
    let mut bytes = 0;
    while let Some(mut field) = form.next_field()? {
        bytes += io::copy(&mut field, &mut io::sink())?;
    }
    Ok(bytes.to_string())
}

/// The most memory that this process has had since the last call.
fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    fs::write("/proc/self/clear_refs", "5").ok()?;
    Some(kilobytes << 10)
}

#[test]
fn an_upload_needs_little_memory() {
    let router = Router::new()
        .post("/whole", max_body(FILE_BYTES + 1000, count))
        .post("/streamed", max_body(FILE_BYTES + 1000, streaming(count)));
    let server = Server::new(router).listen("127.0.0.1:0").spawn().unwrap();
    let head = "--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"\r\n\r\n";
    let end = "\r\n--b--\r\n";
    let len = FILE_BYTES + (head.len() + end.len()) as u64;
    let piece = b"a line of a file\r\n".repeat(3641);
    for path in ["/whole", "/streamed"] {
        let mut client = TcpStream::connect(server.addresses()[0]).unwrap();
        let kind = "multipart/form-data; boundary=b";
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\n\r\n{head}"
        );
        let Some(before) = peak().and_then(|_| peak()) else { return skip::skip("there is no /proc") };
        client.write_all(request.as_bytes()).unwrap();
        let mut left = usize::try_from(FILE_BYTES).unwrap();
        while left > 0 {
            let n = left.min(piece.len());
            client.write_all(&piece[..n]).unwrap();
            left -= n;
        }
        client.write_all(end.as_bytes()).unwrap();
        let mut reply = String::new();
        client.read_to_string(&mut reply).unwrap();
        assert!(reply.ends_with(&format!("\r\n\r\n{FILE_BYTES}")), "{path}: {reply}");
        let more = peak().unwrap().saturating_sub(before);
        assert!(more < MOST, "{path} needed {more} bytes");
    }
    server.stop().unwrap();
}
