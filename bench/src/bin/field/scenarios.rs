//! What is measured: the connections, their requests, and the other clients.

use heirloom_bench::work;

/// What a peer must have for a scenario.
#[derive(Clone, Copy, PartialEq)]
pub enum Needs {
    Hello,
    /// Heeding `Connection: close`.
    Close,
    /// Responses of 1 KiB to 1 MiB.
    Bytes,
    Echo,
    Router,
    Block,
    Burn,
    /// A slow route beside fast ones.
    Mixed,
}

#[derive(Clone, Copy)]
pub enum Load {
    Get,
    /// So many requests in one write.
    Pipelined(usize),
    /// A body of so many bytes.
    Post(usize),
    /// A new connection for each request, closed by the server.
    Reconnect,
    /// The same, closed by the client.
    ReconnectAndClose,
}

/// The other connections while the load runs.
#[derive(Clone, Copy)]
pub enum Beside {
    Nobody,
    /// So many keep-alive connections that have made one request.
    Idle(usize),
    /// So many clients that send a byte of a head a second.
    SlowHeads(usize),
    /// So many clients that ask for the slow route again and again.
    SlowRoute(usize),
}

#[derive(Clone)]
pub struct Scenario {
    pub id: String,
    pub title: String,
    pub needs: Needs,
    pub path: &'static str,
    pub connections: usize,
    pub load: Load,
    pub beside: Beside,
    pub pinned: bool,
    /// What a response's body has at least.
    pub body: usize,
}

impl Scenario {
    fn new(id: &str, title: &str, needs: Needs, path: &'static str, connections: usize) -> Scenario {
        let (id, title) = (id.to_owned(), title.to_owned());
        let (load, beside, pinned, body) = (Load::Get, Beside::Nobody, true, work::HELLO.len());
        Scenario { id, title, needs, path, connections, load, beside, pinned, body }
    }

    fn unpinned(mut self) -> Scenario {
        self.id += "-unpinned";
        self.title += ", unpinned";
        self.pinned = false;
        self
    }
}

/// The name of a set of scenarios, and the ids of those: what most of a small response's cost is about.
pub const SMALL: (&str, &[&str]) = (
    "small",
    &[
        "ka1",
        "ka16",
        "ka64",
        "ka256",
        "ka1000",
        "idle2000",
        "pipe16",
        "close",
        "client-close",
        "ka64-unpinned",
    ],
);

/// The ids of a set of scenarios; other names stand for themselves.
pub fn named(name: String) -> Vec<String> {
    let (set, ids) = SMALL;
    if name == set { ids.iter().map(ToString::to_string).collect() } else { vec![name] }
}

/// In the order in which they are measured.
pub fn usual() -> Vec<Scenario> {
    let mut usual = pinned();
    usual.extend(find("ka64-unpinned"));
    usual
}

/// By its id; each is also available unpinned.
pub fn find(id: &str) -> Option<Scenario> {
    let find = |id: &str| pinned().into_iter().find(|scenario| scenario.id == id);
    match id.strip_suffix("-unpinned") {
        Some(id) => find(id).map(Scenario::unpinned),
        None => find(id),
    }
}

fn pinned() -> Vec<Scenario> {
    use Needs::{Block, Burn, Bytes, Close, Echo, Hello, Mixed, Router};
    let mut all = Vec::new();
    for connections in [1, 16, 64, 256, 1000] {
        let title = format!("Keep-alive, {connections} connections");
        all.push(Scenario::new(&format!("ka{connections}"), &title, Hello, "/", connections));
    }
    let of = Scenario::new;
    all.push(Scenario {
        load: Load::Pipelined(16),
        ..of("pipe16", "Pipelined, 16 requests in a write, 64 connections", Hello, "/", 64)
    });
    all.push(Scenario {
        load: Load::Reconnect,
        ..of("close", "A new connection for each request, 16 at a time", Close, "/", 16)
    });
    all.push(Scenario {
        load: Load::ReconnectAndClose,
        ..of(
            "client-close",
            "A new connection for each request, closed by the client, 16 at a time",
            Hello,
            "/",
            16,
        )
    });
    for (idle, number) in [(2000, "2,000"), (9000, "9,000")] {
        let title = format!("64 active connections beside {number} idle ones");
        let of = of(&format!("idle{idle}"), &title, Hello, "/", 64);
        all.push(Scenario { beside: Beside::Idle(idle), ..of });
    }
    for (id, size, path) in
        [("1 KiB", 1 << 10, "/1k"), ("64 KiB", 64 << 10, "/64k"), ("1 MiB", 1 << 20, "/1m")]
    {
        let title = format!("Responses of {id}, 64 connections");
        all.push(Scenario { body: size, ..of(&path[1..], &title, Bytes, path, 64) });
    }
    for (id, name, size) in [("post1k", "1 KiB", 1 << 10), ("post64k", "64 KiB", 64 << 10)] {
        let title = format!("POST {name}, echoed, 64 connections");
        all.push(Scenario { load: Load::Post(size), body: size, ..of(id, &title, Echo, "/echo", 64) });
    }
    let routed = Scenario { body: work::ROUTED.1.len(), ..of("router", "", Router, work::ROUTED.0, 64) };
    all.push(Scenario { title: "One of 50 routes, with 3 parameters, 64 connections".into(), ..routed });
    all.push(of("block", "A handler that blocks 1 ms, 64 connections", Block, "/block", 64));
    all.push(of("burn", "A handler that computes for about 100 us, 64 connections", Burn, "/burn", 64));
    all.push(Scenario {
        beside: Beside::SlowRoute(8),
        ..of("mixed", "64 connections on a fast route beside 8 on one that takes 500 ms", Mixed, "/", 64)
    });
    all.push(Scenario {
        beside: Beside::SlowHeads(500),
        ..of("slow500", "16 normal connections beside 500 slow clients", Hello, "/", 16)
    });
    all
}
