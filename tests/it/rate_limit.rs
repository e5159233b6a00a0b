//! Rate limits, over the wire.

use std::time::Duration;

use heirloom::prelude::*;
use heirloom::wrap::RateLimit;

use crate::support::*;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn what_is_beyond_the_rate_costs_no_body() {
    let limit = RateLimit::new(2, HOUR);
    let upload = max_body(64 << 20, |mut req: Request| req.text());
    let router = Router::new()
        .get("/", |_: Request| "Hello, World!")
        .post("/upload", upload.wrap(limit.clone()))
        .get("/also", (|_: Request| "also").wrap(limit))
        .get("/alone", (|_: Request| "alone").wrap(RateLimit::new(1, HOUR).by_header("x-key")));
    let fixture = Fixture::with(|_| Server::new(router).listen("127.0.0.1:0").timeouts(quick()));
    let mut client = fixture.client();
    client.send(post("/upload", b"one"));
    assert_eq!(client.reply().said(), "200 one");
    // Clones count together.
    assert_eq!(client.get("/also").said(), "200 also");
    // Nothing of the body is sent.
    client
        .send("POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 50000000\r\nExpect: 100-continue\r\n\r\n");
    let reply = client.reply();
    assert_eq!((&*reply.said(), reply.closes()), ("429 429 Too Many Requests", true));
    let wait: u64 = reply.field("retry-after").unwrap().parse().unwrap();
    assert!((1_700..=1_800).contains(&wait), "{wait}");
    client.expect_fin();
    // The connection is kept where it may be.
    let mut client = fixture.client();
    client.send(post("/upload", b"short"));
    assert_eq!(client.reply().status, 429);
    client.expect_kept();
    for (key, status) in [("a", 200), ("b", 200), ("a", 429), ("c", 200)] {
        client.send(format!("GET /alone HTTP/1.1\r\nHost: h\r\nX-Key: {key}\r\n\r\n"));
        assert_eq!(client.reply().status, status, "{key}");
    }
}
