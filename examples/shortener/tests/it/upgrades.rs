//! Links are made and followed without pause, by clients that never retry, while the server is upgraded
//! again and again, and in the end stopped or killed. Then everything is counted.
//!
//! `HANDOVERS=100 cargo test -p shortener --test it upgrades` for more than twelve.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, OpenFlags};
use testkit::{Addr, Client, Exit, Outcome, Proc, Response, Signal, beside, until};

/// They keep their connection.
const KEEPING: usize = 4;
/// They connect anew for each request, and so come to the new generation while the others are still at the old
/// one: both write.
const ANEW: usize = 2;
/// So many services are upgraded side by side, because a handover mostly waits.
const SERVICES: u64 = 6;

fn serve(database: &Path) -> Proc {
    // A line for each request would only fill the memory of the kit.
    let mut command = Command::new("env");
    command.arg("RUST_LOG=info,heirloom::access=warn").arg(env!("CARGO_BIN_EXE_shortener"));
    command.arg("127.0.0.1:0").arg(database);
    Proc::start_command(command)
}

/// URL and hits of each alias.
type Links = BTreeMap<String, (String, i64)>;

/// The outcomes of one client's requests.
#[derive(Default)]
struct Made {
    /// The links that were acknowledged to it, and whether it then followed them.
    links: Links,
    /// How often it followed what all of them follow.
    hits: i64,
    /// The last error it got, if any.
    end: Option<Outcome>,
}

/// Makes links and follows them until the server ends. Every failure except that end fails the test.
struct Maker {
    number: usize,
    addr: Addr,
    /// The connection that it keeps.
    kept: Option<Client>,
    keeps: bool,
    made: Made,
    /// The links that all clients have created.
    all: Arc<AtomicU64>,
}

impl Maker {
    /// None: the server has said that it ends, or has ended.
    fn ask(&mut self, request: &str) -> Option<Response> {
        let mut client = self.kept.take().unwrap_or_else(|| Client::to(&self.addr));
        client.renew();
        client.send(request);
        match client.answer() {
            Outcome::Ok(response) => {
                if self.keeps && !response.closes() {
                    self.kept = Some(client);
                }
                Some(response)
            }
            other => {
                self.made.end = Some(other);
                None
            }
        }
    }

    fn post(&mut self, path: &str, kind: &str, body: &str) -> Option<Response> {
        let length = body.len();
        self.ask(&format!(
            "POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    }

    fn get(&mut self, path: &str) -> Option<Response> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
    }

    /// Stops when something is not answered, or when a connection that it keeps is to be closed.
    fn work(mut self) -> Made {
        for n in 0.. {
            if self.link(n).is_none() {
                break;
            }
        }
        self.made
    }

    fn link(&mut self, n: usize) -> Option<()> {
        let url = format!("https://example.com/{}/{n}", self.number);
        let name = format!("own-{}-{n}", self.number);
        // Programs, with a name and without; people; and a name that is taken.
        let response = match n % 4 {
            0 => self.post(
                "/api/links",
                "application/json",
                &format!(r#"{{"url": "{url}", "alias": "{name}"}}"#),
            ),
            1 => self.post("/api/links", "application/json", &format!(r#"{{"url": "{url}"}}"#)),
            2 => self.post("/", "application/x-www-form-urlencoded", &format!("url={url}")),
            _ => self.post(
                "/api/links",
                "application/json",
                &format!(r#"{{"url": "{url}", "alias": "popular"}}"#),
            ),
        }?;
        let location = response.header("location").unwrap_or_default();
        let alias = match (n % 4, response.status) {
            (0 | 1, 201) => location.strip_prefix("/api/links/"),
            (2, 303) => location.strip_prefix("/?made="),
            (3, 409) => Some("popular"),
            _ => panic!("{n}: {response:?}"),
        };
        let alias = alias.expect("a name").to_owned();
        if n % 4 != 3 {
            assert!(n % 4 != 0 || alias == name);
            let before = self.made.links.insert(alias.clone(), (url.clone(), 0));
            assert_eq!(before, None, "{alias} is given to two");
            self.all.fetch_add(1, Ordering::Relaxed);
        }
        self.goes_on(&response)?;
        let (leads_to, path) = match n % 4 {
            3 => ("https://example.com/popular", "/popular".to_owned()),
            _ => (url.as_str(), format!("/{alias}")),
        };
        let visit = self.get(&path)?;
        assert_eq!((visit.status, visit.header("location")), (307, Some(leads_to)), "{path}: {visit:?}");
        if n % 4 == 3 {
            self.made.hits += 1;
        } else {
            self.made.links.insert(alias, (url, 1));
        }
        self.goes_on(&visit)
    }

    /// Clients that connect again do so until they are refused.
    fn goes_on(&self, last: &Response) -> Option<()> {
        (!self.keeps || !last.closes()).then_some(())
    }
}

struct Load {
    all: Arc<AtomicU64>,
    makers: Vec<std::thread::JoinHandle<Made>>,
}

impl Load {
    fn on(server: &Proc) -> Load {
        let mut first = Client::to(&server.addr());
        let body = r#"{"url": "https://example.com/popular", "alias": "popular"}"#;
        first.send(format!(
            "POST /api/links HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert_eq!(first.answer().ok().status, 201);
        let all = Arc::new(AtomicU64::new(0));
        let makers = (0..KEEPING + ANEW).map(|number| {
            let maker = Maker {
                number,
                addr: server.addr(),
                kept: None,
                keeps: number < KEEPING,
                made: Made::default(),
                all: Arc::clone(&all),
            };
            beside("maker", move || maker.work())
        });
        let makers = makers.collect();
        Load { all, makers }
    }

    /// Waits until so many more links are created.
    fn more(&self, links: u64) {
        let goal = self.all.load(Ordering::Relaxed) + links;
        until("more links", || {
            assert!(self.makers.iter().all(|maker| !maker.is_finished()), "a maker has ended");
            self.all.load(Ordering::Relaxed) >= goal
        });
    }

    fn made(self) -> Vec<Made> {
        self.makers.into_iter().map(|maker| maker.join().expect("a maker that failed, see above")).collect()
    }
}

/// The content of the database, whose integrity is checked.
fn kept(database: &Path) -> Links {
    let connection =
        Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE).expect("a database");
    let check: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a check");
    assert_eq!(check, "ok");
    let mut query = connection.prepare("SELECT alias, url, hits FROM links").expect("links");
    let rows = query.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))).expect("links");
    let rows: Vec<(String, (String, i64))> = rows.map(|row| row.expect("a link")).collect();
    let (count, links) = (rows.len(), BTreeMap::from_iter(rows));
    assert_eq!(links.len(), count, "an alias is there twice");
    links
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let database = folder.path().join("links.db");
    (folder, database)
}

#[test]
fn upgrades_and_a_stop_under_load_lose_no_link_and_no_hit() {
    let handovers: u64 = std::env::var("HANDOVERS").map_or(12, |text| text.parse().expect("a number"));
    let each = handovers.div_ceil(SERVICES);
    let services: Vec<_> = (0..SERVICES).map(|_| beside("service", move || upgrade_and_stop(each))).collect();
    services.into_iter().for_each(|service| service.join().expect("a service that failed, see above"));
}

fn upgrade_and_stop(handovers: u64) {
    let (_folder, database) = folder();
    let server = serve(&database);
    let load = Load::on(&server);
    for _ in 0..handovers {
        load.more(20);
        server.handover();
    }
    load.more(20);
    server.stop();
    let all = load.made();

    let mut expected = BTreeMap::new();
    for (number, made) in all.iter().enumerate() {
        // Clients that kept their connection were notified of the end, the others were refused; nothing else failed.
        let end = (number >= KEEPING).then_some(Outcome::Refused);
        assert_eq!(made.end, end, "maker {number}");
        for (alias, link) in &made.links {
            let before = expected.insert(alias.clone(), link.clone());
            assert_eq!(before, None, "{alias} is given to two");
        }
    }
    let popular: i64 = all.iter().map(|made| made.hits).sum();
    expected.insert("popular".to_owned(), ("https://example.com/popular".to_owned(), popular));
    let there = kept(&database);
    let lost: Vec<_> =
        expected.iter().filter(|(alias, link)| there.get(*alias) != Some(link)).take(5).collect();
    assert!(lost.is_empty(), "answered, and not there, or with other hits: {lost:?}");
    assert_eq!(there.len(), expected.len(), "there are links that no client got");
    println!("{handovers} handovers: {} links made, {popular} hits of one of them", expected.len());

    // They also work: the next process redirects each visitor to the right address.
    let server = serve(&database);
    let mut client = server.client();
    for (alias, (url, _)) in &expected {
        client.renew();
        let visit = client.get(&format!("/{alias}")).ok();
        assert_eq!((visit.status, visit.header("location")), (307, Some(&**url)));
    }
    server.stop();
}

#[test]
fn a_kill_costs_no_link_that_was_answered() {
    let (_folder, database) = folder();
    let server = serve(&database);
    // A request whose end does not come keeps the first generation running, even where the handover is over by then.
    let mut started = server.client();
    let head = "POST /api/links HTTP/1.1\r\nHost: test\r\nContent-Type: application/json";
    started.send(format!("{head}\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n"));
    server.in_flight(server.pid(), 1);
    let load = Load::on(&server);
    load.more(50);
    // During a handover, so that there are two generations.
    let child = server.hup_to_probation();
    load.more(50);
    server.signal_to(child, Signal::SIGKILL);
    server.signal_to(server.pid(), Signal::SIGKILL);
    assert_eq!(server.wait_exit(server.pid()), Exit::Killed(Signal::SIGKILL));
    server.wait_gone();
    let all = load.made();
    let there = kept(&database);
    let confirmed: usize = all.iter().map(|made| made.links.len()).sum();
    for (alias, (url, _)) in all.iter().flat_map(|made| &made.links) {
        assert_eq!(there.get(alias).map(|(url, _)| url), Some(url), "{alias}");
    }
    // In addition, links that were created without being acknowledged.
    let unknown = there.len() - 1 - confirmed;
    assert!(confirmed >= 100 && unknown <= KEEPING + ANEW, "{confirmed} {unknown}");
    // It can be opened again.
    let server = serve(&database);
    assert_eq!(server.get("/popular").ok().header("location"), Some("https://example.com/popular"));
    server.stop();
}
