//! A login whose session is in an encrypted cookie: it needs no store, and continues over an upgrade and a restart, because
//! the key is in a file.
//!
//! ```text
//! $ cargo run --example login --features sessions -- 127.0.0.1:8001
//! [... INFO  heirloom::http] created the cookie key cookie.key
//! $ curl -c jar -b jar http://127.0.0.1:8001/
//! hello stranger
//! $ curl -o /dev/null -w '%{http_code}\n' -c jar -b jar -d 'Ada:wrong' http://127.0.0.1:8001/login
//! 403
//! $ curl -c jar -b jar -d 'Ada:lovelace' http://127.0.0.1:8001/login
//! welcome
//! $ curl -c jar -b jar http://127.0.0.1:8001/
//! hello Ada, visit 1
//! $ grep -c Ada jar || true
//! 0
//! $ kill -HUP PID
//! $ curl -c jar -b jar http://127.0.0.1:8001/
//! hello Ada, visit 2
//! $ curl -H 'Sec-Fetch-Site: cross-site' -b jar -X POST http://127.0.0.1:8001/logout
//! cross-origin request, by its Sec-Fetch-Site
//! $ curl -c jar -b jar -X POST http://127.0.0.1:8001/logout
//! goodbye
//! $ curl -b jar http://127.0.0.1:8001/
//! hello stranger
//! ```

use heirloom::prelude::*;
use heirloom::session::{CookieKey, Sessions};
use heirloom::wrap::{Csrf, same_secret};

fn main() -> Result<(), heirloom::Error> {
    heirloom::handover::init()?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let key = CookieKey::from_file_or_new("cookie.key")?;
    let router = Router::new()
        .get("/", home)
        .post("/login", login)
        .post("/logout", logout)
        .wrap(Sessions::new(key))
        .wrap(Csrf::new());
    log::info!("pid {}", std::process::id());
    Server::new(router).listen(listen).serve()
}

fn home(req: Request) -> Result<String, AnyError> {
    let session = req.session();
    let Some(user) = session.get::<String>("user") else { return Ok("hello stranger\n".to_owned()) };
    let visits = session.get::<u32>("visits").unwrap_or(0) + 1;
    session.insert("visits", visits)?;
    Ok(format!("hello {user}, visit {visits}\n"))
}

/// A real service has a form, and hashes of passwords in a database.
fn login(mut req: Request) -> Result<Response, AnyError> {
    let text = req.text()?;
    let (user, password) = text.split_once(':').unwrap_or_default();
    if user != "Ada" || !same_secret(password, "lovelace") {
        return Ok((StatusCode::FORBIDDEN, "no\n").into_response());
    }
    let session = req.session();
    // Nothing of the session before the login remains.
    session.clear();
    session.insert("user", user)?;
    Ok("welcome\n".into_response())
}

fn logout(req: Request) -> &'static str {
    req.session().clear();
    "goodbye\n"
}
