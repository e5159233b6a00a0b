//! The formats of the access log's lines. In each of them a line can be taken apart whatever a client has sent.

use std::fmt;

use http::Version;

use super::access::Access;
use crate::base::line::{
    push_address, push_digits, push_display, push_ip, push_json, push_number, push_quoted, push_value,
    push_within_quotes, with_line,
};
use crate::base::time::CommonLogTime;
use crate::web::client::{Client, Hop};

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
        with_line(|line| {
            push_line(self.access, self.format, line);
            f.write_str(std::str::from_utf8(line).map_err(|_| fmt::Error)?)
        })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.display(AccessFormat::Fields).fmt(f)
    }
}

/// Appends the line in this format, without its end.
pub(super) fn push_line(access: &Access, format: AccessFormat, line: &mut Vec<u8>) {
    match format {
        AccessFormat::Fields => push_fields(access, line),
        AccessFormat::Common => push_common(access, line),
        AccessFormat::Combined => {
            push_common(access, line);
            for text in access.combined_fields() {
                push(line, " ");
                push_quoted(line, text.as_deref().unwrap_or(b"-"));
            }
        }
        AccessFormat::Json => push_object(access, line),
    }
}

fn push(line: &mut Vec<u8>, text: &str) {
    line.extend_from_slice(text.as_bytes());
}

/// An unknown value is a dash.
fn push_known(line: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    push(line, name);
    match value {
        Some(text) => push_value(line, text),
        None => push(line, "-"),
    }
}

fn push_client(line: &mut Vec<u8>, client: &Client) {
    match (client.addr(), client.ip()) {
        (Some(address), _) => push_address(line, address),
        (None, Some(ip)) => push_ip(line, ip),
        (None, None) => push(line, "-"),
    }
}

fn push_hop(line: &mut Vec<u8>, hop: &Hop) {
    match hop {
        Hop::Ip(ip) => push_ip(line, *ip),
        Hop::Unix => push(line, "unix"),
    }
}

fn push_millis(line: &mut Vec<u8>, access: &Access) {
    let (millis, micros) = access.display_millis();
    push_number(line, millis);
    push(line, ".");
    push_digits::<3>(line, micros);
}

fn push_fields(access: &Access, line: &mut Vec<u8>) {
    let [host, referer, agent] = access.known_fields();
    let client = access.client();
    let host = client.forwarded_host().map(str::as_bytes).or(host.as_deref());
    let asked = access.line();
    push(line, "time=");
    line.extend_from_slice(&access.display_time().text());
    push(line, " client=");
    push_client(line, &client);
    push(line, " via=");
    for (n, hop) in client.via().iter().enumerate() {
        push(line, if n > 0 { "," } else { "" });
        push_hop(line, hop);
    }
    push(line, if client.via().is_empty() { "-" } else { "" });
    push_known(line, " listener=", access.listener().map(str::as_bytes));
    push(line, " method=");
    line.extend_from_slice(asked.method);
    push(line, " scheme=");
    push(line, client.scheme());
    push_known(line, " host=", host);
    push_known(line, " target=", Some(asked.target));
    push_known(line, " pattern=", access.pattern_on(asked));
    push(line, " status=");
    push(line, access.status().as_str());
    push(line, " bytes=");
    push_number(line, access.bytes());
    push(line, " ms=");
    push_millis(line, access);
    push(line, " end=");
    push(line, access.display_end());
    push_known(line, " id=", access.request_id().map(str::as_bytes));
    push_known(line, " referer=", referer.as_deref());
    push_known(line, " agent=", agent.as_deref());
}

/// The user's name is never known here.
fn push_common(access: &Access, line: &mut Vec<u8>) {
    match access.client().ip() {
        Some(ip) => push_ip(line, ip),
        None => push(line, "-"),
    }
    push(line, " - - [");
    line.extend_from_slice(&CommonLogTime(access.time()).text());
    push(line, "] ");
    // A method is a token, which needs no escapes.
    let asked = access.line();
    push(line, "\"");
    line.extend_from_slice(asked.method);
    push(line, " ");
    push_within_quotes(line, asked.target);
    match asked.version {
        Version::HTTP_11 => push(line, " HTTP/1.1\" "),
        other => push_display(line, format_args!(" {other:?}\" ")),
    }
    push(line, access.status().as_str());
    push(line, " ");
    push_number(line, access.bytes());
}

fn push_object(access: &Access, line: &mut Vec<u8>) {
    let [host, referer, agent] = access.known_fields();
    let client = access.client();
    let host = client.forwarded_host().map(str::as_bytes).or(host.as_deref());
    let asked = access.line();
    push(line, "{\"time\":\"");
    line.extend_from_slice(&access.display_time().text());
    push(line, "\",\"client\":");
    if client.ip().is_some() {
        push(line, "\"");
        push_client(line, &client);
        push(line, "\"");
    } else {
        push(line, "null");
    }
    push(line, ",\"via\":[");
    for (n, hop) in client.via().iter().enumerate() {
        push(line, if n > 0 { ",\"" } else { "\"" });
        push_hop(line, hop);
        push(line, "\"");
    }
    push(line, "],\"listener\":");
    push_json(line, access.listener().map(str::as_bytes));
    push(line, ",\"method\":");
    push_json(line, Some(asked.method));
    push(line, ",\"scheme\":\"");
    push(line, client.scheme());
    push(line, "\",\"host\":");
    push_json(line, host);
    push(line, ",\"target\":");
    push_json(line, Some(asked.target));
    push(line, ",\"pattern\":");
    push_json(line, access.pattern_on(asked));
    push(line, ",\"status\":");
    push(line, access.status().as_str());
    push(line, ",\"bytes\":");
    push_number(line, access.bytes());
    push(line, ",\"ms\":");
    push_millis(line, access);
    push(line, ",\"end\":\"");
    push(line, access.display_end());
    push(line, "\",\"id\":");
    push_json(line, access.request_id().map(str::as_bytes));
    push(line, ",\"referer\":");
    push_json(line, referer.as_deref());
    push(line, ",\"agent\":");
    push_json(line, agent.as_deref());
    push(line, "}");
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, UNIX_EPOCH};

    use http::StatusCode;

    use super::*;
    use crate::base::time::note_both_clocks;
    use crate::web::response::ResponseEnd;
    use crate::web::wrap::testing::request;

    fn access(
        started: Instant,
        line: &str,
        fields: &[(&str, &str)],
        status: StatusCode,
        complete: bool,
    ) -> Access {
        let mut access = Access::of(&request(line, fields), None, true, started);
        access.end(&ResponseEnd { status, bytes: 7, complete, at: started + Duration::from_micros(1_234) });
        access
    }

    #[test]
    fn a_line_can_be_taken_apart_whatever_it_has() {
        let started = Instant::now();
        note_both_clocks((started, UNIX_EPOCH + Duration::from_millis(1_795_944_666_123)));
        let plain = access(
            started,
            "GET /users/7?a=b",
            &[("host", "h:80"), ("user-agent", "curl/8 (x)")],
            StatusCode::OK,
            true,
        );
        let hostile = "\" status=200 x\u{202e}\\";
        let odd = access(
            started,
            "GET /",
            &[("referer", hostile), ("user-agent", "-")],
            StatusCode::NOT_FOUND,
            false,
        );
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
            let line =
                Access::of(&asked, None, false, Instant::now()).display(AccessFormat::Json).to_string();
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(read["agent"].as_str(), Some(&*String::from_utf8_lossy(&sent)));
            assert!(!line.chars().any(char::is_control), "{line}");
            Ok(())
        });
    }
}
