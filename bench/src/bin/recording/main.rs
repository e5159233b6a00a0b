//! What it costs to record a request in histograms: the crate's own beside those of `prometheus-client`. See the README
//! beside this workspace.

mod base;

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use base::requests::{AllRequests, SeriesKey};
use heirloom_bench::Error;
use heirloom_bench::counted::instructions;
use heirloom_bench::machine::has;
use nix::time::{ClockId, clock_gettime};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

const USAGE: &str = "recording [--requests 1000000] [--reps 9] [--threads 8]";
/// What each thread records in turns.
const ROUTES: [&str; 4] = ["/", "/users/{id}", "/users/{id}/posts/{post}", "/files/{*path}"];
const STATUSES: [(u16, &str); 2] = [(200, "2xx"), (404, "4xx")];

/// How requests are recorded.
#[derive(Clone, Copy)]
enum Way {
    /// Nothing is recorded: the loop alone, which is subtracted from the others.
    Loop,
    /// As the crate's workers do.
    Own,
    /// One family of histograms for all threads, in which each request finds its own by its labels.
    Family,
    /// The same histograms, which each thread has looked up before.
    Held,
}

const WAYS: [(&str, Way); 4] =
    [("loop", Way::Loop), ("own", Way::Own), ("family", Way::Family), ("held", Way::Held)];

fn name_of(way: Way) -> &'static str {
    match way {
        Way::Loop => "the loop alone, subtracted below",
        Way::Own => "heirloom's",
        Way::Family => "`prometheus-client`, found by labels for each request",
        Way::Held => "`prometheus-client`, found once by each thread",
    }
}

/// The labels of the crate's metric.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    http_request_method: &'static str,
    http_route: &'static str,
    http_response_status_class: &'static str,
}

impl Labels {
    fn of(n: usize) -> Labels {
        let (route, status) = series(n);
        Labels {
            http_request_method: "GET",
            http_route: ROUTES[route],
            http_response_status_class: STATUSES[status].1,
        }
    }
}

/// The n-th request's route and status.
fn series(n: usize) -> (usize, usize) {
    (n % ROUTES.len(), n / ROUTES.len() % STATUSES.len())
}

/// Its duration, from 4 to 130 us, so that no branch is always the same.
fn took(n: usize) -> Duration {
    Duration::from_nanos(4_000 + (n.wrapping_mul(0x9e37_79b9) >> 15) as u64 % 126_000)
}

/// Histograms with the bounds of the crate's.
#[derive(Clone)]
struct Prometheus {
    durations: Family<Labels, Histogram, fn() -> Histogram>,
    queue_wait: Histogram,
    response_bytes: Histogram,
}

fn durations() -> Histogram {
    Histogram::new([
        0.00001, 0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0,
        2.5, 5.0, 7.5, 10.0,
    ])
}

fn sizes() -> Histogram {
    Histogram::new([0.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 1048576.0, 16777216.0, 268435456.0])
}

impl Prometheus {
    fn new() -> Prometheus {
        let durations = Family::new_with_constructor(self::durations as fn() -> Histogram);
        Prometheus { durations, queue_wait: self::durations(), response_bytes: sizes() }
    }
}

/// What all threads of a run share.
struct Shared {
    own: AllRequests,
    prometheus: Prometheus,
}

/// Records so many requests on one thread, each as the exchange does: its wait, its duration, and the size of its response.
fn record(way: Way, requests: usize, shared: &Shared) {
    match way {
        Way::Loop => (0..requests).for_each(|n| {
            black_box((took(n), series(n)));
        }),
        Way::Own => {
            let mut recorder = shared.own.recorder().expect("it is wanted");
            for n in 0..requests {
                let (took, (route, status)) = black_box((took(n), series(n)));
                recorder.queue_wait(took);
                let key = SeriesKey::new(route as u64 + 1, "GET", STATUSES[status].0);
                recorder.duration(key, took, || ROUTES[route].to_owned());
                recorder.response_bytes(13);
            }
        }
        Way::Family => {
            let Prometheus { durations, queue_wait, response_bytes } = &shared.prometheus;
            for n in 0..requests {
                let (took, _) = black_box((took(n), series(n)));
                queue_wait.observe(took.as_secs_f64());
                durations.get_or_create(&Labels::of(n)).observe(took.as_secs_f64());
                response_bytes.observe(13.0);
            }
        }
        Way::Held => {
            let Prometheus { durations, queue_wait, response_bytes } = &shared.prometheus;
            let held: Vec<Histogram> = (0..ROUTES.len() * STATUSES.len())
                .map(|n| durations.get_or_create(&Labels::of(n)).clone())
                .collect();
            for n in 0..requests {
                let (took, (route, status)) = black_box((took(n), series(n)));
                queue_wait.observe(took.as_secs_f64());
                held[status * ROUTES.len() + route].observe(took.as_secs_f64());
                response_bytes.observe(13.0);
            }
        }
    }
}

/// CPU time of each request in nanoseconds, of all threads together: a thread that waits for a lock does not count, what
/// the kernel does about it does.
fn time(way: Way, requests: usize, threads: usize) -> Result<f64, Error> {
    let shared = Shared { own: AllRequests::default(), prometheus: Prometheus::new() };
    shared.own.want();
    let each = requests / threads;
    let barrier = Barrier::new(threads);
    let before = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    thread::scope(|scope| {
        for _ in 0..threads {
            let start = || {
                barrier.wait();
                record(way, each, &shared);
            };
            scope.spawn(start);
        }
    });
    let used = Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)? - before);
    Ok(used.as_nanos() as f64 / (each * threads) as f64)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Error> {
    let (mut requests, mut reps, mut threads) = (1_000_000usize, 9usize, 8usize);
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(USAGE)?;
        match flag.as_str() {
            "--requests" => requests = value.parse()?,
            "--reps" => reps = value.parse()?,
            "--threads" => threads = value.parse()?,
            // Under valgrind, by `instructions`.
            "--record" => {
                let (_, way) = WAYS.into_iter().find(|(word, _)| *word == value).ok_or(USAGE)?;
                let shared = Shared { own: AllRequests::default(), prometheus: Prometheus::new() };
                shared.own.want();
                record(way, args.next().ok_or(USAGE)?.parse()?, &shared);
                return Ok(());
            }
            _ => return Err(USAGE.into()),
        }
    }
    // In turns, so that what else runs on the machine meets all of them.
    let mut times: [[Vec<f64>; 2]; 4] = Default::default();
    for _ in 0..reps {
        for (of_way, (_, way)) in times.iter_mut().zip(WAYS) {
            for (of_threads, threads) in of_way.iter_mut().zip([1, threads]) {
                of_threads.push(time(way, requests, threads)?);
            }
        }
    }
    println!("| recording of one request | instructions | CPU, ns: 1 thread | {threads} threads |");
    println!("| --- | --- | --- | --- |");
    let mut base: Option<(Option<f64>, [f64; 2])> = None;
    for ((word, way), of_way) in WAYS.into_iter().zip(times) {
        let counted = if has("valgrind") { Some(instructions(&["--record", word])?) } else { None };
        let [one, many] = of_way.map(median);
        let (less_counted, [less_one, less_many]) = base.unwrap_or((Some(0.0), [0.0; 2]));
        let counted_text = match (counted, less_counted) {
            (Some(counted), Some(less)) => format!("{:.0}", counted - less),
            _ => "–".to_owned(),
        };
        println!("| {} | {counted_text} | {:.1} | {:.1} |", name_of(way), one - less_one, many - less_many);
        base = base.or(Some((counted, [one, many])));
    }
    Ok(())
}
