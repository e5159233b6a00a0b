//! Where the secrets of a TLS connection are: in the memory of the process that has the connection, and nowhere else.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::version::TLS13;
use rustls::{ClientConfig, KeyLog};
use testkit::{Pid, until};

use crate::secure::Secure;
use crate::support::get;
use crate::tls_tickets::{Secured, spellings};

/// The traffic secrets of a connection, from its client.
#[derive(Debug, Default)]
struct Secrets(Mutex<Vec<Vec<u8>>>);

impl KeyLog for Secrets {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if label.ends_with("_TRAFFIC_SECRET_0") {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(secret.to_vec());
        }
    }
}

/// Which of these secrets are in a process's memory: its heap, its stacks, its variables.
fn found(pid: Pid, secrets: &[Vec<u8>]) -> Vec<usize> {
    const PAGE: usize = 4_096;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("a process");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("its memory");
    let mut found = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (start, end) =
            line.split_once(' ').and_then(|(range, _)| range.split_once('-')).expect("a range");
        let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).expect("an address"));
        // A secret may cross the end of a page.
        let (mut window, mut kept) = ([0; 2 * PAGE], 0);
        for at in (start..end).step_by(PAGE) {
            let page = &mut window[kept..kept + PAGE];
            if memory.read_exact_at(page, at).is_err() || page.iter().all(|byte| *byte == 0) {
                kept = 0;
                continue;
            }
            let bytes = &window[..kept + PAGE];
            for (n, secret) in secrets.iter().enumerate() {
                if bytes.windows(secret.len()).any(|bytes| bytes == secret) {
                    found.push(n);
                }
            }
            window.copy_within(kept..kept + PAGE, 0);
            kept = PAGE;
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The process of the first handshake is no measure: `rustls` leaves copies in freed memory and on stacks when it moves its
/// state. In the second one a connection is on our own records from the start.
#[test]
fn a_connections_secrets_are_where_it_is_and_nowhere_else() {
    let secured = Secured::start(&["--probation-ms", "0"]);
    let logged = Arc::new(Secrets::default());
    let mut config = ClientConfig::clone(&secured.authority.trusted().only(&TLS13).config());
    config.key_log = Arc::<Secrets>::clone(&logged);
    let mut client = Secure::to(secured.address(), "localhost", &Arc::new(config)).unwrap();
    // What is asked at once is still answered by the process that had the connection.
    let mut answered_by =
        |pid: Pid| until("the connection has moved", || client.get("/pid") == format!("200 {pid}"));
    answered_by(secured.server.pid());
    let secrets = logged.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(secrets.len(), 2);

    let second = secured.server.handover();
    answered_by(second);
    assert_eq!(found(second, &secrets), [0, 1], "the memory is searched");
    // It stays after its handover, for another client.
    let mut slow = secured.server.client();
    slow.send(get("/sleep/60000"));
    secured.server.in_flight(second, 1);
    let third = secured.server.handover();
    answered_by(third);
    until("the second process has overwritten the secrets", || found(second, &secrets).is_empty());
    assert_eq!(found(third, &secrets), [0, 1]);

    // When both sides have changed their keys, the first secrets are nowhere.
    client.tls.refresh_traffic_keys().unwrap();
    assert_eq!(client.get("/pid"), format!("200 {third}"));
    until("the third process has overwritten the first secrets", || found(third, &secrets).is_empty());

    let log = secured.server.lines("").join("\n");
    for text in secrets.iter().flat_map(|secret| spellings(secret)) {
        assert!(!log.contains(&text), "a secret is in the log");
    }
}
