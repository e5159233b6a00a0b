//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;

pub const HELP: &str = "\
heirloomctl: upgrades a heirloom server and reports the result; shows what a server does

usage:
  heirloomctl upgrade (--control PATH | --pid-file FILE) [--executable PATH]
  heirloomctl status | drain | abort | connections | handlers | top  --control PATH

commands:
  upgrade       start the new version, and wait until it serves or has failed
  status        show the process that serves and its counters
  drain         let the server complete its requests and exit, and wait for that
  abort         end the server at once; its requests in flight are cut
  connections   list the connections that wait for their clients
  handlers      list the handlers that run: method, path, age and thread
  top           show status and handlers, every second on a terminal

options:
  --control PATH      the server's control socket (ProcessConfig::control_socket)
  --pid-file FILE     the server's pid file, for servers without a control socket
  --executable PATH   with --pid-file: also accept a process that runs this program
  --timeout SECONDS   give up after this time (upgrade and drain: 300, others: 10)
  --json              write one JSON object to standard output, also for failures
  -h, --help          show this text
  -V, --version       show the version

exit status: 0 if it is done, 1 if it failed, 2 if the command line is wrong
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Upgrade,
    Status,
    Drain,
    Abort,
    Connections,
    Handlers,
    Top,
}

impl Action {
    const ALL: [Action; 7] = [
        Action::Upgrade,
        Action::Status,
        Action::Drain,
        Action::Abort,
        Action::Connections,
        Action::Handlers,
        Action::Top,
    ];

    /// The name on the command line. It is also the command of the control socket, except for `top`.
    pub fn name(self) -> &'static str {
        match self {
            Action::Upgrade => "upgrade",
            Action::Status => "status",
            Action::Drain => "drain",
            Action::Abort => "abort",
            Action::Connections => "connections",
            Action::Handlers => "handlers",
            Action::Top => "top",
        }
    }
}

/// How the server is reached.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    Control(PathBuf),
    PidFile { path: PathBuf, executable: Option<PathBuf> },
}

#[derive(Debug, PartialEq, Eq)]
pub struct Args {
    pub action: Action,
    pub target: Target,
    pub timeout: Duration,
    pub json: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    Run(Args),
    Help,
    Version,
}

/// # Errors
/// What is wrong with the command line.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, String> {
    let mut parser = lexopt::Parser::from_iter(args);
    let (mut action, mut control, mut pid_file, mut executable) = (None, None, None, None);
    let (mut timeout, mut json) = (None, false);
    while let Some(arg) = parser.next().map_err(|e| e.to_string())? {
        match arg {
            Short('h') | Long("help") => return Ok(Parsed::Help),
            Short('V') | Long("version") => return Ok(Parsed::Version),
            Long("json") => json = true,
            Long("control") => control = Some(path(&mut parser)?),
            Long("pid-file") => pid_file = Some(path(&mut parser)?),
            Long("executable") => executable = Some(path(&mut parser)?),
            Long("timeout") => {
                let value = parser.value().map_err(|e| e.to_string())?;
                let seconds = value.to_str().and_then(|text| text.parse::<f64>().ok());
                let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                let duration = duration.filter(|duration| !duration.is_zero());
                let wrong = || format!("--timeout {}: not a number of seconds", value.to_string_lossy());
                timeout = Some(duration.ok_or_else(wrong)?);
            }
            Value(word) if action.is_none() => {
                let known = Action::ALL.into_iter().find(|action| word == action.name());
                action = Some(known.ok_or_else(|| format!("{}: no such command", word.to_string_lossy()))?);
            }
            other => return Err(other.unexpected().to_string()),
        }
    }
    let action = action.ok_or("a command is missing")?;
    let target = match (control, pid_file) {
        (Some(_), Some(_)) => return Err("--control and --pid-file exclude each other".to_owned()),
        (Some(_), None) if executable.is_some() => {
            return Err("--executable belongs to --pid-file".to_owned());
        }
        (Some(path), None) => Target::Control(path),
        (None, Some(_)) if action != Action::Upgrade => {
            return Err(format!("{} needs --control PATH", action.name()));
        }
        (None, Some(path)) => Target::PidFile { path, executable },
        (None, None) if action == Action::Upgrade => {
            return Err("upgrade needs --control PATH or --pid-file FILE".to_owned());
        }
        (None, None) => return Err(format!("{} needs --control PATH", action.name())),
    };
    let usual = match action {
        Action::Upgrade | Action::Drain => 300,
        _ => 10,
    };
    let timeout = timeout.unwrap_or(Duration::from_secs(usual));
    Ok(Parsed::Run(Args { action, target, timeout, json }))
}

/// The value of an option.
fn path(parser: &mut lexopt::Parser) -> Result<PathBuf, String> {
    let value = parser.value().map_err(|e| e.to_string())?;
    match value.as_encoded_bytes() {
        [] => Err("a path is empty".to_owned()),
        // As `--control $UNSET --json` has it.
        [b'-', ..] => {
            let text = value.to_string_lossy();
            Err(format!("{text}: an option in the place of a path; if it is a path, write ./{text}"))
        }
        _ => Ok(PathBuf::from(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Parsed, String> {
        parse(["heirloomctl"].into_iter().chain(line.split_whitespace()).map(OsString::from))
    }

    #[test]
    fn command_lines_that_are_understood() {
        let control = || Target::Control("/c".into());
        let pid_file = |executable: Option<&str>| Target::PidFile {
            path: "/p".into(),
            executable: executable.map(PathBuf::from),
        };
        let cases = [
            ("upgrade --control /c", Action::Upgrade, control(), 300_000, false),
            ("--json upgrade --control=/c --timeout 1.5", Action::Upgrade, control(), 1_500, true),
            ("upgrade --pid-file /p", Action::Upgrade, pid_file(None), 300_000, false),
            ("upgrade --pid-file /p --executable /x", Action::Upgrade, pid_file(Some("/x")), 300_000, false),
            ("status --control /c", Action::Status, control(), 10_000, false),
            ("drain --control /c --timeout 7", Action::Drain, control(), 7_000, false),
            ("top --control /c --json", Action::Top, control(), 10_000, true),
        ];
        for (line, action, target, ms, json) in cases {
            let timeout = Duration::from_millis(ms);
            assert_eq!(parsed(line), Ok(Parsed::Run(Args { action, target, timeout, json })), "{line}");
        }
        assert_eq!(parsed("--help"), Ok(Parsed::Help));
        assert_eq!(parsed("upgrade -V"), Ok(Parsed::Version));
    }

    #[test]
    fn command_lines_that_are_not() {
        let cases = [
            ("", "a command is missing"),
            ("upgrade", "upgrade needs --control PATH or --pid-file FILE"),
            ("status", "status needs --control PATH"),
            ("status --pid-file /p", "status needs --control PATH"),
            ("upgrade --control /c --pid-file /p", "--control and --pid-file exclude each other"),
            ("upgrade --control /c --executable /x", "--executable belongs to --pid-file"),
            ("restart --control /c", "restart: no such command"),
            ("upgrade --control /c --timeout 0", "--timeout 0: not a number of seconds"),
            ("upgrade --control /c --timeout -1", "--timeout -1: not a number of seconds"),
            ("upgrade --control /c --timeout soon", "--timeout soon: not a number of seconds"),
            ("upgrade --control /c --timeout 1e99", "--timeout 1e99: not a number of seconds"),
            ("upgrade --control=", "a path is empty"),
            (
                "upgrade --control --json",
                "--json: an option in the place of a path; if it is a path, write ./--json",
            ),
        ];
        for (line, message) in cases {
            assert_eq!(parsed(line), Err(message.to_owned()), "{line}");
        }
        for line in
            ["upgrade --control", "upgrade status --control /c", "upgrade --colour", "--json=1 status"]
        {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
