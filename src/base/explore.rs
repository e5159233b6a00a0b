//! For models in tests: every state that can be reached, each once.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::{BuildHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use crate::base::key_hash::BuildKeyHasher;

/// A state with its hash, by a hasher that a debug build runs fast: with `SipHash`, and again whenever the set grows, hashing was
/// half of the time of the models.
#[derive(PartialEq, Eq)]
struct Hashed<S> {
    hash: u64,
    state: Rc<S>,
}

impl<S: Hash> Hashed<S> {
    fn new(state: Rc<S>) -> Hashed<S> {
        Hashed { hash: BuildKeyHasher::default().hash_one(&*state), state }
    }
}

impl<S> Hash for Hashed<S> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.hash);
    }
}

/// How a state was reached. Shared, since most states are never shown.
struct Way<S, T> {
    before: Option<Rc<Way<S, T>>>,
    step: T,
    to: Rc<S>,
}

/// Visits `start` and all states that `take` leads to by one of the `steps` from a state, checks each, and returns their number.
/// Where a step or a check panics, the way to it is printed; `shown` describes a state on it.
pub(crate) fn explore<S: Eq + Hash, T: Debug>(
    start: S,
    steps: impl Fn(&S) -> Vec<T>,
    take: impl Fn(&S, &T) -> S,
    check: impl Fn(&S),
    shown: impl Fn(&S) -> String,
) -> usize {
    let start = Rc::new(start);
    let mut seen = HashSet::<_, BuildKeyHasher>::default();
    seen.insert(Hashed::new(Rc::clone(&start)));
    let mut left = vec![(start, None::<Rc<Way<S, T>>>)];
    while let Some((state, way)) = left.pop() {
        let visited = catch_unwind(AssertUnwindSafe(|| {
            check(&state);
            for step in steps(&state) {
                let next = catch_unwind(AssertUnwindSafe(|| take(&state, &step)));
                let to = Rc::new(next.unwrap_or_else(|panic| {
                    eprintln!("{step:?}");
                    resume_unwind(panic)
                }));
                if seen.insert(Hashed::new(Rc::clone(&to))) {
                    let way = Way { before: way.clone(), step, to: Rc::clone(&to) };
                    left.push((to, Some(Rc::new(way))));
                }
            }
        }));
        if let Err(panic) = visited {
            eprintln!("by way of, the last one first:");
            let mut way = way.as_deref();
            while let Some(last) = way {
                eprintln!("  {:?} -> {}", last.step, shown(&last.to));
                way = last.before.as_deref();
            }
            resume_unwind(panic);
        }
    }
    seen.len()
}
