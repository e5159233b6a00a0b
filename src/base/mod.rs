//! Small things that everything else uses. Nothing here knows the other folders.

pub(crate) mod budget;
pub(crate) mod close_reason;
#[allow(clippy::cast_possible_truncation, reason = "a part of a random number")]
pub(crate) mod close_spread;
pub(crate) mod contain_panic;
pub(crate) mod error;
#[cfg(test)]
pub(crate) mod explore;
pub(crate) mod file_budget;
#[cfg_attr(not(feature = "admin"), allow(dead_code, reason = "for the admin listener"))]
pub(crate) mod histogram;
pub(crate) mod history;
pub(crate) mod key_hash;
#[cfg_attr(not(feature = "admin"), allow(dead_code, reason = "for the admin listener"))]
pub(crate) mod last_closes;
pub(crate) mod limits;
pub(crate) mod line;
pub(crate) mod log;
pub(crate) mod log_file;
pub(crate) mod order;
pub(crate) mod percent;
pub(crate) mod phase;
#[cfg(test)]
pub(crate) mod property;
pub(crate) mod read;
#[cfg_attr(not(feature = "admin"), allow(dead_code, reason = "for the admin listener"))]
pub(crate) mod recent;
#[cfg_attr(not(feature = "admin"), allow(dead_code, reason = "for the admin listener"))]
pub(crate) mod records;
#[cfg_attr(not(feature = "admin"), allow(dead_code, reason = "for the admin listener"))]
pub(crate) mod requests;
#[cfg(test)]
#[path = "../../tests/support/skip.rs"]
pub(crate) mod skip;
#[cfg_attr(not(feature = "admin"), allow(dead_code, reason = "for the admin listener"))]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
pub(crate) mod status;
pub(crate) mod stays;
pub(crate) mod sync;
pub(crate) mod sys;
pub(crate) mod threads;
pub(crate) mod time;
pub(crate) mod wait_group;
pub(crate) mod words;
