//! What no compiler checks.

mod pages;
mod public;
mod sources;
