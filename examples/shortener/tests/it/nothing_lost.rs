//! What a test of your own can be: upgrades under load, of which no client may notice anything. `upgrades.rs` also knows what
//! must be in the database afterwards.

use heirloom_testkit::{Error, Load, Program, Request};

#[test]
fn upgrades_lose_nothing_and_close_no_connection() -> Result<(), Error> {
    let mut server =
        Program::new(env!("CARGO_BIN_EXE_shortener")).args(["127.0.0.1:0", "links.db"]).start()?;
    let load = Load::new()
        .keep_alive(4)
        .close(2)
        .request(
            Request::new("POST", "/api/links")
                .header("Content-Type", "application/json")
                .body(r#"{"url": "https://example.com"}"#)
                .expect_status(201)
                .check(|response| response.header("location").is_some()),
        )
        .get("/")
        .start(&server);
    for _ in 0..3 {
        load.wait_for(50);
        server.upgrade()?;
    }
    load.wait_for(50);
    let report = load.stop();
    server.stop()?;
    println!("{report}");
    report.assert_unnoticed();
    Ok(())
}
