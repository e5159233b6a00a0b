//! Streams whose code decides when they leave: a WebSocket of the process that has accepted it leaves when something has opened
//! the FIFO in the first argument, with a state of the greatest length; an event stream leaves when it has sent all that its hub had.

use std::fs;
use std::io;
use std::path::PathBuf;

use heirloom::broadcast::Broadcast;
use heirloom::prelude::*;
use heirloom::sse::{self, Event, EventWriter};
use heirloom::websocket::{self, WebSocket};

use super::{MainResult, start_log};

const STATE_BYTES: usize = 64 << 10;

pub(super) fn main(args: &[String]) -> MainResult {
    heirloom::handover::init()?;
    start_log();
    let gate: PathBuf = args.first().ok_or("usage: testkit latecomer FIFO")?.into();
    let hub = Broadcast::<u64>::new(100);
    let (of_new, of_resumed, members) = (hub.clone(), hub.clone(), hub.clone());
    let router = Router::new()
        .get("/late", move |req: Request| {
            let gate = gate.clone();
            let speak = move |socket: &mut WebSocket| {
                let n = count(socket, 0)?;
                log::info!("at the gate");
                fs::read(&gate)?;
                leave(socket, n)
            };
            WebSocket::upgrade(&req).speak(speak).resumable("late")
        })
        // Of another kind than its name says.
        .get("/odd", |req: Request| {
            let speak = |socket: &mut WebSocket| {
                count(socket, 0)?;
                socket.hand_over(())
            };
            WebSocket::upgrade(&req).speak(speak).resumable("news")
        })
        .get("/news", move |req: Request| {
            let hub = of_new.clone();
            sse::response(&req, move |events| follow(events, &hub)).resumable("news")
        })
        .get("/members", move |_: Request| members.len().to_string())
        .get("/say/{n}", move |req: Request| match req.param("n").and_then(|n| n.parse().ok()) {
            Some(n) => hub.send(n).to_string(),
            None => "no number".to_owned(),
        });
    let late = websocket::resumed(|socket, state| {
        let n = count(socket, parsed(state.as_str()?)?)?;
        leave(socket, n)
    });
    Ok(Server::new(router)
        .resume("late", late)
        .resume("news", sse::resumed(move |events, _| follow(events, &of_resumed)))
        .timeouts(Timeouts::new().probation(std::time::Duration::ZERO))
        .listen("127.0.0.1:0")
        .serve()?)
}

fn parsed(text: &str) -> io::Result<u64> {
    text.trim_end().parse().map_err(io::Error::other)
}

/// Answers each message by its number and the process.
fn count(socket: &mut WebSocket, mut n: u64) -> io::Result<u64> {
    while socket.read()?.is_some() {
        n += 1;
        socket.send(format!("{n} {}", std::process::id()))?;
    }
    Ok(n)
}

fn leave(socket: &mut WebSocket, n: u64) -> io::Result<()> {
    let mut state = n.to_string();
    state.extend(std::iter::repeat_n(' ', STATE_BYTES - state.len()));
    socket.hand_over(state)
}

fn follow(events: &mut EventWriter<'_>, hub: &Broadcast<u64>) -> io::Result<()> {
    let values = hub.subscribe_until(events.drain());
    events.follow(values, Event::data)?;
    events.hand_over(())
}
