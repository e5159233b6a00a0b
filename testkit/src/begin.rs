//! Requests that are in flight for as long as a test wants.

use heirloom_testkit::{Client, Outcome};

/// A request of `kitchen_sink` that is in flight until its client ends it: its handler reads a body whose end has not come.
pub trait Begin {
    /// Begins a request that is in flight until `finish`.
    fn begin(&mut self);

    /// Ends the body of the request of `begin`, which is answered by `ok`, and sends `more` with that.
    fn finish_and(&mut self, more: &str) -> Outcome;

    /// Ends the body of the request of `begin`, which is answered by `ok`.
    fn finish(&mut self) -> Outcome {
        self.finish_and("")
    }
}

impl Begin for Client {
    fn begin(&mut self) {
        self.send("POST /read HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n");
    }

    fn finish_and(&mut self, more: &str) -> Outcome {
        self.send(format!("0\r\n\r\n{more}"));
        self.answer()
    }
}
