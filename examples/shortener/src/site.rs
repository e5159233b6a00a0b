//! The routes, and which clients may use them.

use std::sync::Arc;

use heirloom::prelude::*;
use heirloom::wrap::{AccessLog, BasicAuth};
use heirloom::{Problem, with_state};

use crate::store::Store;
use crate::{api, pages};

/// Far more than a link needs.
const BODY_BYTES: u64 = 16 << 10;

/// The user that may add, list and delete links.
pub struct Login {
    user: String,
    password: String,
}

impl Login {
    /// `user:password`
    pub fn parse(text: &str) -> Result<Login, &'static str> {
        match text.split_once(':') {
            Some((user, password)) if !user.is_empty() && !password.is_empty() => {
                Ok(Login { user: user.to_owned(), password: password.to_owned() })
            }
            _ => Err("SHORTENER_LOGIN: not user:password"),
        }
    }
}

/// All of it. Without a login everybody may do everything.
pub fn site(store: &Arc<Store>, login: Option<Login>) -> impl Handler + use<> {
    let office = Router::new()
        .get("/", with_state(store, pages::show))
        .post("/", with_state(store, pages::create).guard(own_pages_only))
        .get("/api/links", with_state(store, api::list))
        .post("/api/links", with_state(store, api::create))
        .get("/api/links/{alias}", with_state(store, api::read))
        .delete("/api/links/{alias}", with_state(store, api::delete))
        .fallback(|_: Request| Problem::new(StatusCode::NOT_FOUND));
    let office: Arc<dyn Handler> = match login {
        Some(Login { user, password }) => {
            Arc::new(office.wrap(BasicAuth::user("short links", user, password)))
        }
        None => Arc::new(office),
    };
    let site = Router::new()
        .any("/", Arc::clone(&office))
        .any("/api/{*rest}", office)
        .get("/{alias}", with_state(store, pages::follow))
        .fallback(pages::nothing);
    max_body(BODY_BYTES, site).wrap(AccessLog::new())
}

/// Browsers send the password, too, when the form is one on somebody else's page; but they say whose. The API
/// needs no such care: what it takes is JSON, which they don't send there without asking first.
fn own_pages_only(request: &mut Request) -> Result<(), EarlyResponse> {
    match request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(Problem::new(StatusCode::FORBIDDEN).detail("only from the page itself").into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;

    /// A site on its own database, called without a socket.
    struct Site {
        handler: Arc<dyn Handler>,
        store: Arc<Store>,
        _folder: TempDir,
    }

    fn fresh(login: Option<&str>) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(folder.path().join("links.db"), Duration::from_millis(1)).unwrap());
        let login = login.map(|text| Login::parse(text).unwrap());
        let handler = Arc::new(site(&store, login));
        assert_eq!(handler.check(), Ok(()));
        Site { handler, store, _folder: folder }
    }

    struct Answer {
        status: u16,
        response: Response,
        text: String,
    }

    impl Answer {
        fn json(&self) -> Value {
            serde_json::from_str(&self.text).unwrap()
        }

        fn header(&self, name: &str) -> &str {
            self.response.headers().get(name).map_or("", |value| value.to_str().unwrap())
        }
    }

    impl Site {
        fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Answer {
            let mut request = http(method, path);
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            let mut response = self.handler.call(request.body(body.to_owned().into()).unwrap());
            let text = response.body_mut().read_text().unwrap();
            Answer { status: response.status().as_u16(), response, text }
        }

        fn get(&self, path: &str) -> Answer {
            self.ask("GET", path, &[], "")
        }

        fn post_json(&self, body: &Value) -> Answer {
            self.ask("POST", "/api/links", &[("content-type", "application/json")], &body.to_string())
        }

        fn post_form(&self, body: &str) -> Answer {
            self.ask("POST", "/", &[("content-type", "application/x-www-form-urlencoded")], body)
        }
    }

    fn http(method: &str, path: &str) -> http::request::Builder {
        http::Request::builder().method(method).uri(path)
    }

    #[test]
    fn programs_make_read_and_delete_links() {
        let site = fresh(None);
        let made = site.post_json(&json!({"url": "https://example.com/a?b", "alias": "ab"}));
        assert_eq!((made.status, made.header("location")), (201, "/api/links/ab"), "{}", made.text);
        assert_eq!(made.json()["url"], "https://example.com/a?b");
        assert_eq!(site.get("/api/links/ab").text, made.text);
        let other = site.post_json(&json!({"url": "https://example.com/c"})).json();
        assert_eq!(other["alias"].as_str().unwrap().len(), 8);

        let first = site.get("/api/links?most=1").json();
        assert_eq!(first["links"], json!([other]));
        let second = site.get(first["next"].as_str().unwrap()).json();
        assert_eq!(second["links"], json!([made.json()]));
        let end = site.get(second["next"].as_str().unwrap()).json();
        assert_eq!(end, json!({"links": [], "next": null}));

        assert_eq!(site.ask("DELETE", "/api/links/ab", &[], "").status, 204);
        assert_eq!(site.ask("DELETE", "/api/links/ab", &[], "").status, 404);
        let gone = site.get("/api/links/ab");
        assert_eq!((gone.status, gone.header("content-type")), (404, "application/problem+json"));
    }

    #[test]
    fn unsuitable_input_is_a_problem_with_a_reason() {
        let site = fresh(None);
        assert_eq!(site.post_json(&json!({"url": "https://example.com", "alias": "a"})).status, 201);
        let long = format!("https://example.com/{}", "a".repeat(2_000));
        for (body, status, field, detail) in [
            (json!({"url": "https://example.com/2", "alias": "a"}), 409, "alias", "the alias is taken"),
            (json!({"url": "ftp://example.com"}), 422, "url", "http and https only"),
            (json!({"url": long}), 422, "url", "too long: 2,000 bytes at most"),
            (json!({"url": 7}), 422, "url", "invalid type: integer `7`, expected a string"),
            (
                json!({"url": "https://example.com", "alias": "a/b"}),
                422,
                "alias",
                "letters, digits, - and _ only",
            ),
            (json!({"url": "https://example.com", "alias": "api"}), 422, "alias", "reserved"),
            (
                json!({"url": "https://example.com", "Alias": "b"}),
                422,
                "Alias",
                "unknown field `Alias`, expected `url` or `alias`",
            ),
        ] {
            let answer = site.post_json(&body);
            let problem = answer.json();
            let said = (answer.status, problem["field"].as_str(), problem["detail"].as_str());
            assert_eq!(said, (status, Some(field), Some(detail)), "{body}");
            assert_eq!(answer.header("content-type"), "application/problem+json");
        }
        assert_eq!(site.post_form("url=https://example.com").status, 303);
        let ask = |kind, body| site.ask("POST", "/api/links", &[("content-type", kind)], body).status;
        assert_eq!(ask("text/plain", r#"{"url":"https://example.com"}"#), 415);
        assert_eq!(ask("application/json", r#"{"url":"#), 400);
        assert_eq!(site.get("/api/links?most=x").status, 400);
        assert_eq!(site.get("/api/nothing").header("content-type"), "application/problem+json");
        assert_eq!(site.ask("PATCH", "/api/links/a", &[], "").header("allow"), "DELETE, GET, HEAD, OPTIONS");
        assert_eq!(site.store.newest(None, 9).unwrap().len(), 2);
    }

    #[test]
    fn people_use_a_form() {
        let site = fresh(None);
        let made = site.post_form("url=https%3A%2F%2Fexample.com%2F%3Fa%26b&alias=ab");
        assert_eq!((made.status, made.header("location")), (303, "/?made=ab"));
        let page = site.get("/?made=ab");
        assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
        assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
        assert!(page.text.contains("Your link: <a href=\"/ab\">"), "{}", page.text);
        assert!(page.text.contains("<td>https://example.com/?a&amp;b<td>"), "{}", page.text);
        assert!(site.post_form("url=https://example.com&alias=").header("location").starts_with("/?made="));

        let taken = site.post_form("url=https://example.com/2&alias=ab");
        assert_eq!(taken.status, 409);
        assert!(
            taken.text.contains("the alias is taken")
                && taken.text.contains("value=\"https://example.com/2\"")
        );
        // The input is shown again, escaped.
        let unfit = site.post_form("url=%22%3E%3Cscript%3E&alias=%3Cb%3E");
        assert_eq!(unfit.status, 422);
        assert!(
            unfit.text.contains("value=\"&quot;&gt;&lt;script&gt;\"") && !unfit.text.contains("<script>")
        );
        assert_eq!(site.get("/?made=%3Cb%3E").status, 400);
        assert_eq!(site.post_form("alias=x").status, 422);
        assert_eq!(site.get("/a/b").status, 404);
    }

    #[test]
    fn each_visit_is_counted() {
        let site = fresh(None);
        site.post_json(&json!({"url": "https://example.com/a", "alias": "a"}));
        for _ in 0..3 {
            let visit = site.get("/a");
            assert_eq!((visit.status, visit.header("location")), (307, "https://example.com/a"));
            assert_eq!(visit.header("cache-control"), "no-store");
        }
        assert_eq!(site.ask("HEAD", "/a", &[], "").status, 307);
        site.store.write_hits();
        assert_eq!(site.get("/api/links/a").json()["hits"], 3);
        let none = site.get("/b");
        assert_eq!((none.status, none.header("content-type")), (404, "text/html; charset=utf-8"));
        assert_eq!(site.ask("POST", "/a", &[], "").status, 405);
    }

    #[test]
    fn strangers_may_follow_links_and_nothing_else() {
        let site = fresh(Some("ada:secret:too"));
        let login = ("authorization", "Basic YWRhOnNlY3JldDp0b28=");
        let json = ("content-type", "application/json");
        let body = r#"{"url": "https://example.com", "alias": "a"}"#;
        assert_eq!(site.ask("POST", "/api/links", &[json], body).status, 401);
        assert_eq!(site.ask("POST", "/api/links", &[json, login], body).status, 201);
        assert_eq!(site.get("/a").status, 307);
        for (method, path) in [
            ("GET", "/"),
            ("POST", "/"),
            ("GET", "/api/links"),
            ("DELETE", "/api/links/a"),
            ("GET", "/api/x"),
        ] {
            assert_eq!(site.ask(method, path, &[], "").status, 401, "{method} {path}");
        }
        assert_eq!(site.ask("GET", "/", &[login], "").status, 200);
        // A form on a page of another site, sent by a browser that knows the password.
        let form = ("content-type", "application/x-www-form-urlencoded");
        let post = |from| {
            site.ask("POST", "/", &[login, form, ("sec-fetch-site", from)], "url=https://example.com").status
        };
        assert_eq!(
            [post("cross-site"), post("same-site"), post("same-origin"), post("none")],
            [403, 403, 303, 303]
        );
        for text in ["", "ada", ":x", "ada:"] {
            assert!(Login::parse(text).is_err(), "{text:?}");
        }
    }
}
