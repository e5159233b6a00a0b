//! The lines of this example, by a JSON parser: each field, and the span around a handler.

use heirloom_testkit::{Error, Program, Request, Server, until};
use serde_json::{Value, json};

fn lines(server: &Server, target: &str) -> Vec<Value> {
    let parsed = server.output().into_iter().map(|line| serde_json::from_str(&line).expect(&line));
    parsed.filter(|line: &Value| line["target"] == target).collect()
}

fn begins(line: &Value, message: &str) -> bool {
    line["fields"]["message"].as_str().is_some_and(|text| text.starts_with(message))
}

#[test]
fn records_have_their_fields_and_the_span_of_their_request() -> Result<(), Error> {
    let mut server = Program::new(env!("CARGO_BIN_EXE_traced")).arg("127.0.0.1:0").start()?;
    let ask = |server: &Server, path: &str, id: &str| {
        let request = Request::get(path).header("X-Request-Id", id);
        server.client().request(&request).ok().status
    };
    assert_eq!(ask(&server, "/orders/7", "a-1"), 200);
    let first = server.pid();
    let second = server.upgrade()?.pid;
    assert_eq!(ask(&server, "/orders/8", "a-2"), 500);
    until("both lines of the access log", || lines(&server, "heirloom::access").len() == 2);

    // A line of the lifecycle: numbers are numbers, and it is in no span.
    let process = lines(&server, "heirloom::process");
    let drain = process.iter().find(|line| begins(line, "draining (handed over to ")).expect("a drain");
    let fields = &drain["fields"];
    assert_eq!((&fields["generation"], &fields["pid"]), (&json!(1), &json!(first)));
    assert_eq!((&fields["successor"], &fields["phase"]), (&json!(second), &json!("draining")));
    assert!(fields["duration_ms"].is_u64());
    assert_eq!(drain["span"], Value::Null);
    let unlike: Vec<&str> = process.iter().filter_map(|line| line["level"].as_str()).collect();
    assert!(unlike.iter().all(|level| ["INFO", "WARN"].contains(level)), "{unlike:?}");

    // What a handler logs, and what heirloom logs of its error, is in the span of its request.
    let span = |id: &str| json!({"name": "request", "id": id, "method": "GET", "route": "/orders/{id}"});
    let handlers = lines(&server, "traced");
    let handlers: Vec<&Value> = handlers.iter().filter(|line| begins(line, "order looked up")).collect();
    assert_eq!((&handlers[0]["span"], &handlers[1]["span"]), (&span("a-1"), &span("a-2")));
    assert_eq!(handlers[0]["fields"]["order"], "7");
    let error = &lines(&server, "heirloom::http")[0];
    assert_eq!((&error["level"], &error["span"]), (&json!("ERROR"), &span("a-2")));
    assert_eq!(error["fields"]["reason"], "no such order");

    // The end of a response is after the handler.
    let access = lines(&server, "heirloom::access");
    let said: Vec<(&Value, &Value)> =
        access.iter().map(|line| (&line["fields"]["id"], &line["fields"]["status"])).collect();
    assert_eq!(said, [(&json!("a-1"), &json!(200)), (&json!("a-2"), &json!(500))]);
    assert!(access.iter().all(|line| line["span"].is_null() && line["fields"]["ms"].is_f64()));
    server.stop()
}

#[test]
fn without_levels_in_rust_log_the_level_is_info() -> Result<(), Error> {
    for levels in ["", " "] {
        let program = Program::new(env!("CARGO_BIN_EXE_traced")).arg("127.0.0.1:0");
        let server = program.env("RUST_LOG", levels).start()?;
        until("a line of its start", || {
            let process = lines(&server, "heirloom::process");
            process.iter().any(|line| line["level"] == "INFO" && begins(line, "serving as generation 1"))
        });
        server.stop()?;
    }
    Ok(())
}
