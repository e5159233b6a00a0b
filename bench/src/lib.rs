//! What the measuring programs and the servers they measure share.

pub mod client;
pub mod counted;
pub mod machine;
pub mod nginx;
pub mod server;
pub mod slow;
pub mod work;
pub mod wrk;

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// No answer takes this long; a program that waits for one should end with an error.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A loopback address without a listener.
pub fn free_address() -> io::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

pub fn wait_until_accepting(address: &str) -> Result<(), Error> {
    // Under valgrind it takes its time.
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(address).is_err() {
        if Instant::now() > deadline {
            return Err("does not accept".into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Ticks in which the hypervisor ran another guest while we wanted to run.
pub fn stolen() -> Result<u64, Error> {
    let stat = fs::read_to_string("/proc/stat")?;
    Ok(stat.split_whitespace().nth(8).ok_or("steal")?.parse()?)
}

pub fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    Ok(stream)
}

/// One request on a connection that stays open.
pub fn ask(stream: &mut TcpStream, path: &str) -> io::Result<String> {
    send(stream, path)?;
    answer(stream)
}

pub fn send(stream: &mut TcpStream, path: &str) -> io::Result<()> {
    // In one piece, as clients do.
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
}

/// One request on a new connection.
pub fn ask_once(address: &str, path: &str) -> io::Result<String> {
    let mut stream = connect(address)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    answer(&mut stream)
}

/// The body of an answer, once its last byte is here. An answer that ends too soon is an
/// `UnexpectedEof`, also one of no bytes at all.
pub fn answer(stream: &mut TcpStream) -> io::Result<String> {
    let mut got = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => got.extend_from_slice(&buffer[..n]),
        }
        let text = str::from_utf8(&got).map_err(io::Error::other)?;
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let (line, fields) = head.split_once("\r\n").unwrap_or((head, ""));
        if !line.starts_with("HTTP/1.1 200 ") {
            return Err(io::Error::other(line.to_string()));
        }
        let mut fields = fields.lines().filter_map(|field| field.split_once(':'));
        let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let length = length.ok_or(io::Error::other("an answer without Content-Length"))?;
        let length: usize = length.1.trim().parse().map_err(io::Error::other)?;
        if body.len() >= length {
            return Ok(body[..length].to_string());
        }
    }
}

/// How long the responses take that a client waits for which asks again `pause` after each, in order of length.
pub fn latencies(address: &str, path: &str, pause: Duration, time: Duration) -> Result<Vec<Duration>, Error> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let (mut latencies, end) = (Vec::new(), Instant::now() + time);
    while Instant::now() < end {
        let begin = Instant::now();
        ask(&mut stream, path)?;
        latencies.push(begin.elapsed());
        thread::sleep(pause);
    }
    latencies.sort_unstable();
    Ok(latencies)
}

/// NaN when there are none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// Milliseconds of a time as wrk writes it.
pub fn millis(text: &str) -> f64 {
    let split = text.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let number: f64 = number.parse().unwrap_or(f64::NAN);
    number
        * match unit {
            "us" => 0.001,
            "ms" => 1.0,
            "s" => 1000.0,
            "m" => 60_000.0,
            _ => f64::NAN,
        }
}
