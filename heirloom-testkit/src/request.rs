//! A request of a load, and what its response should be.

use std::fmt;
use std::sync::Arc;

use crate::Response;

type Check = dyn Fn(&Response) -> bool + Send + Sync;

/// A request, and what its response should be: any of status 200 to 399, if nothing else is said.
///
/// ```
/// use heirloom_testkit::Request;
///
/// Request::new("POST", "/notes")
///     .header("Content-Type", "application/json")
///     .body(r#"{"text": "tea"}"#)
///     .expect_status(201)
///     .check(|response| response.header("location").is_some());
/// ```
#[derive(Clone)]
#[must_use]
pub struct Request {
    name: String,
    headers: String,
    body: Vec<u8>,
    status: Option<u16>,
    check: Option<Arc<Check>>,
}

impl Request {
    /// A GET of this path.
    pub fn get(path: &str) -> Request {
        Request::new("GET", path)
    }

    /// A request of any method but HEAD and CONNECT.
    pub fn new(method: &str, path: &str) -> Request {
        let (name, headers) = (format!("{method} {path}"), "Host: test\r\n".to_owned());
        Request { name, headers, body: Vec::new(), status: None, check: None }
    }

    /// Adds a field. `Host` and `Content-Length` are there.
    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers += &format!("{name}: {value}\r\n");
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        self
    }

    /// The response must have this status.
    pub fn expect_status(mut self, status: u16) -> Request {
        self.status = Some(status);
        self
    }

    /// The response must pass this check, too.
    pub fn check(mut self, check: impl Fn(&Response) -> bool + Send + Sync + 'static) -> Request {
        self.check = Some(Arc::new(check));
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The request with these lines in its head, too.
    pub(crate) fn bytes(&self, fields: &str) -> Vec<u8> {
        let length = match self.body.len() {
            0 if self.name.starts_with("GET ") => String::new(),
            length => format!("Content-Length: {length}\r\n"),
        };
        let head = format!("{} HTTP/1.1\r\n{}{fields}{length}\r\n", self.name, self.headers);
        [head.as_bytes(), &self.body].concat()
    }

    pub(crate) fn accepts(&self, response: &Response) -> bool {
        let has_status = match self.status {
            Some(status) => response.status == status,
            None => (200..400).contains(&response.status),
        };
        has_status && self.check.as_ref().is_none_or(|check| check(response))
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {} bytes", self.name, self.body.len())
    }
}
