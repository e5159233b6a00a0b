//! Work that waits (`queue`), the threads that do it (`pool`), when to wake one (`policy`, with the reasons), and how long
//! handlers take (`latency`).

pub(crate) mod latency;
pub(crate) mod policy;
pub(crate) mod pool;
pub(crate) mod queue;
