//! Files of a directory, requested by good and by hostile clients.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use heirloom::prelude::*;
use heirloom::wrap::BasicAuth;
use heirloom::{ServeDir, ServeFile};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use crate::support::*;

/// A directory with a secret beside it.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("sub/deep")).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    fs::create_dir_all(root.join(".git")).unwrap();
    fs::create_dir_all(root.join(".well-known")).unwrap();
    fs::write(folder.path().join("secret"), "secret").unwrap();
    for (name, text) in [
        ("index.html", "root index"),
        ("a.txt", "0123456789"),
        ("a b.txt", "space"),
        ("back\\slash", "backslash"),
        ("ü.css", "css"),
        ("sub/index.html", "sub index"),
        ("sub/deep/x.js", "js"),
        (".git/config", "hidden"),
        (".env", "hidden"),
        (".well-known/x", "known"),
        ("no_extension", "bytes"),
        ("nothing.txt", ""),
    ] {
        fs::write(root.join(name), text).unwrap();
    }
    symlink("a.txt", root.join("link_inside")).unwrap();
    symlink("../secret", root.join("link_out")).unwrap();
    symlink("..", root.join("up")).unwrap();
    symlink(folder.path().join("secret"), root.join("link_absolute")).unwrap();
    symlink("/dev/zero", root.join("zero")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    mkfifo(&root.join("fifo"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    folder
}

fn serve(folder: &TempDir) -> Fixture {
    let root = folder.path().join("root");
    let router = Router::new()
        .get("/s/{*path}", ServeDir::new(&root).cache_control("max-age=60"))
        .get("/strict/{*path}", ServeDir::new(&root).no_symlinks())
        .get("/dots/{*path}", ServeDir::new(&root).dotfiles())
        .get("/one", ServeFile::new(root.join("link_out")))
        .get("/gone", ServeFile::new(root.join("gone")))
        .fallback(ServeDir::new(&root));
    Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").workers(2).timeouts(quick()))
}

#[test]
fn compressed_files_for_clients_that_accept_them() {
    let folder = folder();
    let root = folder.path().join("root");
    let hour = |n: u64| SystemTime::now() - Duration::from_secs(3_600 * n);
    // These are not gzip; the server does not check.
    for (name, text, age) in [
        ("a.txt", "0123456789", 2),
        ("a.txt.gz", "packed", 2),
        ("sub/index.html", "sub index", 2),
        ("sub/index.html.gz", "packed index", 1),
        ("stale.txt", "new", 1),
        ("stale.txt.gz", "old", 2),
        ("only.txt.gz", "packed only", 1),
    ] {
        fs::write(root.join(name), text).unwrap();
        fs::File::options().write(true).open(root.join(name)).unwrap().set_modified(hour(age)).unwrap();
    }
    symlink("../secret", root.join("no_extension.gz")).unwrap();
    fs::create_dir(root.join("nothing.txt.gz")).unwrap();
    let router = Router::new()
        .get("/p/{*path}", ServeDir::new(&root).precompressed_gzip().cache_control("max-age=60"))
        .get("/{*path}", ServeDir::new(&root));
    let fixture = Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").workers(2).timeouts(quick()));
    let mut client = fixture.client();
    let mut ask = |path: &str, fields: &str| {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n{fields}\r\n"));
        client.reply()
    };
    const GZIP: &str = "Accept-Encoding: br, gzip\r\n";
    let text = "text/plain; charset=utf-8";
    for (path, fields, body, encoding, kind) in [
        ("/p/a.txt", GZIP, "packed", Some("gzip"), text),
        ("/p/a.txt", "", "0123456789", None, text),
        ("/p/a.txt", "Accept-Encoding: gzip;q=0\r\n", "0123456789", None, text),
        ("/p/sub/", GZIP, "packed index", Some("gzip"), "text/html; charset=utf-8"),
        ("/p/stale.txt", GZIP, "new", None, text),
        ("/p/only.txt.gz", GZIP, "packed only", None, "application/gzip"),
        ("/p/no_extension", GZIP, "bytes", None, "application/octet-stream"),
        ("/p/nothing.txt", GZIP, "", None, text),
        ("/a.txt", GZIP, "0123456789", None, text),
    ] {
        let reply = ask(path, fields);
        assert_eq!((reply.status, &*reply.text()), (200, body), "{path} {fields}");
        assert_eq!(reply.field("content-encoding"), encoding, "{path} {fields}");
        assert_eq!(reply.field("content-type"), Some(kind), "{path} {fields}");
        assert_eq!(reply.field("vary").is_some(), path.starts_with("/p/"), "{path} {fields}");
    }
    assert_eq!(ask("/p/only.txt", GZIP).status, 404);

    // Each form has its own tag, and ranges are of the form that is sent.
    eventually("the files have settled, and their tags are strong", || {
        ask("/p/a.txt", "").field("etag").unwrap().starts_with('"')
            && ask("/p/a.txt", GZIP).field("etag").unwrap().starts_with('"')
    });
    let (plain, packed) = (ask("/p/a.txt", ""), ask("/p/a.txt", GZIP));
    let (plain, packed) = (plain.field("etag").unwrap(), packed.field("etag").unwrap());
    assert!(plain != packed && packed.starts_with('"'), "{plain} {packed}");
    for (fields, status, body, range) in [
        (format!("{GZIP}If-None-Match: {packed}\r\n"), 304, "", None),
        (format!("{GZIP}If-None-Match: {plain}\r\n"), 200, "packed", None),
        (format!("If-None-Match: {packed}\r\n"), 200, "0123456789", None),
        (format!("{GZIP}Range: bytes=2-3\r\n"), 206, "ck", Some("bytes 2-3/6")),
        (format!("{GZIP}Range: bytes=2-3\r\nIf-Range: {packed}\r\n"), 206, "ck", Some("bytes 2-3/6")),
        // It has the other form, so it gets this one in full.
        (format!("{GZIP}Range: bytes=2-3\r\nIf-Range: {plain}\r\n"), 200, "packed", None),
        ("Range: bytes=2-3\r\n".to_owned(), 206, "23", Some("bytes 2-3/10")),
        (format!("{GZIP}Range: bytes=6-\r\n"), 416, "416 Range Not Satisfiable\n", Some("bytes */6")),
    ] {
        let reply = ask("/p/a.txt", &fields);
        assert_eq!((reply.status, &*reply.text()), (status, body), "{fields}");
        assert_eq!(reply.field("content-range"), range, "{fields}");
        if status != 416 {
            assert_eq!(reply.field("vary"), Some("accept-encoding"), "{fields}");
            assert_eq!(reply.field("cache-control"), Some("max-age=60"), "{fields}");
        }
        let encoded = reply.field("content-encoding").is_some();
        assert_eq!(encoded, fields.contains("gzip") && [200, 206].contains(&status), "{fields}");
    }
}

/// The response for each path, under a route and as a fallback.
#[test]
fn no_path_leads_out() {
    let folder = folder();
    let fixture = serve(&folder);
    let cases = [
        ("/a.txt", 200, "0123456789"),
        ("/a%20b.txt", 200, "space"),
        ("/%C3%BC.css", 200, "css"),
        ("/%61.txt", 200, "0123456789"),
        ("/back%5Cslash", 200, "backslash"),
        ("/sub/", 200, "sub index"),
        ("/sub/deep/x.js", 200, "js"),
        ("/link_inside", 200, "0123456789"),
        ("/.well-known/x", 200, "known"),
        ("/nothing.txt", 200, ""),
        ("/sub", 308, ""),
        ("/sub?a=b", 308, ""),
        ("/%73ub", 308, ""),
        ("/empty/", 404, ""),
        ("/a.txt/", 404, ""),
        ("/a.txt/x", 404, ""),
        ("/gone.txt", 404, ""),
        ("/../secret", 404, ""),
        ("/sub/../../secret", 404, ""),
        ("/sub/../a.txt", 404, ""),
        ("/%2e%2e/secret", 404, ""),
        ("/%2E%2E%2Fsecret", 404, ""),
        ("/..%2fsecret", 404, ""),
        ("/..%5csecret", 404, ""),
        ("/..\\secret", 404, ""),
        ("/%252e%252e/secret", 404, ""),
        ("/sub%2fdeep%2fx.js", 404, ""),
        ("/./a.txt", 404, ""),
        ("/sub//deep/x.js", 404, ""),
        ("//a.txt", 404, ""),
        ("//etc/passwd", 404, ""),
        ("/%2fetc/passwd", 404, ""),
        ("/a.txt%00", 404, ""),
        ("/a.txt%00.png", 404, ""),
        ("/%ff", 400, ""),
        ("/%", 400, ""),
        ("/link_out", 404, ""),
        ("/link_absolute", 404, ""),
        ("/up/secret", 404, ""),
        ("/up/root/a.txt", 404, ""),
        ("/zero", 404, ""),
        ("/loop", 404, ""),
        ("/fifo", 404, ""),
        ("/.git/config", 404, ""),
        ("/%2egit/config", 404, ""),
        ("/.env", 404, ""),
    ];
    for (path, status, body) in cases {
        for prefix in ["", "/s"] {
            let path = format!("{prefix}{path}");
            let reply = fixture.client().get(&path);
            assert_eq!(reply.status, status, "{path}: {reply:?}");
            assert!(!reply.text().contains("secret"), "{path}");
            if status == 200 {
                assert_eq!(reply.text(), body, "{path}");
            }
        }
    }
    let long = format!("/{}", "x".repeat(5_000));
    assert_eq!(fixture.client().get(&long).status, 404);
    assert_eq!(fixture.client().get("/").text(), "root index");
    assert_eq!(fixture.client().get("/strict/link_inside").status, 404);
    assert_eq!(fixture.client().get("/strict/a.txt").status, 200);
    assert_eq!(fixture.client().get("/dots/.git/config").text(), "hidden");
    assert_eq!(fixture.client().get("/dots/..").status, 404);
    // The program's own choice may be anywhere.
    assert_eq!(fixture.client().get("/one").text(), "secret");
    assert_eq!(fixture.client().get("/gone").status, 404);
}

/// In any spelling of its path, a protected file is protected, and every other file is served.
#[test]
fn a_protected_route_has_no_way_around_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for name in ["private", "@admin (1)", "caf\u{e9}", "in/private"] {
        fs::create_dir_all(root.join(name)).unwrap();
        fs::write(root.join(name).join("x"), "secret").unwrap();
        fs::write(root.join(name).join("index.html"), "secret").unwrap();
    }
    for name in ["open", "a@b+c (1).txt", "%70rivate", "caf\u{e9}.txt"] {
        fs::write(root.join(name), name).unwrap();
    }
    let guard = || BasicAuth::user("private", "user", "password");
    let handler = |_: Request| -> &str { unreachable!("nobody has the password") };
    let guarded = || {
        let nested = Router::new().any("/privat%65/{*rest}", handler.wrap(guard()));
        Router::new()
            .any("/private/{*rest}", handler.wrap(guard()))
            .any("/@admin%20(1)/{*rest}", handler.wrap(guard()))
            .any("/caf\u{e9}/{*rest}", handler.wrap(guard()))
            .nest("/in", nested)
    };
    let by_path = |request: Request, next: Next<'_>| {
        let protected = ["/private/", "/@admin%20(1)/", "/caf%C3%A9/", "/in/private/"];
        if protected.iter().any(|prefix| request.path().starts_with(prefix)) {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        next.call(request)
    };
    let servers = [
        guarded().fallback(ServeDir::new(root)),
        guarded().get("/{*path}", ServeDir::new(root)),
        Router::new().fallback(ServeDir::new(root).wrap(by_path)),
        Router::new().merge(Router::new().get("/{*path}", ServeDir::new(root).wrap(by_path))),
    ];
    let (protected, nothing) = (401, 404);
    let cases = [
        ("/private/x", protected),
        ("/private/", protected),
        ("/private/index.html", protected),
        ("/private/gone", protected),
        ("/%70rivate/x", protected),
        ("/%70%72%69%76%61%74%65/%78", protected),
        ("/privat%65/", protected),
        ("/private/%2e%2e/private/x", protected),
        ("/private/../private/x", protected),
        ("/private//x", protected),
        ("/private/./x", protected),
        ("/private/%2Fx", protected),
        ("http://host/%70rivate/x", protected),
        ("http://host/private/", protected),
        ("HTTP://host/%70rivate/", protected),
        ("/@admin%20(1)/x", protected),
        ("/%40admin%20%281%29/x", protected),
        ("/%40%61dmin%20(1%29/", protected),
        ("/caf%C3%A9/x", protected),
        ("/caf%c3%a9/x", protected),
        ("/c%61f\u{e9}/", protected),
        ("/in/private/x", protected),
        ("/in/%70rivate/", protected),
        ("/%69n/%70rivate/x", protected),
        // Paths that name no file, however they are decoded.
        ("/private%2Fx", nothing),
        ("/private%2fx", nothing),
        ("/in%2Fprivate%2fx", nothing),
        ("/%2570rivate/x", nothing),
        ("/%252e%252e/private/x", nothing),
        ("/private%5Cx", nothing),
        ("/private%00/x", nothing),
        ("//private/x", nothing),
        ("///private/", nothing),
        ("/./private/x", nothing),
        ("/%2e/private/x", nothing),
        ("/%2e%2E/private/x", nothing),
        ("/in/../private/x", nothing),
        ("/in/%2e./private/", nothing),
        ("/in//private/x", nothing),
        ("/%2Fprivate/x", nothing),
        ("http://host//private/x", nothing),
        // The directory itself is not below itself: its existence is no secret.
        ("/private", 308),
        ("/%70rivate", 308),
        ("/open", 200),
        ("/%6fpe%6E", 200),
        ("/a@b+c%20(1).txt", 200),
        ("/a%40b%2Bc%20%281%29.txt", 200),
        ("/%2570rivate", 200),
        ("/caf\u{e9}.txt", 200),
    ];
    for (which, router) in servers.into_iter().enumerate() {
        let fixture =
            Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").workers(2).timeouts(quick()));
        let mut client = fixture.client();
        for method in ["GET", "HEAD"] {
            for (target, status) in cases {
                client.send(format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
                let reply = client.reply_to(method);
                assert_eq!(reply.status, status, "{method} {target} of server {which}: {reply:?}");
                assert!(!reply.text().contains("secret"), "{method} {target} of server {which}");
            }
        }
    }
}

#[test]
fn types_methods_and_fields() {
    let folder = folder();
    let fixture = serve(&folder);
    for (path, kind) in [
        ("/a.txt", "text/plain; charset=utf-8"),
        ("/", "text/html; charset=utf-8"),
        ("/%C3%BC.css", "text/css; charset=utf-8"),
        ("/no_extension", "application/octet-stream"),
    ] {
        let reply = fixture.client().get(path);
        assert_eq!(reply.field("content-type"), Some(kind), "{path}");
        assert_eq!(reply.field("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.field("accept-ranges"), Some("bytes"));
    }
    assert_eq!(fixture.client().get("/s/a.txt").field("cache-control"), Some("max-age=60"));
    let mut client = fixture.client();
    client.send(get("/a.txt").replace("GET", "HEAD"));
    let head = client.reply_to("HEAD");
    assert_eq!((head.status, head.field("content-length")), (200, Some("10")));
    client.send(get("/a.txt").replace("GET", "DELETE"));
    let reply = client.reply();
    assert_eq!((reply.status, reply.field("allow")), (405, Some("GET, HEAD")));
    let missing = Router::new().get("/{*path}", ServeDir::new(folder.path().join("missing")));
    assert!(missing.check().unwrap_err().contains("missing"));
    let file = Router::new().get("/{*path}", ServeDir::new(folder.path().join("secret")));
    assert!(file.check().unwrap_err().ends_with("is not a directory"));
}

#[test]
fn conditions_and_ranges() {
    let folder = folder();
    let path = folder.path().join("root/a.txt");
    let then = SystemTime::now() - Duration::from_secs(3_600);
    fs::File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
    let fixture = serve(&folder);
    let mut client = fixture.client();
    eventually("the file has settled, and its tag is strong", || {
        client.get("/s/a.txt").field("etag").unwrap().starts_with('"')
    });
    // Two seconds more, until a date can be as good as a tag.
    eventually("no change can come within the second of the last one", || {
        let date = client.get("/s/a.txt").field("last-modified").unwrap().to_owned();
        client.send(format!(
            "GET /s/a.txt HTTP/1.1\r\nHost: h\r\nRange: bytes=2-4\r\nIf-Range: {date}\r\n\r\n"
        ));
        client.reply().status == 206
    });
    let first = client.get("/s/a.txt");
    let (tag, date) = (first.field("etag").unwrap(), first.field("last-modified").unwrap());
    assert!(tag.starts_with('"'), "{tag}");
    let cases = [
        (format!("If-None-Match: {tag}"), 304, "", None),
        (format!("If-Modified-Since: {date}"), 304, "", None),
        ("If-Match: \"other\"".to_owned(), 412, "412 Precondition Failed\n", None),
        ("Range: bytes=2-4".to_owned(), 206, "234", Some("bytes 2-4/10")),
        ("Range: bytes=-3".to_owned(), 206, "789", Some("bytes 7-9/10")),
        ("Range: bytes=7-".to_owned(), 206, "789", Some("bytes 7-9/10")),
        ("Range: bytes=1-2, 4-5".to_owned(), 200, "0123456789", None),
        ("Range: bytes=2-1".to_owned(), 200, "0123456789", None),
        ("Range: bytes=10-".to_owned(), 416, "416 Range Not Satisfiable\n", Some("bytes */10")),
        (format!("Range: bytes=2-4\r\nIf-Range: {tag}"), 206, "234", Some("bytes 2-4/10")),
        (format!("Range: bytes=2-4\r\nIf-Range: {date}"), 206, "234", Some("bytes 2-4/10")),
        ("Range: bytes=2-4\r\nIf-Range: \"other\"".to_owned(), 200, "0123456789", None),
        (format!("Range: bytes=2-4\r\nIf-None-Match: {tag}"), 304, "", None),
    ];
    for (fields, status, body, range) in cases {
        client.send(format!("GET /s/a.txt HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n"));
        let reply = client.reply();
        assert_eq!((reply.status, reply.text().as_str()), (status, body), "{fields}");
        assert_eq!(reply.field("content-range"), range, "{fields}");
        if status == 304 {
            assert_eq!((reply.field("etag"), reply.field("cache-control")), (Some(tag), Some("max-age=60")));
        }
    }
    client.send("HEAD /s/a.txt HTTP/1.1\r\nHost: h\r\nRange: bytes=2-4\r\n\r\n");
    assert_eq!(client.reply_to("HEAD").status, 200);
    client.send("GET /s/nothing.txt HTTP/1.1\r\nHost: h\r\nRange: bytes=0-\r\n\r\n");
    assert_eq!(client.reply().status, 416);
    // Changed a moment ago: the tag is weak, and no range of it is trusted.
    fs::write(&path, "9876543210").unwrap();
    assert_ne!(client.get("/s/a.txt").field("etag"), Some(tag));
}

/// Also if length and time stay the same, a replaced file is not taken for the old one.
#[test]
fn a_replaced_file_differs_despite_equal_length_and_time() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("a.txt"), folder.path().join("other"));
    let then = SystemTime::now() - Duration::from_secs(3_600);
    let write = |path: &Path, text: &str, time: SystemTime| {
        fs::write(path, text).unwrap();
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    };
    write(&path, "old content", then);
    let router = Router::new().get("/{*path}", ServeDir::new(folder.path()));
    let fixture = Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").workers(2).timeouts(quick()));
    let mut client = fixture.client();
    let mut ask = |fields: &str| {
        client.send(format!("GET /a.txt HTTP/1.1\r\nHost: h\r\n{fields}\r\n"));
        client.reply()
    };
    let replace: [(&str, &dyn Fn()); 3] = [
        ("by a rename, as cp -p and rsync -t do", &|| {
            write(&other, "NEW content", then);
            fs::rename(&other, &path).unwrap();
        }),
        ("in place", &|| write(&path, "new CONTENT", then)),
        ("by a link to another file", &|| {
            write(&other, "NEW CONTENT", then);
            fs::remove_file(&path).unwrap();
            fs::hard_link(&other, &path).unwrap();
        }),
    ];
    for (how, replace) in replace {
        eventually("the file has settled, and so has its date", || {
            let first = ask("");
            let tag_is_strong = first.field("etag").unwrap().starts_with('"');
            let date = first.field("last-modified").unwrap();
            tag_is_strong && ask(&format!("Range: bytes=4-\r\nIf-Range: {date}\r\n")).status == 206
        });
        let (first, facts) = (ask(""), fs::metadata(&path).unwrap());
        let (tag, date) = (first.field("etag").unwrap(), first.field("last-modified").unwrap());
        replace();
        let now = fs::metadata(&path).unwrap();
        assert_eq!((now.len(), now.mtime_nsec()), (facts.len(), facts.mtime_nsec()), "as the test wants it");
        let content = fs::read_to_string(&path).unwrap();
        for fields in [
            format!("If-None-Match: {tag}\r\n"),
            format!("If-None-Match: W/{tag}\r\n"),
            format!("If-Modified-Since: {date}\r\n"),
            format!("Range: bytes=4-\r\nIf-Range: {tag}\r\n"),
            format!("Range: bytes=4-\r\nIf-Range: {date}\r\n"),
        ] {
            let reply = ask(&fields);
            assert_eq!((reply.status, reply.text()), (200, content.clone()), "{how}: {fields}");
            // A file that has just changed may change again within the same tick: so no ranges are combined.
            let tag = reply.field("etag").unwrap();
            if tag.starts_with("W/") {
                let reply = ask(&format!("Range: bytes=4-\r\nIf-Range: {tag}\r\n"));
                assert_eq!((reply.status, reply.text()), (200, content.clone()), "{how}");
            }
        }
        assert_eq!(ask(&format!("If-Match: {tag}\r\n")).status, 412, "{how}");
    }

    // A time as reproducible builds set it: not sent.
    for made_up in [0, 1] {
        write(&path, "reproducible", SystemTime::UNIX_EPOCH + Duration::from_secs(made_up));
        let reply = ask("If-Modified-Since: Thu, 01 Jan 1970 00:00:01 GMT\r\n");
        assert_eq!((reply.status, reply.field("last-modified")), (200, None));
        let tag = reply.field("etag").unwrap();
        assert_eq!(ask(&format!("If-None-Match: {tag}\r\n")).status, 304);
        let reply = ask("Range: bytes=4-\r\nIf-Range: Thu, 01 Jan 1970 00:00:01 GMT\r\n");
        assert_eq!((reply.status, reply.text().as_str()), (200, "reproducible"));
    }
}

/// Seen from where the client is, which may be below a prefix that only a proxy knows.
#[test]
fn the_redirect_of_a_directory_is_relative() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "sub",
        "sub/deep",
        "a:b",
        "100%",
        "a b",
        "\u{e9}",
        "back\\slash",
        "...",
        "q?",
        "#",
        "x:y",
        "x:y/z",
        "(1)&=+;,@~",
    ] {
        fs::create_dir_all(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("index.html"), name).unwrap();
    }
    let files = || ServeDir::new(folder.path()).dotfiles();
    let router = Router::new()
        .get("/p/q/{*path}", files())
        .get("/one/{path}/", files())
        .nest("/n", Router::new().get("/{*path}", files()))
        .fallback(files());
    let fixture = Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").workers(2).timeouts(quick()));
    let mut client = fixture.client();
    let mut ask = |target: &str| {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        client.reply()
    };
    let cases = [
        ("/sub", "sub/"),
        ("/sub?a=b&c=//d?e", "sub/?a=b&c=//d?e"),
        ("/sub?", "sub/?"),
        ("/sub/deep", "deep/"),
        ("/s%75b/%64eep?x", "deep/?x"),
        // Not a scheme.
        ("/a:b", "./a:b/"),
        ("/a%3Ab", "./a:b/"),
        ("/x:y", "./x:y/"),
        ("/x:y/z", "z/"),
        ("/100%25", "100%25/"),
        ("/a%20b", "a%20b/"),
        ("/%c3%a9", "%C3%A9/"),
        ("/\u{e9}", "%C3%A9/"),
        ("/back%5cslash", "back%5Cslash/"),
        ("/back\\slash", "back%5Cslash/"),
        ("/...", ".../"),
        ("/q%3F?a", "q%3F/?a"),
        ("/%23", "%23/"),
        ("/(1)&=+;,@~", "(1)&=+;,@~/"),
        ("/%281%29%26%3d%2b%3b%2c%40%7e", "(1)&=+;,@~/"),
    ];
    for (target, location) in cases {
        for prefix in ["", "/p/q", "/n", "http://h", "http://other:1/p/q"] {
            let reply = ask(&format!("{prefix}{target}"));
            assert_eq!((reply.status, reply.field("location")), (308, Some(location)), "{prefix}{target}");
            // The target (RFC 3986 §5.2): beside the last segment.
            let path = format!("{prefix}{target}");
            let (folder, _) = path.split('?').next().unwrap().rsplit_once('/').unwrap();
            let to = format!("{folder}/{}", location.strip_prefix("./").unwrap_or(location));
            assert_eq!(ask(&to).status, 200, "{to}");
        }
    }
    for target in ["//sub", "/p/q//sub", "/.", "/sub/..", "//other/sub"] {
        assert_eq!(ask(target).status, 404, "{target}");
    }
    // One whose route ends with a slash is there already.
    assert_eq!(ask("/one/a:b/").text(), "a:b");
}

/// A rename anywhere on the host makes the kernel say EAGAIN where a link has a `..` in it.
#[test]
fn renames_elsewhere_cost_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let (root, elsewhere) = (folder.path().join("root"), tempfile::tempdir().unwrap());
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("file"), "content").unwrap();
    symlink("../../file", root.join("a/b/link")).unwrap();
    let router = Router::new().fallback(ServeDir::new(&root));
    let fixture = Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").workers(2).timeouts(quick()));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for n in 0..2 {
            let (one, two) = (elsewhere.path().join(format!("a{n}")), elsewhere.path().join(format!("b{n}")));
            let over = &over;
            scope.spawn(move || {
                fs::write(&one, "").unwrap();
                while !over.load(Ordering::Relaxed) {
                    fs::rename(&one, &two).unwrap();
                    fs::rename(&two, &one).unwrap();
                }
            });
        }
        let mut client = fixture.client();
        let mut others = Vec::new();
        for _ in 0..4_000 {
            let reply = client.get("/a/b/link");
            if (reply.status, reply.text().as_str()) != (200, "content") {
                others.push(reply.status);
            }
        }
        over.store(true, Ordering::Relaxed);
        assert!(others.is_empty(), "{others:?}");
    });
}

/// The holder of a lease may take its time: the client gets a 503, and no worker waits or spins.
#[test]
fn a_file_under_a_lease_is_503_until_it_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let path = root.join("leased.txt");
    fs::write(&path, "content").unwrap();
    let holder = "import fcntl, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = open(sys.argv[1], 'r+')
fcntl.fcntl(file, 1024, fcntl.F_WRLCK)
print('held', flush=True)
sys.stdin.read()";
    let spawned = Command::new("python3")
        .args(["-c", holder])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut holder) = spawned else {
        skip::skip("no python3 to hold a lease");
        return;
    };
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line != "held\n" {
        let output = holder.wait_with_output().unwrap();
        skip::skip(&format!("no lease to be had here: {}", String::from_utf8_lossy(&output.stderr)));
        return;
    }
    let router = Router::new()
        .get("/one", ServeFile::new(&path))
        .get("/p/{*path}", ServeDir::new(&root).precompressed_gzip())
        .fallback(ServeDir::new(&root));
    let fixture = Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").workers(2).timeouts(quick()));
    let mut client = fixture.client();
    for path in ["/leased.txt", "/one", "/p/leased.txt", "/leased.txt"] {
        let reply = client.get(path);
        assert_eq!((reply.status, reply.field("retry-after")), (503, Some("1")), "{path}");
    }
    // It ends with its standard input, and the lease with it.
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    for path in ["/leased.txt", "/one", "/p/leased.txt"] {
        let reply = client.get(path);
        assert_eq!((reply.status, reply.text().as_str()), (200, "content"), "{path}");
    }
}

/// Their length is 0 or a page, and neither length nor times describe their content.
#[test]
fn what_the_kernel_makes_is_sent_whole_or_refused() {
    let sysfs = "/sys/devices/system/cpu/online";
    let router = Router::new()
        .get("/version", ServeFile::new("/proc/version"))
        .get("/filesystems", ServeFile::new("/proc/filesystems"))
        .get("/online", ServeFile::new(sysfs))
        .get("/endless", ServeFile::new("/proc/self/pagemap"))
        .get("/proc/{*path}", ServeDir::new("/proc"));
    let fixture = Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").workers(2).timeouts(quick()));
    let mut client = fixture.client();
    let cases = [
        ("/version", "/proc/version"),
        ("/proc/version", "/proc/version"),
        ("/proc/sys/kernel/ostype", "/proc/sys/kernel/ostype"),
        ("/filesystems", "/proc/filesystems"),
        ("/online", sysfs),
    ];
    for (target, file) in cases {
        let Ok(content) = fs::read_to_string(file) else {
            skip::skip(&format!("no {file}"));
            continue;
        };
        for fields in ["", "Range: bytes=0-3\r\n", "Range: bytes=4096-\r\n", "If-None-Match: \"x\"\r\n"] {
            client.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n"));
            let reply = client.reply();
            assert_eq!((reply.status, reply.text()), (200, content.clone()), "{target} {fields}");
            for none in ["etag", "last-modified", "accept-ranges"] {
                assert_eq!(reply.field(none), None, "{target} {none}");
            }
        }
        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let length = content.len().to_string();
        assert_eq!(client.reply_to("HEAD").field("content-length"), Some(&*length), "{target}");
    }
    if Path::new("/proc/self/pagemap").exists() {
        assert_eq!(client.get("/endless").status, 500);
    }
    assert_eq!(client.get("/version").status, 200, "on the same connection");
}

/// They occupy no blocks either, and their length is right.
#[test]
fn sparse_and_empty_files_are_files_like_others() {
    let folder = tempfile::tempdir().unwrap();
    for (name, len) in [("empty", 0), ("small", 10), ("large", 5 << 20)] {
        fs::File::create(folder.path().join(name)).unwrap().set_len(len).unwrap();
    }
    let router = Router::new().fallback(ServeDir::new(folder.path()));
    let fixture = Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").workers(2).timeouts(quick()));
    let mut client = fixture.client();
    for (name, len) in [("empty", 0), ("small", 10), ("large", 5 << 20)] {
        let reply = client.get(&format!("/{name}"));
        assert_eq!((reply.status, reply.body.len()), (200, len), "{name}");
        assert!(reply.body.iter().all(|byte| *byte == 0), "{name}");
        assert!(reply.field("etag").is_some() && reply.field("last-modified").is_some(), "{name}");
        if len > 0 {
            client.send(format!("GET /{name} HTTP/1.1\r\nHost: h\r\nRange: bytes=2-5\r\n\r\n"));
            let reply = client.reply();
            assert_eq!((reply.status, reply.body.as_slice()), (206, &[0; 4][..]), "{name}");
        }
    }
}
