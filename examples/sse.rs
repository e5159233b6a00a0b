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
//! data: 42, says generation 1
//! ...
//! $ kill -HUP PID
//! $ tail -n 3 seen.txt
//! event: end
//! data: generation 1 ends
//!
//! ```
//!
//! Open it in a browser, and upgrade while it counts: the old process ends the stream, the browser reconnects with the id of
//! the last event, and the new process continues from there.

use std::time::Duration;

use heirloom::prelude::*;
use heirloom::sse::{self, Event};

const PAGE: &str = r#"<!doctype html>
<title>Counting</title>
<p>An upgrade is not seen here, but for the generation: <b id="last">nothing yet</b>
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
events.addEventListener("end", (event) => show(event.data));
</script>
"#;

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let router = Router::new().get("/", |_: Request| Html(PAGE)).get("/count", count);
    log::info!("pid {}", std::process::id());
    Server::new(router).listen(listen).serve()
}

fn count(req: Request) -> Response {
    let generation = req.generation();
    sse::response(&req, move |events| {
        // Browsers wait some seconds before they connect anew; there is no need to.
        events.send(&Event::retry(Duration::from_millis(200)))?;
        let got = events.last_id().and_then(|id| id.parse().ok()).unwrap_or(0);
        for n in got + 1_u64.. {
            events.send(&Event::data(format!("{n}, says generation {generation}")).id(n))?;
            if events.wait(Duration::from_millis(500))?.is_draining() {
                break;
            }
        }
        events.send(&Event::data(format!("generation {generation} ends")).name("end"))
    })
}
