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

/// Each with what it is, in one line of a terminal.
const PROGRAMS: &[(&str, Main, &str)] = &[
    ("counter", counter::main, "a server of its own protocol, which numbers a client's bytes"),
    ("faulty", faulty::main, "a server whose next generation has the fault that a file names"),
    #[cfg(feature = "files")]
    ("file_server", file_server::main, "a server of a directory, which also accepts bodies"),
    ("greedy", greedy::main, "a server for clients that take all they can get"),
    ("hooked", hooked::main, "a server whose hooks fail or hang as files say"),
    ("lanes", lanes::main, "a server with two listeners, each with its own workers"),
    #[cfg(feature = "websocket")]
    ("latecomer", latecomer::main, "a server of streams that move when they are asked to"),
    #[cfg(feature = "websocket")]
    ("pages", pages::main, "a server of pages for browsers, which report what they see"),
    ("parent", parent::main, "a server whose handlers start programs"),
    ("puppet", puppet::main, "either role of a handover, controlled by a test"),
    ("record", record::main, "records what processes say to each other at handovers"),
    #[cfg(feature = "tls")]
    ("sealed", sealed::main, "a server that speaks TLS as a file says"),
    ("started", started::main, "a server that is started in odd ways"),
    ("storm", storm::main, "counts what clients lose while a server is upgraded: --help"),
    ("streams_move", storm::streams_move, "measures what the move of thousands of streams costs"),
];

pub(crate) fn main() -> MainResult {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let problem = match words.split_first() {
        None => "a program is missing".to_owned(),
        Some((name, _)) if name == "--help" || name == "-h" => {
            print!("{}", help());
            return Ok(());
        }
        Some((name, args)) => match PROGRAMS.iter().find(|(own, ..)| own == name) {
            Some((_, main, _)) => return main(args),
            None => format!("{name}: no such program"),
        },
    };
    eprintln!("testkit: {problem}\nTry 'testkit --help'.");
    std::process::exit(2);
}

fn help() -> String {
    let mut text = "testkit: the tools of heirloom's tests, and the servers that they need\n\n\
                    usage: testkit PROGRAM ARGS...\n\n"
        .to_owned();
    for (name, _, what) in PROGRAMS {
        text += &format!("  {name:<13} {what}\n");
    }
    text + "\nThe head of its file in testkit/src/programs says what ARGS are.\n"
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
