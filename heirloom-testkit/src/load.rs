//! Clients that send requests without pause and never retry.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use httpdate::parse_http_date;

use crate::{Addr, Client, Outcome, Report, Request, Response, beside, pass, until};

type Identify = dyn Fn(&Response) -> Option<String> + Send + Sync;
type Choose = dyn Fn() -> Addr + Send + Sync;
type Credentials = dyn Fn(&Response) -> Vec<(String, String)> + Send + Sync;

/// The clients of a load. Each sends one request after the other, on one connection that it keeps, or each on a new one.
/// None of them retries: a request that is not answered is lost.
///
/// 4 clients keep their connection and 2 connect for each request, if nothing else is said; they send `GET /`.
#[derive(Clone)]
#[must_use = "it does nothing until it is started"]
pub struct Load {
    keep_alive: usize,
    close: usize,
    pause: Duration,
    requests: Vec<Request>,
    login: Option<(Request, Arc<Credentials>)>,
    identify: Option<Arc<Identify>>,
}

impl Default for Load {
    fn default() -> Load {
        Load {
            keep_alive: 4,
            close: 2,
            pause: Duration::ZERO,
            requests: Vec::new(),
            login: None,
            identify: None,
        }
    }
}

impl Load {
    /// The default.
    pub fn new() -> Load {
        Load::default()
    }

    /// So many clients keep their connection, until the server announces that it closes it.
    pub fn keep_alive(mut self, clients: usize) -> Load {
        self.keep_alive = clients;
        self
    }

    /// So many clients connect for each request.
    pub fn close(mut self, clients: usize) -> Load {
        self.close = clients;
        self
    }

    /// How long each client waits between a response and its next request: 0.
    pub fn pause(mut self, pause: Duration) -> Load {
        self.pause = pause;
        self
    }

    /// Adds a request. Each client sends all of them in turn.
    pub fn request(mut self, request: Request) -> Load {
        self.requests.push(request);
        self
    }

    /// Adds a GET of this path.
    pub fn get(self, path: &str) -> Load {
        self.request(Request::get(path))
    }

    /// Each client sends this request first, once, and again only if it was not answered as expected. It keeps the cookies that this
    /// and all later responses set which are as expected, until they expire by `Max-Age` or `Expires` or are removed by either, and
    /// sends them with its requests.
    ///
    /// ```
    /// use heirloom_testkit::{Load, Request};
    ///
    /// let login = Request::new("POST", "/login").body("Ada:lovelace").expect_status(303);
    /// let load = Load::new().login(login).get("/inside");
    /// # let _ = load;
    /// ```
    pub fn login(self, request: Request) -> Load {
        self.login_with(request, |_| Vec::new())
    }

    /// As [`Load::login`], and each client sends these fields with its requests, too: a token that the response has.
    ///
    /// ```
    /// use heirloom_testkit::{Load, Request};
    ///
    /// let load = Load::new().get("/api").login_with(Request::new("POST", "/tokens"), |response| {
    ///     vec![("Authorization".to_owned(), format!("Bearer {}", response.text()))]
    /// });
    /// # let _ = load;
    /// ```
    pub fn login_with(
        mut self,
        request: Request,
        fields: impl Fn(&Response) -> Vec<(String, String)> + Send + Sync + 'static,
    ) -> Load {
        self.login = Some((request, Arc::new(fields)));
        self
    }

    /// Says which process has sent a response, by a field or a body that has its pid or generation:
    /// [`Report::answered_by`] counts by it.
    pub fn identify(mut self, by: impl Fn(&Response) -> Option<String> + Send + Sync + 'static) -> Load {
        self.identify = Some(Arc::new(by));
        self
    }

    /// Starts the clients. Those that keep their connection have it, and their first response, when this returns.
    ///
    /// # Panics
    /// Without clients, or if no thread can be started.
    pub fn start(self, server: impl Into<Addr>) -> RunningLoad {
        let server = server.into();
        self.start_among(move || server.clone())
    }

    /// As [`Load::start`], for a service of several instances: each new connection goes to the address that `choose` returns.
    ///
    /// # Panics
    /// As [`Load::start`].
    pub fn start_among(mut self, choose: impl Fn() -> Addr + Send + Sync + 'static) -> RunningLoad {
        assert!(self.keep_alive + self.close > 0, "a load needs clients");
        if self.requests.is_empty() {
            self.requests.push(Request::get("/"));
        }
        let (choose, counts): (Arc<Choose>, _) = (Arc::new(choose), Arc::new(Counts::default()));
        let (kept, all) = (self.keep_alive, self.keep_alive + self.close);
        let (load, begin) = (Arc::new(self), Instant::now());
        let clients = (0..all).map(|n| {
            let mut requester = Requester {
                load: Arc::clone(&load),
                choose: Arc::clone(&choose),
                counts: Arc::clone(&counts),
                kind: if n < kept { Kind::KeepAlive } else { Kind::Close },
                kept: None,
                session: Session::default(),
                sent: n,
                begin,
                report: Report::default(),
            };
            if n < kept {
                requester.next();
            }
            beside("client", move || requester.run())
        });
        let clients = clients.collect();
        RunningLoad { clients, counts }
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Load { keep_alive, close, requests, .. } = self;
        write!(f, "{keep_alive} clients with keep-alive, {close} without: {requests:?}")
    }
}

#[derive(Debug, Default)]
struct Counts {
    stop: AtomicBool,
    answered: AtomicU64,
}

/// Clients that send requests until [`RunningLoad::stop`], or until this is dropped.
#[derive(Debug)]
#[must_use = "the clients end when it is dropped"]
pub struct RunningLoad {
    clients: Vec<JoinHandle<Report>>,
    counts: Arc<Counts>,
}

impl RunningLoad {
    /// Waits until so many more requests are answered.
    ///
    /// # Panics
    /// After 20 s.
    #[track_caller]
    pub fn wait_for(&self, requests: u64) {
        let goal = self.counts.answered.load(Ordering::Relaxed) + requests;
        until("requests are answered", || self.counts.answered.load(Ordering::Relaxed) >= goal);
    }

    /// Stops: each client completes its request.
    ///
    /// # Panics
    /// If a client has panicked, as one does that has no port or descriptor left.
    #[track_caller]
    pub fn stop(mut self) -> Report {
        self.end().expect("a client panicked")
    }

    fn end(&mut self) -> std::thread::Result<Report> {
        self.counts.stop.store(true, Ordering::Relaxed);
        let mut all = Report::default();
        for client in self.clients.drain(..) {
            all.add(client.join()?);
        }
        Ok(all)
    }
}

impl Drop for RunningLoad {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    KeepAlive,
    Close,
}

/// One client.
struct Requester {
    load: Arc<Load>,
    choose: Arc<Choose>,
    counts: Arc<Counts>,
    kind: Kind,
    /// The connection that it keeps, and the process that has answered on it.
    kept: Option<(Client, Option<String>)>,
    session: Session,
    /// Where it is in the requests: each client starts at another one.
    sent: usize,
    begin: Instant,
    report: Report,
}

impl Requester {
    fn run(mut self) -> Report {
        while !self.counts.stop.load(Ordering::Relaxed) {
            let was_answered = self.next();
            // A closed connection stays in the kernel's tables for a minute, which others have to read; and a server
            // that is gone need not be asked a thousand times in a millisecond.
            let is_kept = was_answered && self.kind == Kind::KeepAlive;
            let least = if is_kept { Duration::ZERO } else { Duration::from_millis(1) };
            match self.load.pause.max(least) {
                Duration::ZERO => {}
                pause => pass(pause),
            }
        }
        self.report
    }

    /// Whether the next request was answered.
    fn next(&mut self) -> bool {
        let load = Arc::clone(&self.load);
        let login = load.login.as_ref().filter(|_| !self.session.is_in);
        let request = match login {
            Some((request, _)) => request,
            None => {
                let at = self.sent % load.requests.len();
                let Some(request) = load.requests.get(at) else { return false };
                self.sent += 1;
                request
            }
        };
        let (mut client, before) = self.kept.take().unwrap_or_else(|| {
            self.report.connects += 1;
            (Client::to(&(self.choose)()), None)
        });
        client.renew();
        let begin = Instant::now();
        client.send(request.bytes(&self.session.fields(SystemTime::now())));
        let outcome = client.answer();
        self.report.slowest = self.report.slowest.max(begin.elapsed());
        match outcome {
            Outcome::Ok(response) if request.accepts(&response) => {
                if let Some((_, fields)) = &load.login {
                    self.session.take_cookies(&response, SystemTime::now());
                    if login.is_some() {
                        self.session.own = fields(&response);
                        self.session.is_in = true;
                    }
                }
                let by = load.identify.as_ref().and_then(|identify| identify(&response));
                self.report.answer(by.clone());
                self.counts.answered.fetch_add(1, Ordering::Relaxed);
                if self.kind == Kind::KeepAlive {
                    if response.closes() {
                        self.report.closes += 1;
                    } else {
                        self.kept = Some((client, by));
                    }
                }
                true
            }
            outcome => {
                self.report.fail(request.name(), outcome, before, self.begin.elapsed());
                false
            }
        }
    }
}

/// What one client sends with each request once it is logged in.
#[derive(Default)]
struct Session {
    is_in: bool,
    cookies: BTreeMap<String, Cookie>,
    own: Vec<(String, String)>,
}

struct Cookie {
    value: String,
    /// None for one that lasts as long as the client.
    expires: Option<SystemTime>,
}

impl Session {
    /// Of the attributes only those count that say how long a cookie lasts: every path of the server gets it.
    fn take_cookies(&mut self, response: &Response, now: SystemTime) {
        let set = response.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
        for (_, cookie) in set {
            let mut parts = cookie.split(';').map(str::trim);
            let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else { continue };
            let cookie = Cookie { value: value.to_owned(), expires: expiry(parts, now) };
            self.cookies.insert(name.to_owned(), cookie);
        }
    }

    fn fields(&mut self, now: SystemTime) -> String {
        self.cookies.retain(|_, cookie| cookie.expires.is_none_or(|expires| expires > now));
        let mut fields = String::new();
        for (name, value) in &self.own {
            fields += &format!("{name}: {value}\r\n");
        }
        if !self.cookies.is_empty() {
            let all: Vec<String> =
                self.cookies.iter().map(|(name, cookie)| format!("{name}={}", cookie.value)).collect();
            fields += &format!("Cookie: {}\r\n", all.join("; "));
        }
        fields
    }
}

/// When a cookie with these attributes expires (RFC 6265, 5.3): `Max-Age` counts before `Expires`, the last of each counts, and
/// one that can't be read does not.
fn expiry<'c>(attributes: impl Iterator<Item = &'c str>, now: SystemTime) -> Option<SystemTime> {
    let (mut at_age, mut at_date) = (None, None);
    for (name, value) in attributes.filter_map(|attribute| attribute.split_once('=')) {
        let (name, value) = (name.trim(), value.trim());
        if name.eq_ignore_ascii_case("max-age") {
            // A time that is too far away never comes.
            if let Ok(seconds) = value.parse::<i64>() {
                let age = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
                at_age = Some(now.checked_add(age));
            }
        } else if name.eq_ignore_ascii_case("expires") {
            // Some servers write the hyphens of the obsolete format into today's.
            let date = parse_http_date(value).or_else(|_| parse_http_date(&value.replace('-', " ")));
            at_date = date.ok().or(at_date);
        }
    }
    at_age.unwrap_or(at_date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_keeps_cookies_until_they_are_removed() {
        let set = |cookies: &[&str]| Response {
            status: 200,
            headers: cookies.iter().map(|cookie| ("Set-Cookie".to_owned(), (*cookie).to_owned())).collect(),
            body: Vec::new(),
        };
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut session = Session::default();
        assert_eq!(session.fields(at(0)), "");
        session.take_cookies(&set(&["b=1; HttpOnly", "a=x=y", "none"]), at(0));
        session.own = vec![("Authorization".to_owned(), "Bearer 7".to_owned())];
        assert_eq!(session.fields(at(0)), "Authorization: Bearer 7\r\nCookie: a=x=y; b=1\r\n");
        session.take_cookies(&set(&["a=2; Path=/; Max-Age=60", "b=; Path=/; max-age=0"]), at(0));
        assert_eq!(session.fields(at(59)), "Authorization: Bearer 7\r\nCookie: a=2\r\n");
        assert_eq!(session.fields(at(60)), "Authorization: Bearer 7\r\n");
    }

    #[test]
    fn a_cookie_expires_at_its_time() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let cases = [
            ("Path=/; HttpOnly", None),
            ("Max-Age=60", at(1_060)),
            ("max-age = 0", at(1_000)),
            ("Max-Age=-1", at(1_000)),
            ("Max-Age=soon", None),
            ("Max-Age=", None),
            ("Max-Age=9223372036854775807", None),
            ("Max-Age=60; Max-Age=90", at(1_090)),
            ("Expires=Thu, 01 Jan 1970 00:00:00 GMT", at(0)),
            ("expires=Thu, 01-Jan-1970 00:00:01 GMT; Path=/", at(1)),
            ("Expires=Thursday, 01-Jan-70 00:00:02 GMT", at(2)),
            ("Expires=Thu, 01 Jan 1970 00:20:00 GMT", at(1_200)),
            ("Expires=0", None),
            ("Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=60", at(1_060)),
            ("Max-Age=0; Expires=Thu, 01 Jan 1970 00:20:00 GMT", at(1_000)),
            ("Max-Age=soon; Expires=Thu, 01 Jan 1970 00:00:00 GMT", at(0)),
        ];
        for (attributes, expected) in cases {
            assert_eq!(expiry(attributes.split(';').map(str::trim), now), expected, "{attributes}");
        }
    }
}
