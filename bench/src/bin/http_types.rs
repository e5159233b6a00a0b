//! What the types of the `http` crate cost for a request that its handler may keep: instructions to build such a request,
//! move it to a handler, and drop it there, without a server around it. See the README beside this workspace.

use bytes::{Bytes, BytesMut};
use heirloom_bench::Error;
use heirloom_bench::counted::instructions;
use heirloom_bench::machine::has;
use heirloom_bench::work::HELLO;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response};
use std::hint::black_box;
use std::ops::Range;

const USAGE: &str = "http_types";
const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const METHOD: Range<usize> = 0..3;
const VALUE: Range<usize> = 22..31;

/// What is done in each turn.
#[derive(Clone, Copy)]
enum Turn {
    /// The request, with its only field as a part of the head.
    Request,
    /// The same, and the response of its handler.
    Both,
}

const TURNS: [(&str, Turn, &str); 2] = [
    ("request", Turn::Request, "a request with one field: built, moved, dropped"),
    ("both", Turn::Both, "the same, and a response with one field"),
];

#[inline(never)]
fn request(head: &Bytes) -> Request<Bytes> {
    let mut request = Request::new(head.clone());
    *request.method_mut() = Method::from_bytes(&head[METHOD]).expect("GET");
    let value = HeaderValue::from_maybe_shared(head.slice(VALUE)).expect("a host");
    request.headers_mut().append(HOST, value);
    request
}

#[inline(never)]
fn handler(_: Request<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(HELLO.as_bytes()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn run(turn: Turn, turns: usize) {
    // Split, it counts its handles from the start.
    let head = BytesMut::from(HEAD).split_off(0).freeze();
    for _ in 0..turns {
        let request = request(black_box(&head));
        match turn {
            Turn::Request => drop(black_box(request)),
            Turn::Both => drop(black_box(handler(request))),
        }
    }
}

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, turns] = &*arguments {
        let (_, turn, _) = TURNS.iter().find(|(known, ..)| known == word).ok_or(USAGE)?;
        run(*turn, turns.parse()?);
        return Ok(());
    }
    if !arguments.is_empty() {
        return Err(USAGE.into());
    }
    if !has("valgrind") {
        return Err("valgrind is not installed, and nothing can be counted without it".into());
    }
    println!("| `http`'s types alone | instructions |");
    println!("|---|---|");
    for (word, _, name) in TURNS {
        println!("| {name} | {:.0} |", instructions(&[word])?);
    }
    Ok(())
}
