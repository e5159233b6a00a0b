//! A rouille service with the lifecycle of heirloom: its handler stays as it is, between two
//! conversions. `rouille_service ADDRESS`, then `curl ADDRESS/hello/you`, `curl -d name=you
//! ADDRESS/greet`.

use std::io::{self, Read};
use std::net::SocketAddr;

use heirloom::prelude::*;
use rouille::{post_input, router, try_or_400};

fn main() -> Result<(), heirloom::Error> {
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let handler =
        |request: Request| -> io::Result<Response> { Ok(from_rouille(handle(&to_rouille(request)?))) };
    // What a body may take in memory.
    let limits = Limits::new().body_bytes(8 << 20);
    Server::new(handler).listen(listen).limits(limits).serve()
}

/// As it was with `rouille::start_server`.
fn handle(request: &rouille::Request) -> rouille::Response {
    router!(request,
        (GET) (/hello/{name: String}) => { rouille::Response::text(format!("hello {name}\n")) },
        (POST) (/greet) => {
            let input = try_or_400!(post_input!(request, { name: String }));
            rouille::Response::text(format!("hello {}, from {}\n", input.name, request.remote_addr()))
        },
        (GET) (/pid) => { rouille::Response::text(std::process::id().to_string()) },
        _ => rouille::Response::empty_404()
    )
}

fn to_rouille(mut request: Request) -> io::Result<rouille::Request> {
    // A unix socket's clients have no address.
    let peer = request.peer_addr().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
    let body = request.bytes()?.to_vec();
    let method = request.method().to_string();
    let target = request.uri().path_and_query().map_or("*", |target| target.as_str()).to_owned();
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let fields = request.headers().iter().map(|(name, value)| (name.to_string(), text(value)));
    Ok(rouille::Request::fake_http_from(peer, method, target, fields.collect(), body))
}

fn from_rouille(response: rouille::Response) -> Response {
    let rouille::Response { status_code, headers, data, .. } = response;
    let (source, len) = data.into_reader_and_size();
    let body = match len {
        Some(len) => Body::from_sized_reader(source.take(len as u64), len as u64),
        None => Body::from_reader(source),
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::from_u16(status_code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
            answer.headers_mut().append(name, value);
        }
    }
    answer
}
