//! Values that each thread has for itself, and that no other thread sees.

use std::any::{Any, type_name};
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Weak};
use std::thread;

use crate::base::contain_panic::{contain_drop, panic_text};
use crate::base::error::{BoxError, Chain, Error, ErrorKind};

/// A value that each worker has for itself: a database connection, a parser, a buffer. `T` need not be [`Send`], because it
/// never leaves its thread. Clones are cheap and stand for the same values.
///
/// ```no_run
/// use heirloom::prelude::*;
/// # #[derive(Debug)]
/// # struct Connection;
/// # impl Connection {
/// #     fn open(_: &str) -> std::io::Result<Connection> { Ok(Connection) }
/// #     fn count(&mut self) -> u64 { 0 }
/// # }
///
/// fn main() -> Result<(), heirloom::Error> {
///     let db = PerWorker::new(|| Connection::open("links.db"));
///     let asked = db.clone();
///     let router = Router::new()
///         .get("/links", move |_: Request| asked.with(|connection| format!("{}\n", connection.count())));
///     Server::new(router).per_worker(&db).listen("127.0.0.1:8001").serve()
/// }
/// ```
///
/// Values given to [`Server::per_worker`](crate::Server::per_worker) are created when the server starts. On any other thread
/// (of a detached stream, or of a test that calls a handler without a server), and in a worker that replaces one that died,
/// a value is created at its first use there.
///
/// A value is dropped when its thread ends. At the end of the server, `serve` waits up to 5 s for workers to drop theirs, and
/// not at all if a handler was aborted. After the last clone is dropped, a thread also drops its value when it creates
/// another one. A panic in such a `Drop` is contained.
pub struct PerWorker<T> {
    factory: Arc<Factory<T>>,
}

/// Makes the values of one `PerWorker`.
struct Factory<T> {
    /// The key of its values in each thread's list.
    token: Arc<()>,
    make: Box<dyn Fn() -> Result<T, BoxError> + Send + Sync>,
}

impl<T: 'static> PerWorker<T> {
    /// Values that `make` creates, each on the thread that uses it. Nothing is created yet.
    pub fn new<E: Into<BoxError>>(make: impl Fn() -> Result<T, E> + Send + Sync + 'static) -> PerWorker<T> {
        let make = Box::new(move || make().map_err(Into::into));
        PerWorker { factory: Arc::new(Factory { token: Arc::default(), make }) }
    }

    /// Calls `work` with this thread's value, which is created now if there is none yet.
    ///
    /// If `work` panics, the value may be half changed: it is dropped, the panic continues (in a handler it becomes a 500),
    /// and the next use creates another value. `work` may use other `PerWorker`s.
    ///
    /// # Panics
    /// If the value can't be created ([`try_with`](Self::try_with) returns that as an error), and if `work`, or the code that
    /// creates the value, uses the same `PerWorker` again.
    #[track_caller]
    #[expect(clippy::panic, reason = "as documented")]
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        match self.value_for(work) {
            Ok(result) => result,
            Err(e) => panic!("can't create this thread's {}: {}", type_name::<T>(), Chain(&*e)),
        }
    }

    /// As [`with`](Self::with), for work that may fail. A value that can't be created is an error too, and the next use tries again.
    ///
    /// ```
    /// use heirloom::prelude::*;
    /// # struct Connection;
    /// # impl Connection {
    /// #     fn open() -> std::io::Result<Connection> { Ok(Connection) }
    /// #     fn count(&mut self) -> std::io::Result<u64> { Ok(7) }
    /// # }
    /// struct App {
    ///     db: PerWorker<Connection>,
    /// }
    ///
    /// fn count(app: &App, _: Request) -> Result<String, AnyError> {
    ///     let count = app.db.try_with(|db| db.count())?;
    ///     Ok(format!("{count}\n"))
    /// }
    ///
    /// let app = std::sync::Arc::new(App { db: PerWorker::new(Connection::open) });
    /// let router = Router::new().get("/", with_state(&app, count));
    /// # router.check().unwrap();
    /// ```
    ///
    /// # Errors
    /// That of `work`, or of the closure given to [`new`](Self::new), boxed; `downcast` returns its type. A handler that passes
    /// it on responds with a 500, and the log has its text.
    ///
    /// # Panics
    /// If `work`, or the code that creates the value, uses the same `PerWorker` again.
    #[track_caller]
    pub fn try_with<R, E: Into<BoxError>>(
        &self,
        work: impl FnOnce(&mut T) -> Result<R, E>,
    ) -> Result<R, BoxError> {
        self.value_for(work)?.map_err(Into::into)
    }

    /// Calls `work` with this thread's value; an error if that can't be created.
    #[track_caller]
    fn value_for<R>(&self, work: impl FnOnce(&mut T) -> R) -> Result<R, BoxError> {
        let (claim, kept) = ValueInUse::take::<T>(&self.factory.token)?;
        let mut value = match kept {
            Some(value) => value,
            None => Box::new((self.factory.make)()?),
        };
        match catch_unwind(AssertUnwindSafe(|| work(&mut value))) {
            Ok(result) => {
                claim.keep(value);
                Ok(result)
            }
            Err(panic) => {
                drop(claim);
                contain_drop(value);
                resume_unwind(panic)
            }
        }
    }

    /// Creates this thread's value before its first use.
    ///
    /// # Errors
    /// When that fails or panics: which thread, what, and why.
    pub(crate) fn begin(&self) -> Result<(), Error> {
        let made = catch_unwind(AssertUnwindSafe(|| self.value_for(|_| ())));
        let made = made.unwrap_or_else(|panic| Err(format!("it panicked: {}", panic_text(&*panic)).into()));
        made.map_err(|e| {
            let thread = thread::current();
            let name = thread.name().unwrap_or("a thread");
            Error::io(
                ErrorKind::Config,
                format!("{name} can't create its {}", type_name::<T>()),
                io::Error::other(e),
            )
        })
    }
}

impl<T> Clone for PerWorker<T> {
    fn clone(&self) -> PerWorker<T> {
        PerWorker { factory: Arc::clone(&self.factory) }
    }
}

impl<T> fmt::Debug for PerWorker<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PerWorker<{}>", type_name::<T>())
    }
}

thread_local! {
    static OWN: ThreadValues = const { ThreadValues(RefCell::new(Vec::new())) };
}

/// The values of this thread. They are few, so that a list is searched fastest. No code of the program runs while it is
/// borrowed.
struct ThreadValues(RefCell<Vec<Entry>>);

struct Entry {
    token: Weak<()>,
    /// None while it is in use or being made.
    value: Option<Box<dyn Any>>,
}

impl Entry {
    /// The weak reference keeps the address from being used for another token.
    fn is_of(&self, token: &Arc<()>) -> bool {
        std::ptr::eq(self.token.as_ptr(), Arc::as_ptr(token))
    }
}

impl Drop for ThreadValues {
    /// A panic in a destructor of a thread-local aborts the process.
    fn drop(&mut self) {
        let all = std::mem::take(&mut *self.0.borrow_mut());
        all.into_iter().for_each(contain_drop);
    }
}

/// The use of one value. Until it ends, nothing else on this thread gets that value.
struct ValueInUse<'t> {
    token: &'t Arc<()>,
}

impl<'t> ValueInUse<'t> {
    /// Starts a use, and returns the value if there is one already.
    #[track_caller]
    #[expect(clippy::panic, reason = "as documented")]
    fn take<T: 'static>(token: &'t Arc<()>) -> Result<(ValueInUse<'t>, Option<Box<T>>), BoxError> {
        enum Lookup {
            InUse,
            Value(Box<dyn Any>),
            Nothing(Vec<Entry>),
        }
        let found = OWN.try_with(|own| {
            let mut all = own.0.borrow_mut();
            match all.iter_mut().find(|entry| entry.is_of(token)) {
                Some(entry) => entry.value.take().map_or(Lookup::InUse, Lookup::Value),
                None => {
                    let (live, gone) = std::mem::take(&mut *all)
                        .into_iter()
                        .partition(|entry| entry.token.strong_count() > 0);
                    *all = live;
                    all.push(Entry { token: Arc::downgrade(token), value: None });
                    Lookup::Nothing(gone)
                }
            }
        });
        match found {
            Ok(Lookup::Value(value)) => Ok((ValueInUse { token }, value.downcast().ok())),
            Ok(Lookup::Nothing(gone)) => {
                gone.into_iter().for_each(contain_drop);
                Ok((ValueInUse { token }, None))
            }
            Ok(Lookup::InUse) => {
                panic!("{0} is in use: `with` within `with` of the same PerWorker<{0}>", type_name::<T>())
            }
            Err(_) => Err("this thread is ending".into()),
        }
    }

    fn keep(self, value: Box<dyn Any>) {
        self.change(|all| {
            if let Some(entry) = all.iter_mut().find(|entry| entry.is_of(self.token)) {
                entry.value = Some(value);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Entry>)) {
        // On a thread that is about to end, there is nothing to change.
        let _ = OWN.try_with(|own| change(&mut own.0.borrow_mut()));
    }
}

impl Drop for ValueInUse<'_> {
    /// A value that was not kept is created again at the next use.
    fn drop(&mut self) {
        self.change(|all| all.retain(|entry| entry.value.is_some() || !entry.is_of(self.token)));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A value that is not `Send`, and is counted when it is dropped.
    struct Counted {
        number: usize,
        asked: Rc<Cell<u32>>,
        gone: Arc<AtomicUsize>,
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.gone.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Values that are numbered from 0 in the order of their creation, and a count of those that were dropped.
    fn guests() -> (PerWorker<Counted>, Arc<AtomicUsize>) {
        let (made, gone) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&gone);
        let make = move || {
            let number = made.fetch_add(1, Ordering::SeqCst);
            Ok::<_, String>(Counted { number, asked: Rc::default(), gone: Arc::clone(&counted) })
        };
        (PerWorker::new(make), gone)
    }

    fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        thread::Builder::new().name("elsewhere".into()).spawn(work).unwrap().join().unwrap()
    }

    fn text_of<R>(work: impl FnOnce() -> R) -> String {
        let panic = catch_unwind(AssertUnwindSafe(work)).err().expect("a panic");
        panic_text(&*panic).to_owned()
    }

    /// The number of this thread's value, and how often it was used.
    fn ask(guests: &PerWorker<Counted>) -> (usize, u32) {
        guests.with(|guest| {
            guest.asked.set(guest.asked.get() + 1);
            (guest.number, guest.asked.get())
        })
    }

    #[test]
    fn each_thread_has_its_own_and_keeps_it() {
        let (guests, gone) = guests();
        assert_eq!(ask(&guests), (0, 1));
        let there = guests.clone();
        assert_eq!(elsewhere(move || (ask(&there), ask(&there))), ((1, 1), (1, 2)));
        assert_eq!(gone.load(Ordering::SeqCst), 1, "with its thread");
        assert_eq!(ask(&guests.clone()), (0, 2));
    }

    #[test]
    fn several_of_a_type_are_different_ones() {
        let ((first, _), (second, _)) = (guests(), guests());
        assert_eq!((ask(&first), ask(&second), ask(&first)), ((0, 1), (0, 1), (0, 2)));
        let both = first.with(|a| second.with(|b| (a.asked.get(), b.asked.get())));
        assert_eq!(both, (2, 1));
    }

    #[test]
    fn a_panic_leaves_nothing_half_changed() {
        let (guests, gone) = guests();
        let text = text_of(|| {
            guests.with(|guest| {
                guest.asked.set(77);
                panic!("as the test wants it")
            })
        });
        assert_eq!((&*text, gone.load(Ordering::SeqCst)), ("as the test wants it", 1));
        assert_eq!(ask(&guests), (1, 1));
    }

    #[test]
    fn a_nested_use_panics_with_a_reason() {
        let (guests, _) = guests();
        let text = text_of(|| guests.with(|_| ask(&guests)));
        assert!(text.contains("Counted is in use: `with` within `with` of the same PerWorker<"), "{text}");
        assert_eq!(ask(&guests), (1, 1), "the one that was in use is gone");
        let again = text_of(|| guests.with(|_| guests.value_for(|_| ())));
        assert_eq!(again, text);

        let slot = Arc::new(std::sync::OnceLock::<PerWorker<u32>>::new());
        let own = Arc::clone(&slot);
        let makes_itself = PerWorker::new(move || own.get().unwrap().value_for(|n| *n));
        slot.set(makes_itself.clone()).unwrap();
        let text = text_of(|| makes_itself.with(|_| ()));
        assert!(text.starts_with("u32 is in use"), "{text}");
    }

    #[test]
    fn one_that_can_not_be_made_is_tried_again() {
        let tries = AtomicUsize::new(0);
        let values = PerWorker::new(move || match tries.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => Err(io::Error::from_raw_os_error(libc::ECONNREFUSED)),
            2 => panic!("as the test wants it"),
            n => Ok(n),
        });
        let error = values.value_for(|_| ()).unwrap_err().downcast::<io::Error>().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let text = text_of(|| values.with(|_| ()));
        assert_eq!(text, "can't create this thread's usize: Connection refused (os error 111)");
        assert_eq!(text_of(|| values.value_for(|_| ())), "as the test wants it");
        assert_eq!(values.with(|n| *n), 3);
    }

    #[test]
    fn what_fails_at_the_beginning_is_named() {
        let failing = PerWorker::new(|| Err::<u64, _>("no such database"));
        let said = elsewhere(move || failing.begin().unwrap_err().to_string());
        assert_eq!(said, "elsewhere can't create its u64: no such database");
        let panics = PerWorker::new(|| -> Result<u64, String> { panic!("as the test wants it") });
        let said = elsewhere(move || panics.begin().unwrap_err().to_string());
        assert_eq!(said, "elsewhere can't create its u64: it panicked: as the test wants it");
        let (guests, _) = guests();
        guests.begin().unwrap();
        assert_eq!(ask(&guests), (0, 1));
    }

    #[test]
    fn those_of_a_recipe_that_is_gone_go_when_the_next_is_made() {
        let (old, gone) = guests();
        ask(&old);
        drop(old);
        assert_eq!(gone.load(Ordering::SeqCst), 0);
        ask(&guests().0);
        assert_eq!(gone.load(Ordering::SeqCst), 1);
    }

    /// When dropped, it panics, or uses the values that are being dropped.
    struct DropsItself(Option<PerWorker<Counted>>);

    impl Drop for DropsItself {
        fn drop(&mut self) {
            match &self.0 {
                Some(guests) => drop(guests.value_for(|_| ()).unwrap_err()),
                None => panic!("as the test wants it"),
            }
        }
    }

    #[test]
    fn a_drop_that_panics_ends_nothing_else() {
        let sore = PerWorker::new(|| Ok::<_, String>(DropsItself(None)));
        assert_eq!(text_of(|| sore.with(|_| panic!("first"))), "first");
        let (guests, gone) = guests();
        let (late, there) = (guests.clone(), guests.clone());
        let asks_late = PerWorker::new(move || Ok::<_, String>(DropsItself(Some(late.clone()))));
        elsewhere(move || {
            sore.with(|_| ());
            asks_late.with(|_| ());
            ask(&there);
        });
        assert_eq!(gone.load(Ordering::SeqCst), 1, "those after it go, too");
    }
}
