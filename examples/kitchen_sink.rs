//! Every feature on one server, for tests and load programs. `--help` lists the flags. `/ws` needs
//! `--features websocket`, and `--tls-listen` needs `--features tls`. With `--features systemd` it serves the sockets that
//! systemd passes, if there is no `--listen`.
//!
//! ```text
//! $ cargo run --release --example kitchen_sink -- --listen 127.0.0.1:8001
//! $ curl http://127.0.0.1:8001/generation
//! 1
//! $ kill -HUP PID
//! $ curl http://127.0.0.1:8001/generation
//! 2
//! $ curl -d hello http://127.0.0.1:8001/echo
//! hello
//! $ curl -o /dev/null -w '%{http_code}' http://127.0.0.1:8001/panic
//! 500
//! ```

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use heirloom::prelude::*;
use heirloom::sse::{self, Event, EventWriter};
use heirloom::upgrade::Upgraded;
use heirloom::{RouteLimits, limited};

const USAGE: &str = "\
kitchen_sink: every feature of heirloom on one server, for tests and load

usage: kitchen_sink --listen ADDR [flags]

  --listen ADDR        such as 127.0.0.1:8001; several are allowed
  --unix PATH          a unix socket, alone or besides
  --tls-listen ADDR    with TLS, by --cert and --key (feature tls)
  --cert FILE --key FILE
                       in PEM; more pairs are for more names
  --ticket-keys FILE   keys of session tickets that other machines have, too
  --admin ADDR         health, metrics and /status
  --workers N          threads for requests (default 32)

  --pid-file FILE      where to write the pid
  --control PATH       a control socket, for heirloomctl
  --supervise          one pid for the whole life of the service
  --any-parent         upgrade where a HUP is refused by default
  --store-listeners    systemd keeps the sockets over a crash (feature systemd)

  --probation-ms N, --ready-timeout-ms N, --drain-timeout-ms N,
  --lame-duck-ms N, --idle-grace-ms N, --close-spread-ms N,
  --head-timeout-ms N, --idle-timeout-ms N
                       the fields of Timeouts
  --drain-without-main-ms N
                       as ProcessConfig::drain_without_main

  --tls-stay           TLS connections do not move at an upgrade
  --tls-own-records    for heirloom's tests: moved at once, within the process";

fn main() -> Result<(), heirloom::Error> {
    heirloom::handover::init()?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let flags = Flags::parse(std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()))
        .unwrap_or_else(|problem| usage(&problem));

    let listens = flags.listens();
    let handle = Handle::new();
    let mut server = Server::new(router(&handle))
        .with_handle(handle)
        .workers(flags.workers)
        .limits(Limits::new().body_bytes(64 << 20).detached_threads(10_000))
        .timeouts(flags.timeouts);
    for name in flags.listen {
        server = server.listen(name);
    }
    server = tls(resumed(server), flags.tls);
    if let Some(name) = flags.admin {
        server = server.admin(name);
    }
    let mut process = ProcessConfig::new();
    if let Some(path) = flags.pid_file {
        process = process.pid_file(path);
    }
    if let Some(path) = flags.control {
        process = process.control_socket(path);
    }
    if flags.any_parent {
        process = process.handover_under_any_parent();
    }
    if flags.store_listeners {
        process = process.store_listeners();
    }
    if flags.supervise {
        process = process.supervise();
    }
    if let Some(time) = flags.drain_without_main {
        process = process.drain_without_main(time);
    }
    server = server.process(process);
    log::info!("pid {}", std::process::id());
    match server.serve() {
        // Nor has systemd passed a socket.
        Err(e) if !listens && e.kind() == heirloom::ErrorKind::Config => {
            usage(&format!("--listen, --unix or --tls-listen is needed: {e}"))
        }
        outcome => outcome,
    }
}

#[cfg(feature = "tls")]
fn tls(server: Server, flags: TlsFlags) -> Server {
    let mut pairs = flags.certs.into_iter().zip(flags.keys);
    let (Some(listen), Some((cert, key))) = (flags.listen, pairs.next()) else { return server };
    let tls = heirloom::tls::Tls::from_files(cert, key);
    let tls = pairs.fold(tls, |tls, (cert, key)| tls.and_files(cert, key));
    let tls = flags.ticket_keys.into_iter().fold(tls, heirloom::tls::Tls::ticket_keys);
    let tls = if flags.own_records { tls.carried_at_once() } else { tls };
    let tls = if flags.stay { tls.carry(false) } else { tls };
    server.listen(Listen::new(listen).tls(tls))
}

#[cfg(not(feature = "tls"))]
fn tls(server: Server, flags: TlsFlags) -> Server {
    let TlsFlags { listen, certs, keys, ticket_keys, own_records, stay } = flags;
    let no_files = certs.is_empty() && keys.is_empty() && ticket_keys.is_none();
    if own_records || stay || listen.is_some() || !no_files {
        usage("--tls-listen: built without the feature tls");
    }
    server
}

fn router(handle: &Handle) -> Router {
    // Long enough for any test.
    let patient = RouteLimits::new().body_rate(None).body_stall(Duration::from_secs(600));
    websocket(Router::new())
        .get("/", |_: Request| "Hello, World!")
        .get("/ok", |_: Request| "ok\n")
        .get("/pid", |_: Request| std::process::id().to_string())
        .get("/generation", |req: Request| req.generation().to_string())
        .get("/sleep/{ms}", sleep)
        .get("/late/{ms}", deadline(Duration::from_millis(300), sleep))
        .get("/gives-up", deadline(Duration::from_millis(300), gives_up))
        .post("/echo", echo)
        .put("/echo", echo)
        .post("/discard", streaming(|_: Request| "ok\n"))
        .post("/read", limited(patient, streaming(|mut req: Request| req.text())))
        .get("/headers", headers)
        .get("/stream", |_: Request| Body::from_reader(Slowly { pieces: 64 }))
        .get("/big/{bytes}", big)
        .get("/panic", |_: Request| -> Response { panic!("as asked") })
        .get("/204", |_: Request| StatusCode::NO_CONTENT)
        .get("/304", |_: Request| StatusCode::NOT_MODIFIED)
        .get("/events", events)
        .get("/events/stubborn", |_: Request| Body::writer(stubborn))
        .get("/events/travel", travel)
        .get("/upgrade", |req: Request| upgrade(&req, Some(Duration::from_millis(100))))
        .get("/upgrade/stubborn", |req: Request| upgrade(&req, None))
        .get("/until-drain", |req: Request| match req.drain().wait(Duration::from_secs(600)).is_draining() {
            true => "told\n",
            false => "not told\n",
        })
        .merge(heirloom::admin::routes(handle))
}

fn sleep(req: Request) -> Result<&'static str, (StatusCode, &'static str)> {
    let ms = number(&req, "ms")?;
    #[expect(clippy::disallowed_methods, reason = "stands for work that takes time")]
    std::thread::sleep(Duration::from_millis(ms));
    Ok("ok\n")
}

/// Has a response for no client: its deadline has passed.
fn gives_up(req: Request) -> Result<&'static str, std::io::Error> {
    let left = req.deadline().map(|at| at.saturating_duration_since(Instant::now()));
    #[expect(clippy::disallowed_methods, reason = "stands for a call with this timeout")]
    std::thread::sleep(left.unwrap_or_default());
    Err(std::io::Error::other("gave up"))
}

fn echo(req: Request) -> Body {
    let len = req.body().len().unwrap_or(0);
    Body::from_sized_reader(req.into_body(), len)
}

/// The header as received: values need not be UTF-8.
fn headers(req: Request) -> impl IntoResponse {
    let lines = req.head_text().split(|byte| *byte == b'\n').skip(1);
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)).filter(|line| !line.is_empty());
    let bytes: Vec<u8> = lines.flat_map(|line| [line, b"\n"].concat()).collect();
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], bytes)
}

/// 16 KiB every 8 ms.
struct Slowly {
    pieces: u32,
}

impl Read for Slowly {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.pieces == 0 {
            return Ok(0);
        }
        self.pieces -= 1;
        #[expect(clippy::disallowed_methods, reason = "stands for a source that takes time")]
        std::thread::sleep(Duration::from_millis(8));
        let n = buf.len().min(16 << 10);
        buf[..n].fill(b'x');
        Ok(n)
    }
}

fn big(req: Request) -> Result<Body, (StatusCode, &'static str)> {
    let bytes = number(&req, "bytes")?;
    Ok(Body::from_sized_reader(std::io::repeat(b'x'), bytes))
}

fn number(req: &Request, name: &str) -> Result<u64, (StatusCode, &'static str)> {
    req.param(name).and_then(|text| text.parse().ok()).ok_or((StatusCode::BAD_REQUEST, "not a number\n"))
}

/// WebSockets for pages of any site. `/ws` and `/ws/count` move to the next process.
#[cfg(feature = "websocket")]
fn websocket(router: Router) -> Router {
    use heirloom::websocket::{WebSocket, WebSocketOptions};
    let upgrade = |req: &Request| {
        let options = WebSocketOptions::new().message_bytes(64 << 20);
        WebSocket::upgrade(req).any_origin().options(options)
    };
    let bell = heirloom::broadcast::Broadcast::new(1);
    router
        .get("/ws/bell", move |req: Request| {
            let bell = bell.clone();
            upgrade(&req).speak(move |socket| hear_bell(socket, &bell))
        })
        .get("/ws", move |req: Request| upgrade(&req).speak(echo_messages).resumable("echo"))
        .get("/ws/stay", move |req: Request| upgrade(&req).speak(echo_messages))
        .get("/ws/count", move |req: Request| {
            upgrade(&req).speak(|socket| count_messages(socket, 0)).resumable("count")
        })
}

/// Echoes messages, and answers `pid` with that of the process.
#[cfg(feature = "websocket")]
fn echo_messages(socket: &mut heirloom::websocket::WebSocket) -> std::io::Result<()> {
    while let Some(message) = socket.read()? {
        match message.as_text() {
            Some("pid") => socket.send(std::process::id().to_string())?,
            _ => socket.send(message)?,
        }
    }
    socket.hand_over(())
}

/// Answers each message with how many there have been.
#[cfg(feature = "websocket")]
fn count_messages(socket: &mut heirloom::websocket::WebSocket, mut n: u64) -> std::io::Result<()> {
    while socket.read()?.is_some() {
        n += 1;
        socket.send(n.to_string())?;
    }
    socket.hand_over(n.to_string())
}

/// From the message `listen` on it says when the bell rings. Any other message rings it, and is answered with how many listen.
#[cfg(feature = "websocket")]
fn hear_bell(
    socket: &mut heirloom::websocket::WebSocket,
    bell: &heirloom::broadcast::Broadcast<()>,
) -> std::io::Result<()> {
    let mut listens = None;
    loop {
        match socket.read() {
            Ok(Some(message)) if message.as_text() == Some("listen") => {
                listens = Some(bell.wake(socket.sender()));
                socket.send("listening")?;
            }
            Ok(Some(_)) => socket.send(bell.send(()).to_string())?,
            Ok(None) => break,
            Err(e) if e.kind() == ErrorKind::TimedOut => socket.send("rung")?,
            Err(e) => return Err(e),
        }
    }
    drop(listens);
    Ok(())
}

#[cfg(not(feature = "websocket"))]
fn websocket(router: Router) -> Router {
    router
}

/// How the streams of the last process continue.
fn resumed(server: Server) -> Server {
    let server = server.resume(
        "travel",
        sse::resumed(|events, state| match state.as_str()?.split_once(' ') {
            Some((ms, n)) => tick(events, parsed(ms)?, parsed(n)?),
            None => Err(ErrorKind::InvalidData.into()),
        }),
    );
    #[cfg(feature = "websocket")]
    let server =
        server.resume("echo", heirloom::websocket::resumed(|socket, _| echo_messages(socket))).resume(
            "count",
            heirloom::websocket::resumed(|socket, state| count_messages(socket, state.parse()?)),
        );
    server
}

/// Sends an event each N ms, over all processes.
fn travel(req: Request) -> Result<Response, (StatusCode, &'static str)> {
    let query = req.uri().query().unwrap_or_default();
    let ms = query.split('&').find_map(|pair| pair.strip_prefix("ms="));
    let ms = ms.unwrap_or("1000").parse().map_err(|_| (StatusCode::BAD_REQUEST, "ms is not a number\n"))?;
    Ok(sse::response(&req, move |events| tick(events, ms, 1)).resumable("travel"))
}

fn parsed(text: &str) -> std::io::Result<u64> {
    text.parse().map_err(|_| ErrorKind::InvalidData.into())
}

fn tick(events: &mut EventWriter<'_>, ms: u64, mut n: u64) -> std::io::Result<()> {
    let time = Duration::from_millis(ms.min(3_600_000));
    // The first event comes at once, those of a stream that has moved in their turn.
    let mut next = if n == 1 { Instant::now() } else { Instant::now() + time };
    loop {
        let left = next.saturating_duration_since(Instant::now());
        if events.wait(left)?.is_draining() {
            return events.hand_over(format!("{ms} {n}"));
        }
        events.send(&Event::data(std::process::id()).id(n))?;
        n += 1;
        next = Instant::now() + time;
    }
}

/// Sends one event a second until the process drains.
fn events(req: Request) -> Response {
    sse::response(&req, |events| {
        for n in 1.. {
            events.send(&Event::data(n).id(n))?;
            if events.wait(Duration::from_secs(1))?.is_draining() {
                break;
            }
        }
        events.send(&Event::data("draining").name("end"))
    })
}

/// Sends an event now and then.
fn stubborn(out: &mut dyn Write) -> std::io::Result<()> {
    loop {
        out.write_all(b"data: still here\n\n")?;
        #[expect(clippy::disallowed_methods, reason = "stands for a stream that never asks whether to end")]
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Echoes until the process drains, which it looks for in the pauses of its reads; without any, for
/// as long as the client stays.
fn upgrade(req: &Request, pause: Option<Duration>) -> impl IntoResponse + use<> {
    let drain = req.drain();
    let speak = move |mut io: Upgraded| {
        io.set_read_timeout(pause);
        let mut buf = [0; 1024];
        while pause.is_none() || !drain.is_draining() {
            match io.read(&mut buf) {
                Ok(n) if n > 0 && io.write_all(&buf[..n]).is_ok() => {}
                Err(e) if e.kind() == ErrorKind::TimedOut => {}
                _ => return,
            }
        }
        let _ = io.write_all(b"bye\n");
    };
    let head = [("connection", "upgrade"), ("upgrade", "echo")];
    (StatusCode::SWITCHING_PROTOCOLS, head, Body::upgrade(speak))
}

#[derive(Default)]
struct TlsFlags {
    listen: Option<String>,
    /// The first pair, and others for other names.
    certs: Vec<String>,
    keys: Vec<String>,
    ticket_keys: Option<String>,
    /// For the tests of heirloom alone.
    own_records: bool,
    stay: bool,
}

struct Flags {
    listen: Vec<String>,
    tls: TlsFlags,
    admin: Option<String>,
    pid_file: Option<String>,
    control: Option<String>,
    any_parent: bool,
    store_listeners: bool,
    supervise: bool,
    drain_without_main: Option<Duration>,
    workers: usize,
    timeouts: Timeouts,
}

impl Flags {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Flags, String> {
        let mut flags = Flags {
            listen: Vec::new(),
            tls: TlsFlags::default(),
            admin: None,
            pid_file: None,
            control: None,
            any_parent: false,
            store_listeners: false,
            supervise: false,
            drain_without_main: None,
            workers: 32,
            timeouts: Timeouts::default(),
        };
        while let Some(flag) = args.next() {
            if let "--help" | "-h" = flag.as_str() {
                help();
            }
            if flag == "--supervise" {
                flags.supervise = true;
                continue;
            }
            if flag == "--tls-own-records" {
                flags.tls.own_records = true;
                continue;
            }
            if flag == "--tls-stay" {
                flags.tls.stay = true;
                continue;
            }
            if flag == "--any-parent" {
                flags.any_parent = true;
                continue;
            }
            if flag == "--store-listeners" {
                flags.store_listeners = true;
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{flag}: not understood, or without its value"))?;
            let number = || value.parse::<u64>().map_err(|_| format!("{flag} {value}: not a number"));
            let ms = || number().map(Duration::from_millis);
            match flag.as_str() {
                "--listen" => flags.listen.push(value),
                "--unix" => flags.listen.push(format!("unix:{value}")),
                "--tls-listen" => flags.tls.listen = Some(value),
                "--cert" => flags.tls.certs.push(value),
                "--key" => flags.tls.keys.push(value),
                "--ticket-keys" => flags.tls.ticket_keys = Some(value),
                "--admin" => flags.admin = Some(value),
                "--pid-file" => flags.pid_file = Some(value),
                "--control" => flags.control = Some(value),
                "--workers" => flags.workers = number()? as usize,
                "--probation-ms" => flags.timeouts = flags.timeouts.probation(ms()?),
                "--ready-timeout-ms" => flags.timeouts = flags.timeouts.ready(ms()?),
                "--drain-timeout-ms" => flags.timeouts = flags.timeouts.drain(ms()?),
                "--drain-without-main-ms" => flags.drain_without_main = Some(ms()?),
                "--lame-duck-ms" => flags.timeouts = flags.timeouts.lame_duck(ms()?),
                "--idle-grace-ms" => flags.timeouts = flags.timeouts.idle_grace(ms()?),
                "--close-spread-ms" => flags.timeouts = flags.timeouts.close_spread(ms()?),
                "--head-timeout-ms" => flags.timeouts = flags.timeouts.head(ms()?),
                "--idle-timeout-ms" => flags.timeouts = flags.timeouts.idle(ms()?),
                _ => return Err(format!("{flag}: not understood")),
            }
        }
        let TlsFlags { listen, certs, keys, .. } = &flags.tls;
        if certs.len() != keys.len() || listen.is_some() == certs.is_empty() {
            return Err("--tls-listen needs --cert and --key, and each of these needs the others".to_owned());
        }
        Ok(flags)
    }

    fn listens(&self) -> bool {
        !self.listen.is_empty() || self.tls.listen.is_some() || self.admin.is_some()
    }
}

#[expect(clippy::exit, reason = "nothing else was asked for")]
fn help() -> ! {
    println!("{USAGE}");
    std::process::exit(0);
}

#[expect(clippy::exit, reason = "a command line that is wrong")]
fn usage(problem: &str) -> ! {
    eprintln!("kitchen_sink: {problem}\nTry 'kitchen_sink --help'.");
    std::process::exit(2);
}
