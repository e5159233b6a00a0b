//! The files of a directory, beside routes: types, ranges, conditional requests, and no way out of the directory.
//!
//! ```text
//! $ mkdir public
//! $ echo '<h1>Hello</h1>' > public/index.html
//! $ echo secret > secret.txt
//! $ ln -s ../secret.txt public/link.txt
//! $ cargo run --example files --features files -- 127.0.0.1:8001 public
//! $ curl -i http://127.0.0.1:8001/
//! HTTP/1.1 200 OK
//! ...
//! Content-Type: text/html; charset=utf-8
//! ...
//! Cache-Control: max-age=60
//! ...
//! <h1>Hello</h1>
//! $ curl -w '%{http_code} %header{content-range}' -r 4-8 http://127.0.0.1:8001/index.html
//! Hello206 bytes 4-8/15
//! $ curl --etag-save etag.txt -o page.html http://127.0.0.1:8001/index.html
//! $ curl --etag-compare etag.txt -o page.html -w '%{http_code} %{size_download}' http://127.0.0.1:8001/index.html
//! 304 0
//! $ curl --path-as-is http://127.0.0.1:8001/../secret.txt
//! 404 Not Found
//! $ curl http://127.0.0.1:8001/%2e%2e%2fsecret.txt
//! 404 Not Found
//! $ curl http://127.0.0.1:8001/link.txt
//! 404 Not Found
//! $ curl -OJ http://127.0.0.1:8001/download
//! $ cat hello.html
//! <h1>Hello</h1>
//! $ curl http://127.0.0.1:8001/now
//! not a file
//! ```

use std::path::PathBuf;

use heirloom::prelude::*;
use heirloom::{ServeDir, ServeFile};

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let mut args = std::env::args().skip(1);
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let folder = PathBuf::from(args.next().unwrap_or_else(|| "public".to_owned()));

    let page = folder.join("index.html");
    let router = Router::new()
        .get("/now", |_: Request| "not a file\n")
        .get("/download", move |req: Request| {
            // Whether this client may have the file is decided here.
            let name = "attachment; filename=hello.html";
            ServeFile::new(&page).call(req).with_header(header::CONTENT_DISPOSITION, name)
        })
        // Every path without a route. For a part of the paths: `.get("/static/{*path}", ...)`.
        .fallback(ServeDir::new(folder).cache_control("max-age=60"));
    log::info!("pid {}", std::process::id());
    Server::new(router).listen(listen).serve()
}
