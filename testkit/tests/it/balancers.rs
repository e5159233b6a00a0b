//! Two instances behind a real HAProxy, and behind a real nginx, with the configurations in `contrib/`: rolls by HUP and by TERM
//! cost their clients no request, and nothing is sent twice. Skipped where the program is missing.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use testkit::{Addr, Crowd, Outcome, Proc, Signal, Tally, get, until};

const ROLLS: usize = 20;

/// An instance that is started again at the same addresses.
struct Instance {
    server: Proc,
    addr: Addr,
    admin: Addr,
}

/// The lame duck is longer than the balancer needs to learn of it.
const FLAGS: [&str; 6] = ["--probation-ms", "100", "--lame-duck-ms", "700", "--idle-grace-ms", "300"];

const PROGRAM: &str = env!("CARGO_BIN_EXE_kitchen_sink");

impl Instance {
    /// Nothing else takes a port of an address of its own.
    fn new(ip: &str) -> Instance {
        let any = format!("{ip}:0");
        let server =
            Proc::start_as_said(PROGRAM, &[&["--listen", &any, "--admin", &any], &FLAGS[..]].concat());
        let [addr, admin] = server.addrs().try_into().expect("two listeners");
        Instance { server, addr, admin }
    }

    fn roll_by_hup(&self) {
        self.server.handover();
        self.server.settled();
    }

    fn roll_by_term(&mut self) {
        self.server.signal(Signal::SIGTERM);
        self.server.wait_gone();
        let mut command = Command::new(PROGRAM);
        command.args(["--listen", &text(&self.addr), "--admin", &text(&self.admin)]).args(FLAGS);
        // The balancer connects at once.
        self.server = Proc::begin(command, Stdio::null());
        self.server.wait_for("serving as generation 1");
    }
}

fn text(addr: &Addr) -> String {
    let Addr::Tcp(addr) = addr else { panic!("a port") };
    addr.to_string()
}

/// Ends with the test.
pub(crate) struct Balancer {
    child: Child,
    /// Where it listens.
    pub(crate) addrs: Vec<SocketAddr>,
    folder: tempfile::TempDir,
}

impl Balancer {
    /// Listens on a port of each of these addresses. `config` gets the folder and where it is to listen.
    pub(crate) fn start(
        program: &str,
        flag: &str,
        ips: &[&str],
        config: impl FnOnce(&Path, &[SocketAddr]) -> String,
    ) -> Option<Balancer> {
        if Command::new(program).arg("-v").output().is_err() {
            testkit::skip(&format!("no {program} here (apt-get install {program})"));
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        // All are held until each is known, so that they differ.
        let held: Vec<TcpListener> = ips.iter().map(|ip| TcpListener::bind((*ip, 0)).unwrap()).collect();
        let addrs: Vec<SocketAddr> = held.iter().map(|socket| socket.local_addr().unwrap()).collect();
        let file = folder.path().join("config");
        std::fs::write(&file, config(folder.path(), &addrs)).unwrap();
        drop(held);
        let errors = File::create(folder.path().join("stderr")).unwrap();
        let mut command = Command::new(program);
        command.arg(flag).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        let child = command.spawn().unwrap();
        let balancer = Balancer { child, addrs, folder };
        until(
            "the balancer serves",
            || matches!(get(&balancer.addr(), "/pid"), Outcome::Ok(answer) if answer.status == 200),
        );
        Some(balancer)
    }

    /// The first place where it listens.
    pub(crate) fn addr(&self) -> Addr {
        Addr::Tcp(self.addrs[0])
    }

    /// What it has reported.
    pub(crate) fn errors(&self) -> String {
        let read = |name| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        read("stderr") + &read("error")
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.errors());
        }
    }
}

/// `text` with each of these replaced, which must be there.
pub(crate) fn replaced(text: &str, pairs: &[(&str, &str)]) -> String {
    pairs.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from} in {text}");
        text.replace(from, to)
    })
}

fn haproxy(one: &Instance, two: &Instance) -> Option<Balancer> {
    let server = |instance: &Instance| {
        let Addr::Tcp(admin) = instance.admin else { panic!("a port") };
        format!("{} port {}", text(&instance.addr), admin.port())
    };
    Balancer::start("haproxy", "-f", &["127.0.0.8"], |_, listen| {
        let pairs = [
            ("    bind 127.0.0.1:8443 ssl crt /etc/haproxy/site.pem\n", ""),
            ("127.0.0.1:8000", &listen[0].to_string()),
            ("127.0.0.1:8001 port 9001", &server(one)),
            ("127.0.0.1:8002 port 9002", &server(two)),
            ("inter 500ms", "inter 100ms"),
            ("timeout check 5s", "timeout check 60s"),
        ];
        replaced(include_str!("../../../contrib/haproxy/haproxy.cfg"), &pairs)
    })
}

/// A whole configuration with this site.
pub(crate) fn nginx_config(folder: &Path, site: &str) -> String {
    let folder = folder.display();
    format!(
        "daemon off; master_process off; pid {folder}/pid; error_log {folder}/error;\n\
         events {{}}\n\
         http {{ access_log off; client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;\n\
         uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;\n{site}\n}}\n"
    )
}

fn nginx(one: &Instance, two: &Instance) -> Option<Balancer> {
    Balancer::start("nginx", "-c", &["127.0.0.8"], |folder, listen| {
        let pairs = [
            ("    listen 127.0.0.1:8443 ssl;\n", ""),
            ("    ssl_certificate /etc/nginx/site.pem;\n", ""),
            ("    ssl_certificate_key /etc/nginx/site.key;\n", ""),
            ("127.0.0.1:8000", &listen[0].to_string()),
            ("127.0.0.1:8001", &text(&one.addr)),
            ("127.0.0.1:8002", &text(&two.addr)),
        ];
        nginx_config(folder, &replaced(include_str!("../../../contrib/nginx/app.conf"), &pairs))
    })
}

#[track_caller]
pub(crate) fn expect_no_failure(tally: &Tally) {
    assert!(
        tally.failed.is_empty(),
        "{} of {}: {:?} ...",
        tally.failed.len(),
        tally.answered,
        tally.failed.first()
    );
}

/// Rolls one instance after the other under load.
#[track_caller]
fn roll(balancer: &Balancer, instances: [&mut Instance; 2], roll: fn(&mut Instance)) {
    let crowd = Crowd::of(&balancer.addr());
    let [one, two] = instances;
    for n in 0..ROLLS {
        let instance = if n % 2 == 0 { &mut *one } else { &mut *two };
        roll(instance);
        // The balancer knows it as ready again, before the other one goes.
        let pid = instance.server.serving().as_raw();
        until("it gets requests", || get(&balancer.addr(), "/pid").ok().number() == pid);
    }
    let tally = crowd.stop();
    expect_no_failure(&tally);
    assert!(tally.answered > ROLLS, "{}", tally.answered);
}

#[test]
fn rolls_behind_haproxy_cost_no_request() {
    let (mut one, mut two) = (Instance::new("127.0.0.9"), Instance::new("127.0.0.10"));
    let Some(balancer) = haproxy(&one, &two) else { return };
    roll(&balancer, [&mut one, &mut two], |instance| instance.roll_by_hup());
    roll(&balancer, [&mut one, &mut two], Instance::roll_by_term);
}

#[test]
fn rolls_behind_nginx_cost_no_request() {
    let (mut one, mut two) = (Instance::new("127.0.0.11"), Instance::new("127.0.0.12"));
    let Some(balancer) = nginx(&one, &two) else { return };
    roll(&balancer, [&mut one, &mut two], |instance| instance.roll_by_hup());
    roll(&balancer, [&mut one, &mut two], Instance::roll_by_term);
    // A GET that an instance had started to answer would have been sent again to the other one, unseen here.
    let errors = balancer.errors();
    assert!(errors.contains("connect() failed (111: "), "{errors}");
    let is_refusal = |line: &&str| line.contains("connect() failed (111: ");
    assert!(errors.lines().filter(|line| line.contains("[error]")).all(|line| is_refusal(&line)), "{errors}");
}
