//! Serves the files of a directory, and accepts bodies that go to temporary files: `file_server ADDRESS DIRECTORY`.

use std::fs::File;
use std::time::Duration;

use heirloom::ServeDir;
use heirloom::prelude::*;

use super::{MainResult, start_log};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);

pub(super) fn main(args: &[String]) -> MainResult {
    heirloom::handover::init()?;
    start_log();
    let folder = args[1].clone();
    // A file that the handler has opened, not the crate.
    let own = move |_: Request| {
        let file = File::open(format!("{folder}/big"))?;
        let len = file.metadata()?.len();
        std::io::Result::Ok(Body::from_file(file, len))
    };
    let router = Router::new()
        .get("/ok", |_: Request| "ok\n")
        .get("/pid", |_: Request| std::process::id().to_string())
        .get("/own", own)
        .post("/upload", |req: Request| req.body().len().unwrap_or(0).to_string())
        .get("/files/{*path}", ServeDir::new(&args[1]));
    let timeouts = Timeouts::new().probation(Duration::ZERO).response_stall(LONG).rate_grace(LONG);
    Ok(Server::new(router).listen(&*args[0]).timeouts(timeouts).serve()?)
}
