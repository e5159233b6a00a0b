//! Upgrades a heirloom server and reports the result; shows what a server does. `heirloomctl --help` has the commands.

mod answer;
mod args;
mod control;
mod failure;
mod output;
mod pid_file;
mod process;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use answer::Line;
use args::{Action, Args, Parsed, Target};
use control::Control;
use failure::Failure;
use output::Output;
use pid_file::PidFile;

/// Longer than any wait.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

fn main() -> ExitCode {
    let args = match args::parse(std::env::args_os()) {
        Ok(Parsed::Run(args)) => args,
        Ok(Parsed::Help) => return text(args::HELP),
        Ok(Parsed::Version) => return text(concat!("heirloomctl ", env!("CARGO_PKG_VERSION"), "\n")),
        Err(problem) => {
            let json = std::env::args_os().any(|arg| arg == "--json");
            Output::new("usage", json).failed(&Failure::new("usage", problem));
            if !json {
                let _ = writeln!(std::io::stderr(), "Try 'heirloomctl --help'.");
            }
            return ExitCode::from(2);
        }
    };
    let mut output = Output::new(args.action.name(), args.json);
    match run(&args, &mut output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failed(&failure);
            ExitCode::FAILURE
        }
    }
}

fn text(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let started = Instant::now();
    let deadline = started + args.timeout.min(LONGEST);
    let path = match &args.target {
        Target::Control(path) => path,
        Target::PidFile { path, executable } => {
            let pid = PidFile::new(path, executable.as_deref(), deadline).upgrade(output)?;
            let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let fields = [("pid", Value::from(pid)), ("total_ms", Value::from(ms))];
            let fields = fields.map(|(key, value)| (key.to_owned(), value)).into_iter().collect();
            output.done(&format!("upgraded: process {pid} serves ({ms} ms)\n"), fields);
            return Ok(());
        }
    };
    let control = Control::new(path, deadline);
    match args.action {
        Action::Upgrade => {
            let line = control.upgrade(output)?;
            output.done(&upgraded(&line), line.to_json());
        }
        Action::Drain => {
            let lines = control.ask("drain")?;
            let pid = lines[0].number("pid").unwrap_or(0);
            control.wait_end(pid, lines[0].number("supervisor"), output)?;
            output.done(&format!("process {pid} has ended\n"), lines[0].to_json());
        }
        Action::Top if output.is_terminal() => top(path, args.timeout)?,
        Action::Top => {
            let (status, handlers) = (control.ask("status")?, control.ask("handlers")?);
            let mut fields = status[0].to_json();
            fields.extend(list(&handlers, "handlers"));
            output.done(&format!("{}{}", table(&status), handlers_text(&handlers)), fields);
        }
        Action::Status | Action::Abort => {
            let lines = control.ask(args.action.name())?;
            output.done(&table(&lines), lines[0].to_json());
        }
        Action::Connections => {
            let lines = control.ask("connections")?;
            output.done(&connections_text(&lines), list(&lines, "connections"));
        }
        Action::Handlers => {
            let lines = control.ask("handlers")?;
            output.done(&handlers_text(&lines), list(&lines, "handlers"));
        }
    }
    Ok(())
}

fn upgraded(line: &Line) -> String {
    let field = |key: &str| line.get(key).unwrap_or("?");
    let steps: Vec<String> = line
        .fields()
        .filter_map(|(key, value)| Some(format!("{} {value} ms", key.strip_suffix("_ms")?)))
        .collect();
    let (pid, generation) = (field("pid"), field("generation"));
    let steps = if steps.is_empty() { String::new() } else { format!(" ({})", steps.join(", ")) };
    format!("upgraded: process {pid} serves as generation {generation}{steps}\n")
}

/// The fields of the first line, each on a line of its own.
fn table(lines: &[Line]) -> String {
    let fields = lines[0].fields();
    fields.fold(String::new(), |mut text, (key, value)| {
        let _ = writeln!(text, "{:<22}{value}", key.replace('_', " "));
        text
    })
}

fn list(lines: &[Line], name: &str) -> Map<String, Value> {
    let mut fields = lines[0].to_json();
    let rows = lines.iter().skip(1).map(|line| Value::Object(line.to_json()));
    fields.insert(name.to_owned(), rows.collect());
    fields
}

fn handlers_text(lines: &[Line]) -> String {
    let mut text = format!("{} handlers run\n", lines[0].get("count").unwrap_or("?"));
    for line in lines.iter().skip(1) {
        let field = |key: &str| line.get(key).unwrap_or("");
        let age = seconds(line.number("age_ms"));
        let _ = writeln!(text, "{age:>10}  {:<7} {}  [{}]", field("method"), field("path"), field("thread"));
    }
    text
}

fn connections_text(lines: &[Line]) -> String {
    let head = |key: &str| lines[0].get(key).unwrap_or("?");
    let mut text = format!("{} connections open, {} listed\n", head("count"), head("listed"));
    for line in lines.iter().skip(1) {
        let field = |key: &str| line.get(key).unwrap_or("");
        let idle = line.number("idle_ms").map_or(String::new(), |ms| seconds(Some(ms)));
        let peer = line.get("peer").unwrap_or("(unix)");
        let (activity, requests, listener) = (field("activity"), field("requests"), field("listener"));
        let _ = writeln!(text, "{peer:<24} {activity:<11}{idle:>10}  {requests} requests  [{listener}]");
    }
    text
}

fn seconds(ms: Option<u64>) -> String {
    ms.map_or_else(String::new, |ms| format!("{}.{:03} s", ms / 1000, ms % 1000))
}

/// Shows the list again and again, until the program is interrupted.
fn top(path: &Path, timeout: Duration) -> Result<(), Failure> {
    loop {
        let control = Control::new(path, Instant::now() + timeout.min(LONGEST));
        let (status, handlers) = (control.ask("status")?, control.ask("handlers")?);
        if output::show_screen(&format!("{}\n{}", table(&status), handlers_text(&handlers))).is_err() {
            return Ok(());
        }
        (0..10).for_each(|_| control::pause());
    }
}
