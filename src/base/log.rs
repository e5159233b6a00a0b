//! Lines of the log. The logger belongs to the program, and one that prints panics when its pipe is closed or its disk is
//! full: then only that line is lost.
//!
//! An entry is always one line and can't affect the terminal or program that shows it: paths, names, errors and panics of
//! handlers may contain bytes that a client sent. So each line is escaped here, as a whole.

use std::fmt::{self, Write};
use std::io::{self, Write as _};
use std::panic::Location;
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) use ::log::kv;
use ::log::kv::{Source, Value as Field, VisitSource};
use ::log::{Level, LevelFilter, Record};

use crate::base::contain_panic::contain;

/// An escaped line: unprintable characters are escaped as in Rust's literals (`\n`, `\u{1b}`), a backslash is doubled.
pub(crate) struct Line<'a>(pub(crate) fmt::Arguments<'a>);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaping(f).write_fmt(self.0)
    }
}

/// A field's value: escaped, and quoted if it could be confused with the surrounding text.
pub(crate) struct Value<'a>(pub(crate) &'a str);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nearly every value has these bytes alone.
        let is_plain = |b: u8| matches!(b, b'!'..=b'~') && !matches!(b, b'"' | b'=' | b'\\');
        let is_bare = |c: char| is_shown(c) && !matches!(c, ' ' | '"' | '=');
        let is_all_bare = || self.0.bytes().all(is_plain) || self.0.chars().all(is_bare);
        if !self.0.is_empty() && self.0 != "-" && is_all_bare() {
            return f.write_str(self.0);
        }
        Quoted(self.0).fmt(f)
    }
}

/// A value in quotes, escaped.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for (n, part) in self.0.split('"').enumerate() {
            if n > 0 {
                f.write_str("\\\"")?;
            }
            Escaping(f).write_str(part)?;
        }
        f.write_char('"')
    }
}

/// An escaped value, for a logger that separates it from others itself.
pub(crate) struct Escaped<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, format_args!("{}", self.0))
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, text: fmt::Arguments<'_>) -> fmt::Result {
    Escaping(f).write_fmt(text)
}

/// A key's value for the crate `log`; null if it is unknown.
pub(crate) fn key_value<T: fmt::Display>(value: &Option<T>) -> Option<::log::kv::Value<'_>> {
    value.as_ref().map(::log::kv::Value::from_display)
}

/// A string of JSON, or null. What `Line` escapes is escaped here too, in JSON's way.
pub(crate) struct JsonText<'a>(pub(crate) Option<&'a str>);

impl fmt::Display for JsonText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(text) = self.0 else { return f.write_str("null") };
        f.write_char('"')?;
        for c in text.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if is_shown(c) => f.write_char(c)?,
                c => c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(f, "\\u{unit:04x}"))?,
            }
        }
        f.write_char('"')
    }
}

/// Whether a character is written unescaped: not those that control a terminal (C0, DEL, C1), end a line (U+2028, U+2029)
/// or change the direction of text (U+202E and similar).
fn is_shown(c: char) -> bool {
    match c {
        ' '..='~' => c != '\\',
        _ => c.escape_debug().len() == 1,
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| !is_shown(*c)) {
            let (shown, from) = rest.split_at(at);
            write!(self.0, "{shown}{}", c.escape_debug())?;
            rest = from.get(c.len_utf8()..).unwrap_or_default();
        }
        self.0.write_str(rest)
    }
}

/// A logger may panic too.
pub(crate) fn guarded(write: &mut dyn FnMut()) {
    contain(write, |_| ());
}

/// The target of a module's lines. Users filter by these names (docs/log.md): they stay when code moves.
pub(crate) fn target(module: &str) -> &'static str {
    const TARGETS: [(&str, &str); 4] = [
        ("process::handover", "heirloom::handover"),
        ("process", "heirloom::process"),
        ("net", "heirloom::net"),
        ("server", "heirloom::server"),
    ];
    let module = module.strip_prefix("heirloom::").unwrap_or(module);
    let found = TARGETS.iter().find(|(below, _)| module.starts_with(below));
    found.map_or("heirloom::http", |(_, target)| target)
}

/// Which generation this process is, for the fields of each line; 0 until it is known.
static GENERATION: AtomicU32 = AtomicU32::new(0);

pub(crate) fn set_generation(generation: u32) {
    GENERATION.store(generation, Ordering::Relaxed);
}

pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Whether a line would be lost for want of a logger: an error, except those of requests. A logger that the program has
/// silenced is respected: the one that stands for no logger is known by its size, since its type is private.
fn is_lost(level: Level, target: &str) -> bool {
    level == Level::Error
        && target != "heirloom::http"
        && ::log::max_level() == LevelFilter::Off
        && size_of_val(::log::logger()) == 0
}

/// Writes an error to standard error, as the supervisor writes its lines.
fn to_stderr(target: &str, line: fmt::Arguments<'_>) {
    // In one piece, which stays whole beside what other processes write. The failure to write it can't be reported.
    let line = format!("[ERROR {target}] {}\n", Line(line));
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Whether a line of this level may have to be written.
#[inline]
pub(crate) fn is_wanted(level: Level) -> bool {
    level == Level::Error || (level <= ::log::STATIC_MAX_LEVEL && level <= ::log::max_level())
}

/// Writes a line. All lines have this one function, because the macros of the crate `log` are 180 more
/// lines of LLVM IR for each, which every user would compile.
#[cold]
#[track_caller]
pub(crate) fn write(
    level: Level,
    module: &'static str,
    fields: &[(&str, Field<'_>)],
    line: fmt::Arguments<'_>,
) {
    let target = target(module);
    if level <= ::log::STATIC_MAX_LEVEL && level <= ::log::max_level() {
        write_as_is(level, target, module, &Fields(fields), format_args!("{}", Line(line)));
    } else if is_lost(level, target) {
        to_stderr(target, line);
    }
}

/// Writes a line whose values have been escaped already by `Value`.
#[track_caller]
pub(crate) fn write_as_is(
    level: Level,
    target: &str,
    module: &'static str,
    fields: &dyn Source,
    line: fmt::Arguments<'_>,
) {
    let place = Location::caller();
    guarded(&mut || {
        let mut record = Record::builder();
        record.level(level).target(target).key_values(fields);
        record.module_path_static(Some(module)).file_static(Some(place.file())).line(Some(place.line()));
        ::log::logger().log(&record.args(line).build());
    });
}

/// The fields of a line, after those that each line has.
struct Fields<'a>(&'a [(&'a str, Field<'a>)]);

impl Source for Fields<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), ::log::kv::Error> {
        visitor.visit_pair("generation".into(), generation().into())?;
        visitor.visit_pair("pid".into(), std::process::id().into())?;
        self.0.visit(visitor)
    }
}

/// A line, and key-values for loggers that write them: `generation` and `pid` on each, and those after a semicolon, whose
/// names are in docs/log.md. `key = value`, or `key:% = value` for one that is written as text.
macro_rules! at {
    ($level:ident, $format:literal $(, $value:expr)* $(; $($fields:tt)+)?) => {
        if $crate::base::log::is_wanted(::log::Level::$level) {
            $crate::base::log::write(
                ::log::Level::$level,
                module_path!(),
                $crate::base::log::fields!([] $($($fields)+)?),
                format_args!($format $(, $value)*)
            );
        }
    };
}

macro_rules! fields {
    ([$($done:tt)*]) => { &[$($done)*] };
    ([$($done:tt)*] $key:ident = $value:expr $(, $($rest:tt)*)?) => {
        $crate::base::log::fields!(
            [$($done)* (stringify!($key), ::log::kv::ToValue::to_value(&$value)),] $($($rest)*)?
        )
    };
    ([$($done:tt)*] $key:ident:% = $value:expr $(, $($rest:tt)*)?) => {
        $crate::base::log::fields!(
            [$($done)* (stringify!($key), ::log::kv::Value::from_display(&$value)),] $($($rest)*)?
        )
    };
}

macro_rules! error_line {
    ($($line:tt)+) => { $crate::base::log::at!(Error, $($line)+) };
}

macro_rules! warn_line {
    ($($line:tt)+) => { $crate::base::log::at!(Warn, $($line)+) };
}

macro_rules! info_line {
    ($($line:tt)+) => { $crate::base::log::at!(Info, $($line)+) };
}

macro_rules! debug_line {
    ($($line:tt)+) => { $crate::base::log::at!(Debug, $($line)+) };
}

pub(crate) use {at, debug_line as debug, error_line as error, fields, info_line as info, warn_line as warn};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_whatever_it_holds() {
        let cases = [
            ("/a b?c='\"ü€😀", "/a b?c='\"ü€😀"),
            ("a\nb\r\n\tc\0", "a\\nb\\r\\n\\tc\\0"),
            ("\u{1b}[31m\u{7}\u{8}\u{7f}", "\\u{1b}[31m\\u{7}\\u{8}\\u{7f}"),
            ("\u{80}\u{85}\u{9b}31m\u{9f}", "\\u{80}\\u{85}\\u{9b}31m\\u{9f}"),
            ("\u{2028}\u{2029}", "\\u{2028}\\u{2029}"),
            ("\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}", "\\u{202a}\\u{202b}\\u{202c}\\u{202d}\\u{202e}"),
            ("\u{2066}\u{2067}\u{2068}\u{2069}", "\\u{2066}\\u{2067}\\u{2068}\\u{2069}"),
            ("\u{200e}\u{200f}\u{61c}", "\\u{200e}\\u{200f}\\u{61c}"),
            ("\u{200b}\u{feff}\u{ad}\u{a0}", "\\u{200b}\\u{feff}\\u{ad}\\u{a0}"),
            ("\u{e0041}\u{fff9}", "\\u{e0041}\\u{fff9}"),
            // So that no text looks like an escape.
            ("C:\\new\\u{1b}", "C:\\\\new\\\\u{1b}"),
            ("", ""),
        ];
        for (text, shown) in cases {
            assert_eq!(Line(format_args!("{text}")).to_string(), shown);
            assert_eq!(Line(format_args!("<{text}>")).to_string(), format!("<{shown}>"));
        }
        // Each of them, wherever Unicode has put it.
        for c in (0..=0x10_ffff).filter_map(char::from_u32) {
            let shown = Line(format_args!("{c}")).to_string();
            let is_control = c.is_control() || (c.is_whitespace() && c != ' ') || c == '\\';
            assert!(!is_control || (shown.is_ascii() && shown.starts_with('\\')), "{c:?}: {shown}");
        }
    }

    #[test]
    fn a_value_can_be_taken_out_of_its_line_again() {
        let cases = [
            ("curl/8.5", "curl/8.5"),
            ("", "\"\""),
            ("-", "\"-\""),
            ("a b", "\"a b\""),
            ("a=b", "\"a=b\""),
            ("\" x=\"\\", "\"\\\" x=\\\"\\\\\""),
            ("/\u{202e}\n", "\"/\\u{202e}\\n\""),
            ("/ü", "/ü"),
        ];
        for (text, shown) in cases {
            assert_eq!(Value(text).to_string(), shown);
        }
    }

    #[test]
    fn each_module_has_a_target() {
        let table = [
            ("heirloom::process::handover::child", "heirloom::handover"),
            ("heirloom::process::control", "heirloom::process"),
            ("heirloom::net::acceptor", "heirloom::net"),
            ("heirloom::http::exchange", "heirloom::http"),
            ("heirloom::web::wrap", "heirloom::http"),
            ("heirloom::server::launch", "heirloom::server"),
        ];
        for (module, expected) in table {
            assert_eq!(target(module), expected, "{module}");
        }
    }
}
