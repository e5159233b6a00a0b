//! Forms with files over the wire: statuses, streaming, temporary files and their budget.

use std::io::Read;
use std::time::Duration;

use heirloom::prelude::*;

use crate::support::*;

const FORM_BYTES: u64 = 8 << 20;

/// Reports each field; files by way of a temporary file.
fn report(mut req: Request) -> Result<String, InputError> {
    let mut form = req.multipart()?.fields(3).field_bytes(100).file_bytes(1 << 20);
    let mut report = format!("{}:", req.path());
    while let Some(field) = form.next_field()? {
        let name = field.name().to_owned();
        if field.file_name().is_none() {
            report += &format!(" {name}={}", field.text()?);
            continue;
        }
        let mut file = field.save_to_temporary_file()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        assert_patterned(&bytes, usize::try_from(file.len()).unwrap());
        report += &format!(" {name}: {} bytes", file.len());
    }
    Ok(report)
}

fn serve(limits: Limits) -> Fixture {
    serve_within(limits, quick())
}

fn serve_within(limits: Limits, timeouts: Timeouts) -> Fixture {
    let router = Router::new()
        .get("/", |_: Request| "Hello, World!")
        .post("/whole", max_body(FORM_BYTES, report))
        .post("/streamed", max_body(FORM_BYTES, streaming(report)))
        .post(
            "/skipped",
            max_body(FORM_BYTES, streaming(|mut req: Request| req.multipart().map(|_| "not read"))),
        );
    Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").timeouts(timeouts).limits(limits))
}

fn text(name: &str, value: &str) -> Vec<u8> {
    format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").into_bytes()
}

fn file(bytes: usize) -> Vec<u8> {
    let head = b"--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"\r\n\r\n";
    [head.as_slice(), &patterned(bytes), b"\r\n"].concat()
}

fn form(parts: &[Vec<u8>]) -> Vec<u8> {
    [&*parts.concat(), b"--b--\r\n"].concat()
}

fn posted(path: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let len = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

const KIND: &str = "multipart/form-data; boundary=b";

#[test]
fn forms_are_read_whole_and_streamed() {
    let fixture = serve(Limits::new());
    let mut client = fixture.client();
    for path in ["/whole", "/streamed"] {
        for bytes in [0, 10, 100_000, 1 << 20] {
            let form = form(&[text("a", "1"), file(bytes), text("b", "2")]);
            client.send(posted(path, KIND, &form));
            assert_eq!(client.reply().said(), format!("200 {path}: a=1 f: {bytes} bytes b=2"));
        }
        let chunked = form(&[text("a", "1"), file(5_000)]);
        let chunked = post_chunked(path, &chunked.chunks(777).collect::<Vec<_>>());
        let head = format!("POST {path} HTTP/1.1\r\nContent-Type: {KIND}\r\n");
        let rest = &chunked[format!("POST {path} HTTP/1.1\r\n").len()..];
        client.send([head.as_bytes(), rest].concat());
        assert_eq!(client.reply().said(), format!("200 {path}: a=1 f: 5000 bytes"));
    }
    client.expect_kept();
    assert_eq!(fixture.stats().temporary_bytes, 0);
}

#[test]
fn each_refusal_has_its_status() {
    let fixture = serve(Limits::new());
    let whole = form(&[text("a", "1"), file(100)]);
    let cases = [
        ("application/json", whole.clone(), "415 the body must be multipart/form-data, by its Content-Type"),
        ("multipart/form-data", whole.clone(), "400 the Content-Type has no boundary"),
        (KIND, whole[..whole.len() - 6].to_vec(), "400 f: the form is malformed, or incomplete"),
        (KIND, b"hello".to_vec(), "400 the form is malformed, or incomplete"),
        (KIND, form(&[text("a", &"x".repeat(101))]), "413 a: longer than 100 bytes"),
        (KIND, form(&[file((1 << 20) + 1)]), "413 f: longer than 1048576 bytes"),
        (
            KIND,
            form(&[text("a", "1"), text("b", "1"), text("c", "1"), text("d", "1")]),
            "413 more fields than 3",
        ),
    ];
    for (kind, body, said) in cases {
        for path in ["/whole", "/streamed"] {
            let mut client = fixture.client();
            client.send(posted(path, kind, &body));
            assert_eq!(client.reply().said(), said, "{path}");
        }
    }
    // Beyond the limit of the route: before any of it is read, or at the byte that exceeds it.
    for path in ["/whole", "/streamed"] {
        let mut client = fixture.client();
        let len = FORM_BYTES + 1;
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: {KIND}\r\nContent-Length: {len}\r\n\r\n"
        ));
        let reply = client.reply();
        assert_eq!((reply.status, reply.closes()), (413, true), "{path}");
    }
    let mut client = fixture.client();
    client.send(posted("/skipped", KIND, &whole));
    assert_eq!(client.reply().said(), "200 not read");
    client.expect_kept();
}

#[test]
fn files_of_fields_share_the_budget_of_temporary_files() {
    let fixture = serve(Limits::new().temporary_bytes(700_000));
    let fits = form(&[file(600_000)]);
    let exceeds = form(&[file(800_000)]);
    let mut client = fixture.client();
    client.send(posted("/streamed", KIND, &fits));
    assert_eq!(client.reply().said(), "200 /streamed: f: 600000 bytes");
    client.send(posted("/streamed", KIND, &exceeds));
    let reply = client.reply();
    assert_eq!((reply.status, reply.field("retry-after")), (503, Some("1")));
    // The body itself is in a file, and then the field would be.
    let mut client = fixture.client();
    client.send(posted("/whole", KIND, &fits));
    assert_eq!(client.reply().status, 503);
    eventually("all is given back", || fixture.stats().temporary_bytes == 0);
    let mut client = fixture.client();
    client.send(posted("/whole", KIND, &form(&[file(300_000)])));
    assert_eq!(client.reply().said(), "200 /whole: f: 300000 bytes");
}

/// A client that is slow, or leaves, within a field.
#[test]
fn a_cut_upload_leaves_nothing_behind() {
    let fixture = serve_within(Limits::new(), quick().body_stall(Duration::from_millis(100)));
    let whole = posted("/streamed", KIND, &form(&[text("a", "1"), file(100_000)]));
    let mut client = fixture.client();
    client.send(&whole[..whole.len() - 10]);
    drop(client);
    let mut client = fixture.client();
    client.send(&whole[..whole.len() - 10]);
    let reply = client.reply();
    assert_eq!((&*reply.said(), reply.closes()), ("408 f: the body took too long", true));
    eventually("all is given back", || fixture.stats().temporary_bytes == 0);
    fixture.client().expect_kept();
}
