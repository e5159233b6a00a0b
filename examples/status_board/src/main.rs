//! A status board: services report by a token, an operator logs in by a password, and the page shows all live, over upgrades too.
//! Its configuration is a TOML file, which HUP reads anew.
//!
//! ```text
//! $ echo 'title = "Tea"' > board.toml
//! $ echo 'listen = "127.0.0.1:8001"' >> board.toml
//! $ echo 'directory = "."' >> board.toml
//! $ echo 'password = "$argon2id$v=19$m=19456,t=2,p=1$5bnstQmm4nNYsx/h79Qgfg$umsmoAHfoMK30F182EqDzcwqJwqfFzdu+qcMPmK3woE"' >> board.toml
//! $ cargo run -p status_board -- board.toml
//! $ curl -o /dev/null -w '%{http_code}' -d password=wrong http://127.0.0.1:8001/login
//! 403
//! $ curl -c jar -o /dev/null -w '%{http_code}' -d password=secret http://127.0.0.1:8001/login
//! 303
//! $ curl -w '%{http_code}' -X POST http://127.0.0.1:8001/tokens/db
//! 403
//! $ curl -b jar -X POST http://127.0.0.1:8001/tokens/db > token
//! $ curl -w '%{http_code}' http://127.0.0.1:8001/services/db
//! 404 Not Found
//! 404
//! $ curl -X PUT -d up -H "Authorization: Bearer $(cat token)" http://127.0.0.1:8001/services/db
//! $ curl -N http://127.0.0.1:8001/live > live &
//! $ sed -i 's/Tea/Coffee/' board.toml
//! $ kill -HUP PID
//! $ curl http://127.0.0.1:8001/ | grep title
//! <title>Coffee</title>
//! $ curl -X PUT -d down -H "Authorization: Bearer $(cat token)" http://127.0.0.1:8001/services/db
//! $ curl http://127.0.0.1:8001/services/db
//! down
//! $ grep -c '^data: db' live
//! 2
//! $ kill PID
//! ```
//!
//! That is the hash of `secret`; `status_board hash < password` prints one of your own. It takes half a second in a debug build.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use heirloom::broadcast::Broadcast;
use heirloom::handover;
use heirloom::prelude::*;
use heirloom::session::{CookieKey, Sessions};
use heirloom::sse::{self, Event, EventWriter};
use heirloom::wrap::{AccessLog, Csrf, RateLimit};
use serde::Deserialize;
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    title: String,
    listen: String,
    /// For the reports, the tokens and the key of cookies.
    directory: PathBuf,
    /// The Argon2 hash of the operator's password: `status_board hash < password`.
    password: String,
}

impl Config {
    fn read(path: &str) -> Result<Config, AnyError> {
        let text = fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
        let config: Config = toml::from_str(&text).map_err(|e| {
            let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            // Without the line itself, which may be the password's.
            format!("{path}: line {}: {}", before.matches('\n').count() + 1, e.message())
        })?;
        PasswordHash::new(&config.password).map_err(|e| format!("{path}: password: {e}"))?;
        Ok(config)
    }
}

/// The reports of all services: a file that is only added to, one line for each, with one tab. A report's id is the offset behind
/// its line.
struct Reports(PathBuf);

/// Ends a line that a crash or a full disk has cut. With so many tabs it is no report, because its service had no answer.
const END_OF_TORN: &str = "\t\t\n";

impl Reports {
    fn add(&self, service: &str, state: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&self.0)?;
        let end_of_torn = if is_torn(&mut file)? { END_OF_TORN } else { "" };
        // In one call, so that no other process writes in between.
        file.write_all(format!("{end_of_torn}{service}\t{state}\n").as_bytes())
    }

    fn after(&self, id: u64) -> io::Result<Vec<(u64, String)>> {
        let mut file = match File::open(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file?,
        };
        file.seek(SeekFrom::Start(id))?;
        let (mut bytes, mut at, mut found) = (Vec::new(), id, Vec::new());
        file.read_to_end(&mut bytes)?;
        // A line may have been cut in the middle of a character.
        for line in bytes.split_inclusive(|b| *b == b'\n').filter(|line| line.ends_with(b"\n")) {
            at += line.len() as u64;
            let line = String::from_utf8_lossy(line);
            if line.matches('\t').count() == 1 {
                found.push((at, line.trim_end_matches('\n').to_owned()));
            }
        }
        Ok(found)
    }
}

fn is_torn(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

struct App {
    config: Config,
    reports: Reports,
    changed: Broadcast<()>,
}

impl App {
    fn token_file(&self, service: &str) -> Result<PathBuf, InputError> {
        let is_name = !service.is_empty() && service.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        if !is_name {
            return Err(InputError::new(StatusCode::UNPROCESSABLE_ENTITY, "a name is a-z and -"));
        }
        Ok(self.config.directory.join(service).with_extension("token"))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[derive(Deserialize)]
struct Login {
    password: String,
}

fn login(app: &App, mut req: Request) -> Result<Redirect, AnyError> {
    let Login { password } = req.form()?;
    let right = PasswordHash::new(&app.config.password)?;
    if Argon2::default().verify_password(password.as_bytes(), &right).is_err() {
        return Err(InputError::new(StatusCode::FORBIDDEN, "wrong password").into());
    }
    let session = req.session();
    session.clear();
    session.insert("operator", true)?;
    Ok(Redirect::see_other("/"))
}

fn operators_only(req: &mut Request) -> Result<(), EarlyResponse> {
    req.session().get::<bool>("operator").map(drop).ok_or(StatusCode::FORBIDDEN.into())
}

/// Makes a token for a service, which only it has.
fn new_token(app: &App, req: Request) -> Result<impl IntoResponse, AnyError> {
    let path = app.token_file(&req.param_as::<String>("service")?)?;
    let mut token = [0; 32];
    getrandom::fill(&mut token)?;
    let token = hex(&token);
    fs::write(path, hex(&Sha256::digest(&token)))?;
    Ok((StatusCode::CREATED, token + "\n"))
}

fn report(app: &App, mut req: Request) -> Result<Response, AnyError> {
    let service = req.param_as::<String>("service")?;
    let right = match fs::read_to_string(app.token_file(&service)?) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(InputError::not_found().into()),
        text => text?,
    };
    let given = req.bearer_token().map(|token| hex(&Sha256::digest(token)));
    if given.is_none_or(|given| given != right) {
        let scheme = [(header::WWW_AUTHENTICATE, "Bearer")];
        return Ok((StatusCode::UNAUTHORIZED, scheme, "wrong token\n").into_response());
    }
    let state = req.text()?;
    app.reports.add(&service, &state.replace(['\t', '\n', '\r'], " "))?;
    app.changed.send(());
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn state_of(app: &App, req: Request) -> Result<String, AnyError> {
    let service = req.param_as::<String>("service")?;
    let all = app.reports.after(0)?;
    let last = all.iter().rev().find_map(|(_, line)| line.strip_prefix(&*service)?.strip_prefix('\t'));
    Ok(format!("{}\n", last.ok_or_else(InputError::not_found)?))
}

fn live(app: Arc<App>, req: Request) -> Response {
    let from = |events: &EventWriter| events.last_id().and_then(|id| id.parse().ok()).unwrap_or(0);
    sse::response(&req, move |events| follow(events, &app, from(events))).resumable("live")
}

fn follow(events: &mut EventWriter<'_>, app: &App, mut id: u64) -> io::Result<()> {
    let mut rings = app.changed.subscribe_until(events.drain());
    loop {
        let news = app.reports.after(id)?;
        for (next, line) in &news {
            events.send(&Event::data(line).id(next))?;
            id = *next;
        }
        if events.wait(Duration::ZERO)?.is_draining() {
            return events.hand_over(id.to_string());
        }
        if news.is_empty() {
            let _ = rings.recv_timeout(Duration::from_secs(1));
        }
    }
}

fn page(app: &App, _: Request) -> Html<String> {
    Html(page_of(&app.config.title))
}

fn page_of(title: &str) -> String {
    include_str!("page.html").replace("TITLE", &title.replace('&', "&amp;").replace('<', "&lt;"))
}

fn main() -> Result<(), AnyError> {
    handover::init()?;
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let path = std::env::args().nth(1).unwrap_or_else(|| "board.toml".to_owned());
    if path == "hash" {
        let password = io::read_to_string(io::stdin())?;
        println!("{}", Argon2::default().hash_password(password.trim_end().as_bytes())?);
        return Ok(());
    }
    let config = Config::read(&path).map_err(handover::fail)?;
    log::info!("pid {}", std::process::id());
    let key = CookieKey::from_file_or_new(config.directory.join("cookie.key")).map_err(handover::fail)?;
    let (listen, reports) = (config.listen.clone(), Reports(config.directory.join("reports")));
    let app = Arc::new(App { config, reports, changed: Broadcast::new(1) });
    let router = Router::new()
        .get("/", with_state(&app, page))
        .get("/live", with_arc(&app, live))
        .post("/login", with_state(&app, login).wrap(RateLimit::new(5, Duration::from_secs(60))))
        .post("/tokens/{service}", with_state(&app, new_token).guard(operators_only))
        .put("/services/{service}", max_body(1_000, with_state(&app, report)))
        .get("/services/{service}", with_state(&app, state_of))
        .wrap(Sessions::new(key))
        .wrap(Csrf::new())
        .wrap(AccessLog::new());
    Server::new(router)
        .listen(listen)
        .resume("live", sse::resumed(move |events, state| follow(events, &app, state.parse()?)))
        .serve()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_behind_a_torn_line_is_its_own() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("reports");
        let reports = Reports(path.clone());
        let all = || -> io::Result<Vec<String>> {
            Ok(reports.after(0)?.into_iter().map(|(_, line)| line).collect())
        };
        reports.add("db", "up")?;
        for torn in ["db\tdo", "db\t", "d", "db"] {
            reports.add("web", "up")?;
            let (before, length) = (all()?, fs::metadata(&path)?.len());
            OpenOptions::new().append(true).open(&path)?.write_all(torn.as_bytes())?;
            assert_eq!(all()?, before, "{torn:?} is no report yet");
            reports.add("db", "down")?;
            assert_eq!(all()?, [&before[..], &["db\tdown".to_owned()]].concat(), "after {torn:?}");
            // Clients continue from an id before it and from one behind it.
            let since = reports.after(length)?;
            assert_eq!(since, [(fs::metadata(&path)?.len(), "db\tdown".to_owned())]);
            assert_eq!(reports.after(since[0].0)?, []);
        }
        Ok(())
    }

    #[test]
    fn a_title_is_text() {
        let page = page_of("<script>alert('tea')</script> & Co");
        let title = "&lt;script>alert('tea')&lt;/script> &amp; Co";
        assert!(page.contains(&format!("<title>{title}</title>\n<h1>{title}</h1>")), "{page}");
    }
}
