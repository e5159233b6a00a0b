//! A protocol without HTTP: lines over TCP on a few std threads, with handovers that no client notices and stops that cut no
//! client.
//!
//! ```text
//! $ cargo run --example line_server -- 127.0.0.1:7001
//! $ printf 'hello\nand\nquit\n' | curl telnet://127.0.0.1:7001
//! ... HELLO
//! ... AND
//! BYE
//! $ kill -HUP PID
//! $ printf 'hello again\nquit\n' | curl telnet://127.0.0.1:7001
//! ... HELLO AGAIN
//! BYE
//! ```
//!
//! Each line is answered by the server's pid and the line in capitals. `BYE` is the last message: the server closes, and a
//! line that was sent and not answered before it was not processed, so it can be sent again on a new connection. An end
//! without `BYE` means a crash.
//!
//! Between two lines a connection is parked: it has no thread, and moves to the new process at a handover. The server sends
//! `BYE` after `quit`, at a stop, after a minute of silence, and after a line that is too long or too slow.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::thread;
use std::time::Duration;

use heirloom::ProcessConfig;
use heirloom::stream::{Connection, Incoming, StreamServer, Wake};

const THREADS: usize = 16;
/// The time for the rest of a line, and for a client that does not read.
const PATIENCE: Duration = Duration::from_secs(5);
const LINE_BYTES: u64 = 8 << 10;

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let mut args = std::env::args().skip(1);
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:7001".to_owned());
    let mut process = ProcessConfig::new();
    if let Some(pid_file) = args.next() {
        process = process.pid_file(pid_file);
    }
    StreamServer::new().listen(listen).busy("BYE\n").process(process).serve(|incoming| {
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| work(&incoming));
            }
        });
    })
}

fn work(incoming: &Incoming) {
    for connection in incoming {
        if let Err(e) = talk(connection) {
            log::debug!("a client is gone: {e}");
        }
    }
}

fn talk(mut connection: Connection) -> io::Result<()> {
    match connection.wake() {
        Wake::Readable => {}
        // It has not said anything yet. When the process ends, it gets one turn.
        Wake::New => match connection.park() {
            Ok(()) => return Ok(()),
            Err(back) => connection = back,
        },
        Wake::Expired => return connection.write_all(b"BYE\n"),
    }
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(&connection);
    // All bytes that were read are used before the connection is parked.
    loop {
        let mut line = String::new();
        let whole = (&mut lines).take(LINE_BYTES).read_line(&mut line);
        match whole {
            Ok(0) => return Ok(()),
            Ok(_) if line.ends_with('\n') && line.trim_end() != "quit" => {}
            _ => return (&connection).write_all(b"BYE\n"),
        }
        let answer = format!("{} {}\n", std::process::id(), line.trim_end().to_uppercase());
        (&connection).write_all(answer.as_bytes())?;
        if lines.buffer().is_empty() {
            break;
        }
    }
    match connection.park() {
        Ok(()) => Ok(()),
        Err(mut last) => last.write_all(b"BYE\n"),
    }
}
