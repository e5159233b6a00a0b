//! A page with a form: its fields as a struct, errors shown beside the field with the submitted value, and after success a
//! redirect, so that a reload does not submit it again. And a query as a struct.
//!
//! ```text
//! $ cargo run --example forms --features form -- 127.0.0.1:8001
//! $ curl -i -d 'name=Ada&message=Tea+%26+cake' http://127.0.0.1:8001/
//! HTTP/1.1 303 See Other
//! Location: /
//! ...
//! $ curl http://127.0.0.1:8001/
//! ...
//! <li><b>Ada</b>: Tea &amp; cake
//! ...
//! $ curl -s -d 'name=<script>&message=' http://127.0.0.1:8001/ | grep 'input'
//! <p>Name: <input name="name" value="&lt;script&gt;" maxlength="40">
//! <p>Message: <input name="message" value="" maxlength="200"> <em>say something</em>
//! $ curl -s 'http://127.0.0.1:8001/?by=Ada' | grep -c '<li>'
//! 1
//! $ curl 'http://127.0.0.1:8001/?page=2'
//! page: unknown field `page`, expected `by`
//! $ curl -d 'name=Ada' http://127.0.0.1:8001/
//! missing field `message`
//! ```
//!
//! Or open it in a browser. A form with files is in the example `uploads`, and pages by templates are in `guestbook`.

use std::sync::{Arc, Mutex, PoisonError};

use heirloom::prelude::*;
use heirloom::{InputError, with_state};
use serde::Deserialize;

/// What the form sends. That both are there is the page's doing; that they are fit, the guest's.
#[derive(Clone, Default, Deserialize)]
struct Entry {
    name: String,
    message: String,
}

/// After the `?`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    by: Option<String>,
}

/// The error of each field, if any.
#[derive(Default)]
struct Mistakes {
    name: &'static str,
    message: &'static str,
}

type Book = Mutex<Vec<Entry>>;

fn main() -> Result<(), heirloom::Error> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let book = Arc::new(Book::default());
    let router = Router::new().get("/", with_state(&book, show)).post("/", with_state(&book, write));
    log::info!("pid {}", std::process::id());
    Server::new(router).listen(listen).serve()
}

fn show(book: &Book, req: Request) -> Result<Html<String>, InputError> {
    let Wanted { by } = req.query()?;
    let mut entries = book.lock().unwrap_or_else(PoisonError::into_inner).clone();
    entries.retain(|entry| by.as_ref().is_none_or(|by| entry.name == *by));
    Ok(page(&entries, &Entry::default(), &Mistakes::default()))
}

fn write(book: &Book, mut req: Request) -> Result<Response, InputError> {
    let entry: Entry = req.form()?;
    let long = |text: &str, most| if text.chars().count() > most { "shorter, please" } else { "" };
    let mistakes = Mistakes {
        name: if entry.name.trim().is_empty() { "who are you?" } else { long(&entry.name, 40) },
        message: if entry.message.trim().is_empty() { "say something" } else { long(&entry.message, 200) },
    };
    let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
    if mistakes.name.is_empty() && mistakes.message.is_empty() {
        book.push(entry);
        return Ok(Redirect::see_other("/").into_response());
    }
    Ok((StatusCode::UNPROCESSABLE_ENTITY, page(&book, &entry, &mistakes)).into_response())
}

fn page(entries: &[Entry], written: &Entry, mistakes: &Mistakes) -> Html<String> {
    let list: String = entries
        .iter()
        .map(|entry| format!("<li><b>{}</b>: {}\n", escaped(&entry.name), escaped(&entry.message)))
        .collect();
    let field = |label: &str, name: &str, value: &str, most: usize, mistake: &str| {
        let value = escaped(value);
        let mistake = if mistake.is_empty() { String::new() } else { format!(" <em>{mistake}</em>") };
        format!("<p>{label}: <input name=\"{name}\" value=\"{value}\" maxlength=\"{most}\">{mistake}\n")
    };
    Html(format!(
        "<!doctype html>\n<title>Guest book</title>\n<form method=\"post\" action=\"/\">\n{}{}<p><button>Write</button>\n\
         </form>\n<ul>\n{list}</ul>\n",
        field("Name", "name", &written.name, 40, mistakes.name),
        field("Message", "message", &written.message, 200, mistakes.message),
    ))
}

/// The text of guests is escaped.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
