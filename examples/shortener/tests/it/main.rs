//! The service under load, as its users meet it. In one binary, whose tests run side by side, because a handover mostly waits.

mod nothing_lost;
mod upgrades;
