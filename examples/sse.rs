//! Server-sent events: a page that continues to count over upgrades, without a missing or repeated number.
//!
//! ```text
//! $ cargo run --example sse -- 127.0.0.1:8001
//! $ curl -s http://127.0.0.1:8001/
//! ...
//! <title>Counting</title>
//! ...
//! $ curl -sN -H 'Last-Event-ID: 41' http://127.0.0.1:8001/count > seen.txt &
//! $ cat seen.txt
//! ...
//! id: 42
//! data: 42
//! ...
//! $ kill -HUP PID
//! $ grep -A 1 'id: 50' seen.txt
//! id: 50
//! data: 50
//! $ kill PID
//! ```
//!
//! Open it in a browser, and upgrade while it counts: the stream moves to the new process, and continues there. At a stop, or
//! where it can't move, the stream ends, and the browser reconnects with the id of the last event.

use std::io;
use std::time::Duration;

use heirloom::prelude::*;
use heirloom::sse::{self, Event, EventWriter};

const PAGE: &str = r#"<!doctype html>
<title>Counting</title>
<p>An upgrade is not seen here: <b id="last">nothing yet</b>
<ol id="log"></ol>
<script>
const show = (text) => {
  const line = document.createElement("li");
  line.textContent = text;
  document.getElementById("log").prepend(line);
};
const events = new EventSource("/count");
events.onopen = () => show("connected");
events.onerror = () => show("disconnected, connecting anew");
events.onmessage = (event) => (document.getElementById("last").textContent = event.data);
</script>
"#;

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let router = Router::new().get("/", |_: Request| Html(PAGE)).get("/count", start);
    log::info!("pid {}", std::process::id());
    Server::new(router)
        .listen(listen)
        .resume("count", sse::resumed(|events, state| count(events, state.parse()?)))
        .serve()
}

fn start(req: Request) -> Response {
    let response = sse::response(&req, |events| {
        // Browsers wait some seconds before they connect anew; there is no need to.
        events.send(&Event::retry(Duration::from_millis(200)))?;
        let got = events.last_id().and_then(|id| id.parse().ok()).unwrap_or(0);
        count(events, got)
    });
    response.resumable("count")
}

fn count(events: &mut EventWriter<'_>, mut n: u64) -> io::Result<()> {
    loop {
        n += 1;
        events.send(&Event::data(n).id(n))?;
        if events.wait(Duration::from_millis(500))?.is_draining() {
            return events.hand_over(n.to_string());
        }
    }
}
