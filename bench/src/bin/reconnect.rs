//! A new connection for each request, a few at the same time, as fast as they are answered. It requests the server's close
//! and waits for it, or closes itself (`--closes`). See the README beside this workspace.

use heirloom_bench::Error;
use heirloom_bench::client::{Client, Clients, Found};
use nix::sys::epoll::EpollTimeout;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const USAGE: &str = "reconnect ADDRESS [--connections 16] [--seconds 3] [--closes]";
const LAST_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// A connection without an answer for so long is an error, and made anew.
const PATIENCE: Duration = Duration::from_secs(1);

struct Slot {
    client: Client,
    began: Instant,
}

fn begin(address: SocketAddr, request: &[u8], clients: &Clients, number: usize) -> Result<Slot, Error> {
    let began = Instant::now();
    let mut client = Client::connect(address)?;
    client.send(request)?;
    clients.add(&client, number)?;
    Ok(Slot { client, began })
}

fn main() -> Result<(), Error> {
    let (mut address, mut connections, mut seconds, mut closes) = (None, 16, 3, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--connections" => connections = args.next().ok_or(USAGE)?.parse()?,
            "--closes" => closes = true,
            "--seconds" => seconds = args.next().ok_or(USAGE)?.parse()?,
            _ => address = Some(arg.parse::<SocketAddr>().map_err(|_| USAGE)?),
        }
    }
    let address = address.ok_or(USAGE)?;
    let request = if closes { REQUEST } else { LAST_REQUEST };
    let mut clients = Clients::new()?;
    let mut slots: Vec<Option<Slot>> = (0..connections).map(|_| None).collect();
    let (mut latencies, mut errors) = (Vec::new(), 0u64);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(seconds) {
        for (number, slot) in slots.iter_mut().enumerate() {
            if slot.as_ref().is_some_and(|slot| slot.began.elapsed() > PATIENCE) {
                *slot = None;
                errors += 1;
            }
            if slot.is_none() {
                match begin(address, request, &clients, number) {
                    Ok(connected) => *slot = Some(connected),
                    Err(_) => errors += 1,
                }
            }
        }
        for number in clients.ready(EpollTimeout::from(100u8))? {
            let Some(slot) = slots.get_mut(number) else { continue };
            let Some(Slot { client, began }) = slot else { continue };
            // The answer and the close mostly come together; a second look spares a wait.
            let found = match client.look() {
                Ok(Found::Answer) if !closes => client.look(),
                found => found,
            };
            match found {
                Ok(Found::Answer) if closes => latencies.push(began.elapsed().as_secs_f64() * 1e6),
                Ok(Found::Nothing | Found::Answer) => continue,
                Ok(Found::Closed { answered: true }) => latencies.push(began.elapsed().as_secs_f64() * 1e6),
                Ok(Found::Closed { answered: false }) | Err(_) => errors += 1,
            }
            *slot = None;
        }
    }
    let took = started.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or(0.0);
    println!(
        "requests={} seconds={took:.3} p50_us={:.0} p99_us={:.0} errors={errors}",
        latencies.len(),
        at(0.5),
        at(0.99)
    );
    Ok(())
}
