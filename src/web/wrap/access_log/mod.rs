//! The access log: requests and how their responses ended.

mod access;
mod entries;
mod format;

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use http::Extensions;

pub use access::Access;
use access::text_of;
pub(crate) use entries::Entries;
pub use format::AccessFormat;
use format::push_line;

use crate::base::line::with_line;
use crate::base::log::kv::{Source, Value, VisitSource};
use crate::base::log::{Escaped, generation, key_value, write_as_is};
use crate::base::log_file::LogFile;
use crate::base::time::Rfc3339;
use crate::web::client::Client;
use crate::web::handler::{Call, Handler, Next, Seal, Wrapper};
use crate::web::response::ResponseEnd;
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
    output: Arc<Output>,
}

/// Where entries go, and how. Shared with each entry.
#[derive(Clone)]
struct Output {
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
        let output = Output { format: AccessFormat::Fields, sink: Sink::Log };
        AccessLog { query: false, output: Arc::new(output) }
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
        Arc::make_mut(&mut self.output).format = format;
        self
    }

    /// Writes the lines to `file` instead of the log. [`LogFile`] shows how it is rotated.
    #[must_use]
    pub fn to_file(mut self, file: &LogFile) -> AccessLog {
        Arc::make_mut(&mut self.output).sink = Sink::File(file.clone());
        self
    }

    /// Gives each entry to `sink` instead of the log: for another format or counters. It runs where
    /// [`ResponseExt::on_end`](crate::ResponseExt::on_end) does.
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
        Arc::make_mut(&mut self.output).sink = Sink::Program(Arc::new(sink));
        self
    }
}

impl Default for AccessLog {
    fn default() -> AccessLog {
        AccessLog::new()
    }
}

impl Wrapper for AccessLog {
    /// For a program's wrapper that calls this one.
    fn call(&self, request: Request, next: Next<'_>) -> Response {
        next.call_watched(request, |call| self.watch(call))
    }

    fn has_guard(&self, _: Seal) -> bool {
        false
    }

    fn call_on_route(&self, _: Seal, handler: &dyn Handler, mut call: Call<'_>) -> Response {
        call.pass_watcher();
        self.watch(&mut call);
        handler.call_on_route(call)
    }
}

impl AccessLog {
    fn watch(&self, call: &mut Call<'_>) {
        if matches!(self.output.sink, Sink::Log) && !log::log_enabled!(target: TARGET, log::Level::Info) {
            return;
        }
        let started = call.started().unwrap_or_else(Instant::now);
        if let Some((request, route, entries)) = call.parts() {
            entries.add(|| Entry {
                output: Arc::clone(&self.output),
                access: Access::of(request, route, self.query, started),
            });
        }
    }
}

/// A request whose response has not ended.
pub(crate) struct Entry {
    access: Access,
    output: Arc<Output>,
}

impl Entry {
    /// Notes what the response says that the handler and all wrappers have made.
    fn note_response(&mut self, extensions: &Extensions) {
        self.access.take_id_of(extensions);
    }

    pub(crate) fn end(&mut self, end: &ResponseEnd) {
        let Entry { access, output } = self;
        access.end(end);
        match &output.sink {
            Sink::Log => write_to_log(access, output.format),
            Sink::File(file) => with_line(|line| {
                push_line(access, output.format, line);
                file.write_line(line);
            }),
            Sink::Program(sink) => sink(access),
        }
    }
}

/// The line's values are escaped already, and the key-values are too: a logger may print them to a terminal as they are.
fn write_to_log(access: &Access, format: AccessFormat) {
    if log::Level::Info <= log::STATIC_MAX_LEVEL && log::Level::Info <= log::max_level() {
        let fields = KeyValues { access, texts: OnceCell::new() };
        let line = access.display(format);
        write_as_is(log::Level::Info, TARGET, module_path!(), &fields, format_args!("{line}"));
    }
}

/// The key-values of an entry. Those that have to be looked up are, once, if the logger asks for key-values.
struct KeyValues<'a> {
    access: &'a Access,
    texts: OnceCell<Texts<'a>>,
}

struct Texts<'a> {
    time: Rfc3339,
    client: Client,
    via: Option<Escaped<String>>,
    /// Listener, target and pattern.
    known: [Option<Escaped<&'a str>>; 3],
    /// Host, referer and agent.
    fields: [Option<Escaped<Cow<'a, str>>>; 3],
}

impl<'a> Texts<'a> {
    fn of(access: &'a Access) -> Texts<'a> {
        let client = access.client();
        let [host, referer, agent] = access.known_fields().map(|value| value.map(text_of));
        let host = client.forwarded_host().map(|host| Cow::Owned(host.to_owned())).or(host);
        let hops: Vec<String> = client.via().iter().map(ToString::to_string).collect();
        Texts {
            time: access.display_time(),
            client,
            via: (!hops.is_empty()).then(|| Escaped(hops.join(","))),
            known: [access.listener(), Some(access.target()), access.pattern()].map(|text| text.map(Escaped)),
            fields: [host, referer, agent].map(|text| text.map(Escaped)),
        }
    }
}

impl Source for KeyValues<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), log::kv::Error> {
        let access = self.access;
        let Texts { time, client, via, known: [listener, target, pattern], fields: [host, referer, agent] } =
            self.texts.get_or_init(|| Texts::of(access));
        let or_null = |value: Option<Value<'kvs>>| value.unwrap_or(Value::null());
        let pairs = [
            ("generation", generation().into()),
            ("time", Value::from_display(time)),
            ("client", Value::from_display(client)),
            ("via", or_null(key_value(via))),
            ("listener", or_null(key_value(listener))),
            ("method", access.method().into()),
            ("scheme", client.scheme().into()),
            ("host", or_null(key_value(host))),
            ("target", or_null(key_value(target))),
            ("pattern", or_null(key_value(pattern))),
            ("status", access.status().as_u16().into()),
            ("bytes", access.bytes().into()),
            ("ms", access.millis().into()),
            ("end", access.display_end().into()),
            ("id", or_null(access.request_id().map(Value::from))),
            ("referer", or_null(key_value(referer))),
            ("agent", or_null(key_value(agent))),
        ];
        pairs.into_iter().try_for_each(|(key, value)| visitor.visit_pair(key.into(), value))
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog")
            .field("query", &self.query)
            .field("format", &self.output.format)
            .finish_non_exhaustive()
    }
}
