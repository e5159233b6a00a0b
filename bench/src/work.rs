//! What every server in `peers/` answers, so that all of them do the same work. `peers/main.go` and
//! `peers/nginx.conf` say it once more, as far as they go.

use std::hint::black_box;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

pub const HELLO: &str = "Hello, World!";
pub const KIB: &str = str_of(&[b'x'; 1024]);
pub const KIB64: &str = str_of(&[b'x'; 64 * 1024]);
pub const MIB: &str = str_of(&[b'x'; 1024 * 1024]);

/// Routes with three parameters: `/api/r0/{account}/items/{item}/lines/{line}` and so on.
pub const ROUTES: usize = 50;
/// One of them, and what it answers.
pub const ROUTED: (&str, &str) = ("/api/r37/acme/items/42/lines/7", "acme 42 7");

/// About 100 us of a core near 3 GHz: each step waits for the one before, and no compiler sees a
/// shorter way to the end. `field` prints what it took.
const BURN_ROUNDS: u64 = 50_000;

const fn str_of(bytes: &'static [u8]) -> &'static str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => panic!("no UTF-8"),
    }
}

/// A handler that waits for something, the way blocking code does.
pub fn block() -> &'static str {
    thread::sleep(Duration::from_millis(1));
    HELLO
}

pub fn slow() -> &'static str {
    thread::sleep(SLOW);
    HELLO
}

pub const SLOW: Duration = Duration::from_millis(500);

/// How many times as long a handler computes.
static BURNS: LazyLock<u64> =
    LazyLock::new(|| std::env::var("BURNS").map_or(1, |times| times.parse().expect("a number")));

/// A handler that computes.
pub fn burn() -> &'static str {
    let mut x = black_box(1u64);
    for _ in 0..BURN_ROUNDS * *BURNS {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    black_box(x);
    HELLO
}

/// The value of `--NAME` among the arguments, for servers that take no other form.
pub fn argument(name: &str) -> Option<String> {
    let mut args = std::env::args().skip_while(|arg| arg.strip_prefix("--") != Some(name));
    args.next()?;
    args.next()
}

pub fn listen() -> String {
    argument("listen").unwrap_or_else(|| "127.0.0.1:8080".to_owned())
}
