//! Sends the same bytes to hyper's server and to ours, and compares the answers and whether the connection is kept.
//! Each difference must be one of [`EXPLAINED`]; the first that is not makes this fail.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use heirloom::prelude::*;
use heirloom_bench::Error;

/// After so long without a byte a server has said all. What differs is asked again with the longer ones.
const QUIET: [Duration; 3] =
    [Duration::from_millis(150), Duration::from_millis(1_500), Duration::from_secs(5)];

#[derive(Clone)]
struct Case {
    bytes: Vec<u8>,
    half_close: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    body: Vec<u8>,
}

/// What a client sees of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    answers: Vec<Answer>,
    open: bool,
}

/// A kind of difference: what we do where hyper does something else, and why.
struct Kind {
    /// The status, with the reason that a refusal names in its body; or `serves`.
    ours: &'static str,
    /// Served, refused, closed without a word, waited for more: what hyper is known to do instead.
    hyper: &'static [&'static str],
    /// The position in the sent bytes.
    only_with: &'static str,
    why: &'static str,
}

const fn kind_of(ours: &'static str, hyper: &'static [&'static str], why: &'static str) -> Kind {
    Kind { ours, hyper, only_with: "", why }
}

const LOOSE: &[&str] = &["serves", "closes", "waits"];
const IN_BODY: &[&str] = &["closes", "serves", "waits"];

const EXPLAINED: &[Kind] = &[
    Kind {
        ours: "serves",
        hyper: &["400"],
        only_with: "HTTP/1.",
        why: "a later minor version is read as 1.1 (RFC 9110 §2.5); hyper refuses it",
    },
    Kind { ours: "waits", hyper: &["400"], only_with: "HTTP/1.", why: "the same, before its head is whole" },
    Kind {
        ours: "400",
        hyper: LOOSE,
        only_with: "HEAD ",
        why: "a refusal to a HEAD has no body that could name its reason; one of those below",
    },
    kind_of(
        "505 only HTTP/1.0 and HTTP/1.1 are supported",
        &["400", "closes"],
        "the status that RFC 9110 §15.6.6 has for it; hyper says 400, or nothing to the preface of HTTP/2",
    ),
    kind_of("400 missing Host", LOOSE, "RFC 9112 §3.2: MUST be refused; hyper leaves it to the service"),
    kind_of(
        "400 malformed Host",
        LOOSE,
        "RFC 9112 §3.2: repeated or no host, MUST be refused; hyper leaves it to the service",
    ),
    kind_of(
        "400 Transfer-Encoding with Content-Length",
        LOOSE,
        "RFC 9112 §6.3 allows to refuse it: two parsers may differ. hyper goes by Transfer-Encoding",
    ),
    kind_of(
        "400 repeated Content-Length",
        LOOSE,
        "RFC 9112 §6.3 allows to refuse it, or to take equal ones for one, as hyper does",
    ),
    kind_of(
        "400 chunked must be the last transfer coding and occur once",
        LOOSE,
        "RFC 9112 §7: chunked MUST NOT be applied twice; hyper looks at the last coding only",
    ),
    kind_of(
        "501 unknown transfer coding",
        LOOSE,
        "RFC 9112 §6.1: 501; hyper hands the coded content to the service as if it were not",
    ),
    kind_of(
        "400 malformed request target",
        LOOSE,
        "the forms of RFC 9112 §3.2 where they belong: `*` for OPTIONS, authority for CONNECT, http and https else, no userinfo, no fragment",
    ),
    kind_of(
        "400 mixed CRLF and LF line endings",
        LOOSE,
        "a lone LF among CRLFs has come through something that took it for part of a value",
    ),
    kind_of(
        "400 too many empty lines before the request",
        LOOSE,
        "four are forgiven; hyper forgives any number",
    ),
    kind_of("417 unknown expectation", LOOSE, "RFC 9110 §10.1.1; hyper ignores it"),
    kind_of("414 request target too long", LOOSE, "`Limits::target_bytes`; hyper's is 65,534 bytes"),
    kind_of(
        "431 request head too long",
        LOOSE,
        "`Limits::head_bytes`; hyper's bound is that of its buffer, 408 KiB",
    ),
    kind_of(
        "413 413 Payload Too Large",
        LOOSE,
        "`Limits::body_bytes`; hyper has no bound, its service would count",
    ),
    kind_of(
        "400 malformed chunk size",
        IN_BODY,
        "at most 16 digits and nothing else; where hyper sees it, too, its service gets an error and it closes without an answer",
    ),
    kind_of(
        "400 malformed chunk extension",
        IN_BODY,
        "the grammar of RFC 9112 §7.1.1; hyper skips to the end of the line",
    ),
    kind_of(
        "400 chunk extensions too long",
        IN_BODY,
        "4 KiB in a body; hyper's bound is 16 KiB, and it closes without an answer",
    ),
    kind_of(
        "400 chunk not ended by CRLF",
        IN_BODY,
        "both refuse; hyper's service gets an error and it closes without an answer",
    ),
    kind_of(
        "400 malformed trailer section",
        IN_BODY,
        "fields as in a head, each line ended by CRLF; hyper skips some and closes without an answer at others",
    ),
];

fn main() -> Result<(), Error> {
    let (mut mutations, mut seed, mut verbose) = (2_000, 1, false);
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        match flag.as_str() {
            "--mutations" => mutations = args.next().ok_or("--mutations N")?.parse()?,
            "--seed" => seed = args.next().ok_or("--seed N")?.parse()?,
            "--verbose" => verbose = true,
            _ => return Err(format!("unknown: {flag}").into()),
        }
    }
    let hyper = start_hyper()?;
    let ours = Server::new(|mut req: Request| {
        let body = req.body_mut().read_bytes().unwrap_or_default();
        echo(req.method(), req.uri(), &body)
    });
    let ours = ours.listen("127.0.0.1:0").workers(8).spawn()?;
    let address = ours.addresses()[0];

    let mut cases = corpus();
    let written = cases.len();
    let mut random = Random(seed);
    cases.extend((0..mutations).map(|_| random.mutation(&cases[..written])).collect::<Vec<_>>());

    let kinds: Mutex<BTreeMap<(String, String), Vec<usize>>> = Mutex::default();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..48 {
            scope.spawn(|| {
                while let Some((at, case)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, cases.get(at)?)))
                {
                    let differs = QUIET
                        .iter()
                        .map(|quiet| compare(hyper, address, case, *quiet))
                        .try_fold(None, |_, kind| kind.map(Some));
                    if let Some(Some((kind, hyper, ours))) = differs {
                        if verbose && explanation(&kind, case).is_none() {
                            println!(
                                "{kind:?}\n  {}\n  hyper {hyper:?}\n  ours  {ours:?}",
                                case.bytes.escape_ascii()
                            );
                        }
                        kinds.lock().expect("kinds").entry(kind).or_default().push(at);
                    }
                }
            });
        }
    });

    let kinds = kinds.into_inner()?;
    let differing: usize = kinds.values().map(Vec::len).sum();
    println!("{written} cases and {mutations} mutations of them (seed {seed}): {differing} differ\n");
    println!("| we | hyper | cases | mutations | why |\n| --- | --- | --- | --- | --- |");
    let mut unexplained = 0;
    for (kind, at) in &kinds {
        let of_corpus = at.iter().filter(|at| **at < written).count();
        let strange: Vec<&usize> = at.iter().filter(|at| explanation(kind, &cases[**at]).is_none()).collect();
        let why = at.iter().find_map(|at| explanation(kind, &cases[*at])).unwrap_or("not explained");
        println!("| {} | {} | {of_corpus} | {} | {why} |", kind.0, kind.1, at.len() - of_corpus);
        unexplained += strange.len();
        for at in strange {
            println!(
                "    not explained: {} (half-closed: {})",
                cases[*at].bytes.escape_ascii(),
                cases[*at].half_close
            );
        }
    }
    ours.stop()?;
    if unexplained > 0 { Err(format!("{unexplained} differences are not explained").into()) } else { Ok(()) }
}

fn explanation(kind: &(String, String), case: &Case) -> Option<&'static str> {
    let has = |word: &str| word.is_empty() || case.bytes.windows(word.len()).any(|w| w == word.as_bytes());
    let fits = |k: &&Kind| k.ours == kind.0 && k.hyper.contains(&kind.1.as_str()) && has(k.only_with);
    EXPLAINED.iter().find(fits).map(|k| k.why)
}

/// What a handler says: what it understood, and the body.
fn echo(method: &Method, uri: &hyper::Uri, body: &[u8]) -> Response {
    let said = [format!("{method} {}\n", uri.path()).as_bytes(), body].concat();
    let response = http_response(method);
    response.body(said.into()).unwrap_or_default()
}

/// The reader needs to know whose answer has no body.
fn http_response(method: &Method) -> hyper::http::response::Builder {
    hyper::Response::builder().header("x-asked", method.as_str())
}

fn start_hyper() -> Result<SocketAddr, Error> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    thread::spawn(move || {
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(async move {
                    let service = service_fn(hyper_echo);
                    // Otherwise whether a half-closed client is answered is a matter of luck.
                    let _ = http1::Builder::new()
                        .half_close(true)
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
            #[allow(unreachable_code)]
            Ok::<(), std::io::Error>(())
        })
    });
    Ok(address)
}

async fn hyper_echo(req: hyper::Request<Incoming>) -> Result<hyper::Response<Full<Bytes>>, hyper::Error> {
    let (parts, body) = req.into_parts();
    let body = body.collect().await?.to_bytes();
    let said = [format!("{} {}\n", parts.method, parts.uri.path()).as_bytes(), &body].concat();
    Ok(http_response(&parts.method).body(Full::new(Bytes::from(said))).unwrap_or_default())
}

/// None where both do the same.
fn compare(
    hyper: SocketAddr,
    ours: SocketAddr,
    case: &Case,
    quiet: Duration,
) -> Option<((String, String), Seen, Seen)> {
    let streams = [hyper, ours].map(|address| say(address, case));
    let [hyper, ours] = streams.map(|stream| hear(stream, quiet));
    let kind = kind(&hyper, &ours)?;
    Some((kind, hyper, ours))
}

fn say(address: SocketAddr, case: &Case) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a server accepts");
    let _ = stream.set_nodelay(true);
    // A server may have closed before it has all.
    let _ = stream.write_all(&case.bytes);
    if case.half_close {
        let _ = stream.shutdown(Shutdown::Write);
    }
    stream
}

fn hear(mut stream: TcpStream, quiet: Duration) -> Seen {
    let (mut said, mut piece) = (Vec::new(), [0; 16 << 10]);
    let mut deadline = Instant::now() + quiet;
    let open = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break true;
        }
        let _ = stream.set_read_timeout(Some(left));
        match stream.read(&mut piece) {
            Ok(0) => break false,
            Ok(n) => {
                said.extend_from_slice(&piece[..n]);
                deadline = Instant::now() + quiet;
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break true,
            Err(_) => break false,
        }
    };
    Seen { answers: answers(&said), open }
}

/// Interim ones left out. What is malformed or cut has status 0.
fn answers(mut said: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !said.is_empty() {
        let (answer, rest) = one_answer(said).unwrap_or((Answer { status: 0, body: said.to_vec() }, &[]));
        said = rest;
        if !(100..200).contains(&answer.status) {
            answers.push(answer);
        }
    }
    answers
}

fn one_answer(said: &[u8]) -> Option<(Answer, &[u8])> {
    let end = said.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = str::from_utf8(&said[..end]).ok()?.to_ascii_lowercase();
    let status: u16 = head.get(9..12)?.parse().ok()?;
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let rest = &said[end + 4..];
    let bodiless = status < 200 || matches!(status, 204 | 304) || field("x-asked") == Some("head");
    let length = field("content-length").and_then(|length| length.parse().ok());
    // A refusal of what may be a HEAD has none, and it is the last.
    let length = if bodiless { 0 } else { length.unwrap_or(rest.len()) };
    let length = if status >= 400 { length.min(rest.len()) } else { length };
    let (body, rest) = rest.split_at_checked(length)?;
    Some((Answer { status, body: body.to_vec() }, rest))
}

/// What we did at the first difference, and what hyper did.
fn kind(hyper: &Seen, ours: &Seen) -> Option<(String, String)> {
    let class = |answer: &Answer| (answer.status / 100, (answer.status < 300).then(|| answer.body.clone()));
    let same = |(a, b): &(&Answer, &Answer)| class(a) == class(b);
    let common = hyper.answers.iter().zip(&ours.answers).take_while(same).count();
    let end = |seen: &Seen| if seen.open { "waits" } else { "closes" };
    let describe = |seen: &Seen| match seen.answers.get(common) {
        None => end(seen).to_owned(),
        Some(answer) if answer.status < 300 => "serves".to_owned(),
        Some(answer) => {
            let reason = String::from_utf8_lossy(&answer.body);
            format!("{} {}", answer.status, reason.trim()).trim_end().to_owned()
        }
    };
    let (theirs, own) = (describe(hyper), describe(ours));
    let done = hyper.answers.len() == common && ours.answers.len() == common;
    if done && hyper.open == ours.open {
        return None;
    }
    Some((own, theirs))
}

/// xorshift64*: the same mutations for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n.max(1)
    }

    fn mutation(&mut self, cases: &[Case]) -> Case {
        const WORDS: [&[u8]; 24] = [
            b"\r",
            b"\n",
            b"\r\n",
            b" ",
            b"\t",
            b"\0",
            b":",
            b";",
            b",",
            b"0",
            b"1",
            b"f",
            b"\x80",
            b"\x7f",
            b"/",
            b"*",
            b"#",
            b"%",
            b"Transfer-Encoding: chunked\r\n",
            b"Content-Length: 3\r\n",
            b"Host: h\r\n",
            b"Connection: close\r\n",
            b"HTTP/1.0",
            b"0\r\n\r\n",
        ];
        let mut case = cases[self.below(cases.len())].clone();
        for _ in 0..=self.below(3) {
            let (from, to) = (self.below(case.bytes.len() + 1), self.below(case.bytes.len() + 1));
            let range = from.min(to)..from.max(to).min(from.min(to) + 24);
            let word = WORDS[self.below(WORDS.len())];
            match self.below(7) {
                0 => drop(case.bytes.splice(from..from, word.iter().copied())),
                1 if from < case.bytes.len() => drop(case.bytes.splice(from..from + 1, word.iter().copied())),
                2 if from < case.bytes.len() => drop(case.bytes.remove(from)),
                3 => drop(case.bytes.drain(range)),
                4 => case.bytes.extend_from_within(range),
                5 => case.bytes.truncate(from),
                _ => {
                    let other = &cases[self.below(cases.len())].bytes;
                    case.bytes.extend_from_slice(&other[..other.len().min(400)]);
                }
            }
        }
        case.half_close ^= self.below(8) == 0;
        case
    }
}

/// Each as it is, and half-closed.
fn corpus() -> Vec<Case> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    let get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    // Request lines.
    for line in [
        "GET / HTTP/1.1",
        "HEAD / HTTP/1.1",
        "POST / HTTP/1.1",
        "PUT /a HTTP/1.1",
        "DELETE /a?b=c HTTP/1.1",
        "PATCH / HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "OPTIONS / HTTP/1.1",
        "TRACE / HTTP/1.1",
        "BREW / HTTP/1.1",
        "get / HTTP/1.1",
        "M-SEARCH * HTTP/1.1",
        "GET * HTTP/1.1",
        "GET http://h/x HTTP/1.1",
        "GET http://other/x HTTP/1.1",
        "GET https://h/ HTTP/1.1",
        "GET ftp://h/ HTTP/1.1",
        "GET http://user@h/ HTTP/1.1",
        "GET http:///x HTTP/1.1",
        "GET h:80 HTTP/1.1",
        "CONNECT / HTTP/1.1",
        "CONNECT h HTTP/1.1",
        "GET x HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET\t/\tHTTP/1.1",
        "GET /",
        "GET",
        "GET / HTTP/1.0",
        "GET / HTTP/0.9",
        "GET / HTTP/1.2",
        "GET / HTTP/1.9",
        "GET / HTTP/2.0",
        "GET / HTTP/3",
        "GET / HTTP/1",
        "GET / HTTP/11.1",
        "GET / http/1.1",
        "GET / HTTP/1.1x",
        "GET / HTP/1.1",
        "GET /#x HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /%zz HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET /\"<>\\^`{|} HTTP/1.1",
        "GET ?q HTTP/1.1",
        "GET // HTTP/1.1",
        "GET /../.. HTTP/1.1",
        "G@T / HTTP/1.1",
        "G\0T / HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "PRI * HTTP/2.0",
    ] {
        all.push(format!("{line}\r\nHost: h\r\n\r\n").into());
    }
    // Fields of a GET, then one more request.
    for fields in [
        "",
        "Host: h\r\nHost: h\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host:\r\n",
        "Host: \r\n",
        "Host: h:80\r\n",
        "Host: h:\r\n",
        "Host: h:x\r\n",
        "Host: h:99999\r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: u@h\r\n",
        "Host: [::1]\r\n",
        "Host: [::1]:8\r\n",
        "Host: [::1\r\n",
        "Host: a,b\r\n",
        "Host : h\r\n",
        "host:h\r\n",
        "Host: h\r\nX : y\r\n",
        "Host: h\r\n: y\r\n",
        "Host: h\r\nX\r\n",
        "Host: h\r\nX:\r\n",
        "Host: h\r\nX: a\r\n b\r\n",
        "Host: h\r\n X: a\r\n",
        " Host: h\r\n",
        "Host: h\r\nX: a\rb\r\n",
        "Host: h\r\nX: a\0b\r\n",
        "Host: h\r\nX: a\nY: b\r\n",
        "Host: h\nX: a\n",
        "Host: h\r\nX: \u{e9}\r\n",
        "Host: h\r\nX: a\x01b\r\n",
        "Host: h\r\nX: a\x7fb\r\n",
        "Host: h\r\nX: a\tb\r\n",
        "Host: h\r\nX@: a\r\n",
        "Host: h\r\nX(): a\r\n",
        "Host: h\r\n\u{e9}: a\r\n",
        "Host: h\r\nConnection: close\r\n",
        "Host: h\r\nConnection: CLOSE\r\n",
        "Host: h\r\nConnection: keep-alive\r\n",
        "Host: h\r\nConnection: a, close, b\r\n",
        "Host: h\r\nConnection: a\r\nConnection: close\r\n",
        "Host: h\r\nConnection: keep-alive, close\r\n",
        "Host: h\r\nConnection:\r\n",
        "Host: h\r\nConnection: upgrade\r\nUpgrade: x\r\n",
        "Host: h\r\nUpgrade: h2c\r\n",
        "Host: h\r\nExpect: 100-continue\r\n",
        "Host: h\r\nExpect: 100-Continue\r\n",
        "Host: h\r\nExpect: x\r\n",
        "Host: h\r\nTE: trailers\r\n",
        "Host: h\r\nContent-Length: 0\r\n",
        "Host: h\r\nTransfer-Encoding: identity\r\n",
    ] {
        all.push(format!("GET / HTTP/1.1\r\n{fields}\r\n{get}").into());
        all.push(format!("GET / HTTP/1.0\r\n{fields}\r\n{get}").into());
    }
    // Framing of a POST, its body, then one more request.
    for (fields, body) in [
        ("Content-Length: 3", "abc"),
        ("Content-Length: 0", ""),
        ("Content-Length:3", "abc"),
        ("Content-Length: 3 ", "abc"),
        ("Content-Length: +3", "abc"),
        ("Content-Length: -3", "abc"),
        ("Content-Length: 0x3", "abc"),
        ("Content-Length: 03", "abc"),
        ("Content-Length: 3.0", "abc"),
        ("Content-Length: 3,3", "abc"),
        ("Content-Length: 3, 3", "abc"),
        ("Content-Length: 3\r\nContent-Length: 3", "abc"),
        ("Content-Length: 3\r\nContent-Length: 4", "abc"),
        ("Content-Length: 3,4", "abc"),
        ("Content-Length:", "abc"),
        ("Content-Length: x", "abc"),
        ("Content-Length: 3 3", "abc"),
        ("Content-Length: 18446744073709551615", "abc"),
        ("Content-Length: 18446744073709551616", "abc"),
        ("Content-Length: 9223372036854775807", "abc"),
        ("Content-Length: 99999999999999999999999", "abc"),
        ("Content-Length: 3000000", "abc"),
        ("Content-Length : 3", "abc"),
        ("Content-Length: 5", "abc"),
        ("Content_Length: 3", "abc"),
        ("X: y", ""),
        ("Content-Length: 3\r\nExpect: 100-continue", "abc"),
        ("Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: Chunked", "3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding:chunked", "3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3", "3\r\nabc\r\n0\r\n\r\n"),
        ("Content-Length: 3\r\nTransfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked, chunked", "3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: gzip, chunked", "3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked, gzip", "3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: gzip", "abc"),
        ("Transfer-Encoding: identity", "abc"),
        ("Transfer-Encoding: identity, chunked", "3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: xchunked", "3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: \"chunked\"", "3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked;a=b", "3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding:", "3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding : chunked", "3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: ,chunked", "3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding:\x0bchunked", "3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nExpect: 100-continue", "3\r\nabc\r\n0\r\n\r\n"),
    ] {
        all.push(format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n{body}{get}").into());
    }
    // Chunked bodies, then one more request.
    let long = |n| "a".repeat(n);
    for body in [
        "0\r\n\r\n",
        "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        "A\r\n0123456789\r\n0\r\n\r\n",
        "a\r\n0123456789\r\n0\r\n\r\n",
        "003\r\nabc\r\n000\r\n\r\n",
        "3;x\r\nabc\r\n0\r\n\r\n",
        "3;x=y\r\nabc\r\n0\r\n\r\n",
        "3;x=\"y;z\"\r\nabc\r\n0\r\n\r\n",
        "3 ;x\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3;\r\nabc\r\n0\r\n\r\n",
        "3;x=\"y\r\nabc\r\n0\r\n\r\n",
        "3;x\nabc\r\n0\r\n\r\n",
        "3;\0\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "g\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3\rabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nab\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc",
        "ffffffffffffffff\r\nabc",
        "10000000000000003\r\nabc\r\n0\r\n\r\n",
        "00000000000000003\r\nabc\r\n0\r\n\r\n",
        "0\r\nX: y\r\n\r\n",
        "0\r\nX: y\r\nZ: w\r\n\r\n",
        "0\r\nContent-Length: 3\r\n\r\n",
        "0\r\nX y\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\n X: y\r\n\r\n",
        "0\r\nX: y\n\r\n",
        "0\n\n",
        "0\r\n\n",
        "3\r\nabc\r\n",
        "3\r\nabc\r\n0\r\n",
        "3\r\na",
        "",
    ] {
        all.push(
            format!("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{body}{get}").into(),
        );
    }
    for extension in [100, 5_000, 20_000] {
        all.push(format!("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;{}\r\nabc\r\n0\r\n\r\n{get}", long(extension)).into());
    }
    all.push(format!("POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc{get}").into());
    all.push(
        format!("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n{get}").into(),
    );
    // Sizes.
    for n in [8_000, 8_200, 70_000] {
        all.push(format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", long(n)).into());
        all.push(format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", long(n)).into());
    }
    for n in [50, 99, 100, 101, 300] {
        all.push(format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(n - 1)).into());
    }
    all.push(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n{}", long(200_000)).into());
    // Pipelines, empty lines, halves and bytes that are not HTTP.
    for text in [
        get.repeat(2),
        get.repeat(10),
        get.repeat(200),
        format!("{get}{get}GET /x"),
        format!("{get}rubbish\r\n\r\n{get}"),
        format!("\r\n{get}"),
        format!("\r\n\r\n{get}"),
        format!("\n{get}"),
        format!("{get}\r\n{get}"),
        format!("{get}\r\n\r\n\r\n{get}"),
        "\r\n".repeat(10),
        "\r\n\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        String::new(),
        "G".to_owned(),
        "GET / HTTP/1.1\r\nHo".to_owned(),
        "GET / HTTP/1.1\r\nHost: h\r\n".to_owned(),
        "\0\0\0\0".to_owned(),
        "\r".to_owned(),
        "\rGET / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "hello\r\n".to_owned(),
        "EHLO x\r\n\r\n".to_owned(),
        "\x16\x03\x01\x02".to_owned(),
        "HTTP/1.1 200 OK\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\nHost: h\n\n".to_owned(),
        format!("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n{get}"),
        format!("HEAD / HTTP/1.1\r\n\r\n{get}"),
        format!("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc{get}"),
    ] {
        all.push(text.into());
    }
    all.into_iter()
        .flat_map(|bytes| {
            [Case { bytes: bytes.clone(), half_close: false }, Case { bytes, half_close: true }]
        })
        .collect()
}
