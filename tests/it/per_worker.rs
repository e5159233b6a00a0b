//! Per-worker values, in servers in this process.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use heirloom::ErrorKind;
use heirloom::prelude::*;

use crate::support::{Client, eventually};

const WORKERS: usize = 3;

/// Not `Send`; knows the thread that created it, and is counted when it is dropped.
struct Own {
    made_by: Rc<str>,
    number: usize,
    gone: Arc<AtomicUsize>,
}

impl Drop for Own {
    fn drop(&mut self) {
        self.gone.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Clone, Default)]
struct Book {
    /// The threads that have made one.
    makers: Arc<Mutex<Vec<String>>>,
    gone: Arc<AtomicUsize>,
}

fn thread_name() -> String {
    thread::current().name().unwrap_or_default().to_owned()
}

impl Book {
    fn values(&self) -> PerWorker<Own> {
        let book = self.clone();
        PerWorker::new(move || {
            let mut makers = book.makers.lock().unwrap();
            makers.push(thread_name());
            let (number, gone) = (makers.len(), book.gone.clone());
            Ok::<_, String>(Own { made_by: thread_name().into(), number, gone })
        })
    }

    fn makers(&self) -> Vec<String> {
        self.makers.lock().unwrap().clone()
    }
}

#[test]
fn each_worker_has_made_its_own_when_the_server_has_started() {
    let book = Book::default();
    let values = book.values();
    let asked = values.clone();
    let handler = move |_: Request| {
        asked.with(|own| {
            assert_eq!(&*own.made_by, thread_name());
            own.number.to_string()
        })
    };
    let server = Server::new(handler)
        .per_worker(&values)
        .listen("127.0.0.1:0")
        .admin("127.0.0.1:0")
        .workers(WORKERS)
        .spawn()
        .unwrap();
    let all = ["heirloom-worker-0", "heirloom-worker-1", "heirloom-worker-2"].map(str::to_owned);
    assert_eq!(book.makers().into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(all));
    let mut client = Client::to(server.addresses()[0]);
    for _ in 0..20 {
        let reply = client.get("/");
        assert_eq!(reply.status, 200);
        assert!((1..=WORKERS).contains(&reply.text().parse().unwrap()));
    }
    assert_eq!(book.makers().len(), WORKERS);
    drop(client);
    server.stop().unwrap();
    assert_eq!(book.gone.load(Ordering::SeqCst), WORKERS, "with the workers");
}

#[test]
fn a_value_that_can_not_be_made_is_an_error_of_the_start() {
    let failing = PerWorker::new(|| Err::<Rc<u8>, _>(std::io::Error::other("no route to the database")));
    let server = Server::new(|_: Request| "ok\n").per_worker(&failing).listen("127.0.0.1:0").workers(1);
    let error = server.spawn().unwrap_err();
    let said = "heirloom-worker-0 can't create its alloc::rc::Rc<u8>: no route to the database";
    assert_eq!(error.to_string(), said);
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[test]
fn where_one_worker_can_not_begin_the_others_end_and_let_go() {
    let book = Book::default();
    let (made, gone) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&book.gone));
    let second_fails = PerWorker::new(move || match made.fetch_add(1, Ordering::SeqCst) {
        1 => Err("as the test wants it"),
        _ => Ok(()),
    });
    let server = Server::new(|_: Request| "ok\n").per_worker(&book.values()).per_worker(&second_fails);
    let error = server.listen("127.0.0.1:0").workers(WORKERS).spawn().unwrap_err();
    assert!(error.to_string().ends_with(" can't create its (): as the test wants it"), "{error}");
    // They are not waited for.
    eventually("all have let go", || gone.load(Ordering::SeqCst) == WORKERS);
    assert_eq!(book.makers().len(), WORKERS);
}

#[test]
fn a_handler_that_panics_leaves_its_worker_a_new_one() {
    let book = Book::default();
    let values = book.values();
    let asked = values.clone();
    let handler = move |req: Request| {
        asked.with(|own| {
            assert!(req.uri().path() != "/panic", "as the test wants it");
            own.number.to_string()
        })
    };
    let server = Server::new(handler).per_worker(&values).listen("127.0.0.1:0").workers(1).spawn().unwrap();
    let mut client = Client::to(server.addresses()[0]);
    assert_eq!(client.get("/").text(), "1");
    assert_eq!(client.get("/panic").status, 500);
    assert_eq!(book.gone.load(Ordering::SeqCst), 1);
    assert_eq!(client.get("/").text(), "2");
    assert_eq!(book.makers(), ["heirloom-worker-0"; 2]);
    assert_eq!(server.handle().stats().workers_replaced, 0);
}

#[test]
fn what_fails_at_first_use_is_a_500_and_is_tried_again() {
    let tries = Arc::new(AtomicUsize::new(0));
    let values = PerWorker::new(move || match tries.fetch_add(1, Ordering::SeqCst) {
        0 | 1 => Err(std::io::Error::other("not yet")),
        n => Ok(n),
    });
    let (boxed, asked) = (values.clone(), values);
    let router = Router::new()
        .get("/try/{wanted}", move |req: Request| {
            boxed.try_with(|n| match req.param_as::<usize>("wanted")? {
                wanted if wanted == *n => Ok(n.to_string()),
                wanted => Err(InputError::new(StatusCode::CONFLICT, format!("{n} is not {wanted}"))),
            })
        })
        .get("/with", move |_: Request| asked.with(|n| n.to_string()));
    let server = Server::new(router).listen("127.0.0.1:0").workers(1).spawn().unwrap();
    let mut client = Client::to(server.addresses()[0]);
    assert_eq!(client.get("/try/2").status, 500);
    assert_eq!(client.get("/with").status, 500);
    assert_eq!(client.get("/with").text(), "2");
    assert_eq!(client.get("/try/2").text(), "2");
    // An error of the work is that of the call, and the value stays.
    assert_eq!(client.get("/try/3").said(), "409 2 is not 3");
    assert_eq!(client.get("/try/x").status, 404);
    assert_eq!(client.get("/with").text(), "2");
}

#[test]
fn threads_that_are_no_workers_make_theirs_at_first_use() {
    let book = Book::default();
    let values = book.values();
    let asked = values.clone();
    let handler = move |_: Request| {
        let asked = asked.clone();
        Body::writer(move |out| asked.with(|own| write!(out, "{} {}", own.number, own.made_by)))
    };
    // Without a server, as in a program's tests.
    let direct = values.clone();
    let number = Router::new().get("/", move |_: Request| direct.with(|own| own.number.to_string()));
    let request = || http::Request::get("/").body(Body::empty()).unwrap();
    assert_eq!(number.call(request()).body_mut().read_text().unwrap(), "1");
    assert_eq!(number.call(request()).body_mut().read_text().unwrap(), "1");

    let server = Server::new(handler).per_worker(&values).listen("127.0.0.1:0").workers(1).spawn().unwrap();
    assert_eq!(book.makers().len(), 2);
    let reply = Client::to(server.addresses()[0]).get("/");
    assert_eq!(reply.text(), "3 heirloom-detached-1");
    server.stop().unwrap();
    // This thread's value is left.
    eventually("the stream's went with its thread", || book.gone.load(Ordering::SeqCst) == 2);
}
