//! What wrappers of this crate keep of a request until its response has ended.
//!
//! A hook of [`ResponseExt::on_end`](crate::ResponseExt::on_end) is kept in the extensions of the response: that takes five
//! allocations, and a response that a wrapper builds anew has lost it. An observer stays beside the call and takes one.

use http::Extensions;

use crate::web::response::ResponseEnd;

/// Notified of the end of one response.
pub(crate) trait EndObserver: Send {
    /// Notes what the response says that the handler and all wrappers have made.
    fn note_response(&mut self, extensions: &Extensions);

    fn end(&mut self, end: &ResponseEnd);
}

/// The observers of one call, the innermost first.
#[derive(Default)]
pub(crate) struct EndObservers(Option<Box<Node<dyn EndObserver>>>);

struct Node<T: ?Sized> {
    outer: EndObservers,
    observer: T,
}

impl EndObservers {
    /// Adds one further inside.
    pub(crate) fn add(&mut self, observer: impl EndObserver + 'static) {
        let outer = std::mem::take(self);
        self.0 = Some(Box::new(Node { outer, observer }));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn note_response(&mut self, extensions: &Extensions) {
        let mut next = &mut self.0;
        while let Some(node) = next {
            node.observer.note_response(extensions);
            next = &mut node.outer.0;
        }
    }

    /// Takes each out and calls `f` with it, the innermost first.
    pub(crate) fn for_each(&mut self, mut f: impl FnMut(&mut dyn EndObserver)) {
        let mut next = self.0.take();
        while let Some(mut node) = next {
            f(&mut node.observer);
            next = node.outer.0.take();
        }
    }
}

impl std::fmt::Debug for EndObservers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndObservers").finish_non_exhaustive()
    }
}
