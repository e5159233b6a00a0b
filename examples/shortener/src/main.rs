//! A URL shortener on SQLite, as it could be deployed: pages, a JSON API, and upgrades under load without
//! a lost write.
//!
//! ```text
//! $ cargo run -p shortener -- 127.0.0.1:8001 links.db
//! $ curl -i -H 'Content-Type: application/json' -d '{"url": "https://www.rust-lang.org", "alias": "rust"}' \
//!     http://127.0.0.1:8001/api/links
//! HTTP/1.1 201 Created
//! Content-Type: application/json
//! Location: /api/links/rust
//! ...
//! {"alias":"rust","url":"https://www.rust-lang.org/","path":"/rust","created":"...Z","hits":0}
//! $ curl -s -o /dev/null -w '%{http_code} %{redirect_url}' http://127.0.0.1:8001/rust
//! 307 https://www.rust-lang.org/
//! $ kill -HUP PID
//! $ curl -s -o /dev/null -w '%{http_code} %{redirect_url}' http://127.0.0.1:8001/rust
//! 307 https://www.rust-lang.org/
//! $ curl -H 'Content-Type: application/json' -d '{"url": "https://example.com", "alias": "rust"}' \
//!     http://127.0.0.1:8001/api/links
//! {"title":"Conflict","status":409,"detail":"the alias is taken","field":"alias"}
//! $ curl -H 'Content-Type: application/json' -d '{"url": "ftp://example.com"}' http://127.0.0.1:8001/api/links
//! {"title":"Unprocessable Entity","status":422,"detail":"http and https only","column":28,"field":"url","line":1}
//! $ curl -X DELETE -w '%{http_code}' http://127.0.0.1:8001/api/links/rust
//! 204
//! $ curl http://127.0.0.1:8001/api/links/rust
//! {"title":"Not Found","status":404}
//! $ curl -s -d 'url=https://example.com' -o /dev/null -w '%{http_code} %{redirect_url}' http://127.0.0.1:8001/
//! 303 http://127.0.0.1:8001/?made=...
//! $ curl -s http://127.0.0.1:8001/ | grep -c '<tr>'
//! 2
//! $ kill PID
//! ```
//!
//! Open it in a browser, too. `SHORTENER_LOGIN=user:password` asks for that for everything but the short
//! links themselves. After the database comes an address for operators, if there is to be one
//! (`/readyz`, `/metrics` ...). Upgrade it while you load it: `tests/it/upgrades.rs` counts that no link is lost.
//!
//! How this works:
//!
//! - A link is in the database, and synced to disk, before its 201 is sent.
//! - Both generations have the database open during a handover. SQLite supports that: its locks work between
//!   processes, readers never wait in WAL mode, and a writer waits for the writer of the other process. Each
//!   generation opens the database for itself: a connection of SQLite must not be passed to another process, and
//!   none is, because its files are closed on exec.
//! - No generation has anything in memory that the other would need. Both add their counts of hits to the numbers
//!   in the database, and write the rest when all their requests are complete.
//! - The new generation has opened the database, brought its schema up to date in one transaction, and given
//!   each worker its connection before it takes over. If it can't, it ends, and the old one continues to serve.

mod api;
mod link;
mod pages;
mod site;
mod store;

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use heirloom::handover;
use heirloom::prelude::*;

use site::{Login, site};
use store::Store;

/// How long a request waits for others that write: longer than a probation, while which two generations
/// do.
const PATIENCE: Duration = Duration::from_secs(10);
/// How old counts of hits may be, and so how many of them a crash may lose.
const HITS_EVERY: Duration = Duration::from_secs(1);

fn main() -> Result<(), heirloom::Error> {
    handover::init()?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let mut args = std::env::args().skip(1);
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let database = args.next().unwrap_or_else(|| "links.db".to_owned());
    let operators = args.next();
    let login = std::env::var("SHORTENER_LOGIN").ok().map(|text| Login::parse(&text)).transpose();
    let login = login.map_err(handover::fail)?;
    if login.is_none() {
        log::warn!("without SHORTENER_LOGIN=user:password everybody may add and delete links");
    }

    let store = Arc::new(Store::open(database, PATIENCE).map_err(handover::fail)?);
    let (writer, last) = (Arc::clone(&store), Arc::clone(&store));
    let (_open, closed) = channel::<()>();
    let hits = move || {
        while closed.recv_timeout(HITS_EVERY) == Err(RecvTimeoutError::Timeout) {
            writer.write_hits();
        }
    };
    std::thread::Builder::new().name("hits".to_owned()).spawn(hits).map_err(handover::fail)?;

    log::info!("pid {}", std::process::id());
    let server = Server::new(site(&store, login))
        .per_worker(store.readers())
        .listen(listen)
        .process(ProcessConfig::new().on_exit(move || last.write_hits()));
    let server = match operators {
        Some(address) => server.admin(address),
        None => server,
    };
    server.serve()
}
