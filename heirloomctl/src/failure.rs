//! Why something was not done.

use std::fmt;

use serde_json::{Map, Value};

#[derive(Debug)]
pub struct Failure {
    /// For programs.
    pub code: String,
    /// For people. Names the path or the pid that it is about.
    pub message: String,
    /// What else is known.
    pub details: Map<String, Value>,
}

impl Failure {
    pub fn new(code: &str, message: impl fmt::Display) -> Failure {
        Failure { code: code.to_owned(), message: message.to_string(), details: Map::new() }
    }
}
