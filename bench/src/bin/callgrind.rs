//! Instructions of the crate for one request, under valgrind: figures that do not depend on how busy
//! the machine is, compared with recorded ones. See the README beside this workspace.

use heirloom_bench::machine::{has, use_one_core};
use heirloom_bench::server::Running;
use heirloom_bench::{Error, answer, connect, work};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "callgrind [--record] [--requests 10000] [--reps 3] [--only CASE,...] [--keep FOLDER]
Compares with callgrind.txt beside Cargo.toml; --record writes it. With --keep, callgrind's files stay
in FOLDER, for callgrind_annotate.";
const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/callgrind.txt");
const CLIENT: &str = "203.0.113.10";
/// Requests of the run that is subtracted: start and end are in both.
const FEW: usize = 1000;

struct Case {
    name: &'static str,
    connections: usize,
    /// Requests in one write.
    depth: usize,
    request: Vec<u8>,
    /// Each request of a write is from another client of the proxy.
    clients_differ: bool,
    /// What the server has besides its routes, as arguments.
    with: Vec<&'static str>,
    /// The case with the same requests and nothing of the kind.
    beside: Option<&'static str>,
    /// How much more than recorded is a regression, in percent: how often a worker sleeps and is
    /// woken depends on how threads are scheduled, least when requests are pipelined.
    tolerance: f64,
}

fn cases() -> Vec<Case> {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes();
    let mut post = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1024\r\n\r\n".to_vec();
    post.resize(post.len() + 1024, b'x');
    let case = |name, connections, depth, request, tolerance| Case {
        name,
        connections,
        depth,
        request,
        clients_differ: false,
        with: Vec::new(),
        beside: None,
        tolerance,
    };
    let admin = vec!["--admin", "127.0.0.1:0"];
    let with_admin = |case| Case { with: admin.clone(), ..case };
    // What a proxy or a browser sends at least.
    let full = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8.5.0\r\nX-Forwarded-For: {CLIENT}\r\n\r\n")
            .into_bytes()
    };
    let feature = |name, path, with: &'static str| Case {
        with: if with.is_empty() { Vec::new() } else { vec!["--with", with] },
        beside: Some("plain"),
        ..case(name, 1, 16, full(path), 3.0)
    };
    vec![
        case("hello-1", 1, 1, get("/"), 6.0),
        case("hello-16", 16, 1, get("/"), 6.0),
        case("route-1", 1, 1, get(work::ROUTED.0), 6.0),
        case("post1k-1", 1, 1, post, 6.0),
        case("pipe16-1", 1, 16, get("/"), 3.0),
        with_admin(case("hello-16-admin", 16, 1, get("/"), 6.0)),
        with_admin(case("pipe16-1-admin", 1, 16, get("/"), 3.0)),
        Case { beside: None, ..feature("plain", "/", "") },
        Case { clients_differ: true, ..feature("other-fields", "/", "") },
        Case { with: admin.clone(), ..feature("histograms", "/", "") },
        feature("logger", "/", "logger"),
        feature("guard", "/", "guard"),
        feature("wrapper", "/", "wrapper"),
        feature("client", "/client", ""),
        feature("proxies", "/", "proxies"),
        feature("proxies-client", "/client", "proxies"),
        case("flat", 1, 16, full("/flat/about"), 3.0),
        Case { beside: Some("flat"), ..feature("nested", "/nest/about", "") },
        feature("access-no-logger", "/", "access"),
        feature("access-discarded", "/", "access-discarded"),
        feature("access-logged", "/", "access-logged"),
        feature("access-none", "/", "access-none"),
        feature("access-fields", "/", "access-fields"),
        feature("access-common", "/", "access-common"),
        feature("access-combined", "/", "access-combined"),
        feature("access-json", "/", "access-json"),
        case("plain-16", 16, 1, full("/"), 6.0),
        Case {
            with: vec!["--with", "access-none"],
            beside: Some("plain-16"),
            ..case("access-none-16", 16, 1, full("/"), 6.0)
        },
        feature("bare-fields", "/", "bare-fields"),
        feature("bare-combined", "/", "bare-combined"),
    ]
}

/// Makes so many requests, in turns: one write on each connection, then the answers of each.
fn ask_many(address: &str, case: &Case, requests: usize) -> Result<(), Error> {
    let mut streams: Vec<TcpStream> =
        (0..case.connections).map(|_| connect(address)).collect::<Result<_, _>>()?;
    let mut batch = case.request.repeat(case.depth);
    if case.clients_differ {
        // The first one is known from the request before.
        for (client, place) in (11..=99).cycle().zip(places(&batch, CLIENT.as_bytes())) {
            batch[place].copy_from_slice(format!("203.0.113.{client}").as_bytes());
        }
    }
    let mut answers = vec![0; answer_len(address, &case.request)? * case.depth];
    for _ in 0..requests / (case.connections * case.depth) {
        for stream in &mut streams {
            stream.write_all(&batch)?;
        }
        for stream in &mut streams {
            stream.read_exact(&mut answers)?;
        }
    }
    if !answers.starts_with(b"HTTP/1.1 200 ") {
        return Err("not 200".into());
    }
    Ok(())
}

/// Where `part` is in `text`.
fn places(text: &[u8], part: &[u8]) -> Vec<Range<usize>> {
    let each = text.windows(part.len()).enumerate().filter(|(_, window)| *window == part);
    each.map(|(start, _)| start..start + part.len()).collect()
}

/// Every answer is as long as the first: only the date differs.
fn answer_len(address: &str, request: &[u8]) -> Result<usize, Error> {
    let mut stream = connect(address)?;
    stream.write_all(request)?;
    let mut start = [0; 1024];
    let head = loop {
        let got = stream.peek(&mut start)?;
        let end = start.get(..got).unwrap_or_default().windows(4).position(|end| end == b"\r\n\r\n");
        if let Some(end) = end {
            break end + 4;
        }
    };
    Ok(head + answer(&mut stream)?.len())
}

fn instructions(server: &Path, case: &Case, requests: usize, file: &Path) -> Result<f64, Error> {
    let out = format!("--callgrind-out-file={}", file.display());
    let words = ["valgrind", "--quiet", "--tool=callgrind", &out];
    let mut command: Vec<String> = words.map(String::from).into();
    command.extend([server.display().to_string(), "--listen".into(), "{addr}".into()]);
    command.extend(case.with.iter().map(|word| (*word).to_owned()));
    let running = Running::start(&command, None)?;
    ask_many(&running.address, case, requests)?;
    running.stop()?;
    let text = fs::read_to_string(file)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).ok_or("no totals")?;
    Ok(total.trim().parse()?)
}

fn recorded() -> Vec<(String, f64)> {
    let text = fs::read_to_string(RECORDED).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let (name, number) = line.split_once(' ')?;
            Some((name.to_owned(), number.trim().parse().ok()?))
        })
        .collect()
}

fn main() -> Result<ExitCode, Error> {
    let (mut record, mut requests, mut reps) = (false, 10_000usize, 3usize);
    let (mut only, mut keep) = (Vec::new(), None);
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        if flag == "--record" {
            record = true;
            continue;
        }
        let value = args.next().ok_or(USAGE)?;
        match flag.as_str() {
            "--requests" => requests = value.parse()?,
            "--reps" => reps = value.parse()?,
            "--only" => only = value.split(',').map(String::from).collect(),
            "--keep" => keep = Some(PathBuf::from(value)),
            _ => return Err(USAGE.into()),
        }
    }
    if !has("valgrind") {
        return Err("valgrind is not installed, and nothing can be counted without it".into());
    }
    // With two, a slow server under valgrind often finds the next request before it waits, and the count depends on that.
    use_one_core()?;
    let server = std::env::current_exe()?.with_file_name("heirloom_hello");
    let scratch = std::env::temp_dir().join(format!("heirloom-callgrind-{}", std::process::id()));
    let folder = keep.clone().unwrap_or(scratch);
    fs::create_dir_all(&folder)?;
    let recorded = recorded();
    let mut lines = Vec::new();
    let mut worse = false;
    println!(
        "| case | instructions for a request, the fewest | more than without | each repetition | recorded | difference | allowed |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut counts: Vec<(&str, f64)> = Vec::new();
    for case in cases().iter().filter(|case| only.is_empty() || only.iter().any(|name| name == case.name)) {
        let mut each = Vec::new();
        for _ in 0..reps {
            let few = instructions(&server, case, FEW, &folder.join(format!("{}.few", case.name)))?;
            let many =
                instructions(&server, case, FEW + requests, &folder.join(format!("{}.out", case.name)))?;
            // What was really asked: whole turns only.
            let turn = case.connections * case.depth;
            let asked = (FEW + requests) / turn * turn - FEW / turn * turn;
            each.push((many - few) / asked as f64);
        }
        // Timers and threads that happen to sleep add to the count.
        let now = each.iter().copied().fold(f64::INFINITY, f64::min);
        lines.push(format!("{} {now:.0}", case.name));
        counts.push((case.name, now));
        let beside = counts.iter().find(|(name, _)| case.beside == Some(*name)).map(|(_, count)| now - count);
        let all: Vec<String> = each.iter().map(|count| format!("{count:.0}")).collect();
        let before = recorded.iter().find(|(name, _)| name == case.name).map(|(_, number)| *number);
        let difference = before.map(|before| (now / before - 1.0) * 100.0);
        let is_worse = difference.is_some_and(|difference| difference > case.tolerance);
        worse |= is_worse;
        println!(
            "| {} | {now:.0} | {} | {} | {} | {}{} | {} % |",
            case.name,
            beside.map_or(String::new(), |more| format!("{more:+.0}")),
            all.join(", "),
            before.map_or("–".to_owned(), |before| format!("{before:.0}")),
            difference.map_or("–".to_owned(), |difference| format!("{difference:+.1} %")),
            if is_worse { " **worse**" } else { "" },
            case.tolerance
        );
    }
    if keep.is_none() {
        fs::remove_dir_all(&folder)?;
    }
    if record {
        let version = Command::new("rustc").arg("--version").output()?;
        let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        let heading = format!("# Instructions for a request, by `callgrind --record`; {version}");
        fs::write(RECORDED, format!("{heading}\n{}\n", lines.join("\n")))?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(if worse { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
