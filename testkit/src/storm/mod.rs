//! The modules of storm; imports point down only:
//! `run` and `selftest` over `rounds`, over `client`, `herd`, `server`, `report`, over `link`, over `socket`
//! and `tally`, and `socket` over `tls`.

pub(crate) mod asking;
pub(crate) mod binaries;
pub(crate) mod client;
pub(crate) mod flags;
pub(crate) mod guard;
pub(crate) mod halt;
pub(crate) mod herd;
pub(crate) mod histogram;
pub(crate) mod link;
pub(crate) mod mask;
pub(crate) mod report;
pub(crate) mod rounds;
pub(crate) mod run;
pub(crate) mod selftest;
pub(crate) mod server;
pub(crate) mod socket;
pub(crate) mod tally;
pub(crate) mod tls;
pub(crate) mod windows;
