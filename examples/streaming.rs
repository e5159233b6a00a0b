//! Bodies that are never in memory as a whole: an upload that is read while it arrives, a download that is generated piece by
//! piece, and a stream that lasts until the process drains.
//!
//! ```text
//! $ cargo run --example streaming -- 127.0.0.1:8001 .
//! $ head -c 10000000 /dev/zero | curl -s -T - http://127.0.0.1:8001/files/zeros
//! zeros: 10000000 bytes
//! $ ls -l zeros
//! ... 10000000 ... zeros
//! $ head -c 300000000 /dev/zero | curl -s -T - -w '%{http_code}' -o /dev/null http://127.0.0.1:8001/files/more
//! 413
//! $ ls
//! examples
//! zeros
//! $ curl -s http://127.0.0.1:8001/squares | tail -n 1
//! 1000000,1000000000000
//! $ curl -sN http://127.0.0.1:8001/clock > clock.txt &
//! $ cat clock.txt
//! generation 1 has been here for ...
//! ...
//! $ kill -HUP PID
//! $ tail -n 1 clock.txt
//! generation 1 says goodbye
//! ```

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heirloom::prelude::*;
use heirloom::with_state;
use tempfile::NamedTempFile;

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let mut args = std::env::args().skip(1);
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let folder = Arc::new(PathBuf::from(args.next().unwrap_or_else(|| ".".to_owned())));

    let router = Router::new()
        .put("/files/{name}", streaming(max_body(100 << 20, with_state(&folder, upload))))
        .get("/squares", squares)
        .get("/clock", clock);
    log::info!("pid {}", std::process::id());
    Server::new(router).listen(listen).serve()
}

/// Holds a worker while the body arrives, which is why routes ask for it, and have a share of the
/// workers. A handler that only needs the body as a file needs none of this: `req.body_mut()` is read
/// from one once it is complete.
fn upload(folder: &PathBuf, mut req: Request) -> io::Result<Response> {
    let name = req.param("name").unwrap_or_default().to_owned();
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
        return Ok((StatusCode::BAD_REQUEST, "not a name for a file\n").into_response());
    }
    // Removed unless it is complete: an error here is one of the client's too, and answers for it.
    let mut file = NamedTempFile::new_in(folder)?;
    let bytes = io::copy(req.body_mut(), &mut file)?;
    file.persist(folder.join(&name)).map_err(|e| e.error)?;
    Ok((StatusCode::CREATED, format!("{name}: {bytes} bytes\n")).into_response())
}

/// Asked for the next chunk when the client has taken the last one: no worker waits for it.
fn squares(_: Request) -> Body {
    let row = |n: u64| format!("{n},{}\n", n * n);
    let chunk = move |of: u64| Ok((of * 1_000 + 1..=of * 1_000 + 1_000).map(row).collect::<String>());
    Body::from_chunks((0..1_000).map(chunk))
}

/// A long response has a dedicated thread, and ends when the process drains.
fn clock(req: Request) -> Body {
    let (drain, generation) = (req.drain(), req.generation());
    Body::writer(move |out| {
        let start = Instant::now();
        while !drain.wait(Duration::from_millis(200)).is_draining() {
            writeln!(out, "generation {generation} has been here for {} ms", start.elapsed().as_millis())?;
        }
        writeln!(out, "generation {generation} says goodbye")
    })
}
