//! The access log: requests and how their responses ended.

mod access;
mod format;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

pub use access::Access;
pub use format::AccessFormat;

use crate::base::log::{Escaped, generation, info_as_is, key_value};
use crate::base::log_file::LogFile;
use crate::web::handler::{Next, Wrapper};
use crate::web::response::ResponseExt;
use crate::{Request, Response};

const TARGET: &str = "heirloom::access";

/// Logs each response when it has ended: through the `log` crate, at `info`, with the target
/// `heirloom::access`, so that a logger can send these lines elsewhere; or to a file, see [`to_file`](AccessLog::to_file). A
/// line has the fields of [`AccessFormat::Fields`], unless another [format](AccessLog::format) is chosen:
///
/// ```text
/// time=2026-11-29T09:31:06.123Z client=127.0.0.1:50412 via=- listener=127.0.0.1:8001 method=GET scheme=http host=a.example target=/users/7 pattern=/users/{id} status=200 bytes=7 ms=0.131 end=complete id=3f9a6c01d2b4e587-1 referer=- agent=curl/8.5.0
/// ```
///
/// A logger also gets them as key-values of the crate `log`, by the same names.
///
/// ```
/// use heirloom::prelude::*;
/// use heirloom::wrap::AccessLog;
/// let handler = Router::new().get("/", |_: Request| "hello\n").wrap(AccessLog::new());
/// ```
pub struct AccessLog {
    query: bool,
    format: AccessFormat,
    sink: Sink,
}

#[derive(Clone)]
enum Sink {
    /// The crate `log`.
    Log,
    File(LogFile),
    Program(Arc<dyn Fn(&Access) + Send + Sync>),
}

impl AccessLog {
    /// Logs at `info`, with the target `heirloom::access`.
    pub fn new() -> AccessLog {
        AccessLog { query: false, format: AccessFormat::Fields, sink: Sink::Log }
    }

    /// Whether targets include the query. Default: no, because queries may contain secrets.
    #[must_use]
    pub fn query(mut self, query: bool) -> AccessLog {
        self.query = query;
        self
    }

    /// The format of lines. Default: [`AccessFormat::Fields`].
    #[must_use]
    pub fn format(mut self, format: AccessFormat) -> AccessLog {
        self.format = format;
        self
    }

    /// Writes the lines to `file` instead of the log. [`LogFile`] shows how it is rotated.
    #[must_use]
    pub fn to_file(mut self, file: &LogFile) -> AccessLog {
        self.sink = Sink::File(file.clone());
        self
    }

    /// Gives each entry to `sink` instead of the log: for another format or counters. It runs where [`ResponseExt::on_end`]
    /// does.
    ///
    /// ```
    /// use heirloom::wrap::AccessLog;
    /// let log = AccessLog::new().to(|access| {
    ///     if access.status().is_server_error() {
    ///         eprintln!("{access} tenant={}", access.field("x-tenant").unwrap_or_default());
    ///     }
    /// });
    /// ```
    #[must_use]
    pub fn to(mut self, sink: impl Fn(&Access) + Send + Sync + 'static) -> AccessLog {
        self.sink = Sink::Program(Arc::new(sink));
        self
    }
}

impl Default for AccessLog {
    fn default() -> AccessLog {
        AccessLog::new()
    }
}

impl Wrapper for AccessLog {
    fn call(&self, request: Request, next: Next<'_>) -> Response {
        if matches!(self.sink, Sink::Log) && !log::log_enabled!(target: TARGET, log::Level::Info) {
            return next.call(request);
        }
        let started = Instant::now();
        let mut access = Access::of(&request, self.query);
        let response = next.call(request);
        access.take_id_of(&response);
        let (sink, format) = (self.sink.clone(), self.format);
        response.on_end(move |end| {
            access.end(end, started.elapsed());
            match sink {
                Sink::Log => write_to_log(&access, format),
                Sink::File(file) => file.write_line(access.display(format).to_string()),
                Sink::Program(sink) => sink(&access),
            }
        })
    }
}

/// The line's values are escaped already, and the key-values are too: a logger may print them to a terminal as they are.
fn write_to_log(access: &Access, format: AccessFormat) {
    let (via, host, referer, agent) = (access.via(), access.host(), access.referer(), access.user_agent());
    let texts = [via.as_deref(), access.listener(), host.as_deref(), Some(access.target()), access.pattern()];
    let [via, listener, host, target, pattern] = texts.map(|text| text.map(Escaped));
    let [referer, agent] = [referer.as_deref(), agent.as_deref()].map(|text| text.map(Escaped));
    info_as_is!(
        target: TARGET,
        generation = generation(),
        time:% = access.display_time(),
        client:% = access.client(),
        via = key_value(&via),
        listener = key_value(&listener),
        method = access.method().as_str(),
        scheme = access.client().scheme(),
        host = key_value(&host),
        target = key_value(&target),
        pattern = key_value(&pattern),
        status = access.status().as_u16(),
        bytes = access.bytes(),
        ms = access.millis(),
        end = access.display_end(),
        id = access.request_id(),
        referer = key_value(&referer),
        agent = key_value(&agent);
        "{}", access.display(format)
    );
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog")
            .field("query", &self.query)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}
