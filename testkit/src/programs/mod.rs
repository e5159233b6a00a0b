//! The servers that are no examples, and the tools of the tests. Each gets the arguments after its name; as these are
//! passed on by a handover, a successor is the same program.

mod counter;
mod faulty;
#[cfg(feature = "files")]
mod file_server;
mod greedy;
mod hooked;
#[path = "../../../examples/json_log/json.rs"]
mod json;
mod lanes;
#[cfg(feature = "websocket")]
mod latecomer;
#[cfg(feature = "websocket")]
mod pages;
mod parent;
mod puppet;
mod record;
#[cfg(feature = "tls")]
mod sealed;
mod started;
mod storm;

use std::error::Error;

type MainResult = Result<(), Box<dyn Error>>;

type Main = fn(&[String]) -> MainResult;

const PROGRAMS: &[(&str, Main)] = &[
    ("counter", counter::main),
    ("faulty", faulty::main),
    #[cfg(feature = "files")]
    ("file_server", file_server::main),
    ("greedy", greedy::main),
    ("hooked", hooked::main),
    ("lanes", lanes::main),
    #[cfg(feature = "websocket")]
    ("latecomer", latecomer::main),
    #[cfg(feature = "websocket")]
    ("pages", pages::main),
    ("parent", parent::main),
    ("puppet", puppet::main),
    ("record", record::main),
    #[cfg(feature = "tls")]
    ("sealed", sealed::main),
    ("started", started::main),
    ("storm", storm::main),
    ("streams_move", storm::streams_move),
];

pub(crate) fn main() -> MainResult {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let found = words.split_first().and_then(|(name, args)| {
        let (_, main) = PROGRAMS.iter().find(|(own, _)| own == name)?;
        Some((main, args))
    });
    match found {
        Some((main, args)) => main(args),
        None => {
            let names: Vec<&str> = PROGRAMS.iter().map(|(name, _)| *name).collect();
            eprintln!("usage: testkit PROGRAM ARGS..., where PROGRAM is one of {}", names.join(", "));
            std::process::exit(2);
        }
    }
}

/// A server's log, which names its process first; of JSON lines if a variable says so.
fn start_log() {
    let mut log = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"));
    if std::env::var_os("TESTKIT_LOG").is_some_and(|format| format == "json") {
        log.format(json::write);
    }
    log.init();
    log::info!("pid {}", std::process::id());
}
