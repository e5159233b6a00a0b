//! Each Rust example of README.md, docs/ and rustdoc, as a module of this crate. `build.rs` collects them.
//!
//! A doctest runs an example, but with the dependencies and dev-dependencies of the library. Here an example has what a
//! user's crate has: heirloom with all its features, and nothing else. Without the feature `all` (`--all-features`) the
//! crate is empty.
#![deny(future_incompatible)]
#![allow(unused, clippy::all)]

#[cfg(feature = "all")]
include!(concat!(env!("OUT_DIR"), "/examples.rs"));
