//! Pages for browsers, which do something and report what they saw: `REPORT ...` lines in the log.
//! The protocol is the library's. `pages [ADDRESS]`.

use std::time::Duration;

use heirloom::prelude::*;
use heirloom::sse::{self, Event};
use heirloom::websocket::{Message, WebSocket};
use heirloom::wrap::Csrf;

use super::{MainResult, start_log};

/// Sends text and bytes, waits for the echoes, then for the close; then once more.
const WEBSOCKET: &str = r#"<!doctype html><script>
const report = (text) => fetch("/report", { method: "POST", body: text });
let rounds = 0;
const connect = async () => {
  const generation = await (await fetch("/generation")).text();
  const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws", ["b", "a"]);
  socket.binaryType = "arraybuffer";
  let opened = false;
  socket.onopen = () => { opened = true; socket.send("grüß dich " + "x".repeat(70000)); };
  socket.onmessage = (event) => {
    if (typeof event.data === "string") {
      report("text " + event.data.slice(0, 9) + " of " + event.data.length + ", protocol " + socket.protocol);
      socket.send(new Uint8Array([0, 255, 7]));
    } else {
      report("bytes " + new Uint8Array(event.data).join(",") + " in generation " + generation);
    }
  };
  socket.onclose = (event) => {
    report("closed " + event.code + " clean " + event.wasClean + " opened " + opened);
    rounds += 1;
    if (rounds < 3) connect();
  };
};
connect();
</script>"#;

const EVENTS: &str = r#"<!doctype html><script>
const report = (text) => fetch("/report", { method: "POST", body: text });
const events = new EventSource("/events");
let last = 0, seen = "";
events.onopen = () => report("open");
events.onmessage = (event) => {
  const [n, generation] = event.data.split(" ").map(Number);
  if (n !== last + 1) report("WRONG: " + n + " after " + last);
  last = n;
  if (generation !== seen) report("first of generation " + generation);
  seen = generation;
};
events.addEventListener("lines", (event) => report("lines " + JSON.stringify(event.data)));
events.onerror = () => report("reconnecting " + (events.readyState === EventSource.CONNECTING));
</script>"#;

/// Asks for a change: as a script of this origin, as one of another, and by a form of another.
const FORGERY: &str = r#"<!doctype html>
<iframe name="hidden"></iframe>
<form method="post" enctype="text/plain" target="hidden"><input name="by" value="form of another site"></form>
<script>
const change = (origin, by) => fetch(origin + "/change", { method: "POST", mode: "no-cors", body: by });
const other = location.origin.replace("127.0.0.1", "localhost");
(async () => {
  await change(location.origin, "own page");
  await change(other, "script of another site");
  document.forms[0].action = other + "/change";
  document.forms[0].submit();
})();
</script>"#;

/// Logs what a browser says of where its request comes from, and the status.
fn logged(request: Request, next: Next) -> Response {
    let said = |name| {
        request
            .headers()
            .get(name)
            .map_or("-".into(), |value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let (site, origin) = (said("sec-fetch-site"), said("origin"));
    let same =
        if request.host().is_some_and(|host| origin.ends_with(&*host)) { "the host" } else { "another" };
    let response = next.call(request);
    log::info!("CHANGE {} {site}, Origin is of {same}", response.status().as_u16());
    response
}

pub(super) fn main(args: &[String]) -> MainResult {
    heirloom::handover::init()?;
    start_log();
    let listen = args.first().map_or("127.0.0.1:8001", String::as_str);
    let router = Router::new()
        .get("/websocket.html", |_: Request| Html(WEBSOCKET))
        .get("/events.html", |_: Request| Html(EVENTS))
        .get("/forgery.html", |_: Request| Html(FORGERY))
        .post("/change", (|mut req: Request| req.text()).wrap(Csrf::new()).wrap(logged))
        .get("/generation", |req: Request| ([("cache-control", "no-store")], req.generation().to_string()))
        .get("/ws", |req: Request| {
            WebSocket::upgrade(&req).protocols(&["a"]).speak(|socket| {
                while let Some(message) = socket.read()? {
                    if let Message::Text(text) = &message {
                        log::info!("echo of {} bytes", text.len());
                    }
                    socket.send(message)?;
                }
                log::info!("WEBSOCKET ended in {:?}", socket.closed_with());
                Ok(())
            })
        })
        .get("/events", |req: Request| {
            let generation = req.generation();
            sse::response(&req, move |events| {
                events.send(&Event::retry(Duration::from_millis(50)))?;
                events.send(&Event::data("one\ntwo\r\n").name("lines"))?;
                let got = events.last_id().and_then(|id| id.parse().ok()).unwrap_or(0);
                for n in got + 1_u64.. {
                    events.send(&Event::data(format!("{n} {generation}")).id(n))?;
                    if events.wait(Duration::from_millis(20))?.is_draining() {
                        break;
                    }
                }
                Ok(())
            })
        })
        .post("/report", |mut req: Request| -> std::io::Result<StatusCode> {
            log::info!("REPORT {}", req.text()?);
            Ok(StatusCode::NO_CONTENT)
        });
    Ok(Server::new(router).listen(listen).serve()?)
}
