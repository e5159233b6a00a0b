//! CPU for a request on kept connections, in short turns: all servers run, and one client sends to one of them at a time. What
//! changes on the machine meanwhile is much the same for turns that follow each other at once, so that their ratios tell
//! differences of a percent, where whole runs differ by ten.

use crate::peers::{Kind, Peer};
use crate::run::Bench;
use crate::scenarios;
use heirloom_bench::client::{Client, Clients, Found};
use heirloom_bench::machine::on_core;
use heirloom_bench::server::Running;
use heirloom_bench::{Error, median};
use nix::sys::epoll::EpollTimeout;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const CONNECTIONS: [usize; 5] = [1, 16, 64, 256, 1000];
const ROUNDS: usize = 60;
/// Not measured: the caches are those of the server before.
const WARM_UP: Duration = Duration::from_millis(10);
const TURN: Duration = Duration::from_millis(60);
/// In milliseconds.
const PATIENCE: u16 = 5_000;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";

/// A server, and the connections to it.
struct Side {
    server: Running,
    clients: Vec<Client>,
    events: Clients,
}

pub fn table(bench: &Bench, peers: &[Peer]) -> Result<(), Error> {
    let Some(ours) = peers.iter().position(|peer| peer.kind == Kind::Ours) else { return Ok(()) };
    println!("\n## CPU for a request, in turns of {} ms\n", TURN.as_millis());
    println!(
        "Us, and each server's divided by ours in the same round: the median of {ROUNDS}, and its standard error.\n"
    );
    let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
    println!("| connections | ours, us | {} |\n|---|---|{}", names.join(" | "), "---|".repeat(names.len()));
    on_core(&bench.client_cpus, || {
        for connections in CONNECTIONS {
            let rounds = rounds(bench, peers, connections)?;
            let of_ours = || rounds.iter().filter_map(|round| round.get(ours).copied());
            let ratios = |index: usize| {
                rounds.iter().filter_map(move |round| Some(round.get(index)? / round.get(ours)?)).collect()
            };
            let cells: Vec<String> = (0..peers.len()).map(|index| cell(ratios(index))).collect();
            println!("| {connections} | {:.2} | {} |", median(of_ours()), cells.join(" | "));
        }
        Ok(())
    })
}

/// Microseconds for a request: of each round those of each server.
fn rounds(bench: &Bench, peers: &[Peer], connections: usize) -> Result<Vec<Vec<f64>>, Error> {
    let mut sides =
        peers.iter().map(|peer| Side::new(bench, peer, connections)).collect::<Result<Vec<_>, _>>()?;
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let mut of_round = vec![0.0; sides.len()];
        for turn in 0..sides.len() {
            let index = (round + turn) % sides.len();
            if let (Some(side), Some(place)) = (sides.get_mut(index), of_round.get_mut(index)) {
                side.turn(WARM_UP)?;
                *place = side.turn(TURN)?;
            }
        }
        rounds.push(of_round);
    }
    Ok(rounds)
}

/// The median with its standard error, without the outermost tenths.
fn cell(mut ratios: Vec<f64>) -> String {
    ratios.sort_by(f64::total_cmp);
    let tenth = ratios.len() / 10;
    let inner = ratios.get(tenth..ratios.len() - tenth).unwrap_or_default();
    let mean = inner.iter().sum::<f64>() / inner.len() as f64;
    let variance = inner.iter().map(|ratio| (ratio - mean).powi(2)).sum::<f64>() / inner.len() as f64;
    // That of a median is 1.25 times that of a mean.
    let error = 1.25 * (variance / ratios.len() as f64).sqrt();
    format!("{:.2} ± {error:.2}", median(ratios.iter().copied()))
}

impl Side {
    fn new(bench: &Bench, peer: &Peer, connections: usize) -> Result<Side, Error> {
        let server = bench.start(peer, &scenarios::find("ka64").ok_or("no such scenario")?)?;
        let address: SocketAddr = server.address.parse()?;
        let (mut clients, events) = (Vec::new(), Clients::new()?);
        for number in 0..connections {
            let client = Client::connect(address)?;
            events.add(&client, number)?;
            clients.push(client);
        }
        Ok(Side { server, clients, events })
    }

    /// Each connection asks again as soon as it is answered. Microseconds of the server for a request.
    fn turn(&mut self, time: Duration) -> Result<f64, Error> {
        let (before, end) = (self.server.cpu()?, Instant::now() + time);
        for client in &mut self.clients {
            client.send(REQUEST)?;
        }
        let (mut waiting, mut answers) = (self.clients.len(), 0_u32);
        while waiting > 0 {
            let ready = self.events.ready(EpollTimeout::from(PATIENCE))?;
            if ready.is_empty() {
                return Err(format!("{} does not answer", self.server.address).into());
            }
            let is_over = Instant::now() >= end;
            for number in ready {
                let client = self.clients.get_mut(number).ok_or("no such client")?;
                match client.look()? {
                    Found::Nothing => continue,
                    Found::Closed { .. } => return Err(format!("{} closes", self.server.address).into()),
                    Found::Answer => answers += 1,
                }
                if is_over {
                    waiting -= 1;
                } else {
                    client.send(REQUEST)?;
                }
            }
        }
        Ok((self.server.cpu()? - before).as_secs_f64() * 1e6 / f64::from(answers))
    }
}
