//! The formats of the access log's lines. In each of them a line can be taken apart whatever a client has sent.

use std::fmt;

use super::access::Access;
use crate::base::log::{JsonText, Quoted, Value};
use crate::base::time::CommonLogTime;

/// The format of the access log's lines. Each line has its time, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessFormat {
    /// `NAME=VALUE`, for people and for `grep`. All fields are always there, in this order. An unknown value is `-`; one with
    /// spaces, quotes or control characters is quoted, with escapes as in Rust.
    Fields,
    /// The Common Log Format of NCSA and Apache.
    Common,
    /// The Common Log Format, and `Referer` and `User-Agent`, as of Apache and nginx.
    Combined,
    /// An object of JSON, with the names of `Fields`. An unknown value is null; `via` is a list.
    Json,
}

impl Access {
    /// The line in this format.
    pub fn display(&self, format: AccessFormat) -> impl fmt::Display + '_ {
        AccessLine { access: self, format }
    }
}

struct AccessLine<'a> {
    access: &'a Access,
    format: AccessFormat,
}

impl fmt::Display for AccessLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.format {
            AccessFormat::Fields => self.access.fmt(f),
            AccessFormat::Common => write_common(self.access, f),
            AccessFormat::Combined => {
                write_common(self.access, f)?;
                let (referer, agent) = (self.access.referer(), self.access.user_agent());
                let quoted = |text: Option<&str>| Quoted(text.unwrap_or("-")).to_string();
                write!(f, " {} {}", quoted(referer.as_deref()), quoted(agent.as_deref()))
            }
            AccessFormat::Json => write_json(self.access, f),
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [host, referer, agent] = self.known_fields();
        let (millis, micros) = self.display_millis();
        write!(f, "time={} client={}", self.display_time(), self.client())?;
        write!(f, " via={}", Known(self.via().as_deref()))?;
        write!(f, " listener={} method={}", Known(self.listener()), self.method())?;
        write!(f, " scheme={} host={}", self.client().scheme(), Known(host.as_deref()))?;
        write!(f, " target={} pattern={}", Value(self.target()), Known(self.pattern()))?;
        write!(f, " status={} bytes={}", self.status().as_u16(), self.bytes())?;
        write!(f, " ms={millis}.{micros:03} end={}", self.display_end())?;
        write!(f, " id={}", Known(self.request_id()))?;
        write!(f, " referer={} agent={}", Known(referer.as_deref()), Known(agent.as_deref()))
    }
}

/// An unknown value is a dash.
struct Known<'a>(Option<&'a str>);

impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(text) => Value(text).fmt(f),
            None => f.write_str("-"),
        }
    }
}

/// The user's name is never known here.
fn write_common(access: &Access, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match access.client().ip() {
        Some(ip) => write!(f, "{ip}")?,
        None => f.write_str("-")?,
    }
    let request = format!("{} {} {:?}", access.method(), access.target(), access.version());
    let (time, status) = (CommonLogTime(access.time()), access.status().as_u16());
    write!(f, " - - [{time}] {} {status} {}", Quoted(&request), access.bytes())
}

fn write_json(access: &Access, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let [host, referer, agent] = access.known_fields();
    let (millis, micros) = access.display_millis();
    let client = access.client().ip().map(|_| access.client().to_string());
    write!(f, "{{\"time\":\"{}\"", access.display_time())?;
    write!(f, ",\"client\":{},\"via\":[", JsonText(client.as_deref()))?;
    for (n, hop) in access.client().via().iter().enumerate() {
        write!(f, "{}\"{hop}\"", if n > 0 { "," } else { "" })?;
    }
    write!(f, "],\"listener\":{}", JsonText(access.listener()))?;
    write!(f, ",\"method\":{}", JsonText(Some(access.method().as_str())))?;
    write!(f, ",\"scheme\":\"{}\",\"host\":{}", access.client().scheme(), JsonText(host.as_deref()))?;
    write!(f, ",\"target\":{}", JsonText(Some(access.target())))?;
    write!(f, ",\"pattern\":{}", JsonText(access.pattern()))?;
    write!(f, ",\"status\":{},\"bytes\":{}", access.status().as_u16(), access.bytes())?;
    write!(f, ",\"ms\":{millis}.{micros:03},\"end\":\"{}\"", access.display_end())?;
    write!(f, ",\"id\":{}", JsonText(access.request_id()))?;
    write!(f, ",\"referer\":{},\"agent\":{}}}", JsonText(referer.as_deref()), JsonText(agent.as_deref()))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::StatusCode;

    use super::*;
    use crate::web::response::ResponseEnd;
    use crate::web::wrap::testing::request;

    fn access(line: &str, fields: &[(&str, &str)], status: StatusCode, complete: bool) -> Access {
        let mut access = Access::of(&request(line, fields), true);
        let duration = Duration::from_micros(1_234);
        access.end(&ResponseEnd { status, bytes: 7, complete }, duration);
        access.set_time(UNIX_EPOCH + Duration::from_millis(1_795_944_666_123));
        access
    }

    #[test]
    fn a_line_can_be_taken_apart_whatever_it_has() {
        let plain = access(
            "GET /users/7?a=b",
            &[("host", "h:80"), ("user-agent", "curl/8 (x)")],
            StatusCode::OK,
            true,
        );
        let hostile = "\" status=200 x\u{202e}\\";
        let odd = access("GET /", &[("referer", hostile), ("user-agent", "-")], StatusCode::NOT_FOUND, false);
        let table = [
            (
                &plain,
                AccessFormat::Fields,
                "time=2026-11-29T09:31:06.123Z client=- via=- listener=- method=GET scheme=http host=h:80 \
                 target=\"/users/7?a=b\" pattern=- status=200 bytes=7 ms=1.234 end=complete id=- referer=- \
                 agent=\"curl/8 (x)\"",
            ),
            (
                &plain,
                AccessFormat::Common,
                "- - - [29/Nov/2026:09:31:06 +0000] \"GET /users/7?a=b HTTP/1.1\" 200 7",
            ),
            (
                &plain,
                AccessFormat::Combined,
                "- - - [29/Nov/2026:09:31:06 +0000] \"GET /users/7?a=b HTTP/1.1\" 200 7 \"-\" \"curl/8 (x)\"",
            ),
            (
                &plain,
                AccessFormat::Json,
                "{\"time\":\"2026-11-29T09:31:06.123Z\",\"client\":null,\"via\":[],\"listener\":null,\"method\":\"GET\",\
                 \"scheme\":\"http\",\"host\":\"h:80\",\"target\":\"/users/7?a=b\",\"pattern\":null,\"status\":200,\
                 \"bytes\":7,\"ms\":1.234,\"end\":\"complete\",\"id\":null,\"referer\":null,\"agent\":\"curl/8 (x)\"}",
            ),
            (
                &odd,
                AccessFormat::Fields,
                "time=2026-11-29T09:31:06.123Z client=- via=- listener=- method=GET scheme=http host=- target=/ \
                 pattern=- status=404 bytes=7 ms=1.234 end=cut id=- \
                 referer=\"\\\" status=200 x\\u{202e}\\\\\" agent=\"-\"",
            ),
            (
                &odd,
                AccessFormat::Combined,
                "- - - [29/Nov/2026:09:31:06 +0000] \"GET / HTTP/1.1\" 404 7 \"\\\" status=200 x\\u{202e}\\\\\" \"-\"",
            ),
            (
                &odd,
                AccessFormat::Json,
                "{\"time\":\"2026-11-29T09:31:06.123Z\",\"client\":null,\"via\":[],\"listener\":null,\"method\":\"GET\",\
                 \"scheme\":\"http\",\"host\":null,\"target\":\"/\",\"pattern\":null,\"status\":404,\
                 \"bytes\":7,\"ms\":1.234,\"end\":\"cut\",\"id\":null,\
                 \"referer\":\"\\\" status=200 x\\u202e\\\\\",\"agent\":\"-\"}",
            ),
        ];
        for (access, format, line) in table {
            assert_eq!(access.display(format).to_string(), line);
        }
    }

    #[cfg(feature = "json")]
    #[test]
    fn json_is_json_whatever_a_client_sends() {
        use crate::base::property::{BYTES, CASES, bytes, check};

        check(CASES, BYTES, |u| {
            let sent = bytes(u, 0..=40)?;
            let Ok(value) = http::HeaderValue::from_bytes(&sent) else { return Ok(()) };
            let mut asked = request("GET /", &[]);
            asked.headers_mut().insert("user-agent", value);
            let line = Access::of(&asked, false).display(AccessFormat::Json).to_string();
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(read["agent"].as_str(), Some(&*String::from_utf8_lossy(&sent)));
            assert!(!line.chars().any(char::is_control), "{line}");
            Ok(())
        });
    }
}
