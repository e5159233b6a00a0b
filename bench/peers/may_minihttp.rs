//! may_minihttp on may's stackful coroutines, as many workers as cores. It has no router and
//! ignores `Connection: close`. A handler that waits uses may's own sleep, which is what blocking
//! code looks like there.

use heirloom_bench::work::{self, HELLO, KIB, KIB64, MIB, SLOW};
use may::coroutine;
use may_minihttp::{HttpServer, HttpService, Request, Response};
use std::io::{self, Read};
use std::time::Duration;

#[derive(Clone)]
struct Service;

impl HttpService for Service {
    fn call(&mut self, req: Request, rsp: &mut Response) -> io::Result<()> {
        let text = match req.path() {
            "/" => HELLO,
            "/1k" => KIB,
            "/64k" => KIB64,
            "/1m" => MIB,
            "/block" => {
                coroutine::sleep(Duration::from_millis(1));
                HELLO
            }
            "/slow" => {
                coroutine::sleep(SLOW);
                HELLO
            }
            "/burn" => work::burn(),
            "/echo" => {
                let mut body = Vec::new();
                req.body().read_to_end(&mut body)?;
                rsp.body_vec(body);
                return Ok(());
            }
            _ => {
                rsp.status_code(404, "Not Found");
                return Ok(());
            }
        };
        rsp.header("Content-Type: text/plain; charset=utf-8").body(text);
        Ok(())
    }
}

fn main() -> io::Result<()> {
    let cores = std::thread::available_parallelism()?;
    may::config().set_workers(cores.get());
    let server = HttpServer(Service).start(work::listen())?;
    server.join().map_err(|_| io::Error::other("the server panicked"))
}
