//! The format of a line, for `env_logger`: an object of JSON with the record's key-values in `fields`.

use std::io::{self, Write};

use env_logger::fmt::Formatter;
use log::Record;
use log::kv::{Error, Key, Value, VisitSource, VisitValue};
use serde_json::{Map, Value as Json};

pub(crate) fn write(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let mut fields = Fields(Map::new());
    record.key_values().visit(&mut fields).map_err(io::Error::other)?;
    let time = out.timestamp_millis();
    write!(out, r#"{{"timestamp":"{time}","level":"{}""#, record.level())?;
    write!(out, r#","target":{}"#, Json::from(record.target()))?;
    write!(out, r#","message":{}"#, Json::from(record.args().to_string()))?;
    writeln!(out, r#","fields":{}}}"#, Json::from(fields.0))
}

struct Fields(Map<String, Json>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let mut json = Field(Json::Null);
        value.visit(&mut json)?;
        self.0.insert(key.to_string(), json.0);
        Ok(())
    }
}

/// Numbers stay numbers, an unknown value is null, and all else is text.
struct Field(Json);

impl<'v> VisitValue<'v> for Field {
    fn visit_any(&mut self, value: Value) -> Result<(), Error> {
        self.0 = value.to_string().into();
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), Error> {
        self.0 = value.into();
        Ok(())
    }
}
