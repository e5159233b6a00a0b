//! A wall of notes as server-sent events: what anyone posts, each client gets, and a slow client delays nobody.
//!
//! ```text
//! $ cargo run --example broadcast -- 127.0.0.1:8001
//! $ curl -sN http://127.0.0.1:8001/notes > seen.txt &
//! $ curl -d 'hello' http://127.0.0.1:8001/notes
//! sent to 1
//! $ cat seen.txt
//! :
//! data: hello
//!
//! $ kill -HUP PID
//! $ curl -d 'to the next generation' http://127.0.0.1:8001/notes
//! sent to 0
//! ```
//!
//! An upgrade ends the streams of the old process, and browsers reconnect to the new one.

use heirloom::broadcast::Broadcast;
use heirloom::prelude::*;
use heirloom::sse::{self, Event};

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    // A client that is 100 notes behind loses the oldest.
    let wall = Broadcast::new(100);
    let posts = wall.clone();
    let post = move |mut req: Request| req.text().map(|note| format!("sent to {}\n", posts.send(note)));
    let router = Router::new().post("/notes", post).get("/notes", move |req: Request| notes(req, &wall));
    log::info!("pid {}", std::process::id());
    Server::new(router).listen(listen).serve()
}

fn notes(req: Request, wall: &Broadcast<String>) -> Response {
    let notes = wall.subscribe(&req);
    sse::response(&req, |events| events.follow(notes, Event::data))
}
