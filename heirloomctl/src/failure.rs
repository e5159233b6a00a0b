//! Why a command failed.

use std::fmt;

use serde_json::{Map, Value};

#[derive(Debug)]
pub struct Failure {
    /// A word for programs.
    pub code: String,
    /// A text for people, with the path or the pid that it concerns.
    pub message: String,
    /// Further fields.
    pub details: Map<String, Value>,
}

impl Failure {
    pub fn new(code: &str, message: impl fmt::Display) -> Failure {
        Failure { code: code.to_owned(), message: message.to_string(), details: Map::new() }
    }
}
