//! The requests of access logs whose responses have not ended.
//!
//! A hook of [`ResponseExt::on_end`](crate::ResponseExt::on_end) is kept in the extensions of the response: that takes five
//! allocations, and a response that a wrapper builds anew has lost it. An entry stays beside the call. Entries of pipelined
//! requests wait for one write, more of them than the allocator keeps at hand, so each thread keeps the memory of some.

use std::cell::RefCell;

use http::Extensions;

use super::Entry;

/// The entries of one call, the innermost first.
#[derive(Default)]
pub(crate) struct Entries(Option<Box<Node>>);

#[derive(Default)]
struct Node {
    /// None in memory that is kept.
    entry: Option<Entry>,
    outer: Entries,
}

/// So many entries wait at most for one write, unless a client asks for more of small responses at once.
const MOST_KEPT: usize = 32;

thread_local! {
    /// The memory of entries that have ended.
    #[expect(clippy::vec_box, reason = "the boxes are what is kept")]
    static SPARES: RefCell<Vec<Box<Node>>> = const { RefCell::new(Vec::new()) };
}

/// A thread that is ending has none.
fn spare() -> Option<Box<Node>> {
    SPARES.try_with(|spares| spares.try_borrow_mut().ok()?.pop()).ok().flatten()
}

#[inline]
fn keep(node: Box<Node>) {
    let _ = SPARES.try_with(|spares| match spares.try_borrow_mut() {
        Ok(mut spares) if spares.len() < MOST_KEPT => spares.push(node),
        _ => drop(node),
    });
}

impl Entries {
    /// Adds one further inside. It is large, and written where it stays.
    #[inline(always)]
    pub(super) fn add(&mut self, entry: impl FnOnce() -> Entry) {
        let mut node = spare().unwrap_or_default();
        node.entry = Some(entry());
        std::mem::swap(&mut node.outer, self);
        self.0 = Some(node);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Notes what the response says that the handler and all wrappers have made.
    pub(crate) fn note_response(&mut self, extensions: &Extensions) {
        let mut next = &mut self.0;
        while let Some(node) = next {
            node.entry.iter_mut().for_each(|entry| entry.note_response(extensions));
            next = &mut node.outer.0;
        }
    }

    /// Takes each out and calls `f` with it, the innermost first.
    #[inline]
    pub(crate) fn for_each(&mut self, mut f: impl FnMut(&mut Entry)) {
        let mut next = self.0.take();
        while let Some(mut node) = next {
            if let Some(entry) = &mut node.entry {
                f(entry);
            }
            node.entry = None;
            next = node.outer.0.take();
            keep(node);
        }
    }
}
