//! Paths that a wrapper excepts, by patterns as of routes.

use matchit::InsertError;

use super::pattern::{ParsedPattern, malformed};
use crate::base::percent::normal_path;

/// A set of paths. A path is compared in its normalized spelling.
#[derive(Default)]
pub(crate) struct PathSet {
    /// With numbers as the router has, so that users compile matchit's tree once.
    tree: matchit::Router<usize>,
    /// The patterns that can't be used, and why.
    errors: Vec<String>,
}

impl PathSet {
    /// Adds the paths that match `pattern`.
    pub(crate) fn add(&mut self, pattern: &str) {
        match ParsedPattern::of(pattern) {
            Ok(parsed) => {
                self.insert(pattern, &parsed.normal);
                if let Some(empty) = parsed.without_rest() {
                    // A conflict means that these paths are in the set already.
                    let _ = self.tree.insert(empty, 0);
                }
            }
            Err(why) => self.errors.push(format!("{pattern:?}: {why}")),
        }
    }

    fn insert(&mut self, pattern: &str, normal: &str) {
        match self.tree.insert(normal, 0) {
            Ok(()) => {}
            Err(InsertError::Conflict { with }) if with == normal => {}
            Err(InsertError::Conflict { with }) => {
                self.errors.push(format!("{pattern:?} conflicts with {with:?}: some paths would match both"));
            }
            Err(e) => self.errors.push(format!("{pattern:?}: {}", malformed(&e))),
        }
    }

    /// Whether a path of a request is in the set. A path that no router accepts is in none.
    pub(crate) fn contains(&self, path: &str) -> bool {
        normal_path(path).is_some_and(|normal| self.tree.at(&normal).is_ok())
    }

    /// # Errors
    /// The patterns that can't be used, in one line.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.errors.is_empty() { Ok(()) } else { Err(self.errors.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_paths_that_a_router_has() {
        let mut set = PathSet::default();
        for pattern in ["/healthz", "/hooks/{*rest}", "/by/{id}", "/healthz"] {
            set.add(pattern);
        }
        assert_eq!(set.check(), Ok(()));
        let cases = [
            ("/healthz", true),
            ("/%68ealthz", true),
            ("/healthz/", false),
            ("/hooks/", true),
            ("/hooks/a/b", true),
            ("/hooks", false),
            ("/hooks%2Fa", false),
            ("/by/7", true),
            ("/by/7/x", false),
            ("/by/100%", false),
            ("*", false),
            ("", false),
        ];
        for (path, is_in) in cases {
            assert_eq!(set.contains(path), is_in, "{path}");
        }
    }

    #[test]
    fn unusable_patterns_are_named() {
        for pattern in ["healthz", "/:id", "/a b", "/{*rest}/x", "/hooks/{a}{b}"] {
            let mut set = PathSet::default();
            set.add("/hooks/{name}");
            set.add(pattern);
            assert!(set.check().unwrap_err().starts_with(&format!("{pattern:?}: ")), "{pattern}");
        }
        let mut set = PathSet::default();
        set.add("/hooks/{name}");
        set.add("/hooks/{other}");
        assert!(set.check().unwrap_err().contains("conflicts with"));
    }
}
