//! The validators of a file, for caches and for resumed downloads.
//!
//! A file can be replaced by one of the same length and modification time: by `cp -p`, `rsync -t` and `tar`, and by packages
//! built with SOURCE_DATE_EPOCH. Its inode and its change time, which no program can set, differ then. So both are part of the
//! tag, and `Last-Modified` is the later of the two times. The price: a file that was only renamed or given other permissions
//! counts as changed, and `Last-Modified` is not what `ls` shows. The device is not in the tag, since its number changes when
//! containers and machines restart.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use crate::web::conditional::Validators;

/// The clocks of file systems with fractions of seconds tick more often than this: a later change has another time.
const SETTLED: Duration = Duration::from_secs(1);

/// What is known of a file. Times are in seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct Version {
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    pub(super) fn of(facts: &Metadata) -> Version {
        Version {
            inode: facts.ino(),
            len: facts.len(),
            modified: (facts.mtime(), facts.mtime_nsec()),
            changed: (facts.ctime(), facts.ctime_nsec()),
        }
    }

    /// `form` is added to the tag, for another form of the same file.
    pub(super) fn validators(&self, now: SystemTime, form: &str) -> Validators {
        // Without a change time, a file and its replacement may be indistinguishable.
        let Some(changed) = time(self.changed) else { return Validators::new() };
        let modified = time(self.modified).map(|modified| modified.max(changed));
        let known = modified.map_or_else(Validators::new, |time| Validators::new().modified(time));
        let tag = format!(
            "{:x}-{:x}-{:x}.{:x}-{:x}.{:x}{form}",
            self.inode, self.len, self.modified.0, self.modified.1, self.changed.0, self.changed.1
        );
        // Weak while the next change may get the same time. Weak, too, if the time has no fraction of a second: either the
        // clock is that coarse, or the time comes from the build of an image (squashfs, ISO 9660), and the next image has it, too.
        let is_settled = now.duration_since(modified.unwrap_or(changed)).is_ok_and(|age| age >= SETTLED);
        if is_settled && self.changed.1 != 0 { known.etag(tag) } else { known.weak_etag(tag) }
    }
}

/// None for 0 and 1, which reproducible builds (Nix, SOURCE_DATE_EPOCH) set in place of a time, and for times before 1970.
fn time((seconds, nanos): (i64, i64)) -> Option<SystemTime> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 1)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, u32::try_from(nanos).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Response;

    const BASE: Version = Version { inode: 10, len: 5, modified: (1_000, 7), changed: (2_000, 8) };

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// `ETag` and `Last-Modified` at some time.
    fn fields(version: Version, now: SystemTime, form: &str) -> (Option<String>, Option<String>) {
        let marked = version.validators(now, form).mark(Response::default());
        let text = |name: &str| marked.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        (text("etag"), text("last-modified"))
    }

    #[test]
    fn whatever_changes_a_file_changes_its_tag() {
        let tag = |version, form| fields(version, at(9_000), form).0.unwrap();
        let first = tag(BASE, "");
        assert!(first.starts_with('"'), "{first}");
        assert_eq!(tag(BASE, ""), first);
        let others = [
            Version { inode: 11, ..BASE },
            Version { len: 6, ..BASE },
            Version { modified: (1_001, 7), ..BASE },
            Version { modified: (1_000, 8), ..BASE },
            Version { changed: (2_001, 8), ..BASE },
            Version { changed: (2_000, 9), ..BASE },
        ];
        for other in others {
            assert_ne!(tag(other, ""), first, "{other:?}");
        }
        assert_ne!(tag(BASE, "-gz"), first);
    }

    #[test]
    fn what_can_not_be_strong_is_weak_and_what_is_no_time_is_none() {
        let weak = |version, now| fields(version, now, "").0.map(|tag| tag.starts_with("W/"));
        let date = |version| fields(version, at(9_000), "").1;
        let later = BASE.changed.0 as u64;
        // Within a second after the last change, by either of the two times, or before it.
        assert_eq!(weak(BASE, at(later)), Some(true));
        assert_eq!(weak(BASE, at(later + 1)), Some(true), "8 ns less than a second");
        assert_eq!(weak(BASE, at(later + 2)), Some(false));
        assert_eq!(weak(Version { modified: (8_000, 0), ..BASE }, at(8_000)), Some(true));
        assert_eq!(weak(Version { modified: (9_999, 0), ..BASE }, at(9_000)), Some(true));
        assert_eq!(weak(Version { changed: (2_000, 0), ..BASE }, at(9_000)), Some(true), "whole seconds");
        assert_eq!(weak(Version { modified: (1_000, 0), ..BASE }, at(9_000)), Some(false));
        // The later of the two times.
        assert_eq!(date(BASE).as_deref(), Some("Thu, 01 Jan 1970 00:33:20 GMT"));
        assert_eq!(
            date(Version { modified: (3_000, 0), ..BASE }).as_deref(),
            Some("Thu, 01 Jan 1970 00:50:00 GMT")
        );
        for none in [(0, 0), (1, 0), (1, 999_999_999), (-1, 5), (i64::MIN, 0)] {
            let made_up = Version { modified: none, ..BASE };
            assert_eq!((weak(made_up, at(9_000)), date(made_up)), (Some(false), None), "{none:?}");
            let unknown = Version { changed: none, ..BASE };
            assert_eq!((weak(unknown, at(9_000)), date(unknown)), (None, None), "{none:?}");
        }
    }
}
