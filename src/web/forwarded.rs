//! What trusted proxies say about a request in `Forwarded` or `X-Forwarded-*`.
//!
//! **The rightmost address that is not trusted is the client.** A proxy appends the address of its own client. So from the
//! right, the address is read that a trusted proxy has written, as long as the writer is trusted; what stands to the left
//! of the first one that is not trusted is that one's own text, and is never read. Where the next address is malformed or
//! hidden ("unknown"), the client is not known: to take the proxy for the client would give a stranger the rights of an
//! address within the network.
//!
//! Each line of a field is parsed by itself, so that a quote that a client opens does not swallow what a proxy has
//! appended as a line; within one line such a quote makes the line malformed, and so the client unknown.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::uri::Authority;
use http::{HeaderName, header};

use super::client::{Address, Client, Hop};
use super::fields::{FieldSource, ascii};
use crate::net::proxies::{ForwardedFields, Proxies};

static X_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What one proxy says about its client.
struct Statement<T> {
    /// None if it does not say it.
    address: Option<Address>,
    proto: Option<T>,
    host: Option<T>,
}

impl<T> Default for Statement<T> {
    fn default() -> Statement<T> {
        Statement { address: None, proto: None, host: None }
    }
}

/// Changes `client`, which is the connection's peer, to the one that trusted proxies name. Nothing changes if the peer is
/// none of them.
pub(super) fn apply(client: &mut Client, proxies: &Proxies, fields: FieldSource<'_>) {
    if !proxies.trust(client.address.ip) {
        return;
    }
    match proxies.fields() {
        ForwardedFields::None => {}
        ForwardedFields::Standard => client.follow(proxies, standard(fields).into_iter().rev()),
        ForwardedFields::X => {
            let mut statements = XForwarded::default();
            statements.read(fields);
            client.follow(proxies, &mut statements);
        }
    }
}

impl Client {
    /// Goes from one trusted proxy, which `self` is now, to the one before it. `statements` begins with that of the nearest. The
    /// last one that is read says the rest: the first without an address, or that of a client.
    fn follow<T: AsRef<[u8]>>(&mut self, proxies: &Proxies, statements: impl Iterator<Item = Statement<T>>) {
        let (mut last_proto, mut last_host) = (None, None);
        // The nearest first, until all are there.
        self.via.reverse();
        for Statement { address, proto, host } in statements {
            (last_proto, last_host) = (proto, host);
            let Some(address) = address else { break };
            self.via.push(Hop::of(self.address.ip));
            self.address = address;
            if address.ip.is_none() || !proxies.trust(address.ip) {
                break;
            }
        }
        self.via.reverse();
        if let Some(is_https) = last_proto.and_then(|proto| is_https(proto.as_ref())) {
            self.is_https = is_https;
        }
        self.forwarded_host = last_host.and_then(|host| Some(host_of(host.as_ref())?.into()));
    }
}

/// The statements of `X-Forwarded-*`, the last one first. The fields are parallel lists; where one of the others is
/// shorter, a proxy has replaced it instead of appending to it, and the leftmost value is the best there is.
#[derive(Default)]
struct XForwarded<'h> {
    addresses: Lines<'h>,
    protos: Lines<'h>,
    hosts: Lines<'h>,
    /// The last ones that were read.
    proto: Option<&'h [u8]>,
    host: Option<&'h [u8]>,
}

impl<'h> XForwarded<'h> {
    fn read(&mut self, fields: FieldSource<'h>) {
        fields.for_each([&X_FOR, &X_PROTO, &X_HOST], |n, line| match n {
            0 => self.addresses.push(line),
            1 => self.protos.push(line),
            _ => self.hosts.push(line),
        });
    }
}

/// After those with an address come some without: a proxy may say the scheme and not the client.
impl<'h> Iterator for XForwarded<'h> {
    type Item = Statement<&'h [u8]>;

    #[inline]
    fn next(&mut self) -> Option<Statement<&'h [u8]>> {
        let address = self.addresses.next_address();
        self.proto = self.protos.next().or(self.proto);
        self.host = self.hosts.next().or(self.host);
        Some(Statement { address, proto: self.proto, host: self.host })
    }
}

/// The lines of a field, which is a list. A proxy that appends to the list mostly leaves one line.
#[derive(Default)]
struct Lines<'h> {
    last: Option<&'h [u8]>,
    /// Those before, in their order.
    before: Vec<&'h [u8]>,
}

impl<'h> Lines<'h> {
    fn push(&mut self, line: &'h [u8]) {
        if let Some(before) = self.last.replace(line) {
            self.before.push(before);
        }
    }

    /// The last element as an address, which is hidden if it is malformed. Mostly a line is one address.
    fn next_address(&mut self) -> Option<Address> {
        match self.last.and_then(ipv4) {
            Some(ip) => {
                self.last = self.before.pop();
                Some(Address::new(ip.into(), None))
            }
            None => self.next().map(|element| node(element).unwrap_or_default()),
        }
    }
}

/// The elements of the list, the last one first.
impl<'h> Iterator for Lines<'h> {
    type Item = &'h [u8];

    fn next(&mut self) -> Option<&'h [u8]> {
        let line = self.last?;
        let (before, element) = match line.iter().rposition(|b| *b == b',') {
            Some(at) => (line.get(..at), line.get(at..).and_then(|rest| rest.get(1..)).unwrap_or_default()),
            None => (None, line),
        };
        self.last = before.or_else(|| self.before.pop());
        Some(element.trim_ascii())
    }
}

/// The statements of `Forwarded`, in their order. A malformed line is one that hides the client.
fn standard(fields: FieldSource<'_>) -> Vec<Statement<Text<'_>>> {
    let hidden = || vec![Statement { address: Some(Address::default()), ..Statement::default() }];
    let mut all = Vec::new();
    fields.for_each([&header::FORWARDED], |_, line| {
        all.append(&mut ascii(line).and_then(elements).unwrap_or_else(hidden));
    });
    all
}

/// RFC 7239 §4. None if it is malformed.
fn elements(line: &str) -> Option<Vec<Statement<Text<'_>>>> {
    let mut rest = line.trim_matches([' ', '\t']);
    let mut elements = vec![Statement::default()];
    // Empty elements of a list are allowed, as are empty pairs.
    while let Some(next) = rest.chars().next() {
        rest = match next {
            ',' => {
                elements.push(Statement::default());
                rest.get(1..)?
            }
            ';' => rest.get(1..)?,
            _ => {
                let (name, value, after) = pair(rest)?;
                elements.last_mut()?.add(name, value)?;
                let after = after.trim_start_matches([' ', '\t']);
                if !(after.is_empty() || after.starts_with([',', ';'])) {
                    return None;
                }
                after
            }
        };
        rest = rest.trim_start_matches([' ', '\t']);
    }
    elements.retain(|one| one.address.is_some() || one.proto.is_some() || one.host.is_some());
    Some(elements)
}

/// A value, without the escapes of a quoted one.
type Text<'a> = Cow<'a, [u8]>;

impl<'a> Statement<Text<'a>> {
    /// None if the element has this parameter already.
    fn add(&mut self, name: &str, value: Text<'a>) -> Option<()> {
        let repeated = if name.eq_ignore_ascii_case("for") {
            self.address.replace(node(&value).unwrap_or_default()).is_some()
        } else if name.eq_ignore_ascii_case("proto") {
            self.proto.replace(value).is_some()
        } else if name.eq_ignore_ascii_case("host") {
            self.host.replace(value).is_some()
        } else {
            false
        };
        (!repeated).then_some(())
    }
}

/// `token=token` or `token="quoted"`, and what follows.
fn pair(text: &str) -> Option<(&str, Text<'_>, &str)> {
    let (name, rest) = text.split_once('=')?;
    let is_token = |text: &str| !text.is_empty() && text.bytes().all(is_token_byte);
    if !is_token(name) {
        return None;
    }
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.bytes().position(|b| !is_token_byte(b)).unwrap_or(rest.len());
        let (value, after) = rest.split_at_checked(end)?;
        return (!value.is_empty()).then_some((name, Cow::Borrowed(value.as_bytes()), after));
    };
    let mut value = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => return Some((name, Cow::Owned(value.into_bytes()), chars.as_str())),
            '\\' => value.push(chars.next()?),
            c => value.push(c),
        }
    }
}

/// RFC 9110 §5.6.2.
fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// An address, with a port or without. IPv6 has brackets if there is a port, and may have them otherwise. None for what is
/// hidden or malformed.
fn node(text: &[u8]) -> Option<Address> {
    if let Some(ip) = ipv4(text) {
        return Some(Address::new(ip.into(), None));
    }
    let text = ascii(text)?;
    if let Ok(ip) = text.parse() {
        return Some(Address::new(ip, None));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(Address::new(address.ip(), Some(address.port())));
    }
    if let Some(ip) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return Some(Address::new(IpAddr::V6(ip.parse().ok()?), None));
    }
    // The port may be hidden: `192.0.2.1:_gazonk`.
    let (ip, port) = text.rsplit_once(':')?;
    port.starts_with('_').then_some(())?;
    let ip = match ip.strip_prefix('[') {
        Some(ip) => IpAddr::V6(ip.strip_suffix(']')?.parse().ok()?),
        None => IpAddr::V4(ip.parse().ok()?),
    };
    Some(Address::new(ip, None))
}

/// As the parser of the standard library, in half of its instructions, the check that it is text included.
fn ipv4(text: &[u8]) -> Option<Ipv4Addr> {
    let (mut bits, mut part, mut digits, mut parts) = (0u32, 0u32, 0u8, 1u8);
    for b in text {
        match b {
            b'0'..=b'9' if digits == 0 || (part > 0 && digits < 3) => {
                part = part.wrapping_mul(10).wrapping_add(u32::from(b & 0xf));
                digits = digits.wrapping_add(1);
            }
            b'.' if digits > 0 && part <= 255 && parts < 4 => {
                bits = bits << 8 | part;
                (part, digits, parts) = (0, 0, parts.wrapping_add(1));
            }
            _ => return None,
        }
    }
    (digits > 0 && part <= 255 && parts == 4).then(|| Ipv4Addr::from(bits << 8 | part))
}

impl Address {
    fn new(ip: IpAddr, port: Option<u16>) -> Address {
        Address { ip: Some(ip.to_canonical()), port }
    }
}

/// Some proxies say the scheme of a WebSocket.
fn is_https(proto: &[u8]) -> Option<bool> {
    let is = |name: &str| proto.eq_ignore_ascii_case(name.as_bytes());
    if is("https") || is("wss") {
        return Some(true);
    }
    (is("http") || is("ws")).then_some(false)
}

/// None if it is no host.
fn host_of(text: &[u8]) -> Option<&str> {
    let host = ascii(text)?;
    host.parse::<Authority>().is_ok_and(|authority| !authority.as_str().contains('@')).then_some(host)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::super::client::Via;
    use super::*;
    use crate::base::property::{BYTES, CASES, check, list, text};

    /// Whom a request is from, at the peer 10.0.0.1: `address via https host`.
    fn client(proxies: &Proxies, fields: &[(&str, &str)]) -> String {
        let (mut headers, mut head) = (HeaderMap::new(), b"GET / HTTP/1.1\r\n".to_vec());
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            head.extend_from_slice(format!("{}: {value}\r\n", name.as_str().to_uppercase()).as_bytes());
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        head.extend_from_slice(b"\r\n");
        let address = Address { ip: "10.0.0.1".parse().ok(), port: Some(9) };
        let said = |fields| {
            let mut client = Client { address, via: Via::None, is_https: false, forwarded_host: None };
            apply(&mut client, proxies, fields);
            client
        };
        let client = said(FieldSource::Map(&headers));
        assert_eq!(client, said(FieldSource::Head(&head)));
        let via: Vec<String> = client.via().iter().map(Hop::to_string).collect();
        let host = client.forwarded_host.as_deref().unwrap_or("-");
        format!("{client} {} {} {host}", via.join(","), client.scheme())
    }

    #[test]
    fn x_forwarded_fields() {
        let proxies = Proxies::new(["10.0.0.0/8", "fd00::1"]).x_forwarded();
        let (of, proto, host) = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host");
        let table: &[(&[(&str, &str)], &str)] = &[
            (&[], "10.0.0.1:9  http -"),
            (&[(of, "203.0.113.7")], "203.0.113.7 10.0.0.1 http -"),
            (&[(of, "203.0.113.7:4711")], "203.0.113.7:4711 10.0.0.1 http -"),
            (&[(of, "2001:db8::1")], "2001:db8::1 10.0.0.1 http -"),
            (&[(of, "[2001:db8::1]")], "2001:db8::1 10.0.0.1 http -"),
            (&[(of, "[2001:db8::1]:80")], "[2001:db8::1]:80 10.0.0.1 http -"),
            (&[(of, "::ffff:203.0.113.7")], "203.0.113.7 10.0.0.1 http -"),
            // What a client has sent itself stands to the left.
            (&[(of, "127.0.0.1, 203.0.113.7")], "203.0.113.7 10.0.0.1 http -"),
            (&[(of, "10.9.9.9, 203.0.113.7")], "203.0.113.7 10.0.0.1 http -"),
            (&[(of, "10.9.9.9,\"unknown, 203.0.113.7")], "203.0.113.7 10.0.0.1 http -"),
            (&[(of, "10.9.9.9"), (of, "203.0.113.7")], "203.0.113.7 10.0.0.1 http -"),
            (&[(of, "203.0.113.7, 10.0.0.2")], "203.0.113.7 10.0.0.2,10.0.0.1 http -"),
            (&[(of, "203.0.113.7, 10.0.0.3,10.0.0.2")], "203.0.113.7 10.0.0.3,10.0.0.2,10.0.0.1 http -"),
            (&[(of, "6.6.6.6, 203.0.113.7, fd00::1")], "203.0.113.7 fd00::1,10.0.0.1 http -"),
            // All of them are proxies: the first is the client.
            (&[(of, "10.0.0.3, 10.0.0.2")], "10.0.0.3 10.0.0.2,10.0.0.1 http -"),
            // Not known, and never a proxy's address instead.
            (&[(of, "unknown")], "- 10.0.0.1 http -"),
            (&[(of, "")], "- 10.0.0.1 http -"),
            (&[(of, "203.0.113.7,")], "- 10.0.0.1 http -"),
            (&[(of, "203.0.113.7, \u{e9}")], "- 10.0.0.1 http -"),
            (&[(of, "203.0.113.7, unknown, 10.0.0.2")], "- 10.0.0.2,10.0.0.1 http -"),
            (&[(of, "203.0.113.7 , 1.2.3")], "- 10.0.0.1 http -"),
            // Another proxy's field is the client's text.
            (&[("forwarded", "for=1.2.3.4;proto=https")], "10.0.0.1:9  http -"),
            (&[(of, "203.0.113.7"), ("forwarded", "for=1.2.3.4")], "203.0.113.7 10.0.0.1 http -"),
            (
                &[(of, "203.0.113.7"), (proto, "https"), (host, "a.example")],
                "203.0.113.7 10.0.0.1 https a.example",
            ),
            (&[(proto, "https")], "10.0.0.1:9  https -"),
            (&[(of, "203.0.113.7"), (proto, "HTTPS"), (host, "a:8443")], "203.0.113.7 10.0.0.1 https a:8443"),
            (&[(of, "203.0.113.7"), (proto, "wss")], "203.0.113.7 10.0.0.1 https -"),
            (&[(of, "203.0.113.7"), (proto, "gopher"), (host, "a b")], "203.0.113.7 10.0.0.1 http -"),
            (&[(of, "203.0.113.7"), (host, "user@a")], "203.0.113.7 10.0.0.1 http -"),
            (&[(of, "6.6.6.6, 203.0.113.7"), (proto, "https, http")], "203.0.113.7 10.0.0.1 http -"),
            (
                &[(of, "203.0.113.7, 10.0.0.2"), (proto, "https, http")],
                "203.0.113.7 10.0.0.2,10.0.0.1 https -",
            ),
            (&[(of, "10.0.0.2"), (proto, "https, http")], "10.0.0.2 10.0.0.1 https -"),
            (&[(of, "203.0.113.7, 10.0.0.2"), (proto, "https")], "203.0.113.7 10.0.0.2,10.0.0.1 https -"),
        ];
        let names: Vec<String> = (0..40).map(|n| format!("x-{n}")).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "6.6.6.6")).collect();
        for (fields, expected) in table {
            assert_eq!(client(&proxies, fields), *expected, "{fields:?}");
            assert_eq!(client(&proxies, &[&*many, *fields].concat()), *expected, "{fields:?} among many");
        }
    }

    #[test]
    fn the_field_of_rfc_7239() {
        let proxies = Proxies::new(["10.0.0.0/8"]).forwarded();
        let table = [
            ("for=203.0.113.7", "203.0.113.7 10.0.0.1 http -"),
            (
                "For=203.0.113.7; Proto=https;by=10.0.0.1;host=a.example",
                "203.0.113.7 10.0.0.1 https a.example",
            ),
            ("for=\"[2001:db8::17]:4711\"", "[2001:db8::17]:4711 10.0.0.1 http -"),
            ("for=\"203.0.113.7:80\";host=\"a:8443\"", "203.0.113.7:80 10.0.0.1 http a:8443"),
            ("for=\"203.0.113.7:_p\"", "203.0.113.7 10.0.0.1 http -"),
            ("for=\"[2001:db8::17]:_p\"", "2001:db8::17 10.0.0.1 http -"),
            ("for=203.0.113.\\7", "- 10.0.0.1 http -"),
            ("for=\"203.0.113.\\7\"", "203.0.113.7 10.0.0.1 http -"),
            ("for=127.0.0.1, for=203.0.113.7;proto=https", "203.0.113.7 10.0.0.1 https -"),
            ("for=203.0.113.7;proto=https, for=10.0.0.2;proto=http", "203.0.113.7 10.0.0.2,10.0.0.1 https -"),
            (",, for=203.0.113.7 ;;proto=https,", "203.0.113.7 10.0.0.1 https -"),
            ("for=203.0.113.7;secret=\"a,b;for=1.2.3.4\"", "203.0.113.7 10.0.0.1 http -"),
            ("for=unknown", "- 10.0.0.1 http -"),
            ("for=_hidden", "- 10.0.0.1 http -"),
            // Without the client: the scheme is believed, and the client is the proxy's own.
            ("proto=https", "10.0.0.1:9  https -"),
            // Malformed: an opened quote swallows what a proxy has appended.
            ("for=\"1.2.3.4, for=203.0.113.7", "- 10.0.0.1 http -"),
            ("for=1.2.3.4;x=\", for=\"[2001:db8::1]\";proto=https", "- 10.0.0.1 http -"),
            ("for=1.2.3.4;for=203.0.113.7", "- 10.0.0.1 http -"),
            ("for 203.0.113.7", "- 10.0.0.1 http -"),
            ("for=", "- 10.0.0.1 http -"),
            ("=203.0.113.7", "- 10.0.0.1 http -"),
            ("for=203.0.113.7 for=1.2.3.4", "- 10.0.0.1 http -"),
            ("for=\u{e9}", "- 10.0.0.1 http -"),
            ("", "10.0.0.1:9  http -"),
        ];
        for (value, expected) in table {
            assert_eq!(client(&proxies, &[("forwarded", value)]), expected, "{value}");
        }
        let lines = [("forwarded", "for=\"1.2.3.4"), ("forwarded", "for=203.0.113.7")];
        assert_eq!(client(&proxies, &lines), "203.0.113.7 10.0.0.1 http -", "a proxy's own line");
        assert_eq!(client(&proxies, &[("x-forwarded-for", "1.2.3.4")]), "10.0.0.1:9  http -");
    }

    #[test]
    fn strangers_are_not_believed() {
        let fields =
            [("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https"), ("forwarded", "for=1.2.3.4")];
        for proxies in [Proxies::new(["192.0.2.0/24"]), Proxies::new(["unix"])] {
            for proxies in
                [proxies.clone().x_forwarded(), proxies.clone().forwarded(), proxies.proxy_protocol()]
            {
                assert_eq!(client(&proxies, &fields), "10.0.0.1:9  http -");
            }
        }
        let proxies = Proxies::new(["10.0.0.0/8"]).proxy_protocol();
        assert_eq!(client(&proxies, &fields), "10.0.0.1:9  http -", "fields that no proxy sets");
    }

    #[test]
    fn an_address_is_read_as_the_standard_library_does() {
        let same = |text: &str| assert_eq!(ipv4(text.as_bytes()), text.parse().ok(), "{text}");
        let odd =
            ["", ".", "1.2.3", "1.2.3.", "1.2.3.4.", ".1.2.3", "1.2.3.4.5", "1..2.3", "01.2.3.4", "0.0.0.0"];
        odd.into_iter().for_each(same);
        ["1.2.3.256", "1.256.3.4", "1.2.3.0256", "255.255.255.255", "999.1.1.1"].into_iter().for_each(same);
        check(4 * CASES, BYTES, |u| {
            same(&text(u, 0..=16, &['.'..='.', '0'..='9'])?);
            let parts = list(u, 4..=4, |u| u.int_in_range(0..=300u16))?;
            same(&parts.iter().map(u16::to_string).collect::<Vec<_>>().join("."));
            Ok(())
        });
    }

    /// Whatever a client sends, what the proxy has appended decides.
    #[test]
    fn nothing_that_a_client_sends_moves_it() {
        let proxies = Proxies::new(["10.0.0.0/8"]).x_forwarded();
        check(CASES, BYTES, |u| {
            let field = format!("{}, 203.0.113.7", text(u, 0..=60, &[' '..='~'])?);
            assert_eq!(client(&proxies, &[("x-forwarded-for", &field)]), "203.0.113.7 10.0.0.1 http -");
            Ok(())
        });
    }

    /// With `Forwarded` it can at most make itself unknown.
    #[test]
    fn nor_in_the_standard_field() {
        const WORDS: [&str; 14] = [
            "for=", "by=", "x=", "\"", "\\", ",", ";", " ", "1.2.3.4", "unknown", "[::1]", "=", ", for=",
            "\";",
        ];
        let proxies = Proxies::new(["10.0.0.0/8"]).forwarded();
        check(4 * CASES, BYTES, |u| {
            let sent = list(u, 0..=12, |u| u.choose(&WORDS).copied())?.concat();
            let appended = *u.choose(&["for=203.0.113.7", "for=\"203.0.113.7\";proto=http;by=\"[::1]\""])?;
            let found = client(&proxies, &[("forwarded", &format!("{sent}, {appended}"))]);
            assert!(found.starts_with("203.0.113.7 10.0.0.1 ") || found.starts_with("- "), "{sent}: {found}");
            Ok(())
        });
    }
}
