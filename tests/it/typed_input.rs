//! Typed input: JSON, forms, queries, cookies; and problems.

use heirloom::cookie::Cookie;
use heirloom::prelude::*;
use heirloom::wrap::Gzip;
use heirloom::{InputError, Json, Problem, Validators};
use serde::{Deserialize, Serialize};

use crate::support::*;

#[derive(Debug, Deserialize, Serialize)]
struct Order {
    name: String,
    items: Vec<Item>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Item {
    price: u32,
}

#[derive(Deserialize)]
struct Person {
    name: String,
    age: u8,
}

fn json(mut req: Request) -> Result<impl IntoResponse, InputError> {
    Ok(Json(req.json::<Order>()?))
}

fn problem(mut req: Request) -> Result<impl IntoResponse, Problem> {
    Ok(Json(req.json::<Order>()?))
}

/// As with a function that has errors of several types, below a handler whose errors are problems.
fn any_problem(req: Request) -> Result<(), Problem> {
    fn inner(mut req: Request) -> Result<(), AnyError> {
        let order: Order = req.json()?;
        Err(format!("the password of {}", order.name))?
    }
    Ok(inner(req)?)
}

fn form(mut req: Request) -> Result<String, InputError> {
    let person: Person = req.form()?;
    Ok(format!("{} {}", person.name, person.age))
}

fn query(req: Request) -> Result<String, InputError> {
    let person: Person = req.query()?;
    Ok(format!("{} {}", person.name, person.age))
}

/// Repeated fields, as from checkboxes or a multiple choice list.
#[derive(Deserialize)]
struct Search {
    #[serde(default)]
    tag: Vec<String>,
    #[serde(default)]
    year: Vec<u16>,
    page: Option<u32>,
    #[serde(default)]
    exact: bool,
}

fn said(search: &Search) -> String {
    let Search { tag, year, page, exact } = search;
    format!("{tag:?} {year:?} {page:?} {exact}")
}

fn search(mut req: Request) -> Result<String, InputError> {
    Ok(said(&if req.method() == Method::POST { req.form()? } else { req.query()? }))
}

fn serve() -> Fixture {
    let secret = |_: Request| -> Result<(), Problem> { Err(std::io::Error::other("the password"))? };
    let cookies = |req: Request| {
        let pairs: Vec<String> = req.cookies().map(|c| format!("{}={}", c.name(), c.value())).collect();
        pairs.join("|").into_response().with_cookie(("a", "1")).with_cookie(("b", "2"))
    };
    let router = Router::new()
        .post("/json", json)
        .post("/small", max_body(10, json))
        .post("/streaming", streaming(max_body(10, json)))
        .post("/problem", problem)
        .post("/problem/any", any_problem)
        .post("/streaming/problem", streaming(max_body(10, problem)))
        .post("/form", form)
        .get("/query", query)
        .get("/search", search)
        .post("/search", search)
        .get("/cookies", cookies)
        .get("/cookie/bad", |_: Request| ().into_response().with_cookie(Cookie::new("a", "1; Domain=evil")))
        .get("/tagged", |req: Request| {
            let validators = Validators::new().etag("a");
            validators.check(&req).unwrap_or_else(|| validators.mark("tagged".into_response()))
        })
        .get("/packed", (|_: Request| "x".repeat(2000)).wrap(Gzip::new()))
        .get("/secret", secret);
    let limits = Limits::new().body_bytes(1 << 20);
    let server = Server::new(router).listen("127.0.0.1:0").workers(2).timeouts(quick()).limits(limits);
    Fixture::with(|_| server)
}

fn typed(path: &str, kind: &str, body: &str) -> String {
    let len = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\n\r\n{body}")
}

#[test]
fn errors_say_line_and_field() {
    const JSON: &str = "application/json";
    const FORM: &str = "application/x-www-form-urlencoded";
    const GOOD: &str = r#"{"name":"x","items":[{"price":1}]}"#;
    let fixture = serve();
    let deep = "[".repeat(100_000);
    let cases = [
        ("/json", JSON, GOOD, "200 ", GOOD),
        ("/json", "Application/JSON; charset=utf-8", GOOD, "200 ", GOOD),
        ("/json", "application/vnd.x+json", GOOD, "200 ", GOOD),
        ("/json", "text/plain", GOOD, "415 ", "the body must be application/json"),
        ("/json", "application/jsonx", GOOD, "415 ", "the body must be"),
        ("/json", FORM, GOOD, "415 ", "the body must be"),
        ("/json", JSON, "", "400 ", "EOF while parsing"),
        ("/json", JSON, "{\"name\":\"x\"", "400 ", "line 1, column 11: EOF while"),
        ("/json", JSON, "{\"items\":[{", "400 ", "line 1, column 11: items[0]: EOF while"),
        ("/json", JSON, "{\n\"name\": x}", "400 ", "line 2, column 9: "),
        ("/json", JSON, "{\"name\":\"x\",\"items\":[]} x", "400 ", "line 1, column 25: trailing characters"),
        ("/json", JSON, &deep, "422 ", "invalid type: sequence"),
        (
            "/json",
            JSON,
            "{\"name\":\"x\",\"items\":[{\"price\":1},\n{\"price\":\"a\"}]}",
            "422 ",
            "line 2, column 12: items[1].price: invalid type: string \"a\", expected u32",
        ),
        ("/json", JSON, "{\"items\":[]}", "422 ", "missing field `name`"),
        ("/small", JSON, GOOD, "413 ", ""),
        ("/streaming", JSON, GOOD, "413 ", ""),
        ("/form", FORM, "name=J%C3%B8+B&age=7", "200 ", "Jø B 7"),
        ("/form", JSON, "name=x&age=7", "415 ", "the body must be application/x-www-form-urlencoded"),
        ("/form", FORM, "name=x&age=300", "422 ", "age: "),
        ("/form", FORM, "name=x", "422 ", "missing field `age`"),
    ];
    for (path, kind, body, status, said) in cases {
        let mut client = fixture.client();
        client.send(typed(path, kind, body));
        let reply = client.reply().said();
        assert!(reply.starts_with(status) && reply.contains(said), "{path} {kind}: {reply}");
    }
    let mut client = fixture.client();
    client.send(post("/json", GOOD.as_bytes()));
    assert_eq!(client.reply().status, 415, "without a type");
    for (path, said) in [
        ("/query?name=a%26b&age=7", "200 a&b 7"),
        ("/query?name=x&age=x", "400 age: invalid digit found in string"),
        ("/query", "400 missing field `name`"),
        ("/query?name=x&name=y&age=1", "400 duplicate field `name`"),
    ] {
        let reply = fixture.client().get(path).said();
        assert!(
            reply == said || reply.ends_with(&said[4..]) && reply.starts_with(&said[..4]),
            "{path}: {reply}"
        );
    }
}

#[test]
fn a_field_may_come_several_times_where_there_is_room_for_it() {
    const FORM: &str = "application/x-www-form-urlencoded";
    let fixture = serve();
    for (text, status, expected) in [
        ("", 200, "[] [] None false"),
        ("tag=a", 200, r#"["a"] [] None false"#),
        ("tag=a&tag=b", 200, r#"["a", "b"] [] None false"#),
        ("tag=b&year=1&tag=a&tag=&year=2", 200, r#"["b", "a", ""] [1, 2] None false"#),
        ("tag=a%26b&tag=%C3%BC+x", 200, r#"["a&b", "ü x"] [] None false"#),
        ("page=3&exact=true", 200, "[] [] Some(3) true"),
        // An empty input and a checkbox, as browsers send them.
        ("page=&exact=on", 200, "[] [] None true"),
        ("unknown=1&unknown=2&tag=a", 200, r#"["a"] [] None false"#),
        ("year=1&year=x", 400, "year[1]: invalid digit found in string"),
        ("year=x", 400, "year[0]: invalid digit found in string"),
        ("page=x", 400, "page: invalid digit found in string"),
        ("exact=1", 400, "exact: "),
    ] {
        let get = fixture.client().get(&format!("/search?{text}"));
        assert_eq!(get.status, status, "{text}");
        assert!(get.text().starts_with(expected), "{text}: {}", get.text());
        let mut client = fixture.client();
        client.send(typed("/search", FORM, text));
        let post = client.reply();
        assert_eq!(post.status, if status == 400 { 422 } else { status }, "{text}");
        assert_eq!(post.text(), get.text(), "{text}");
    }
    // A field that must not be repeated.
    for (text, expected) in [
        ("page=1&page=2", "duplicate field `page`"),
        ("exact=true&exact=true", "duplicate field `exact`"),
        ("page=1&page=x", "duplicate field `page`"),
    ] {
        let reply = fixture.client().get(&format!("/search?{text}"));
        assert_eq!((reply.status, reply.text().trim()), (400, expected), "{text}");
    }
}

#[test]
fn problems_have_no_internal_details() {
    let fixture = serve();
    let mut client = fixture.client();
    client.send(typed("/problem", "application/json", "{\"name\":\"x\",\"items\":[{\"price\":-1}]}"));
    let reply = client.reply();
    assert_eq!((reply.status, reply.field("content-type")), (422, Some("application/problem+json")));
    let problem: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(problem["title"], "Unprocessable Entity");
    assert_eq!(problem["status"], 422);
    assert_eq!(problem["field"], "items[0].price");
    assert_eq!(problem["line"], 1);
    assert!(problem["detail"].as_str().unwrap().starts_with("invalid value"), "{problem}");

    let mut client = fixture.client();
    client.send(typed("/streaming/problem", "application/json", "{\"name\":\"too long\"}"));
    let reply = client.reply();
    assert_eq!((reply.status, reply.field("content-type")), (413, Some("text/plain; charset=utf-8")));

    let reply = fixture.client().get("/secret");
    assert_eq!((reply.status, reply.text().contains("password")), (500, false));
    assert_eq!(reply.text(), "{\"title\":\"Internal Server Error\",\"status\":500}");

    for (items, status) in [("{\"price\":-1}", 422), ("", 500)] {
        let mut client = fixture.client();
        client.send(typed(
            "/problem/any",
            "application/json",
            &format!("{{\"name\":\"x\",\"items\":[{items}]}}"),
        ));
        let reply = client.reply();
        assert_eq!((reply.status, reply.field("content-type")), (status, Some("application/problem+json")));
        assert!(!reply.text().contains("password"), "{}", reply.text());
    }
}

#[test]
fn cookies_come_and_go() {
    let fixture = serve();
    let mut client = fixture.client();
    client.send(
        "GET /cookies HTTP/1.1\r\nHost: h\r\nCookie: a=1; b=\"2\"; bad; =x; c=%41\r\nCookie: d=4\r\n\r\n",
    );
    let reply = client.reply();
    assert_eq!(reply.text(), "a=1|b=\"2\"|c=%41|d=4");
    let set: Vec<&str> = reply
        .fields
        .iter()
        .filter(|(n, _)| n.eq_ignore_ascii_case("set-cookie"))
        .map(|(_, v)| v.as_str())
        .collect();
    assert_eq!(set, ["a=1", "b=2"]);
    assert_eq!(client.get("/cookie/bad").status, 500);
}

/// A value is bytes (RFC 9110 §5.5): one beyond ASCII, in a part that is of no interest, hides no other part.
#[test]
fn a_byte_beyond_ascii_hides_nothing_else() {
    let fixture = serve();
    let ask = |method: &str, path: &str, field: &[u8], body: &str| {
        let mut client = fixture.client();
        let len = body.len();
        let line = format!("{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n");
        client.send([line.as_bytes(), field, b"\r\n\r\n", body.as_bytes()].concat());
        client.reply()
    };
    let cookies: [(&[u8], &str); 6] = [
        (b"name=Zo\xc3\xab; session=abc", "name=Zo\u{eb}|session=abc"),
        (b"name=Zo\xeb; session=abc", "session=abc"),
        (b"session=abc; \xff", "session=abc"),
        (b"session=abc;\xc3\xab=1", "session=abc"),
        // Not the name that it would be without its no-break spaces, and U+0085.
        (b"\xc2\xa0__Host-session=evil; \xc2\x85session\xc2\xa0=evil; session=abc", "session=abc"),
        (b"session=abc\xff; \xfe=b; c=d", "c=d"),
    ];
    for (value, said) in cookies {
        let reply = ask("GET", "/cookies", &[b"Cookie: ", value].concat(), "");
        assert_eq!(reply.text(), said, "{value:?}");
    }
    let json = r#"{"name":"x","items":[]}"#;
    for (path, value, body, status) in [
        ("/json", b"application/json; title=\"Zo\xc3\xab\"".as_slice(), json, 200),
        ("/json", b"application/json;x=\xff", json, 200),
        ("/json", b"application/\xffjson", json, 415),
        ("/form", b"application/x-www-form-urlencoded; charset=\xff", "name=x&age=7", 200),
    ] {
        let reply = ask("POST", path, &[b"Content-Type: ", value].concat(), body);
        assert_eq!(reply.status, status, "{value:?}");
    }
    for (value, status) in
        [(b"\"Zo\xc3\xab\", \"a\"".as_slice(), 304), (b"\"a\",\"\xff\"", 304), (b"\"a\xff\"", 200)]
    {
        let reply = ask("GET", "/tagged", &[b"If-None-Match: ", value].concat(), "");
        assert_eq!(reply.status, status, "{value:?}");
    }
    let reply = ask("GET", "/packed", b"Accept-Encoding: \xc3\xab, gzip", "");
    assert_eq!(reply.field("content-encoding"), Some("gzip"));
    // Kept or closed is in a list, too.
    let reply = ask("GET", "/tagged", b"Connection: \xff, close", "");
    assert!(reply.closes());
}
