//! Requests at a constant rate, whether the server keeps up or not. A request's latency counts from
//! the time it was due, so a server that stalls pays for all that waited meanwhile (a client that
//! waits for answers would leave those out: coordinated omission). See the README beside this workspace.

use heirloom_bench::Error;
use heirloom_bench::client::{Client, Clients, Found};
use nix::sys::epoll::EpollTimeout;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const USAGE: &str = "fixed_rate ADDRESS [--rate 20000] [--connections 64] [--seconds 5]";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// How long answers are waited for when all requests have been due.
const AFTERWARDS: Duration = Duration::from_secs(2);

struct Slot {
    client: Client,
    /// When the requests of this connection were due: the first is under way, the others wait.
    due: VecDeque<Duration>,
}

impl Slot {
    fn add(&mut self, due: Duration) -> Result<(), Error> {
        self.due.push_back(due);
        if self.due.len() == 1 { self.client.send(REQUEST) } else { Ok(()) }
    }

    /// What has been due the longest is answered.
    fn answered(&mut self) -> Result<Option<Duration>, Error> {
        match self.client.look()? {
            Found::Nothing => return Ok(None),
            Found::Answer => {}
            Found::Closed { .. } => return Err("the server has closed a connection".into()),
        }
        let due = self.due.pop_front();
        if !self.due.is_empty() {
            self.client.send(REQUEST)?;
        }
        Ok(due)
    }
}

fn main() -> Result<(), Error> {
    let (mut address, mut rate, mut connections, mut seconds) = (None, 20_000u64, 64usize, 5u64);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(USAGE);
        match arg.as_str() {
            "--rate" => rate = value()?.parse()?,
            "--connections" => connections = value()?.parse()?,
            "--seconds" => seconds = value()?.parse()?,
            _ => address = Some(arg.parse::<SocketAddr>().map_err(|_| USAGE)?),
        }
    }
    let address = address.ok_or(USAGE)?;
    if rate == 0 || connections == 0 {
        return Err(USAGE.into());
    }
    let mut clients = Clients::new()?;
    let mut slots = Vec::new();
    for number in 0..connections {
        let client = Client::connect(address)?;
        clients.add(&client, number)?;
        slots.push(Slot { client, due: VecDeque::new() });
    }

    let total = rate * seconds;
    let due_at = |number: u64| Duration::from_nanos(number * 1_000_000_000 / rate);
    let mut latencies = Vec::with_capacity(usize::try_from(total)?);
    // How late this program itself was: a request it could not send in time is not the server's.
    let (mut sent, mut latest) = (0, Duration::ZERO);
    let started = Instant::now();
    let end = due_at(total);
    while (latencies.len() as u64) < total && started.elapsed() < end + AFTERWARDS {
        let now = started.elapsed();
        while sent < total && due_at(sent) <= now {
            let turn = usize::try_from(sent)? % connections;
            if let Some(slot) = slots.get_mut(turn) {
                slot.add(due_at(sent))?;
            }
            latest = latest.max(now - due_at(sent));
            sent += 1;
        }
        // It never sleeps: a timer's slack would be in every latency.
        for number in clients.ready(EpollTimeout::ZERO)? {
            if let Some(slot) = slots.get_mut(number)
                && let Some(due) = slot.answered()?
            {
                latencies.push(started.elapsed() - due);
            }
        }
    }
    let took = started.elapsed();
    let in_time = latencies.len();
    // What is unanswered has waited at least until now.
    latencies.extend(slots.iter().flat_map(|slot| &slot.due).map(|due| took - *due));
    latencies.sort_unstable();
    let at = |per_mille: usize| {
        let index = (latencies.len() * per_mille / 1000).min(latencies.len().saturating_sub(1));
        latencies.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
    };
    println!(
        "requests={in_time} seconds={:.3} p50_us={:.0} p90_us={:.0} p99_us={:.0} p999_us={:.0} max_us={:.0} \
         unanswered={} late_us={}",
        took.as_secs_f64(),
        at(500),
        at(900),
        at(990),
        at(999),
        at(1000),
        latencies.len() - in_time,
        latest.as_micros()
    );
    Ok(())
}
