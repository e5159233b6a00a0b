//! Which stage of a request takes how many instructions, from the files that `callgrind --keep` leaves.
//!
//! A stage is a list of source files. Code of another crate belongs to the stage that calls it: where several do, in
//! proportion to what their calls take.

use heirloom_bench::Error;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

const USAGE: &str = "stages FOLDER [--requests 10000] [CASE ...]
FOLDER and the number of requests are those of callgrind --keep FOLDER.";

struct Stage {
    name: &'static str,
    /// Parts of the paths of source files. A file belongs to the first stage that has a part of its path.
    files: &'static [&'static str],
    /// Parts of the names of functions, which go before files.
    functions: &'static [&'static str],
}

const fn stage(
    name: &'static str,
    files: &'static [&'static str],
    functions: &'static [&'static str],
) -> Stage {
    Stage { name, files, functions }
}

const STAGES: &[Stage] = &[
    stage("read from the socket", &["/exchange/input.rs"], &["Stream::read"]),
    stage(
        "parse the head, build the request",
        &[
            "/codec/tokens.rs",
            "/codec/known_fields.rs",
            "/codec/target.rs",
            "/codec/head",
            "/codec/framing.rs",
        ],
        &[],
    ),
    stage("find the route", &["/src/web/router/"], &[]),
    stage(
        "call the handler, contain its panics",
        &["/src/web/handler/", "/exchange/call_handler.rs", "/peers/heirloom.rs"],
        &[],
    ),
    stage(
        "the handler drops its request",
        &[],
        &["drop_in_place<http::request", "drop_in_place<heirloom::web::body::Body>"],
    ),
    stage(
        "build the response, keep the memory of its head",
        &["/src/web/response.rs", "/src/web/spare.rs"],
        &[],
    ),
    stage(
        "decide on the response, its body into the output",
        &[
            "/exchange/respond.rs",
            "/exchange/keep_alive.rs",
            "/exchange/on_end.rs",
            "/exchange/send_body.rs",
            "/codec/body.rs",
        ],
        &[],
    ),
    stage("write its head", &["/codec/encode.rs", "/codec/date.rs"], &["ResponseHead::write"]),
    stage(
        "clock, averages of routes",
        &["/scheduler/latency.rs"],
        &["clock_gettime", "Timespec", "getrusage"],
    ),
    stage("write to the socket", &["/exchange/output.rs"], &["Stream::write"]),
    stage("steps of the exchange", &["/src/http/"], &[]),
    stage("queue, slots, park and wait", &["/src/net/", "/src/base/"], &["epoll_wait"]),
];
const ELSEWHERE: usize = STAGES.len();

/// A function, and the file of a part of it that may be inlined there.
type Place = (String, String);

#[derive(Default)]
struct Profile {
    /// Instructions of the place itself.
    own: HashMap<Place, f64>,
    /// Instructions of the functions that it calls, and of what these call.
    calls: HashMap<(Place, String), f64>,
    /// The file of each function.
    home: HashMap<String, String>,
}

/// Callgrind gives each name once, with a number.
fn name(text: &str, known: &mut HashMap<String, String>) -> String {
    let Some((number, name)) = text.split_once(')') else { return text.to_owned() };
    if !name.is_empty() {
        known.insert(number.to_owned(), name.trim_start().to_owned());
    }
    known.get(number).cloned().unwrap_or_default()
}

impl Profile {
    /// Adds each count of the file, times `sign`.
    fn add(&mut self, path: &Path, sign: f64) -> Result<(), Error> {
        let text = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let (mut files, mut functions) = (HashMap::new(), HashMap::new());
        let (mut function, mut file, mut callee) = (String::new(), String::new(), None);
        let mut own_file = String::new();
        for line in String::from_utf8_lossy(&text).lines() {
            match line.split_once('=') {
                Some(("fl", of)) => {
                    own_file = name(of, &mut files);
                    file.clone_from(&own_file);
                }
                Some(("fi" | "fe", of)) => file = name(of, &mut files),
                Some(("cfi" | "cfl", of)) => drop(name(of, &mut files)),
                Some(("fn", of)) => {
                    function = name(of, &mut functions);
                    file.clone_from(&own_file);
                    self.home.insert(function.clone(), own_file.clone());
                }
                Some(("cfn", of)) => callee = Some(name(of, &mut functions)),
                Some(_) => {}
                None if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) => {
                    let Some(count) = line.split_whitespace().nth(1) else { continue };
                    let count = count.parse::<f64>()? * sign;
                    let place = (function.clone(), file.clone());
                    match callee.take() {
                        Some(callee) => *self.calls.entry((place, callee)).or_default() += count,
                        None => *self.own.entry(place).or_default() += count,
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    fn stage(&self, (function, file): &Place) -> Option<usize> {
        let is_listed = |list: &[&str], text: &str| list.iter().any(|part| text.contains(part));
        let of_file = |file: &str| STAGES.iter().position(|stage| is_listed(stage.files, file));
        let of_function = STAGES.iter().position(|stage| is_listed(stage.functions, function));
        of_function.or_else(|| of_file(file)).or_else(|| of_file(self.home.get(function)?))
    }

    /// The instructions of each stage, and of what belongs to none.
    fn by_stage(&self) -> Vec<f64> {
        let mut callers: HashMap<&str, Vec<(&Place, f64)>> = HashMap::new();
        for ((place, callee), count) in &self.calls {
            if place.0 != *callee && *count > 0.0 {
                callers.entry(callee).or_default().push((place, *count));
            }
        }
        let mut all = vec![0.0; STAGES.len() + 1];
        let mut shares = Shares { profile: self, callers, known: HashMap::new() };
        for (place, count) in &self.own {
            for (sum, share) in all.iter_mut().zip(shares.of(place, &mut HashSet::new())) {
                *sum += share * count;
            }
        }
        all
    }
}

struct Shares<'p> {
    profile: &'p Profile,
    callers: HashMap<&'p str, Vec<(&'p Place, f64)>>,
    known: HashMap<&'p str, Vec<f64>>,
}

impl<'p> Shares<'p> {
    /// The share that each stage has of a place. `below` are the functions whose callers are looked for.
    fn of(&mut self, place: &'p Place, below: &mut HashSet<&'p str>) -> Vec<f64> {
        let mut shares = vec![0.0; STAGES.len() + 1];
        if let Some(stage) = self.profile.stage(place) {
            shares[stage] = 1.0;
            return shares;
        }
        if let Some(known) = self.known.get(&*place.0) {
            return known.clone();
        }
        // Calls in a circle count for those that call into it.
        if below.insert(&place.0) {
            for (caller, count) in self.callers.get(&*place.0).cloned().unwrap_or_default() {
                for (sum, share) in shares.iter_mut().zip(self.of(caller, below)) {
                    *sum += share * count;
                }
            }
            below.remove(&*place.0);
        }
        let all: f64 = shares.iter().sum();
        if all > 0.0 {
            shares.iter_mut().for_each(|share| *share /= all);
        } else {
            shares[ELSEWHERE] = 1.0;
        }
        if below.is_empty() {
            self.known.insert(&place.0, shares.clone());
        }
        shares
    }
}

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or(USAGE)?;
    let (mut cases, mut requests) = (Vec::new(), 10_000.0);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--requests" => requests = args.next().ok_or(USAGE)?.parse()?,
            _ => cases.push(arg),
        }
    }
    if cases.is_empty() {
        cases = ["pipe16-1", "hello-1"].map(String::from).into();
    }
    let mut columns = Vec::new();
    for case in &cases {
        let mut profile = Profile::default();
        profile.add(&Path::new(&folder).join(format!("{case}.out")), 1.0)?;
        profile.add(&Path::new(&folder).join(format!("{case}.few")), -1.0)?;
        columns.push(profile.by_stage());
    }
    println!("| stage | {} |", cases.join(" | "));
    println!("|---|{}", "---|".repeat(cases.len()));
    let row = |name: &str, of: &dyn Fn(&[f64]) -> f64| {
        let counts: Vec<String> =
            columns.iter().map(|column| format!("{:.0}", of(column) / requests)).collect();
        println!("| {name} | {} |", counts.join(" | "));
    };
    for (n, stage) in STAGES.iter().enumerate() {
        row(stage.name, &|column| column[n]);
    }
    row("elsewhere", &|column| column[ELSEWHERE]);
    row("all", &|column| column.iter().sum());
    Ok(())
}
