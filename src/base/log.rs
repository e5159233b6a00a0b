//! Lines of the log. A logger is the program's own, and one that prints panics when its pipe is closed
//! or its disk is full: then a line is lost, and nothing else.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub(crate) fn guarded(write: impl FnOnce()) {
    let mut outcome = catch_unwind(AssertUnwindSafe(write));
    // What it panicked with may do so, too, when it is dropped.
    while let Err(panic) = outcome {
        outcome = catch_unwind(AssertUnwindSafe(|| drop(panic)));
    }
}

/// What a panic says.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
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

macro_rules! at {
    ($level:ident, $write:ident, target: $target:expr, $($line:tt)+) => {
        if ::log::Level::$level <= ::log::max_level() {
            $crate::base::log::guarded(|| ::log::$write!(target: $target, $($line)+));
        }
    };
    ($level:ident, $write:ident, $($line:tt)+) => {
        $crate::base::log::at!($level, $write, target: $crate::base::log::target(module_path!()), $($line)+)
    };
}

macro_rules! error_line {
    ($($line:tt)+) => { $crate::base::log::at!(Error, error, $($line)+) };
}

macro_rules! warn_line {
    ($($line:tt)+) => { $crate::base::log::at!(Warn, warn, $($line)+) };
}

macro_rules! info_line {
    ($($line:tt)+) => { $crate::base::log::at!(Info, info, $($line)+) };
}

macro_rules! debug_line {
    ($($line:tt)+) => { $crate::base::log::at!(Debug, debug, $($line)+) };
}

pub(crate) use {at, debug_line as debug, error_line as error, info_line as info, warn_line as warn};

#[cfg(test)]
mod tests {
    use super::*;

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
