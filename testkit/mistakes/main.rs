//! What the compiler says to a newcomer whose handler does not fit: one crate with one mistake for each message, and no
//! feature of heirloom enabled. Compiled by `tests/it/compiler_messages.rs`, never run.

use heirloom::prelude::*;
use std::sync::Arc;

struct Unknown;

fn no_response(_: Request) -> Unknown {
    Unknown
}

fn no_error(_: Request) -> Result<String, std::num::ParseIntError> {
    Ok("7".parse::<u32>()?.to_string())
}

fn no_state_response(_: &String, _: Request) -> Unknown {
    Unknown
}

async fn a_future(_: Request) -> String {
    String::new()
}

struct NoHandler;
struct NoWrapper;

fn inputs(mut req: Request) -> Result<String, InputError> {
    let number = req.params_as::<u32>()?;
    let json: u32 = req.json()?;
    let query: u32 = req.query()?;
    let form: u32 = req.form()?;
    let _ = req.multipart()?;
    let _ = (req.cookie("a"), req.cookies(), req.tls());
    let _ = (req.session(), req.private_cookie("a", &""), req.signed_cookie("a", &""));
    Ok(format!("{number}{json}{query}{form}"))
}

fn cookie(_: Request) -> Response {
    "x".into_response().with_cookie("a=b").with_private_cookie("a=b", &"").with_signed_cookie("a=b", &"")
}

/// Arguments that are there; `heirloom::tls` and `heirloom::Proxies` are not, which the compiler explains by itself.
fn listener() -> Listen {
    Listen::new("127.0.0.1:8001").tls("cert.pem").trust_proxies("10.0.0.0/8")
}

fn for_operators() -> Server {
    let server = Server::new(Router::new()).admin("127.0.0.1:9001");
    server.metrics(|out| out.push_str("sold_total 7\n")).readiness(|| Err("no database"))
}

fn for_a_handler(handle: &heirloom::Handle) -> String {
    handle.metrics()
}

fn main() {
    let _ = (listener(), for_operators(), for_a_handler(&heirloom::Handle::new()));
    let state = Arc::new(String::new());
    let _ = Router::new()
        .get("/", no_response)
        .get("/", no_error)
        .get("/", with_state(&state, no_state_response))
        .get("/", a_future)
        .get("/", NoHandler)
        .get("/", inputs)
        .get("/", cookie)
        .wrap(NoWrapper);
}
