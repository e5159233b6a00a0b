//! A chat over WebSockets, with its page: every client gets every message, over upgrades too, and a slow client does not delay
//! the others.
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
//! Open it in two windows, and upgrade while you talk: the WebSockets move to the new process, and nobody notices.
//!
//! The members of the room are memory of one process, and while they move some are in the old process and some in the new one.
//! So what is said goes to a file that both have open, and each member has a place in it: that is its state. Those who are in
//! the new process already hear what is said in the old one when the next member comes or says something.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use heirloom::broadcast::{Broadcast, Overflow, Subscription};
use heirloom::handover;
use heirloom::prelude::*;
use heirloom::resume::StreamState;
use heirloom::websocket::{self, Message, WebSocket};

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
    handover::init()?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let file = handover::inherited_fd("chat").map_or_else(unnamed_file, |file| Ok(file.into()));
    let (file, passed_on) = file.and_then(|file| Ok((file.try_clone()?, file))).map_err(handover::fail)?;
    // A client that does not keep up is closed.
    let members = Broadcast::new(100).overflow(Overflow::Disconnect);
    let room = Arc::new(Room { members, said: Mutex::new(Said { file, sent: 0 }) });
    let resumed = Arc::clone(&room);
    let router = Router::new()
        .get("/", |_: Request| Html(PAGE))
        .get("/chat", move |req: Request| enter(&req, Arc::clone(&room)));
    log::info!("pid {}", std::process::id());
    Server::new(router)
        .listen(listen)
        .resume("chat", websocket::resumed(move |socket, state| come_back(socket, &resumed, &state)))
        .process(ProcessConfig::new().pass_fd("chat", passed_on))
        .serve()
}

/// The room, as far as it is in this process.
struct Room {
    members: Broadcast<String>,
    said: Mutex<Said>,
}

/// What was said in all processes, a line each.
struct Said {
    file: File,
    /// The members have been sent the file up to here.
    sent: u64,
}

fn enter(req: &Request, room: Arc<Room>) -> Response {
    let speak = move |socket: &mut WebSocket| {
        let name = format!("guest {}", room.guests()? + 1);
        let membership = room.join(socket, None)?;
        room.say(&format!("{name} is here"))?;
        talk(socket, &room, &name, membership)
    };
    WebSocket::upgrade(req).speak(speak).resumable("chat")
}

/// A member that was in the room of the last process.
fn come_back(socket: &mut WebSocket, room: &Room, state: &StreamState) -> io::Result<()> {
    let (place, name) = state.as_str()?.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
    let place = StreamState::from(place).parse()?;
    let membership = room.join(socket, Some(place))?;
    talk(socket, room, name, membership)
}

fn talk(socket: &mut WebSocket, room: &Room, name: &str, membership: Subscription) -> io::Result<()> {
    let outcome = listen(socket, room, name);
    let place = room.leave(membership);
    if socket.is_moving() {
        return socket.hand_over(format!("{place} {name}"));
    }
    // However it ends.
    room.say(&format!("{name} has left"))?;
    outcome
}

fn listen(socket: &mut WebSocket, room: &Room, name: &str) -> io::Result<()> {
    while let Some(message) = socket.read()? {
        match message {
            Message::Text(text) => room.say(&format!("{name}: {}", text.replace(['\r', '\n'], " ")))?,
            Message::Binary(_) => return socket.close(1003, "only text is understood here"),
        }
    }
    Ok(())
}

impl Room {
    /// The members of this process hear it now, those of another process when they come here.
    fn say(&self, line: &str) -> io::Result<()> {
        let mut said = self.said();
        // The other process may write at the same time: the order is that of the file.
        said.file.write_all(format!("{line}\n").as_bytes())?;
        self.send_news(&mut said)
    }

    fn send_news(&self, said: &mut Said) -> io::Result<()> {
        let end = said.end()?;
        for line in said.lines(said.sent, end)? {
            self.members.send(line);
        }
        said.sent = end;
        Ok(())
    }

    /// Becomes a member, after what was said behind `place`.
    fn join(&self, socket: &WebSocket, place: Option<u64>) -> io::Result<Subscription> {
        let mut said = self.said();
        self.send_news(&mut said)?;
        let sender = socket.sender();
        for line in said.lines(place.unwrap_or(said.sent), said.sent)? {
            sender.try_send(line)?;
        }
        Ok(self.members.attach(sender))
    }

    /// How far in the file a member has heard everything.
    fn leave(&self, membership: Subscription) -> u64 {
        let said = self.said();
        drop(membership);
        said.sent
    }

    fn guests(&self) -> io::Result<usize> {
        let said = self.said();
        Ok(said.lines(0, said.end()?)?.iter().filter(|line| line.ends_with(" is here")).count())
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Said {
    /// The end of the last line: the other process may be writing one.
    fn end(&self) -> io::Result<u64> {
        let new = self.bytes(self.sent, self.file.metadata()?.len())?;
        let lines = new.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        Ok(self.sent + lines as u64)
    }

    fn lines(&self, from: u64, to: u64) -> io::Result<Vec<String>> {
        let bytes = self.bytes(from, to)?;
        Ok(String::from_utf8_lossy(&bytes).split_terminator('\n').map(str::to_owned).collect())
    }

    fn bytes(&self, from: u64, to: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, from)?;
        Ok(bytes)
    }
}

/// It lives as long as a process has it. A real chat would have a database.
fn unnamed_file() -> io::Result<File> {
    let path = std::env::temp_dir().join(format!("chat-{}", std::process::id()));
    let file = File::options().read(true).append(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}
