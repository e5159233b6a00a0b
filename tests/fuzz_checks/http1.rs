//! Heads and bodies as bytes: pieces must be read as the whole is.

use crate::base::limits::Limits;
use crate::http::codec::encode::{self, LAST_CHUNK};
use crate::http::codec::{Decoder, Framing, HeadMemory, Refusal, RequestHead, Scan, head as parser};

/// Limits that short inputs reach.
pub(super) fn tight() -> Limits {
    Limits::new()
        .head_bytes(400)
        .head_fields(8)
        .target_bytes(60)
        .body_memory_bytes(48)
        .body_bytes(200)
        .discard_bytes(100)
        .requests_per_connection(20)
        .connections(1)
}

/// Splits the input from its instructions: the number of cuts, then their places, in 256ths of the rest.
pub(super) fn cut(data: &[u8]) -> (Vec<usize>, &[u8]) {
    let Some((count, rest)) = data.split_first() else { return (Vec::new(), data) };
    let (places, input) = rest.split_at(rest.len().min(usize::from(count % 16)));
    let mut cuts: Vec<usize> = match count {
        // Cut after each byte.
        240.. => (0..input.len()).collect(),
        _ => places.iter().map(|place| usize::from(*place) * input.len() / 256).collect(),
    };
    cuts.push(input.len());
    cuts.sort_unstable();
    cuts.dedup();
    (cuts, input)
}

/// A head.
pub fn head(data: &[u8]) {
    let (cuts, input) = cut(data);
    for limits in [tight(), Limits::default()] {
        one_head(input, &cuts, &limits);
    }
}

fn parse(input: &[u8], limits: &Limits, memory: &mut HeadMemory) -> Result<Option<RequestHead>, Refusal> {
    let mut head = None;
    parser::parse_head(input, limits, memory, &mut head)?;
    Ok(head)
}

fn one_head(input: &[u8], cuts: &[usize], limits: &Limits) {
    let memory = &mut HeadMemory::default();
    let whole = parse(input, limits, memory);
    let mut scan = Scan::default();
    let mut scanned = Ok(None);
    for &cut in cuts {
        let part = &input[..cut];
        if let Err(refusal) = parse(part, limits, memory) {
            assert_eq!(whole.as_ref().err(), Some(&refusal), "refused after {cut} bytes, and not in the end");
        }
        let mut head = None;
        scanned = scan.parse(part, limits, memory, &mut head).map(drop).map(|()| head);
        if !matches!(scanned, Ok(None)) {
            break;
        }
    }
    match (&whole, &scanned) {
        // In pieces it may be refused later.
        (Err(_), Ok(None)) => {}
        (Err(one), Err(other)) => assert_eq!(one, other),
        (Ok(one), Ok(other)) => assert_eq!(format!("{one:?}"), format!("{other:?}")),
        _ => panic!("{whole:?} at once, {scanned:?} in pieces"),
    }
    if let Ok(Some(head)) = whole {
        whole_head(input, &head, limits);
    }
}

fn whole_head(input: &[u8], head: &RequestHead, limits: &Limits) {
    let headers = head.request.as_ref().unwrap().headers();
    assert!(head.len <= input.len().min(limits.head_bytes) && headers.len() <= limits.head_fields);
    let (before, text) = input[..head.len].split_at(head.len - head.summary.text.len());
    assert_eq!(text, head.summary.text, "the text is what came");
    assert!(before.iter().all(|b| matches!(b, b'\r' | b'\n')), "empty lines only");
    assert!(text.ends_with(b"\n\n") || text.ends_with(b"\n\r\n"));
    let alone = parse(text, limits, &mut HeadMemory::default());
    let Ok(Some(alone)) = alone else { panic!("not without what follows: {alone:?}") };
    assert_eq!(format!("{:?}", alone.request), format!("{:?}", head.request));
    for (name, value) in headers {
        let bad = |b: &u8| matches!(b, b'\r' | b'\n' | 0);
        assert!(!value.as_bytes().iter().any(bad), "{name} could end its line");
    }
    let codings = headers.get_all("transfer-encoding").iter().count();
    let lengths = headers.get_all("content-length").iter().count();
    match head.framing {
        Framing::Chunked => assert!(codings > 0 && lengths == 0),
        Framing::Length(_) => assert_eq!((codings, lengths), (0, 1)),
        Framing::None => assert_eq!((codings, lengths), (0, 0)),
    }
}

/// A body, chunked or with a length given by the second byte.
pub fn body(data: &[u8]) {
    let (cuts, input) = cut(data);
    let length = Framing::Length(u64::from(input.first().copied().unwrap_or(0)));
    for framing in [Framing::Chunked, length, Framing::None] {
        for limits in [tight(), Limits::default()] {
            let whole = decode(framing, &limits, input, &[input.len()]);
            let pieces = decode(framing, &limits, input, &cuts);
            assert_eq!(whole, pieces, "{framing:?}");
            if let Ok(Decoded { content, done: true, .. }) = whole {
                reads_back(&content, &limits);
            }
        }
    }
}

/// The outcome of a body.
#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    content: Vec<u8>,
    done: bool,
    trailers: http::HeaderMap,
    used: usize,
}

fn decode(framing: Framing, limits: &Limits, input: &[u8], cuts: &[usize]) -> Result<Decoded, Refusal> {
    let mut decoder = Decoder::new(framing, limits);
    let (mut content, mut used) = (Vec::new(), 0);
    for &cut in cuts {
        while !decoder.is_done() && used < cut {
            let input = &input[used..cut];
            let before = decoder.remaining_hint();
            let step = decoder.decode(input)?;
            assert!(step.consumed > 0, "no way on");
            content.extend_from_slice(&input[step.data.clone()]);
            used += step.consumed;
            if let (Framing::Length(_), Some(before), Some(after)) =
                (framing, before, decoder.remaining_hint())
            {
                assert_eq!(before - after, step.data.len() as u64);
            }
        }
    }
    Ok(Decoded { content, done: decoder.is_done(), trailers: decoder.take_trailers(), used })
}

fn reads_back(content: &[u8], limits: &Limits) {
    let mut written = Vec::new();
    content.chunks(7).for_each(|piece| encode::chunk(&mut written, piece));
    written.extend_from_slice(LAST_CHUNK);
    let again = decode(Framing::Chunked, limits, &written, &[written.len()]);
    assert!(again.is_ok_and(|again| again.done && again.used == written.len() && again.content == content));
}
