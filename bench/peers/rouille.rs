//! rouille with the pool of its default size, 8 threads for each core, and its router.

use heirloom_bench::work::{self, HELLO, KIB, KIB64, MIB};
use rouille::{Request, Response, router, start_server_with_pool};
use std::io::Read;

/// Its macro wants each route spelled out.
macro_rules! routes {
    ($request:expr, $($n:literal)*) => {
        router!($request,
            (GET) ["/"] => { Response::text(HELLO) },
            (GET) ["/1k"] => { Response::text(KIB) },
            (GET) ["/64k"] => { Response::text(KIB64) },
            (GET) ["/1m"] => { Response::text(MIB) },
            (GET) ["/block"] => { Response::text(work::block()) },
            (GET) ["/slow"] => { Response::text(work::slow()) },
            (GET) ["/burn"] => { Response::text(work::burn()) },
            (POST) ["/echo"] => { echo($request) },
            $((GET) [
                concat!("/api/r", $n, "/{account}/items/{item}/lines/{line}"),
                account: String, item: String, line: String
            ] => { Response::text(format!("{account} {item} {line}")) },)*
            _ => Response::empty_404()
        )
    };
}

fn handle(request: &Request) -> Response {
    routes!(request,
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24
        25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49)
}

fn echo(request: &Request) -> Response {
    let mut body = Vec::new();
    match request.data().map(|mut data| data.read_to_end(&mut body)) {
        Some(Ok(_)) => Response::from_data("application/octet-stream", body),
        _ => Response::empty_400(),
    }
}

fn main() {
    start_server_with_pool(work::listen(), None, handle)
}
