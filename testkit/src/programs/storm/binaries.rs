//! The program file that the server is started from, and what else may be found in its place.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The fault of a program that a handover should start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    Missing,
    NotExecutable,
    ExitsAtOnce,
    ExitsSoon,
    Crashes,
    Hangs,
    WrongFormat,
    /// The good one, which storm kills after SERVING and before COMMIT.
    DiesOnProbation,
}

impl Bad {
    pub(crate) const ALL: [Bad; 8] = [
        Bad::Missing,
        Bad::NotExecutable,
        Bad::ExitsAtOnce,
        Bad::ExitsSoon,
        Bad::Crashes,
        Bad::Hangs,
        Bad::WrongFormat,
        Bad::DiesOnProbation,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Bad::Missing => "missing",
            Bad::NotExecutable => "not executable",
            Bad::ExitsAtOnce => "exits at once",
            Bad::ExitsSoon => "exits after 100 ms",
            Bad::Crashes => "crashes",
            Bad::Hangs => "hangs",
            Bad::WrongFormat => "of a wrong format",
            Bad::DiesOnProbation => "dies on probation",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Bad::Missing | Bad::NotExecutable | Bad::DiesOnProbation => "",
            Bad::ExitsAtOnce => "#!/bin/sh\nexit 1\n",
            Bad::ExitsSoon => "#!/bin/sh\nsleep 0.1\nexit 3\n",
            Bad::Crashes => "#!/bin/sh\nkill -SEGV $$\n",
            Bad::Hangs => "#!/bin/sh\nexec sleep 1000\n",
            Bad::WrongFormat => "\x7fELF, and nothing more\n",
        }
    }
}

/// A copy of the server's program that can be replaced.
#[derive(Debug)]
pub(crate) struct Binaries {
    good: PathBuf,
    /// Another version of it, which takes turns with it.
    other: Option<PathBuf>,
    is_others_turn: AtomicBool,
    path: PathBuf,
}

impl Binaries {
    pub(crate) fn new(good: &Path, other: Option<&Path>, folder: &Path) -> io::Result<Binaries> {
        let binaries = Binaries {
            good: good.to_owned(),
            other: other.map(Path::to_owned),
            is_others_turn: AtomicBool::new(false),
            path: folder.join("server"),
        };
        binaries.restore()?;
        Ok(binaries)
    }

    /// The next generation is to be of the other version, if there is one.
    pub(crate) fn alternate(&self) -> io::Result<()> {
        if self.other.is_some() {
            self.is_others_turn.fetch_xor(true, Ordering::SeqCst);
            self.restore()?;
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// By rename, so that no process sees half a file.
    fn put(&self, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let new = self.path.with_extension("new");
        make(&new)?;
        fs::rename(new, &self.path)
    }

    pub(crate) fn restore(&self) -> io::Result<()> {
        let other = self.other.as_ref().filter(|_| self.is_others_turn.load(Ordering::SeqCst));
        self.put(|new| fs::copy(other.unwrap_or(&self.good), new).map(drop))
    }

    pub(crate) fn spoil(&self, bad: Bad) -> io::Result<()> {
        match bad {
            Bad::Missing => fs::remove_file(&self.path),
            Bad::NotExecutable => fs::set_permissions(&self.path, Permissions::from_mode(0o644)),
            Bad::DiesOnProbation => Ok(()),
            _ => self.put(|new| {
                fs::write(new, bad.text())?;
                fs::set_permissions(new, Permissions::from_mode(0o755))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn each_bad_program_fails_in_its_own_way() {
        let folder = tempfile::tempdir().unwrap();
        let binaries = Binaries::new(Path::new("/bin/true"), None, folder.path()).unwrap();
        let run = || Command::new(binaries.path()).status();
        for bad in Bad::ALL.into_iter().filter(|bad| *bad != Bad::Hangs) {
            binaries.spoil(bad).unwrap();
            let good = run().is_ok_and(|status| status.success());
            assert_eq!(good, bad == Bad::DiesOnProbation, "{bad:?}");
            binaries.restore().unwrap();
            assert!(run().unwrap().success());
        }
    }

    #[test]
    fn two_versions_alternate_also_after_a_bad_program() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| {
            let path = folder.path().join(name);
            fs::write(&path, name).unwrap();
            path
        });
        let binaries = Binaries::new(&one, Some(&two), folder.path()).unwrap();
        let now = || fs::read_to_string(binaries.path()).unwrap();
        assert_eq!(now(), "one");
        for turn in ["two", "one", "two"] {
            binaries.alternate().unwrap();
            binaries.spoil(Bad::Missing).unwrap();
            binaries.restore().unwrap();
            assert_eq!(now(), turn);
        }
    }
}
