//! What the supervisor keeps, and passes on to itself when it replaces its program by a newer version.

use std::env;
use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use nix::unistd::Pid;

use super::message::Recipe;
use super::service::PidFileService;
use super::{STATE_VARIABLE, memory_file, named_file};
use crate::base::history::History;
use crate::base::sys;
use crate::process::handover::{FileId, Owner, Passed, escape, unescape};

/// A child that serves, will serve or has served.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) pid: Pid,
    /// The process that serves: the child, or a process that it waits for.
    pub(super) server: Pid,
    /// The process that has introduced itself last.
    pub(super) here: Option<Pid>,
    /// It knows of supervision.
    pub(super) knows_supervision: bool,
    pub(super) link: Option<OwnedFd>,
    /// How it was started, until it serves.
    pub(super) recipe: Option<Recipe>,
    /// It has owned the service.
    pub(super) has_served: bool,
}

impl Generation {
    /// From now on it is the process that has introduced itself last.
    pub(super) fn takes_over(&mut self) {
        if let Some(here) = self.here.take() {
            (self.server, self.knows_supervision) = (here, true);
        }
    }
}

#[derive(Default)]
pub(super) struct Kept {
    /// How the generation that serves was started.
    pub(super) recipe: Recipe,
    pub(super) generations: Vec<Generation>,
    /// Which of them serves.
    pub(super) main: Option<Pid>,
    /// Its number.
    pub(super) generation: u32,
    pub(super) listeners: Vec<Passed>,
    pub(super) has_served: bool,
    pub(super) is_stopping: bool,
    pub(super) crashes: u32,
    pub(super) service: PidFileService,
    /// What generations have said of each other, and how they crashed.
    pub(super) history: History,
}

impl Kept {
    /// Before the first generation is started. `listeners` are those of a service manager.
    pub(super) fn new(recipe: Recipe, listeners: Vec<Passed>) -> Kept {
        Kept { recipe, listeners, ..Kept::default() }
    }

    pub(super) fn pids(&self) -> Vec<Pid> {
        self.generations.iter().map(|one| one.pid).collect()
    }

    pub(super) fn get(&self, pid: Pid) -> Option<&Generation> {
        self.generations.iter().find(|one| one.pid == pid)
    }

    pub(super) fn get_mut(&mut self, pid: Pid) -> Option<&mut Generation> {
        self.generations.iter_mut().find(|one| one.pid == pid)
    }

    pub(super) fn main(&self) -> Option<&Generation> {
        self.main.and_then(|pid| self.get(pid))
    }

    pub(super) fn remove(&mut self, pid: Pid) -> Option<Generation> {
        let at = self.generations.iter().position(|one| one.pid == pid)?;
        Some(self.generations.remove(at))
    }

    fn encode(&self) -> String {
        let mut text = self.recipe.encode();
        let main = self.main.map_or(0, Pid::as_raw);
        let (has_served, is_stopping) = (u8::from(self.has_served), u8::from(self.is_stopping));
        let service = self.service.encode();
        let _ = write!(
            text,
            "\nmain={main}\ngeneration={}\nhas_served={has_served}\nis_stopping={is_stopping}\ncrashes={}\nservice={service}\n",
            self.generation, self.crashes
        );
        for line in self.history.latest_lines(usize::MAX) {
            let _ = writeln!(text, "history={line}");
        }
        for one in &self.generations {
            let link = one.link.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            let _ = writeln!(
                text,
                "child={}:{}:{link}:{}:{}",
                one.pid,
                one.server,
                u8::from(one.knows_supervision),
                u8::from(one.has_served)
            );
        }
        for Passed { name, fd, file, owner } in &self.listeners {
            let file = file.map(|file| file.to_string()).unwrap_or_default();
            let name = escape(name.as_bytes()).replace(':', "%3A");
            let _ = writeln!(text, "listener={}:{name}:{}:{file}", fd.as_raw_fd(), owner.word());
        }
        text
    }

    fn decode(text: &str) -> Option<Kept> {
        let mut kept = Kept::new(Recipe::decode(text)?, Vec::new());
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let number = || value.parse::<u32>().ok();
            match key {
                "main" => kept.main = value.parse().ok().filter(|pid| *pid > 0).map(Pid::from_raw),
                "generation" => kept.generation = number()?,
                "has_served" => kept.has_served = value == "1",
                "is_stopping" => kept.is_stopping = value == "1",
                "history" => kept.history.read(value),
                "crashes" => kept.crashes = number()?,
                "service" => kept.service = PidFileService::decode(value)?,
                "child" => {
                    let mut fields = value.split(':');
                    let pid = Pid::from_raw(fields.next()?.parse().ok()?);
                    let server = Pid::from_raw(fields.next()?.parse().ok()?);
                    let link = sys::adopt(fields.next()?.parse().ok()?).ok();
                    let (knows_supervision, has_served) =
                        (fields.next() == Some("1"), fields.next() == Some("1"));
                    kept.generations.push(Generation {
                        pid,
                        server,
                        knows_supervision,
                        link,
                        recipe: None,
                        here: None,
                        has_served,
                    });
                }
                "listener" => {
                    let mut fields = value.splitn(4, ':');
                    let fd = Arc::new(sys::adopt(fields.next()?.parse().ok()?).ok()?);
                    let name = String::from_utf8(unescape(fields.next()?)?).ok()?;
                    let owner = Owner::parse(fields.next()?);
                    let file = fields.next().and_then(FileId::parse);
                    kept.listeners.push(Passed { name, fd, file, owner });
                }
                _ => {}
            }
        }
        Some(kept)
    }

    /// Replaces the program of this process by the one of the recipe, which goes on with all this. Returns only if it fails.
    pub(super) fn exec(&self) -> io::Error {
        let attempt = || -> io::Result<io::Error> {
            let file = memory_file(self.encode().as_bytes())?;
            let inode = file.metadata()?.ino();
            let fd = file.as_raw_fd();
            let variable = CString::new(format!("{STATE_VARIABLE}={fd}:{inode}"))?;
            let path = CString::new(self.recipe.path.as_os_str().as_bytes())?;
            let mut kept = vec![file.as_fd()];
            kept.extend(self.generations.iter().filter_map(|one| one.link.as_ref().map(AsFd::as_fd)));
            kept.extend(self.listeners.iter().map(|passed| passed.fd.as_fd()));
            let mut env = self.recipe.env.clone();
            env.push(variable);
            Ok(sys::exec(&path, &self.recipe.argv, &env, &kept))
        };
        attempt().unwrap_or_else(|e| e)
    }
}

/// The state of this process, if it was made the supervisor.
pub(super) fn inherited() -> Option<Kept> {
    let file = named_file(&env::var_os(STATE_VARIABLE)?)?;
    let mut text = String::new();
    File::from(file).read_to_string(&mut text).ok()?;
    Kept::decode(&text)
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn what_is_kept_survives_its_text() {
        let recipe = Recipe {
            path: "/srv/an app".into(),
            cwd: Some("/srv".into()),
            mask: vec![1, 10],
            argv: vec![c"app".into(), c"--listen=a:b".into()],
            env: vec![c"A=1\n2".into()],
        };
        let link = std::os::unix::net::UnixStream::pair().unwrap().0;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut kept = Kept {
            recipe,
            generations: vec![Generation {
                pid: Pid::from_raw(7),
                server: Pid::from_raw(8),
                here: None,
                knows_supervision: true,
                link: Some(link.into()),
                recipe: None,
                has_served: true,
            }],
            main: Some(Pid::from_raw(7)),
            generation: 3,
            listeners: vec![Passed {
                name: "[::1]:80".into(),
                fd: Arc::new(listener.into()),
                file: FileId::parse("7:21"),
                owner: Owner::Systemd,
            }],
            has_served: true,
            is_stopping: false,
            crashes: 2,
            service: PidFileService::decode("3:8:/run/an%20app.pid").unwrap(),
            history: History::default(),
        };
        kept.history.read("generation=3 pid=7 since=70 crashed=80 crash=was%20killed%20by%20SIGKILL");
        assert_eq!(kept.history.generations().count(), 1);
        let text = kept.encode();
        // Then these are the decoded one's.
        let link = kept.generations.remove(0).link.unwrap();
        let fd = Arc::into_inner(kept.listeners.remove(0).fd).unwrap();
        let _ = (link.into_raw_fd(), fd.into_raw_fd());
        let decoded = Kept::decode(&text).unwrap();
        assert_eq!(decoded.encode(), text);
        let listener = &decoded.listeners[0];
        assert_eq!((&*listener.name, listener.owner), ("[::1]:80", Owner::Systemd));
    }
}
