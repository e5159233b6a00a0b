//! Work that waits (`queue`), the threads that do it (`pool`), when to wake one (`policy`, with the reasons), and how long
//! handlers take (`latency`).

#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
pub(crate) mod latency;
pub(crate) mod policy;
pub(crate) mod pool;
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
pub(crate) mod queue;
