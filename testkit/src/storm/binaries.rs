//! The program file that the server is started from, and what else may be found in its place.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What is wrong with a program that a handover should start.
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
    path: PathBuf,
}

impl Binaries {
    pub(crate) fn new(good: &Path, folder: &Path) -> io::Result<Binaries> {
        let binaries = Binaries { good: good.to_owned(), path: folder.join("server") };
        binaries.restore()?;
        Ok(binaries)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// By rename, as one should: nobody ever sees half a file.
    fn put(&self, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let new = self.path.with_extension("new");
        make(&new)?;
        fs::rename(new, &self.path)
    }

    pub(crate) fn restore(&self) -> io::Result<()> {
        self.put(|new| fs::copy(&self.good, new).map(drop))
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
    fn each_bad_program_is_bad_in_its_way_and_the_good_one_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let binaries = Binaries::new(Path::new("/bin/true"), folder.path()).unwrap();
        let run = || Command::new(binaries.path()).status();
        for bad in Bad::ALL.into_iter().filter(|bad| *bad != Bad::Hangs) {
            binaries.spoil(bad).unwrap();
            let good = run().is_ok_and(|status| status.success());
            assert_eq!(good, bad == Bad::DiesOnProbation, "{bad:?}");
            binaries.restore().unwrap();
            assert!(run().unwrap().success());
        }
    }
}
