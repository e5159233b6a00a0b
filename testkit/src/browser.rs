//! A real browser, for what only one can show.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

use crate::{Addr, Client, DEADLINE, until};

/// A chromium without a window, on one page. Dropping it ends it, with all it has started.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    profile: TempDir,
}

/// The browser's page, by the DevTools protocol.
#[derive(Debug)]
pub struct Page {
    socket: WebSocket<TcpStream>,
    calls: u64,
}

impl Browser {
    /// None if there is no browser; then a note is printed, and the test must be skipped.
    ///
    /// # Panics
    /// When one is there and can't be started.
    pub fn open(url: &str) -> Option<Browser> {
        Browser::open_with(url, &[])
    }

    /// With more flags than it has anyway.
    ///
    /// # Panics
    /// As `open`.
    pub fn open_with(url: &str, flags: &[&str]) -> Option<Browser> {
        let Some(program) = find() else {
            crate::skip("no chromium here (apt-get install chromium)");
            return None;
        };
        let profile = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(program);
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--disable-dev-shm-usage", "--remote-debugging-port=0"])
            .arg(with("--user-data-dir=", profile.path().as_os_str()))
            .args(flags)
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // Its helpers are in its process group, and end with it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Some(Browser { child: command.spawn().expect("a browser"), profile })
    }

    /// The page that is open.
    ///
    /// # Panics
    /// When the browser does not say where it listens.
    pub fn page(&self) -> Page {
        let file = self.profile.path().join("DevToolsActivePort");
        let mut page = None;
        until("the browser has a page", || {
            let port =
                fs::read_to_string(&file).ok().and_then(|text| text.lines().next()?.parse::<u16>().ok());
            let Some(port) = port else { return false };
            let mut client = Client::to(&Addr::from(&*format!("127.0.0.1:{port}")));
            client.send("GET /json/list HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let list = client.answer().ok();
            let list: Value = serde_json::from_str(list.text()).expect("JSON");
            let found = list.as_array().expect("a list").iter().find(|one| one["type"] == "page");
            page = found.and_then(|one| Some((port, one["webSocketDebuggerUrl"].as_str()?.to_owned())));
            page.is_some()
        });
        let (port, url) = page.expect("it was found");
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let (socket, _) = tungstenite::client(url, stream).expect("a WebSocket");
        Page { socket, calls: 0 }
    }
}

impl Page {
    /// Calls a method of the protocol.
    ///
    /// # Panics
    /// When the browser reports an error.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let call = json!({ "id": self.calls, "method": method, "params": params });
        self.socket.send(Message::text(call.to_string())).expect("sent");
        loop {
            let Message::Text(text) = self.socket.read().expect("an answer") else { continue };
            let mut answer: Value = serde_json::from_str(&text).expect("JSON");
            if answer["id"] == self.calls {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
        }
    }

    /// The value of an expression in the page.
    ///
    /// # Panics
    /// When it throws.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true });
        let mut result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let mut files = std::env::split_paths(&path).flat_map(|folder| names.map(|name| folder.join(name)));
    files.find(|file| file.is_file())
}

fn with(flag: &str, value: &OsStr) -> std::ffi::OsString {
    let mut whole = std::ffi::OsString::from(flag);
    whole.push(value);
    whole
}
