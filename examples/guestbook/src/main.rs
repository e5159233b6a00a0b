//! Pages by templates: maud's are Rust code, checked by the compiler, and escape every value. Any engine that gives a
//! `String` fits in the same way: `Html` makes a response of it.
//!
//! ```text
//! $ cargo run -p guestbook -- 127.0.0.1:8001
//! $ curl -o /dev/null -w '%{http_code}\n' -d 'name=Ada&message=<b>Tea</b>+%26+cake' http://127.0.0.1:8001/
//! 303
//! $ curl http://127.0.0.1:8001/
//! <!DOCTYPE html>...<li><b>Ada</b>: &lt;b&gt;Tea&lt;/b&gt; &amp; cake</li>...
//! $ curl -w '\n%{http_code}\n' -d 'name="><script>&message=' http://127.0.0.1:8001/
//! <!DOCTYPE html>...value="&quot;&gt;&lt;script&gt;"...<em>say something</em>...
//! 422
//! $ curl -H 'Sec-Fetch-Site: cross-site' -d 'name=Eve&message=spam' http://127.0.0.1:8001/
//! cross-origin request, by its Sec-Fetch-Site
//! ```
//!
//! A value is escaped, in text and in attributes. It is not checked as an address: put no `href=(value)` of a guest into a
//! page, as it may be `javascript:...`.

use std::sync::{Arc, Mutex, PoisonError};

use heirloom::prelude::*;
use heirloom::wrap::{Csrf, SecurityHeaders};
use maud::{DOCTYPE, Markup, html};
use serde::Deserialize;

#[derive(Clone, Default, Deserialize)]
struct Entry {
    name: String,
    message: String,
}

type Book = Mutex<Vec<Entry>>;

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let book = Arc::new(Book::default());
    let policy = "default-src 'self'; frame-ancestors 'self'";
    let handler = Router::new()
        .get("/", with_state(&book, show))
        .post("/", with_state(&book, write))
        .wrap(Csrf::new())
        .wrap(SecurityHeaders::new().set(header::CONTENT_SECURITY_POLICY, policy));
    log::info!("pid {}", std::process::id());
    Server::new(handler).listen(listen).serve()
}

fn show(book: &Book, _: Request) -> Html<String> {
    let book = book.lock().unwrap_or_else(PoisonError::into_inner);
    Html(page(&book, &Entry::default(), "").into_string())
}

fn write(book: &Book, mut req: Request) -> Result<Response, InputError> {
    let entry: Entry = req.form()?;
    let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
    if entry.message.trim().is_empty() {
        let page = page(&book, &entry, "say something").into_string();
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, Html(page)).into_response());
    }
    book.push(entry);
    Ok(Redirect::see_other("/").into_response())
}

fn page(book: &[Entry], written: &Entry, mistake: &str) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head { title { "Guest book" } }
            body {
                form method="post" action="/" {
                    p { "Name: " input name="name" value=(written.name) maxlength="40"; }
                    p {
                        "Message: " input name="message" value=(written.message) maxlength="200";
                        @if !mistake.is_empty() { " " em { (mistake) } }
                    }
                    p { button { "Write" } }
                }
                ul {
                    @for entry in book {
                        li { b { (entry.name) } ": " (entry.message) }
                    }
                }
            }
        }
    }
}
