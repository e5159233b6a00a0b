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

macro_rules! at {
    ($level:ident, $write:ident, $($line:tt)+) => {
        if ::log::Level::$level <= ::log::max_level() {
            $crate::logging::guarded(|| ::log::$write!($($line)+));
        }
    };
}

macro_rules! error_line {
    ($($line:tt)+) => { $crate::logging::at!(Error, error, $($line)+) };
}

macro_rules! warn_line {
    ($($line:tt)+) => { $crate::logging::at!(Warn, warn, $($line)+) };
}

macro_rules! info_line {
    ($($line:tt)+) => { $crate::logging::at!(Info, info, $($line)+) };
}

macro_rules! debug_line {
    ($($line:tt)+) => { $crate::logging::at!(Debug, debug, $($line)+) };
}

pub(crate) use {at, debug_line as debug, error_line as error, info_line as info, warn_line as warn};
