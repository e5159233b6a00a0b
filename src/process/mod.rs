//! The life of a process: its signals, its phases, and the handover to the next generation.

pub(crate) mod config;
pub(crate) mod control;
pub(crate) mod handover;
pub(crate) mod hooks;
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
pub(crate) mod signals;
pub(crate) mod state;
pub(crate) mod stop_timeout;
pub(crate) mod supervise;
pub(crate) mod systemd;
pub(crate) mod terminal;
