//! The pages for people: a form, the newest links, and the page for an unknown link.

use heirloom::Problem;
use heirloom::prelude::*;
use serde::Deserialize;

use crate::link::{Alias, Link, Target};
use crate::store::Store;

const NEWEST: u32 = 50;

/// As the user wrote it, to be shown again if it is invalid.
#[derive(Default, Deserialize)]
struct Form {
    url: String,
    #[serde(default)]
    alias: String,
}

/// What there is to say above the form.
enum Note<'a> {
    None,
    Made(&'a str),
    Mistake(&'a str),
}

#[derive(Default, Deserialize)]
struct Shown {
    made: Option<Alias>,
}

/// `GET /`
pub fn show(store: &Store, req: Request) -> Result<Response, Problem> {
    let shown: Shown = req.query()?;
    let note = shown.made.as_ref().map_or(Note::None, |alias| Note::Made(alias.as_str()));
    Ok(page(&store.newest(None, NEWEST)?, &Form::default(), &note))
}

/// `POST /`
pub fn create(store: &Store, mut req: Request) -> Result<Response, Problem> {
    let form: Form = req.form()?;
    let made = Target::try_from(form.url.clone()).and_then(|target| {
        let alias = Some(form.alias.trim()).filter(|text| !text.is_empty());
        Ok((target, alias.map(|text| Alias::try_from(text.to_owned())).transpose()?))
    });
    let (status, why) = match made {
        Err(why) => (StatusCode::UNPROCESSABLE_ENTITY, why.to_owned()),
        Ok((target, alias)) => match store.create(alias.as_ref(), &target) {
            // A redirect, so that a reload does not create another one.
            Ok(link) => return Ok(Redirect::see_other(format!("/?made={}", link.alias)).into_response()),
            Err(failure) if failure.status() == StatusCode::INTERNAL_SERVER_ERROR => {
                return Err(failure.into());
            }
            Err(failure) => (failure.status(), failure.to_string()),
        },
    };
    Ok(page(&store.newest(None, NEWEST)?, &form, &Note::Mistake(&why)).with_status(status))
}

/// `GET /{alias}`
pub fn follow(store: &Store, req: Request) -> Result<Response, Problem> {
    let alias = req.param("alias").unwrap_or_default();
    // A HEAD request does not count as a visit.
    match store.follow(alias, req.method() == Method::GET)? {
        // Not to be cached: the link may be deleted, and each visit counts.
        Some(url) => {
            Ok(Redirect::temporary(url).into_response().with_header(header::CACHE_CONTROL, "no-store"))
        }
        None => Ok(nothing(req)),
    }
}

/// The page for a link that does not exist.
pub fn nothing(_: Request) -> Response {
    let text = "<p>There is no such link. <a href=\"/\">Make one?</a>\n";
    document("Not found", text).with_status(StatusCode::NOT_FOUND)
}

fn page(links: &[Link], form: &Form, note: &Note<'_>) -> Response {
    let note = match note {
        Note::None => String::new(),
        Note::Made(alias) => format!("<p>Your link: <a href=\"/{alias}\">/{alias}</a>\n"),
        Note::Mistake(why) => format!("<p class=\"mistake\">{}\n", escaped(why)),
    };
    let rows: String = links
        .iter()
        .map(|link| {
            let (alias, url) = (&link.alias, escaped(&link.url));
            let (created, hits) = (&link.created, link.hits);
            format!("<tr><td><a href=\"/{alias}\">/{alias}</a><td>{url}<td>{created}<td>{hits}\n")
        })
        .collect();
    let (url, alias) = (escaped(&form.url), escaped(&form.alias));
    document(
        "Short links",
        &format!(
            "{note}<form method=\"post\" action=\"/\">\n\
             <label>Link <input name=\"url\" type=\"url\" value=\"{url}\" maxlength=\"2000\" required autofocus></label>\n\
             <label>Name <input name=\"alias\" value=\"{alias}\" maxlength=\"40\" placeholder=\"any\"></label>\n\
             <button>Shorten</button>\n</form>\n\
             <table>\n<tr><th>Short<th>Leads to<th>Made<th>Hits\n{rows}</table>\n"
        ),
    )
}

/// Allows only this page's style and form, so that the content of a link can't add others.
fn document(title: &str, content: &str) -> Response {
    const POLICY: &str =
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'";
    const STYLE: &str = "body { font: 16px sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }\n\
                         td, th { text-align: left; padding: .2em 1em .2em 0; overflow-wrap: anywhere }\n\
                         .mistake { color: #b00 }";
    Html(format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<style>\n{STYLE}\n</style>\n<h1>{title}</h1>\n{content}"
    ))
    .into_response()
    .with_header(header::CONTENT_SECURITY_POLICY, POLICY)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
