//! Compressed responses have separate entity tags, over the wire: conditions, ranges, and updates that must not be lost.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use heirloom::prelude::*;
use heirloom::wrap::Gzip;
use heirloom::{ServeDir, Validators};

use crate::support::*;

const ACCEPTS: &str = "Accept-Encoding: gzip\r\n";

/// A page whose tag is its version, which PUT changes; and files.
fn serve(first: &'static str, root: &std::path::Path) -> Fixture {
    let version = Arc::new(Mutex::new(first.to_owned()));
    let page = move |mut req: Request| {
        let mut version = version.lock().unwrap();
        let validators = Validators::new().etag(version.as_str());
        if let Some(answer) = validators.check(&req) {
            return answer;
        }
        if req.method() == Method::PUT {
            *version = req.text().unwrap();
            return Validators::new().etag(version.as_str()).mark(StatusCode::NO_CONTENT.into_response());
        }
        validators.mark("a page ".repeat(1_000).into_response())
    };
    let weak = |req: Request| {
        let validators = Validators::new().weak_etag("w");
        validators.check(&req).unwrap_or_else(|| validators.mark("a page ".repeat(1_000).into_response()))
    };
    let router = Router::new()
        .get("/page", page.clone())
        .put("/page", page)
        .get("/weak", weak)
        .get("/files/{*path}", ServeDir::new(root))
        .wrap(Gzip::new());
    Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").workers(2).timeouts(quick()))
}

fn ask(fixture: &Fixture, line: &str, fields: &str, body: &str) -> Reply {
    let mut client = fixture.client();
    let len = body.len();
    client.send(format!("{line} HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n{fields}\r\n{body}"));
    client.reply_to(line.split_once(' ').unwrap().0)
}

/// While a file's next change could come within the same tick of its clock, its tag is a weak one.
fn wait_for_strong_tags(fixture: &Fixture) {
    for name in ["long.txt", "short.txt", "image.png"] {
        let path = format!("GET /files/{name}");
        let is_strong = || ask(fixture, &path, "", "").field("etag").is_some_and(|tag| tag.starts_with('"'));
        eventually("a strong tag", is_strong);
    }
}

/// Status, tag and `Vary`; whether it is compressed.
fn said(reply: &Reply) -> (u16, &str, &str, bool) {
    let field = |name| reply.field(name).unwrap_or("-");
    (reply.status, field("etag"), field("vary"), reply.field("content-encoding") == Some("gzip"))
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("long.txt", "0123456789".repeat(1_000)), ("short.txt", "0123456789".to_owned())] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    fs::write(folder.path().join("image.png"), vec![0; 10_000]).unwrap();
    for entry in fs::read_dir(folder.path()).unwrap() {
        let file = fs::File::options().write(true).open(entry.unwrap().path()).unwrap();
        // Changed long ago, so that its tag is a strong one.
        file.set_modified(SystemTime::now() - Duration::from_secs(3_600)).unwrap();
    }
    folder
}

#[test]
fn conditions_name_what_was_got() {
    let folder = folder();
    for version in ["v", "v-gzip", "v-identity"] {
        let fixture = serve(version, folder.path());
        let packed = ask(&fixture, "GET /page", ACCEPTS, "");
        let whole = ask(&fixture, "GET /page", "", "");
        let (status, packed_tag, vary, compressed) = said(&packed);
        assert_eq!((status, vary, compressed), (200, "accept-encoding", true));
        let (status, tag, vary, compressed) = said(&whole);
        assert_eq!((status, vary, compressed), (200, "accept-encoding", false));
        assert!(
            packed_tag != tag && packed_tag.starts_with('"') && tag.starts_with('"'),
            "{packed_tag} {tag}"
        );
        let weakened = format!("W/{packed_tag}");
        let (both, swapped) = (format!("{tag}, {packed_tag}"), format!("\"x,\" ,{packed_tag},{tag}"));
        // The request with gzip accepted and without; the response, and its form.
        let cases = [
            (true, packed_tag, 304, packed_tag),
            (true, &weakened, 304, packed_tag),
            (true, &both, 304, packed_tag),
            (true, &swapped, 304, packed_tag),
            (true, tag, 304, tag),
            (true, "\"other-gzip\"", 200, packed_tag),
            (true, "*", 304, tag),
            (false, tag, 304, tag),
            (false, &both, 304, tag),
            // It has no copy of the form that it would get.
            (false, packed_tag, 200, tag),
            (false, "*", 304, tag),
        ];
        for (accepts, theirs, status, expected) in cases {
            let fields = format!("{}If-None-Match: {theirs}\r\n", if accepts { ACCEPTS } else { "" });
            for method in ["GET", "HEAD"] {
                let reply = ask(&fixture, &format!("{method} /page"), &fields, "");
                let compressed = status == 200 && accepts;
                let want = (status, expected, "accept-encoding", compressed);
                assert_eq!(said(&reply), want, "{method} {fields}");
            }
        }
        for (accepts, theirs, status) in [
            (true, packed_tag, 200),
            (true, tag, 200),
            (false, tag, 200),
            (false, packed_tag, 412),
            (true, "\"other-gzip\"", 412),
            (true, "*", 200),
        ] {
            let fields = format!("{}If-Match: {theirs}\r\n", if accepts { ACCEPTS } else { "" });
            assert_eq!(ask(&fixture, "GET /page", &fields, "").status, status, "{fields}");
        }
    }
    let fixture = serve("v", folder.path());
    for (fields, status) in
        [("", 200), ("If-None-Match: W/\"w\"\r\n", 304), ("If-None-Match: \"w-gzip\"\r\n", 304)]
    {
        let reply = ask(&fixture, "GET /weak", &format!("{ACCEPTS}{fields}"), "");
        assert_eq!(said(&reply), (status, "W/\"w\"", "accept-encoding", status == 200), "{fields}");
    }
}

#[test]
fn no_update_is_lost() {
    let folder = folder();
    for first in ["a", "a-gzip", "a-identity"] {
        let fixture = serve(first, folder.path());
        let tag = |fields: &str| ask(&fixture, "GET /page", fields, "").field("etag").unwrap().to_owned();
        let mut old = vec![tag(ACCEPTS), tag("")];
        // Versions whose tags are those that the one before was sent with.
        for (n, version) in ["b", "a-gzip", "a-gzip-gzip", "a-gzip-identity", "a"].into_iter().enumerate() {
            let right = tag(if n % 2 == 0 { ACCEPTS } else { "" });
            let accepts = if n % 3 == 0 { ACCEPTS } else { "" };
            let put = |tag: &str| {
                ask(&fixture, "PUT /page", &format!("{accepts}If-Match: {tag}\r\n"), version).status
            };
            let current = [tag(ACCEPTS), tag("")];
            for stale in old.iter().filter(|old| !current.contains(old)) {
                assert_eq!(put(stale), 412, "{stale} of {current:?}");
            }
            assert_eq!(put(&format!("W/{right}")), 412, "weakly");
            assert_eq!(put(&format!("\"none\", {right}")), 204, "{right}");
            old.extend(current);
        }
        let fields = format!("If-None-Match: {}\r\n", tag(ACCEPTS));
        assert_eq!(ask(&fixture, "PUT /page", &fields, "c").status, 412);
        assert_eq!(ask(&fixture, "PUT /page", "If-None-Match: *\r\n", "c").status, 412);
        assert_eq!(ask(&fixture, "PUT /page", "If-Match: *\r\n", "c").status, 204);
    }
}

#[test]
fn parts_are_of_what_is_not_compressed() {
    let folder = folder();
    let fixture = serve("v", folder.path());
    wait_for_strong_tags(&fixture);
    let get = |fields: &str| ask(&fixture, "GET /files/long.txt", fields, "");
    let (packed, whole) = (get(ACCEPTS), get(""));
    let (packed, tag) = (packed.field("etag").unwrap(), whole.field("etag").unwrap());
    assert_ne!(packed, tag);
    let cases = [
        (String::new(), 206, tag),
        (format!("If-Range: {tag}\r\n"), 206, tag),
        (format!("If-Match: {tag}\r\n"), 206, tag),
        (format!("If-Match: {packed}, {tag}\r\n"), 206, tag),
        (format!("If-Match: {packed}\r\n"), 412, "-"),
        // A part of the one can't be joined to a part of the other.
        (format!("If-Range: {packed}\r\n"), 200, packed),
        (format!("If-None-Match: {packed}\r\n"), 304, packed),
    ];
    for (fields, status, expected) in cases {
        let reply = get(&format!("{ACCEPTS}Range: bytes=10-19\r\n{fields}"));
        let vary = if status == 412 { "-" } else { "accept-encoding" };
        assert_eq!(said(&reply), (status, expected, vary, status == 200), "{fields}");
        if status == 206 {
            assert_eq!(reply.text(), "0123456789");
        }
    }
    let reply = get(&format!("Range: bytes=10-19\r\nIf-Range: {packed}\r\n"));
    assert_eq!(said(&reply), (200, tag, "accept-encoding", false));
}

#[test]
fn files_have_their_fields_in_each_answer() {
    let folder = folder();
    let fixture = serve("v", folder.path());
    wait_for_strong_tags(&fixture);
    for name in ["long.txt", "short.txt", "image.png"] {
        for accepts in [ACCEPTS, ""] {
            let path = format!("/files/{name}");
            let first = ask(&fixture, &format!("GET {path}"), accepts, "");
            let (status, tag, vary, compressed) = said(&first);
            assert_eq!((status, compressed), (200, name == "long.txt" && !accepts.is_empty()));
            assert_eq!(vary == "accept-encoding", name == "long.txt", "{name}");
            let date = first.field("last-modified").unwrap();
            let head = ask(&fixture, &format!("HEAD {path}"), accepts, "");
            assert_eq!(said(&head), (200, tag, vary, compressed), "{name}");
            for condition in [
                format!("If-None-Match: {tag}"),
                "If-None-Match: *".to_owned(),
                format!("If-Modified-Since: {date}"),
            ] {
                for method in ["GET", "HEAD"] {
                    let fields = format!("{accepts}{condition}\r\n");
                    let reply = ask(&fixture, &format!("{method} {path}"), &fields, "");
                    assert_eq!(said(&reply), (304, tag, vary, false), "{method} {name} {fields}");
                }
            }
            let part = ask(&fixture, &format!("GET {path}"), &format!("{accepts}Range: bytes=0-1\r\n"), "");
            assert_eq!((part.status, part.field("vary").unwrap_or("-")), (206, vary));
        }
    }
}
