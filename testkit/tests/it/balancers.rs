//! Two instances behind a real HAProxy, and behind a real nginx, which retry nothing: rolls by HUP and by TERM cost their
//! clients no request. Skipped where the program is missing.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use testkit::{Addr, Crowd, Outcome, Proc, Signal, get, until};

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
struct Balancer {
    child: Child,
    addr: Addr,
    _folder: tempfile::TempDir,
}

impl Balancer {
    /// `config` gets the folder and the address to listen on.
    fn start(program: &str, flag: &str, config: impl Fn(&Path, &str) -> String) -> Option<Balancer> {
        if Command::new(program).arg("-v").output().is_err() {
            testkit::skip(&format!("no {program} here (apt-get install {program})"));
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind("127.0.0.8:0").unwrap().local_addr().unwrap();
        let file = folder.path().join("config");
        std::fs::write(&file, config(folder.path(), &free.to_string())).unwrap();
        let child = Command::new(program)
            .arg(flag)
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let addr = Addr::Tcp(free);
        until(
            "the balancer serves",
            || matches!(get(&addr, "/ok"), Outcome::Ok(answer) if answer.status == 200),
        );
        Some(Balancer { child, addr, _folder: folder })
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn haproxy(one: &Instance, two: &Instance) -> Option<Balancer> {
    let server = |name: &str, instance: &Instance| {
        let Addr::Tcp(admin) = instance.admin else { panic!("a port") };
        format!(
            "    server {name} {} check port {} inter 100ms fall 1 rise 1\n",
            text(&instance.addr),
            admin.port()
        )
    };
    Balancer::start("haproxy", "-f", |_, listen| {
        format!(
            "defaults\n    mode http\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n    retries 0\n\
             frontend http\n    bind {listen}\n    default_backend app\n\
             backend app\n    balance roundrobin\n    option httpchk GET /readyz\n    http-check expect status 200\n{}{}",
            server("a", one),
            server("b", two)
        )
    })
}

/// Only a connection that is refused goes to the other instance, by which nothing is sent twice.
fn nginx(one: &Instance, two: &Instance) -> Option<Balancer> {
    Balancer::start("nginx", "-c", |folder, listen| {
        let folder = folder.display();
        format!(
            "daemon off; master_process off; pid {folder}/pid; error_log {folder}/error;\n\
             events {{}}\n\
             http {{ access_log off; client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;\n\
             uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;\n\
             upstream app {{ server {} max_fails=0; server {} max_fails=0; keepalive 16; }}\n\
             server {{ listen {listen}; location / {{ proxy_pass http://app; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; proxy_next_upstream error; }} }} }}\n",
            text(&one.addr),
            text(&two.addr)
        )
    })
}

/// Rolls one instance after the other under load.
#[track_caller]
fn roll(balancer: &Balancer, instances: [&mut Instance; 2], roll: fn(&mut Instance)) {
    let crowd = Crowd::of(&balancer.addr);
    let [one, two] = instances;
    for n in 0..ROLLS {
        let instance = if n % 2 == 0 { &mut *one } else { &mut *two };
        roll(instance);
        // The balancer knows it as ready again, before the other one goes.
        let pid = instance.server.serving().as_raw();
        until("it gets requests", || get(&balancer.addr, "/pid").ok().number() == pid);
    }
    let tally = crowd.stop();
    assert!(tally.failed.is_empty(), "{} of {}: {:?}", tally.failed.len(), tally.answered, tally.failed);
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
}
