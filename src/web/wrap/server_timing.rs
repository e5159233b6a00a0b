//! How long a handler took, for the tools of browsers.

use std::time::Instant;

use http::{HeaderName, HeaderValue};

use crate::web::handler::{Next, Wrapper};
use crate::{Request, Response};

/// Adds to each response how long the wrapped handler took, in milliseconds: `Server-Timing: NAME;dur=1.234`. Several of
/// them with different names make a list. The time for a body that is pulled or streamed afterwards is not included.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::wrap::ServerTiming;
/// let handler = (|_: Request| "hello\n").wrap(ServerTiming::new("app"));
/// let response = handler.call(http::Request::get("/").body(Body::empty()).unwrap());
/// assert!(response.headers()["server-timing"].to_str().unwrap().starts_with("app;dur="));
/// ```
#[derive(Clone, Debug)]
pub struct ServerTiming {
    name: String,
}

impl ServerTiming {
    /// `name` is sent to the client. It must be a token, such as `app`; otherwise serving is an error.
    pub fn new(name: impl Into<String>) -> ServerTiming {
        ServerTiming { name: name.into() }
    }
}

impl Wrapper for ServerTiming {
    fn call(&self, request: Request, next: Next<'_>) -> Response {
        let started = Instant::now();
        let mut response = next.call(request);
        let ms = started.elapsed().as_secs_f64() * 1000.0;
        if let Ok(value) = HeaderValue::try_from(format!("{};dur={ms:.3}", self.name)) {
            response.headers_mut().append(HeaderName::from_static("server-timing"), value);
        }
        response
    }

    fn check(&self) -> Result<(), String> {
        // The names of fields are tokens too.
        match HeaderName::try_from(&self.name) {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("ServerTiming: {:?} is not a token", self.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Handler;
    use crate::web::wrap::testing::{ask, field};

    #[test]
    fn each_adds_its_own() {
        let handler = (|_: Request| "x").wrap(ServerTiming::new("in")).wrap(ServerTiming::new("out"));
        let said = field(&ask(&handler, "GET /", &[]), "server-timing");
        let (first, second) = said.split_once(" | ").unwrap();
        let ms = |text: &str, name: &str| text.strip_prefix(name).unwrap().parse::<f64>().unwrap();
        assert!(ms(first, "in;dur=") <= ms(second, "out;dur="), "{said}");
        assert_eq!(handler.check(), Ok(()));
        assert!((|_: Request| "x").wrap(ServerTiming::new("a b")).check().is_err());
    }
}
