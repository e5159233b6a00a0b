//! Whom a request is from, through a real HAProxy and a real nginx with the configurations in `contrib/`: the client's address and
//! `https` reach the handler, the access log and the limits, and what a client says of itself does not. TLS ends at the proxy.
//! Skipped where the program is missing.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;

use socket2::{Domain, Socket, Type};
use testkit::{Addr, Crowd, DEADLINE, Proc, until};

use crate::balancers::{Balancer, expect_no_failure, nginx_config, replaced};
use crate::secure::{Authority, Secure};

const CLIENT: &str = "127.0.0.21";
const OTHER: &str = "127.0.0.22";

/// What a client may say of itself.
const CLAIMS: &str = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\n\
    Forwarded: for=6.6.6.6;proto=https\r\nX-Real-IP: 6.6.6.6\r\n";

const HAPROXY: &str = include_str!("../../../contrib/haproxy/haproxy.cfg");
const PROXY_PROTOCOL: &str = include_str!("../../../contrib/haproxy/proxy-protocol.cfg");
const NGINX: &str = include_str!("../../../contrib/nginx/app.conf");

/// `behind_proxy`, which trusts two addresses of proxies.
struct Scene {
    server: Proc,
    by_field: SocketAddr,
    by_header: SocketAddr,
    authority: Authority,
}

impl Scene {
    fn new() -> Scene {
        let args = ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1", "127.0.0.2"];
        let server = Proc::start_as_said(env!("CARGO_BIN_EXE_behind_proxy"), &args);
        let port = |addr| match addr {
            Addr::Tcp(addr) => addr,
            Addr::Unix(path) => panic!("{path:?}"),
        };
        let [by_field, by_header] = server.addrs().try_into().expect("two listeners");
        let (by_field, by_header) = (port(by_field), port(by_header));
        Scene { server, by_field, by_header, authority: Authority::new("authority") }
    }

    /// The proxy of one of the configurations: without TLS, with TLS, and by IPv6 where there is one.
    fn proxy(&self, program: &str, make: impl FnOnce(&Path, &Site) -> String) -> Option<Balancer> {
        let has_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
        let ips = ["127.0.0.8", "127.0.0.8", "::1"];
        let pair = self.authority.server("site", &["localhost"]);
        let flag = if program == "nginx" { "-c" } else { "-f" };
        Balancer::start(program, flag, if has_ipv6 { &ips } else { &ips[..2] }, |folder, listen| {
            let (certificate, key) = (folder.join("site.pem"), folder.join("site.key"));
            // HAProxy wants both in one file, which nginx accepts.
            let both =
                fs::read_to_string(&pair.certificate).unwrap() + &fs::read_to_string(&pair.key).unwrap();
            fs::write(&certificate, both).unwrap();
            fs::copy(&pair.key, &key).unwrap();
            let text = |path: &Path| path.to_str().unwrap().to_owned();
            let ipv6 = listen.get(2).map(SocketAddr::to_string);
            let [plain, secured] = [listen[0], listen[1]].map(|addr| addr.to_string());
            make(folder, &Site { plain, secured, ipv6, certificate: text(&certificate), key: text(&key) })
        })
    }

    fn nginx(&self) -> Option<Balancer> {
        self.proxy("nginx", |folder, site| nginx_config(folder, &nginx_site(site, self.by_field)))
    }

    fn haproxy_by_header(&self, server: SocketAddr) -> Option<Balancer> {
        self.proxy("haproxy", |_, site| by_header(site, server))
    }

    fn haproxy_by_field(&self, server: &str) -> Option<Balancer> {
        self.proxy("haproxy", |_, site| {
            let pairs = [
                ("127.0.0.1:8001 port 9001", server),
                ("127.0.0.1:8002 port 9002", server),
                // That is for balancers.rs.
                ("    default-server check inter 500ms fall 1 rise 1\n", ""),
            ];
            replaced(&site.fill_in(HAPROXY, "    bind "), &pairs)
        })
    }

    /// The answer to a client at `from`; without its port, which only the PROXY protocol says.
    #[track_caller]
    fn ask(&self, from: &str, to: SocketAddr, path: &str, fields: &str) -> String {
        self.ask_over(Connected::plain(from, to), path, fields)
    }

    #[track_caller]
    fn ask_secured(&self, from: &str, to: SocketAddr, path: &str, fields: &str) -> String {
        let config = self.authority.trusted().config();
        let client = Secure::over(connect(from, to), "localhost", &config).unwrap();
        self.ask_over(Connected::Secured(Box::new(client)), path, fields)
    }

    #[track_caller]
    fn ask_over(&self, mut client: Connected, path: &str, fields: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n");
        let answer = client.exchange(request.as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.get(9..12).unwrap_or(head);
        format!("{status} {}", without_port(body.trim_end()))
    }
}

/// "ADDRESS:PORT by ..." without the port.
fn without_port(said: &str) -> String {
    let Some((client, rest)) = said.split_once(" by ") else { return said.to_owned() };
    match (client.parse::<SocketAddr>(), client.parse::<IpAddr>()) {
        (Ok(addr), _) => format!("{} with its port by {rest}", addr.ip()),
        (_, Ok(ip)) => format!("{ip} by {rest}"),
        _ => said.to_owned(),
    }
}

/// What takes the places of a configuration.
struct Site {
    plain: String,
    secured: String,
    ipv6: Option<String>,
    certificate: String,
    key: String,
}

impl Site {
    /// `listen` is what stands before an address to listen on.
    fn fill_in(&self, config: &str, listen: &str) -> String {
        let end = if listen.contains("bind") { "" } else { ";" };
        let first = format!("{listen}127.0.0.1:8000{end}\n");
        let ipv6 = self.ipv6.iter().map(|addr| format!("{listen}{addr}{end}\n")).collect::<String>();
        let pairs = [
            (&*first, &*format!("{listen}{}{end}\n{ipv6}", self.plain)),
            ("127.0.0.1:8443", &self.secured),
            ("site.pem", &self.certificate),
        ];
        let filled = replaced(config, &pairs);
        ["haproxy", "nginx"]
            .iter()
            .fold(filled, |text, program| text.replace(&format!("/etc/{program}/"), ""))
    }
}

fn nginx_site(site: &Site, server: SocketAddr) -> String {
    let pairs = [
        ("site.key", &*site.key),
        ("127.0.0.1:8001", &server.to_string()),
        ("127.0.0.1:8002", &server.to_string()),
    ];
    replaced(&site.fill_in(NGINX, "    listen "), &pairs)
}

fn by_header(site: &Site, server: SocketAddr) -> String {
    let pairs = [
        ("127.0.0.1:8001", &*server.to_string()),
        ("inter 500ms", "inter 100ms"),
        ("timeout check 5s", "timeout check 60s"),
    ];
    replaced(&site.fill_in(PROXY_PROTOCOL, "    bind "), &pairs)
}

fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from.parse().unwrap(), 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

enum Connected {
    Plain(TcpStream),
    Secured(Box<Secure>),
}

impl Connected {
    fn plain(from: &str, to: SocketAddr) -> Connected {
        Connected::Plain(connect(from, to))
    }

    /// Sends all, and reads until the end, which may be a reset where nothing is answered.
    fn exchange(&mut self, request: &[u8]) -> String {
        let bytes = match self {
            Connected::Plain(stream) => {
                let mut bytes = Vec::new();
                let _ = stream.write_all(request).and_then(|()| stream.read_to_end(&mut bytes).map(drop));
                bytes
            }
            Connected::Secured(client) => {
                client.send(request);
                client.rest().0
            }
        };
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A client by each way to the proxy, which says of itself what it likes; `named` is how it is named.
#[track_caller]
fn expect_named(scene: &Scene, proxy: &Balancer, named: &str) {
    let [plain, secured] = [proxy.addrs[0], proxy.addrs[1]];
    for fields in ["", CLAIMS] {
        for from in [CLIENT, OTHER, CLIENT] {
            let said = scene.ask(from, plain, "/", fields);
            assert_eq!(said, format!("200 {from}{named} by http, past 127.0.0.1"), "{fields}");
            let said = scene.ask_secured(from, secured, "/", fields);
            assert_eq!(said, format!("200 {from}{named} by https, past 127.0.0.1"), "{fields}");
        }
        if let Some(ipv6) = proxy.addrs.get(2) {
            let said = scene.ask("::1", *ipv6, "/", fields);
            assert_eq!(said, format!("200 ::1{named} by http, past 127.0.0.1"), "{fields}");
        }
    }
    scene.server.wait_for(&format!("client={CLIENT}* via=127.0.0.1 * scheme=https * target=/ "));
    scene.server.wait_for(&format!("client={OTHER}* via=127.0.0.1 * scheme=http * target=/ "));
    assert_eq!(scene.server.count("6.6.6.6"), 0, "in the log");
}

/// Each client has its own rate, whatever it says.
#[track_caller]
fn expect_rates(scene: &Scene, to: SocketAddr) {
    let status = |from, fields| scene.ask(from, to, "/limited", fields)[..3].to_owned();
    assert_eq!([status(CLIENT, ""), status(CLIENT, CLAIMS)], ["200", "200"]);
    assert_eq!([status(CLIENT, CLAIMS), status(CLIENT, "X-Forwarded-For: 7.7.7.7\r\n")], ["429", "429"]);
    assert_eq!(status(OTHER, ""), "200");
}

#[test]
fn nginx_names_clients_by_fields() {
    let scene = Scene::new();
    let Some(nginx) = scene.nginx() else { return };
    expect_named(&scene, &nginx, "");
    expect_rates(&scene, nginx.addrs[0]);
    scene.server.stop();
}

#[test]
fn haproxy_names_clients_by_fields() {
    let scene = Scene::new();
    let Some(haproxy) = scene.haproxy_by_field(&scene.by_field.to_string()) else { return };
    expect_named(&scene, &haproxy, "");
    expect_rates(&scene, haproxy.addrs[0]);
    scene.server.stop();
}

#[test]
fn haproxy_names_clients_by_the_proxy_protocol() {
    let scene = Scene::new();
    let Some(haproxy) = scene.haproxy_by_header(scene.by_header) else { return };
    let plain = haproxy.addrs[0];
    expect_named(&scene, &haproxy, " with its port");
    expect_rates(&scene, plain);
    // A header of the client's own is none of HTTP, which HAProxy refuses.
    let mut client = Connected::plain(CLIENT, plain);
    let said = client.exchange(b"PROXY TCP4 6.6.6.6 10.0.0.5 1 443\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
    // As many connections as a client may have, in the middle of requests: it gets no more, others do.
    let kept: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = connect(CLIENT, plain);
            stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf").unwrap();
            stream
        })
        .collect();
    scene.server.in_flight(scene.server.newest(), 20);
    // A health check may be one of those counted above.
    until("the client gets no more", || &scene.ask(CLIENT, plain, "/", "")[..3] == "503");
    assert_eq!(&scene.ask(OTHER, plain, "/", "")[..3], "200");
    drop(kept);
    scene.server.stop();
}

/// A client that keeps its connection.
struct Kept(TcpStream);

impl Kept {
    #[track_caller]
    fn new(from: &str, to: SocketAddr) -> Kept {
        let mut kept = Kept(connect(from, to));
        kept.expect_named(from);
        kept
    }

    #[track_caller]
    fn expect_named(&mut self, from: &str) {
        self.0.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let (mut answer, mut piece) = (Vec::new(), [0; 1024]);
        while !answer.ends_with(b"\n") || answer.ends_with(b"\r\n") {
            let n = self.0.read(&mut piece).unwrap();
            assert!(n > 0, "cut after {:?}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..n]);
        }
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let named = format!("{from} with its port by http, past 127.0.0.1");
        assert_eq!(without_port(body.trim_end()), named);
    }
}

/// Neither HAProxy's checks, which have the command LOCAL, nor its requests see a handover.
#[test]
fn handovers_behind_the_proxy_protocol_disturb_nobody() {
    let scene = Scene::new();
    let Some(haproxy) = scene.haproxy_by_header(scene.by_header) else { return };
    let crowd = Crowd::of(&haproxy.addr());
    let mut kept = [CLIENT, OTHER].map(|from| (from, Kept::new(from, haproxy.addrs[0])));
    for _ in 0..20 {
        scene.server.handover();
        scene.server.settled();
        kept.iter_mut().for_each(|(from, client)| client.expect_named(from));
    }
    let tally = crowd.stop();
    expect_no_failure(&tally);
    let errors = haproxy.errors();
    assert!(!errors.contains("DOWN"), "{errors}");
    scene.server.wait_for("client=127.0.0.1:* via=- * target=/readyz ");
    scene.server.stop();
}

/// HAProxy with TLS in front of nginx: the first proxy replaces the fields, the second one appends to the list.
#[test]
fn a_chain_of_two_proxies_names_the_client() {
    let scene = Scene::new();
    let nginx = scene.proxy("nginx", |folder, site| {
        let pairs = [
            ("X-Forwarded-For $remote_addr", "X-Forwarded-For $proxy_add_x_forwarded_for"),
            ("        proxy_set_header X-Forwarded-Proto $scheme;\n", ""),
            ("        proxy_set_header X-Forwarded-Host $http_host;\n", ""),
        ];
        nginx_config(folder, &replaced(&nginx_site(site, scene.by_field), &pairs))
    });
    let Some(nginx) = nginx else { return };
    let server = format!("{} source 127.0.0.2", nginx.addrs[0]);
    let Some(haproxy) = scene.haproxy_by_field(&server) else { return };
    for fields in ["", CLAIMS] {
        let said = scene.ask_secured(CLIENT, haproxy.addrs[1], "/", fields);
        assert_eq!(said, format!("200 {CLIENT} by https, past 127.0.0.2, 127.0.0.1"), "{fields}");
        let said = scene.ask(OTHER, haproxy.addrs[0], "/", fields);
        assert_eq!(said, format!("200 {OTHER} by http, past 127.0.0.2, 127.0.0.1"), "{fields}");
    }
    // A client that passes the first proxy by is itself the one that nginx names.
    let claims = "X-Forwarded-For: 6.6.6.6\r\n";
    let said = scene.ask(CLIENT, nginx.addrs[0], "/", claims);
    assert_eq!(said, format!("200 {CLIENT} by http, past 127.0.0.1"));
    scene.server.stop();
}

/// Two HAProxies, by the PROXY protocol both times: the second one passes the address on, not that the client uses TLS.
#[test]
fn a_chain_by_the_proxy_protocol_names_the_client() {
    let scene = Scene::new();
    let inner = scene.proxy("haproxy", |_, site| {
        // The test looks by the place without a header whether it serves.
        let secured = format!("{} ssl crt {}\n", site.secured, site.certificate);
        replaced(
            &by_header(site, scene.by_header),
            &[(&secured, &format!("{} accept-proxy\n", site.secured))],
        )
    });
    let Some(inner) = inner else { return };
    let Some(outer) = scene.haproxy_by_header(inner.addrs[1]) else { return };
    for fields in ["", CLAIMS] {
        let said = scene.ask(CLIENT, outer.addrs[0], "/", fields);
        assert_eq!(said, format!("200 {CLIENT} with its port by http, past 127.0.0.1"), "{fields}");
        let said = scene.ask_secured(OTHER, outer.addrs[1], "/", fields);
        assert_eq!(said, format!("200 {OTHER} with its port by http, past 127.0.0.1"), "{fields}");
    }
    scene.server.stop();
}

/// A client that connects past the proxies.
#[test]
fn a_client_that_is_no_proxy_is_not_believed() {
    let scene = Scene::new();
    for fields in ["", CLAIMS] {
        let said = scene.ask(CLIENT, scene.by_field, "/", fields);
        assert_eq!(said, format!("200 {CLIENT} with its port by http, past no proxy"), "{fields}");
    }
    let request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let v4 = |ip: Ipv4Addr| [&ip.octets()[..], &[10, 0, 0, 5, 0, 1, 1, 187]].concat();
    let v6 = |ip: Ipv6Addr| [&ip.octets()[..], &ip.octets(), &[0, 1, 1, 187]].concat();
    let v2 = |family: u8, rest: Vec<u8>| {
        [b"\r\n\r\n\0\r\nQUIT\n\x21", &[family, 0, rest.len() as u8][..], &rest].concat()
    };
    let headers = [
        b"PROXY TCP4 127.0.0.1 10.0.0.5 1 443\r\n".to_vec(),
        v2(0x11, v4(Ipv4Addr::new(6, 6, 6, 6))),
        v2(0x21, v6(Ipv6Addr::LOCALHOST)),
        Vec::new(),
    ];
    for header in headers {
        let mut client = Connected::plain(CLIENT, scene.by_header);
        let said = client.exchange(&[&header[..], request].concat());
        assert_eq!(said, "", "{header:?}");
    }
    scene.server.wait_for(&format!("a connection from {CLIENT}:* is closed: not a trusted proxy"));
    scene.server.stop();
}
