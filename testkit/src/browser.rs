//! A real browser, for what only one can show.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A chromium without a window, on one page. Dropping it ends it, with all it has started.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    _profile: TempDir,
}

impl Browser {
    /// None if there is no browser; then a note is printed, and the test must be skipped.
    ///
    /// # Panics
    /// When one is there and can't be started.
    pub fn open(url: &str) -> Option<Browser> {
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
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // Its helpers are in its process group, and end with it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Some(Browser { child: command.spawn().expect("a browser"), _profile: profile })
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
