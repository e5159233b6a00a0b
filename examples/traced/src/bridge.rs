//! Records of the crate `log` as events of `tracing`, with their key-values as fields, which the crate `tracing-log` leaves
//! out.
//!
//! An event belongs to a callsite, which has its target, its level and the names of its fields, and lives as long as the
//! program. So there is one for each combination of these, made when it is logged first. A program has a few dozen.

use std::array;
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use log::kv::{Error, Key, Value, VisitSource, VisitValue};
use log::{Log, Record};
use tracing::callsite::{Callsite, Identifier};
use tracing::field::{self, Field, FieldSet};
use tracing::level_filters::LevelFilter;
use tracing::metadata::Kind;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, dispatcher};

/// As many fields as an event can have, the message included.
const MOST: usize = 32;

pub fn start() {
    let most = match LevelFilter::current().into_level() {
        None => log::LevelFilter::Off,
        Some(Level::ERROR) => log::LevelFilter::Error,
        Some(Level::WARN) => log::LevelFilter::Warn,
        Some(Level::INFO) => log::LevelFilter::Info,
        Some(Level::DEBUG) => log::LevelFilter::Debug,
        Some(Level::TRACE) => log::LevelFilter::Trace,
    };
    if log::set_boxed_logger(Box::<Bridge>::default()).is_ok() {
        log::set_max_level(most);
    }
}

#[derive(Default)]
struct Bridge {
    known: Mutex<HashMap<Shape, &'static Metadata<'static>>>,
}

/// What a callsite is for.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Shape {
    level: log::Level,
    target: String,
    names: Vec<String>,
}

impl Bridge {
    fn metadata(&self, shape: Shape) -> &'static Metadata<'static> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(shape).or_insert_with_key(new_callsite)
    }
}

impl Log for Bridge {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        // The subscriber decides, by the callsite.
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut fields = Fields::default();
        let _ = record.key_values().visit(&mut fields);
        let Fields { names, values } = fields;
        let metadata =
            self.metadata(Shape { level: record.level(), target: record.target().to_owned(), names });
        dispatcher::get_default(|dispatch| {
            if dispatch.enabled(metadata) {
                let message = Some(record.args() as &dyn field::Value);
                let values = values.iter().map(|value| value.as_deref());
                let values: Vec<Option<&dyn field::Value>> = [message].into_iter().chain(values).collect();
                let fields: Vec<Field> = metadata.fields().iter().collect();
                let both = |n: usize| match (fields.get(n), values.get(n)) {
                    (Some(field), Some(value)) => (field, *value),
                    _ => (&fields[0], None),
                };
                let all: [_; MOST] = array::from_fn(both);
                dispatch.event(&Event::new(metadata, &metadata.fields().value_set(&all)));
            }
        });
    }

    fn flush(&self) {}
}

struct Site(OnceLock<Metadata<'static>>);

impl Callsite for Site {
    fn set_interest(&self, _: Interest) {}

    fn metadata(&self) -> &Metadata<'_> {
        self.0.get().expect("it is set before anybody knows the callsite")
    }
}

fn new_callsite(shape: &Shape) -> &'static Metadata<'static> {
    fn lasting(text: &str) -> &'static str {
        Box::leak(text.into())
    }
    let level = match shape.level {
        log::Level::Error => Level::ERROR,
        log::Level::Warn => Level::WARN,
        log::Level::Info => Level::INFO,
        log::Level::Debug => Level::DEBUG,
        log::Level::Trace => Level::TRACE,
    };
    let site: &'static Site = Box::leak(Box::new(Site(OnceLock::new())));
    let names = ["message"].into_iter().chain(shape.names.iter().map(|name| lasting(name)));
    let names: &'static [&'static str] = Box::leak(names.collect());
    let (fields, target) = (FieldSet::new(names, Identifier(site)), lasting(&shape.target));
    site.0.get_or_init(|| Metadata::new("log record", target, level, None, None, None, fields, Kind::EVENT))
}

#[derive(Default)]
struct Fields {
    names: Vec<String>,
    values: Vec<Option<Box<dyn field::Value>>>,
}

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        if self.names.len() + 1 < MOST && key.as_str() != "message" {
            value.visit(&mut *self)?;
            self.names.push(key.to_string());
        }
        Ok(())
    }
}

impl Fields {
    fn push(&mut self, value: impl field::Value + 'static) -> Result<(), Error> {
        self.values.push(Some(Box::new(value)));
        Ok(())
    }
}

/// Numbers stay numbers, an unknown value is left out, and all else is text.
impl<'v> VisitValue<'v> for Fields {
    fn visit_any(&mut self, value: Value) -> Result<(), Error> {
        self.push(value.to_string())
    }

    fn visit_null(&mut self) -> Result<(), Error> {
        self.values.push(None);
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), Error> {
        self.push(value)
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), Error> {
        self.push(value)
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), Error> {
        self.push(value)
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), Error> {
        self.push(value)
    }
}
