//! Failures before serving starts and at its end. While the server serves, every failure is a response, a closed
//! connection with its reason, or a handover that did not happen.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// Why [`Server::serve`](crate::Server::serve) did not start, or did not end well.
///
/// The text names what was wrong and what to do; `{:?}` prints the same, since that is what
/// `fn main() -> Result<(), heirloom::Error>` shows. [`kind`](Error::kind) is for programs.
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<io::Error>,
}

/// What kind of failure an [`Error`] is.
///
/// ```no_run
/// use heirloom::ErrorKind;
/// use heirloom::prelude::*;
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     match Server::new(|_: Request| "ok\n").listen("127.0.0.1:8001").serve() {
///         Ok(()) => ExitCode::SUCCESS,
///         // Some requests took longer than the drain. Everything else was served.
///         Err(e) if e.kind() == ErrorKind::Aborted => ExitCode::SUCCESS,
///         Err(e) => {
///             eprintln!("{e}");
///             ExitCode::FAILURE
///         }
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration is a mistake, a file that it names can't be used, or a hook failed before this process served.
    Config,
    /// A listener can't be bound.
    Bind,
    /// The descriptors that a predecessor passed on are not what it says.
    Inherit,
    /// The operating system refused something that the server needs, or one of its threads panicked.
    System,
    /// Requests were aborted: they were still in flight at the drain deadline, or at a second TERM.
    Aborted,
    /// This generation could not take over, and its predecessor continues to serve.
    RolledBack,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, context: impl Into<String>) -> Error {
        Error { kind, context: context.into(), source: None }
    }

    pub(crate) fn io(kind: ErrorKind, context: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error { kind, context: context.into(), source: Some(source.into()) }
    }

    pub(crate) fn config(context: impl Into<String>) -> Error {
        Error::new(ErrorKind::Config, context)
    }

    /// The operating system refused something that the server needs.
    pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
        move |e| Error::io(ErrorKind::System, what, e)
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// Whether the process or the host has reached its limit of open files, which is temporary.
pub(crate) fn lacks_descriptor(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        match &self.source {
            Some(source) => write!(f, ": {}", Chain(source)),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An error and its sources as text: `a: b: c`.
pub(crate) struct Chain<'e>(pub(crate) &'e (dyn StdError + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        for e in std::iter::successors(self.0.source(), |&e| e.source()) {
            // Many errors have the text of their sources in their own.
            let next = e.to_string();
            if !text.contains(&next) {
                text.push_str(": ");
                text.push_str(&next);
            }
        }
        f.write_str(&text)
    }
}

/// What stands between lines that become one.
pub(crate) const BETWEEN_LINES: &str = " | ";

/// The lines of a text that say something: a marker below a place in a file says nothing where columns are lost.
pub(crate) fn lines_of(text: &str) -> impl DoubleEndedIterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| line.contains(char::is_alphanumeric))
}

/// A text of several lines, such as the error of a parser, for a line of the log, which always names a reason: marks, if the
/// text has nothing else.
pub(crate) fn in_one_line(text: &str) -> String {
    let text = text.trim();
    let lines: Vec<&str> = match lines_of(text).collect::<Vec<_>>() {
        saying if saying.is_empty() => text.lines().map(str::trim).filter(|line| !line.is_empty()).collect(),
        saying => saying,
    };
    if lines.is_empty() { "no reason given".to_owned() } else { lines.join(BETWEEN_LINES) }
}

/// Any error, as the program's functions return it.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error whose text is the first word, and whose source has the others.
    #[derive(Debug)]
    struct Link(&'static str, Option<Box<Link>>);

    impl fmt::Display for Link {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl StdError for Link {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            self.1.as_deref().map(|link| link as _)
        }
    }

    fn linked(texts: &[&'static str]) -> Option<Box<Link>> {
        let (first, rest) = texts.split_first()?;
        Some(Box::new(Link(first, linked(rest))))
    }

    #[test]
    fn an_error_is_text_with_its_sources() {
        let cases: [(&[&'static str], &str); 4] = [
            (&["a"], "a"),
            (&["a", "b", "c"], "a: b: c"),
            // With the text of its source in its own, as many errors have it.
            (&["a: b", "b", "c"], "a: b: c"),
            (&["a: b: c", "b: c", "c"], "a: b: c"),
        ];
        for (texts, expected) in cases {
            let link = linked(texts).unwrap();
            assert_eq!(Chain(&*link).to_string(), expected);
            let error = Error::io(ErrorKind::System, "it failed", io::Error::other(link));
            let whole = format!("it failed: {expected}");
            assert_eq!(
                [format!("{error}"), format!("{error:?}"), Chain(&error).to_string()],
                [(); 3].map(|()| whole.clone())
            );
        }
    }

    #[test]
    fn a_text_in_one_line_says_something() {
        let cases = [
            ("a: b", "a: b"),
            (" a\n", "a"),
            ("a\n  |\n  ^\nb\r\n", "a | b"),
            ("???", "???"),
            ("???\n", "???"),
            ("---\n\n  !!!\n", "--- | !!!"),
            ("", "no reason given"),
            (" \r\n\n", "no reason given"),
        ];
        for (text, expected) in cases {
            assert_eq!(in_one_line(text), expected, "{text:?}");
        }
    }
}
