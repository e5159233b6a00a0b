//! A chat over WebSockets, with its page: every client gets every message, and a slow client does not delay the others.
//!
//! ```text
//! $ cargo run --example websocket_chat --features websocket -- 127.0.0.1:8001
//! $ curl -s http://127.0.0.1:8001/
//! ...
//! <title>Chat</title>
//! ...
//! $ curl -si http://127.0.0.1:8001/chat
//! HTTP/1.1 426 Upgrade Required
//! ...
//! $ curl -si --max-time 1 -H 'Connection: upgrade' -H 'Upgrade: websocket' \
//!     -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' \
//!     http://127.0.0.1:8001/chat | head -n 1
//! HTTP/1.1 101 Switching Protocols
//! $ kill -HUP PID
//! ```
//!
//! Open it in two windows. An upgrade closes all WebSockets with 1001 (going away), and the page reconnects to the new
//! process.

use std::sync::atomic::{AtomicU64, Ordering};

use heirloom::broadcast::{Broadcast, Overflow};
use heirloom::prelude::*;
use heirloom::websocket::{Message, WebSocket};

const PAGE: &str = r#"<!doctype html>
<title>Chat</title>
<form id="form"><input id="text" autofocus autocomplete="off" maxlength="500"><button>Say</button></form>
<ul id="log"></ul>
<script>
const show = (text) => {
  const line = document.createElement("li");
  line.textContent = text;
  document.getElementById("log").prepend(line);
};
let socket;
const connect = () => {
  socket = new WebSocket(location.href.replace(/^http/, "ws") + "chat");
  socket.onmessage = (event) => show(event.data);
  socket.onclose = (event) => {
    show("closed with " + event.code + ", connecting anew");
    setTimeout(connect, event.code === 1001 ? 0 : 2000);
  };
};
connect();
document.getElementById("form").onsubmit = (event) => {
  event.preventDefault();
  const text = document.getElementById("text");
  if (socket.readyState === WebSocket.OPEN) {
    socket.send(text.value);
    text.value = "";
  }
};
</script>
"#;

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    // A client that does not keep up is closed.
    let room = Broadcast::new(100).overflow(Overflow::Disconnect);
    let router = Router::new()
        .get("/", |_: Request| Html(PAGE))
        .get("/chat", move |req: Request| chat(&req, room.clone()));
    log::info!("pid {}", std::process::id());
    Server::new(router).listen(listen).serve()
}

fn chat(req: &Request, room: Broadcast<String>) -> Response {
    static GUESTS: AtomicU64 = AtomicU64::new(1);
    WebSocket::upgrade(req).speak(move |socket| {
        let name = format!("guest {}", GUESTS.fetch_add(1, Ordering::Relaxed));
        let membership = room.attach(socket.sender());
        room.send(format!("{name} is here"));
        let outcome = talk(socket, &room, &name);
        // However it ends.
        drop(membership);
        room.send(format!("{name} has left"));
        outcome
    })
}

fn talk(socket: &mut WebSocket, room: &Broadcast<String>, name: &str) -> std::io::Result<()> {
    while let Some(message) = socket.read()? {
        match message {
            Message::Text(text) => room.send(format!("{name}: {text}")),
            Message::Binary(_) => return socket.close(1003, "only text is understood here"),
        };
    }
    Ok(())
}
