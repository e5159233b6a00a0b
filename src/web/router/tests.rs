use std::collections::BTreeSet;

use super::*;
use crate::web::handler::{Panics, RouteLimits, RouteRules, answer, find_route, max_body, streaming};
use crate::web::wrap::Entries;
use crate::{Body, IntoResponse, RequestExt};

fn request(line: &str) -> Request {
    let (method, target) = line.split_once(' ').unwrap();
    http::Request::builder().method(method).uri(target).body(Body::empty()).unwrap()
}

/// Status, `Allow` if there is one, body.
fn shown(response: impl IntoResponse) -> String {
    let mut response = response.into_response();
    let allow = response.headers().get(ALLOW).map(|v| format!(" [{}]", v.to_str().unwrap()));
    let body = response.body_mut().read_text().unwrap();
    let shown = format!("{}{} {body}", response.status().as_u16(), allow.unwrap_or_default());
    shown.trim_end().to_owned()
}

/// A handler that responds with its name, the pattern and the parameters.
fn says(name: &'static str) -> impl Handler {
    move |req: Request| {
        let params: Vec<String> = req.params().map(|(n, v)| format!("{n}={v}")).collect();
        format!("{name} {} {}", req.pattern().as_deref().unwrap_or("-"), params.join("&"))
    }
}

fn check(router: &Router, cases: &[(&str, &str)]) {
    assert_eq!(router.check(), Ok(()));
    for (line, want) in cases {
        assert_eq!(shown(router.call(request(line))), *want, "{line}");
        // Called as a server calls it.
        let request = request(line);
        let mut found = find_route(router, request.method(), request.uri().path());
        assert!(found.is_refused() || found.latency().is_some(), "{line}");
        let panics = Panics::default();
        let mut got = None;
        answer(router, &mut Some(request), &mut found, &panics, &mut Entries::default(), &mut got);
        assert_eq!(shown(got.unwrap()), *want, "{line}, by a server");
        assert!(panics.into_inner().unwrap().is_empty());
    }
}

#[test]
fn paths_and_parameters() {
    let router = Router::new()
        .get("/", says("root"))
        .get("/users/{id}", says("user"))
        .get("/users/me", says("me"))
        .get("/users/{id}/posts/{post}", says("post"))
        .get("/img/{name}.png", says("png"))
        .get("/files/{*path}", says("file"))
        .get("/{{x}}", says("braces"));
    let cases = [
        ("GET /", "200 root /"),
        ("GET /users/7", "200 user /users/{id} id=7"),
        ("GET /users/7?id=8", "200 user /users/{id} id=7"),
        ("GET http://other/users/7", "200 user /users/{id} id=7"),
        ("GET /users/me", "200 me /users/me"),
        ("GET /users/7/posts/9", "200 post /users/{id}/posts/{post} id=7&post=9"),
        ("GET /img/a.png", "200 png /img/{name}.png name=a"),
        ("GET /files/a/b%20c/", "200 file /files/{*path} path=a/b c/"),
        ("GET /{x}", "200 braces /{{x}}"),
        ("GET /users", "404 404 Not Found"),
        ("GET /users/", "404 404 Not Found"),
        ("GET /users/7/", "404 404 Not Found"),
        ("GET /users/me/", "404 404 Not Found"),
        ("GET /files/", "200 file /files/{*path} path="),
        ("GET /files", "404 404 Not Found"),
        ("GET //", "404 404 Not Found"),
        ("GET *", "404 404 Not Found"),
    ];
    check(&router, &cases);
}

#[test]
fn values_are_decoded_after_matching() {
    let router = Router::new().get("/{v}", says("v"));
    let cases = [
        ("GET /J%C3%B8", "200 v /{v} v=Jø"),
        ("GET /a%2fb%2F", "200 v /{v} v=a/b/"),
        ("GET /100%25+%61", "200 v /{v} v=100%+a"),
        ("GET /..", "200 v /{v} v=.."),
        ("GET /%FF", "400 400 Bad Request"),
        ("GET /%C3", "400 400 Bad Request"),
        ("GET /%", "400 400 Bad Request"),
        ("GET /%4", "400 400 Bad Request"),
        ("GET /%4x", "400 400 Bad Request"),
        ("GET /%+4", "400 400 Bad Request"),
        ("GET /%%34", "400 400 Bad Request"),
    ];
    check(&router, &cases);
}

#[test]
fn paths_and_patterns_have_one_spelling() {
    let router = Router::new()
        .get("/café", says("café"))
        .get("/%7Euser", says("user"))
        .get("/a b/{v}".replace(' ', "%20").as_str(), says("space"))
        .get("/@{name}(1)", says("at"))
        .get("/a%2fb", says("slash"))
        .get("/{{x}}", says("braces"))
        .nest("/pr%69vate", Router::new().get("/ü/{*rest}", says("nested")).fallback(says("private")));
    let cases = [
        ("GET /caf%C3%A9", "200 café /café"),
        ("GET /caf%c3%a9", "200 café /café"),
        ("GET /%63af%c3%A9", "200 café /café"),
        ("GET /café", "200 café /café"),
        ("GET /~user", "200 user /%7Euser"),
        ("GET /%7euser", "200 user /%7Euser"),
        ("GET /%7Euser", "200 user /%7Euser"),
        ("GET /a%20b/%7Ec%2fd", "200 space /a%20b/{v} v=~c/d"),
        ("GET /%40%C3%A9%281%29", "200 at /@{name}(1) name=é"),
        ("GET /@x(1)", "200 at /@{name}(1) name=x"),
        ("GET /a%2Fb", "200 slash /a%2fb"),
        ("GET /a/b", "404 404 Not Found"),
        ("GET /a%252Fb", "404 404 Not Found"),
        ("GET /%7bx%7D", "200 braces /{{x}}"),
        ("GET /{x}", "200 braces /{{x}}"),
        ("GET /private/%C3%BC/%70%2f", "200 nested /pr%69vate/ü/{*rest} rest=p/"),
        ("GET /%70rivate/ü/", "200 nested /pr%69vate/ü/{*rest} rest="),
        ("GET http://h/%70rivate/x", "200 private -"),
        ("GET /privat%65/", "200 private -"),
        ("GET /%70rivate", "200 private -"),
        ("GET /private%2Fx", "404 404 Not Found"),
        ("GET /%2570rivate/x", "404 404 Not Found"),
        ("GET //private/x", "404 404 Not Found"),
        ("GET /./private/x", "404 404 Not Found"),
        ("GET /x/../private/x", "404 404 Not Found"),
        ("GET /Private/x", "404 404 Not Found"),
        ("GET /%", "400 400 Bad Request"),
        ("GET /caf%C3%A", "400 400 Bad Request"),
    ];
    check(&router, &cases);
}

#[test]
fn a_rest_may_be_empty() {
    let router = Router::new()
        .any("/private/{*rest}", says("guard"))
        .get("/t/{id}/{*rest}", says("of id"))
        .get("/own/{*rest}", says("rest"))
        .get("/own/", says("own"))
        .get("/{*all}", says("all"));
    let cases = [
        ("GET /private/", "200 guard /private/{*rest} rest="),
        ("PUT /%70rivate/", "200 guard /private/{*rest} rest="),
        ("GET /private/x", "200 guard /private/{*rest} rest=x"),
        ("GET /private//", "200 guard /private/{*rest} rest=/"),
        ("GET /private", "200 all /{*all} all=private"),
        ("GET /t/7/", "200 of id /t/{id}/{*rest} id=7&rest="),
        ("GET /t/7/8", "200 of id /t/{id}/{*rest} id=7&rest=8"),
        ("GET /own/", "200 own /own/"),
        ("GET /own/x", "200 rest /own/{*rest} rest=x"),
        ("PUT /own/", "405 [GET, HEAD, OPTIONS] 405 Method Not Allowed"),
        ("GET /", "200 all /{*all} all="),
    ];
    check(&router, &cases);

    // In any order of registration, a route of the program replaces an implied one.
    let first = Router::new().get("/", says("own")).get("/{*all}", says("all"));
    let last = Router::new().get("/{*all}", says("all")).get("/", says("own")).post("/", says("post"));
    check(&first, &[("GET /", "200 own /"), ("GET /x", "200 all /{*all} all=x")]);
    let cases = [("GET /", "200 own /"), ("POST /", "200 post /"), ("GET /x", "200 all /{*all} all=x")];
    check(&last, &cases);
    let named = Router::new()
        .get("/{a}/{*rest}", says("rest"))
        .get("/{b}/", says("own"))
        .get("/lit/{*rest}", says("lit"));
    let cases = [
        ("GET /x/", "200 own /{b}/ b=x"),
        ("GET /x/y", "200 rest /{a}/{*rest} a=x&rest=y"),
        ("GET /lit/", "200 lit /lit/{*rest} rest="),
    ];
    check(&named, &cases);
    let nested = Router::new().nest("/n", Router::new().any("/{*rest}", says("n")).get("/", says("own")));
    check(&nested, &[("GET /n/", "200 own /n/"), ("GET /n/x", "200 n /n/{*rest} rest=x")]);
    // With both kinds of routes, every path has one.
    let fallback = Router::new().any("/private/{*rest}", says("guard")).fallback(says("fallback"));
    check(
        &fallback,
        &[("GET /private/", "200 guard /private/{*rest} rest="), ("GET /private", "200 fallback -")],
    );
}

#[test]
fn methods() {
    let purge = Method::from_bytes(b"PURGE").unwrap();
    let router = Router::new()
        .get("/a", says("get"))
        .post("/a", says("post"))
        .put("/b", says("put"))
        .delete("/b", says("delete"))
        .patch("/b", says("patch"))
        .get("/c", says("get"))
        .head("/c", says("head"))
        .options("/c", says("options"))
        .any("/d", says("any"))
        .get("/d", says("get"))
        .route(purge, "/e", says("purge"));
    let cases = [
        ("GET /a", "200 get /a"),
        ("HEAD /a", "200 get /a"),
        ("POST /a", "200 post /a"),
        ("OPTIONS /a", "204 [GET, HEAD, OPTIONS, POST]"),
        ("PUT /a", "405 [GET, HEAD, OPTIONS, POST] 405 Method Not Allowed"),
        ("TRACE /a", "405 [GET, HEAD, OPTIONS, POST] 405 Method Not Allowed"),
        ("PURGE /a", "405 [GET, HEAD, OPTIONS, POST] 405 Method Not Allowed"),
        ("BREW /a", "501 501 Not Implemented"),
        ("get /a", "501 501 Not Implemented"),
        ("PUT /b", "200 put /b"),
        ("DELETE /b", "200 delete /b"),
        ("PATCH /b", "200 patch /b"),
        ("HEAD /b", "405 [DELETE, OPTIONS, PATCH, PUT] 405 Method Not Allowed"),
        ("HEAD /c", "200 head /c"),
        ("OPTIONS /c", "200 options /c"),
        ("GET /d", "200 get /d"),
        ("HEAD /d", "200 get /d"),
        ("OPTIONS /d", "200 any /d"),
        ("BREW /d", "200 any /d"),
        ("PURGE /e", "200 purge /e"),
        ("GET /e", "405 [OPTIONS, PURGE] 405 Method Not Allowed"),
        ("OPTIONS *", "204 [DELETE, GET, HEAD, OPTIONS, PATCH, POST, PURGE, PUT, TRACE]"),
        ("OPTIONS /x", "404 404 Not Found"),
        ("BREW /x", "501 501 Not Implemented"),
        ("PURGE /x", "404 404 Not Found"),
        ("CONNECT a:1", "501 501 Not Implemented"),
        ("CONNECT /d", "501 501 Not Implemented"),
    ];
    check(&router, &cases);
    check(&Router::new().get("/", says("get")), &[("OPTIONS *", "204 [GET, HEAD, OPTIONS]")]);
    check(&Router::default(), &[("OPTIONS *", "204 [OPTIONS]"), ("GET /", "404 404 Not Found")]);
}

#[test]
fn the_path_decides_before_the_method() {
    let router = Router::new().get("/users/{id}", says("user")).post("/users/me", says("me"));
    check(&router, &[("GET /users/me", "405 [OPTIONS, POST] 405 Method Not Allowed")]);
}

#[test]
fn nested_routers_and_fallbacks() {
    let deep = Router::new().get("/x", says("x"));
    let api = Router::new()
        .get("/", says("root"))
        .post("/{id}", says("one"))
        .nest("/deep", deep)
        .fallback(says("api fallback"));
    let tenant = Router::new().get("/{id}", says("of tenant")).fallback(says("tenant fallback"));
    let router = Router::new().get("/api/v", says("outer")).nest("/api", api).nest("/t/{tenant}", tenant);
    let cases = [
        ("GET /api", "200 root /api/"),
        ("GET /api/", "200 root /api/"),
        ("PUT /api", "405 [GET, HEAD, OPTIONS] 405 Method Not Allowed"),
        ("GET /api/v", "200 outer /api/v"),
        ("POST /api/7", "200 one /api/{id} id=7"),
        ("GET /api/7", "405 [OPTIONS, POST] 405 Method Not Allowed"),
        ("GET /api/deep/x", "200 x /api/deep/x"),
        ("OPTIONS /api/7", "204 [OPTIONS, POST]"),
        ("GET /api/deep/y", "404 404 Not Found"),
        ("PUT /api/deep/x", "405 [GET, HEAD, OPTIONS] 405 Method Not Allowed"),
        ("GET /api/y/z", "200 api fallback -"),
        ("GET /apix", "404 404 Not Found"),
        ("GET /t/a/b", "200 of tenant /t/{tenant}/{id} tenant=a&id=b"),
        ("GET /t/a", "200 tenant fallback - tenant=a"),
        ("GET /t/a/b/c", "200 tenant fallback - tenant=a"),
        ("GET /t/%FF/b", "400 400 Bad Request"),
        ("GET /t/a/%FF", "400 400 Bad Request"),
        ("GET /t/", "404 404 Not Found"),
        ("CONNECT a:1", "501 501 Not Implemented"),
    ];
    check(&router, &cases);

    let router = router.fallback(says("fallback"));
    let cases = [
        ("GET /", "200 fallback -"),
        ("BREW /x", "200 fallback -"),
        ("GET /apix/y", "200 fallback -"),
        ("GET /api/y/z", "200 api fallback -"),
        ("GET /api/deep/y", "404 404 Not Found"),
        ("CONNECT a:1", "501 501 Not Implemented"),
        ("OPTIONS *", "204 [DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, TRACE]"),
    ];
    check(&router, &cases);
}

/// The table of literal paths changes nothing of which route goes before.
#[test]
fn literal_paths_of_nested_routers_come_last() {
    let inner =
        || Router::new().get("/", says("root")).get("/caf\u{e9}", says("coffee")).get("/a/b", says("inner"));
    let router = Router::new().nest("/n", inner()).nest("/{t}/n", inner());
    let cases = [
        ("GET /n", "200 root /n/"),
        ("GET /n/", "200 root /n/"),
        ("GET /n/caf%c3%a9", "200 coffee /n/caf\u{e9}"),
        ("GET /n/a/b", "200 inner /n/a/b"),
        ("PUT /n/a/b", "405 [GET, HEAD, OPTIONS] 405 Method Not Allowed"),
        ("GET /x/n/a/b", "200 inner /{t}/n/a/b t=x"),
    ];
    check(&router, &cases);
    // Routes that come once requests were answered.
    let router =
        router.post("/n/caf\u{e9}", says("outer")).get("/n/a/{y}", says("outer")).get("/n", says("outer"));
    let cases = [
        ("GET /n", "200 outer /n"),
        ("GET /n/", "200 root /n/"),
        ("GET /n/caf%c3%a9", "405 [OPTIONS, POST] 405 Method Not Allowed"),
        ("GET /n/a/b", "200 outer /n/a/{y} y=b"),
        ("GET /x/n/a/b", "200 inner /{t}/n/a/b t=x"),
    ];
    check(&router, &cases);
    let around = Router::new().nest("/o", router);
    check(&around, &[("GET /o/n/a/b", "200 outer /o/n/a/{y} y=b"), ("GET /o/n/", "200 root /o/n/")]);
}

/// What a wrapper around a nested router sees of each request.
fn seen(name: &'static str) -> impl crate::Wrapper {
    move |req: Request, next: crate::Next<'_>| {
        let place = format!("{}|{}", req.prefix(), req.pattern().as_deref().unwrap_or("-"));
        let params: Vec<String> = req.params().map(|(n, v)| format!("{n}={v}")).collect();
        next.call(req).with_header(name, format!("{place}|{}", params.join("&")))
    }
}

#[test]
fn a_path_that_is_its_nested_pattern_needs_no_extension() {
    let place = |req: Request| {
        let pattern = req.pattern().unwrap_or_default().into_owned();
        format!("{}|{pattern}|{}", req.prefix(), req.extensions().is_empty())
    };
    let inner = || Router::new().get("/", place).get("/x", place);
    let router = Router::new().nest("/a/b", Router::new().nest("/c", inner())).nest("/%64", inner());
    let router = router.any("/x", inner()).get("/%65", place).get("/f", place);
    for (path, expected) in [
        ("/a/b/c/x", "/a/b/c|/a/b/c/x|true"),
        ("/a/b/c/", "/a/b/c|/a/b/c/|true"),
        ("/a/b/c", "/a/b/c|/a/b/c/|false"),
        ("/a/b/%63/x", "/a/b/c|/a/b/c/x|false"),
        ("/d/x", "/d|/%64/x|false"),
        ("/x", "|/x|false"),
        ("/e", "|/%65|false"),
        ("/%66", "|/f|false"),
        ("/f", "|/f|true"),
    ] {
        let mut response = router.call(http::Request::get(path).body(Body::empty()).unwrap());
        assert_eq!(response.body_mut().read_text().unwrap(), expected, "{path}");
    }
}

#[test]
fn a_nested_handler_answers_for_all_below_its_prefix() {
    let items = Router::new().get("/", says("all")).get("/{item}", says("one"));
    let shop = Router::new().post("/{*rest}", says("rest")).nest("/items", items.wrap(seen("inner")));
    let shop = max_body(7, Arc::new(shop.wrap(seen("outer"))));
    let echo = |req: Request| format!("echo {} {}", req.prefix(), req.pattern().as_deref().unwrap_or("-"));
    let router = Router::new()
        .get("/{town}/shop/closed", says("closed"))
        .nest("/{town}/shop", shop)
        .nest("/plain", echo)
        .merge(Router::new().nest("/merged", echo).get("/m", says("m")).fallback(says("fallback")));
    let all = |found: RouteMatch| found.rules().limits.body_bytes;
    assert_eq!(all(find_route(&router, &Method::POST, "/york/shop/items/7")), Some(7));
    assert_eq!(all(find_route(&router, &Method::POST, "/plain")), None);
    // What metrics call the route, and the number by which they find it.
    let mut numbers = BTreeSet::new();
    for (path, pattern) in [
        ("/york/shop/items/7", "/{town}/shop/items/{item}"),
        ("/york/shop/items", "/{town}/shop/items/"),
        ("/york/shop/closed", "/{town}/shop/closed"),
        ("/plain/x", "/plain"),
        ("/merged/x", "/merged"),
        ("/m", "/m"),
        ("/nowhere", ""),
    ] {
        let found = find_route(&router, &Method::GET, path);
        assert_eq!(found.pattern(), pattern, "{path}");
        assert!(numbers.insert(found.number()), "{path}");
        let other = find_route(&router, &Method::TRACE, path);
        assert_eq!((other.pattern(), other.number()), (pattern.to_owned(), found.number()), "TRACE {path}");
    }
    let cases = [
        ("GET /york/shop/closed", "200 closed /{town}/shop/closed town=york", "", ""),
        (
            "GET /york/shop/items/7",
            "200 one /{town}/shop/items/{item} town=york&item=7",
            "/york/shop/items|/{town}/shop/items/{item}|town=york&item=7",
            "/york/shop/items|/{town}/shop/items/{item}|town=york&item=7",
        ),
        (
            "GET /y%6frk/shop/items",
            "200 all /{town}/shop/items/ town=york",
            "/york/shop/items|/{town}/shop/items/|town=york",
            "/york/shop/items|/{town}/shop/items/|town=york",
        ),
        (
            "PUT /york/shop/items/7",
            "405 [GET, HEAD, OPTIONS] 405 Method Not Allowed",
            "/york/shop/items|/{town}/shop/items/{item}|town=york&item=7",
            "/york/shop/items|/{town}/shop/items/{item}|town=york&item=7",
        ),
        (
            "POST /york/shop/x/y",
            "200 rest /{town}/shop/{*rest} town=york&rest=x/y",
            "/york/shop|/{town}/shop/{*rest}|town=york&rest=x/y",
            "",
        ),
        (
            "GET /york/shop/",
            "405 [OPTIONS, POST] 405 Method Not Allowed",
            "/york/shop|/{town}/shop/{*rest}|town=york&rest=",
            "",
        ),
        ("GET /plain/a/b", "200 echo /plain /plain", "", ""),
        ("GET /plain", "200 echo /plain /plain", "", ""),
        ("PUT /plain/", "200 echo /plain /plain", "", ""),
        ("GET /merged/x", "200 echo /merged /merged", "", ""),
        ("GET /m", "200 m /m", "", ""),
        ("GET /nowhere", "200 fallback -", "", ""),
    ];
    for (line, _, outer, inner) in cases {
        let response = router.call(request(line));
        let field = |name| response.headers().get(name).map_or("", |v| v.to_str().unwrap()).to_owned();
        assert_eq!((field("outer"), field("inner")), (outer.to_owned(), inner.to_owned()), "{line}");
    }
    check(&router, &cases.map(|(line, want, ..)| (line, want)));
}

/// Whatever lies between, a guard around a nested router guards its prefix and all below it.
#[test]
fn a_guarded_prefix_has_no_way_around_it() {
    let no = |_: &mut Request| Err(StatusCode::FORBIDDEN.into());
    let inside = Router::new().get("/secret", says("secret")).guard(no);
    let router = Router::new().nest("/in", inside).fallback(says("outside"));
    for path in
        ["/in", "/in/", "/in/secret", "/%69n/%73ecret", "/in//", "/in/x/y", "/in/%2F", "/in/secret/.."]
    {
        for method in ["GET", "PUT", "OPTIONS", "BREW"] {
            assert_eq!(router.call(request(&format!("{method} {path}"))).status(), 403, "{method} {path}");
        }
    }
    assert_eq!(router.call(request("GET /inside")).status(), 200);
}

#[test]
fn a_router_can_be_a_handler_and_shared() {
    let inner = Arc::new(Router::new().get("/in/{id}", says("inner")));
    let shared: Arc<dyn Handler> = Arc::clone(&inner) as Arc<dyn Handler>;
    let router = Router::new().any("/in/{*rest}", shared).fallback(inner);
    let cases = [
        ("GET /in/7", "200 inner /in/{id} id=7"),
        ("PUT /in/7", "405 [GET, HEAD, OPTIONS] 405 Method Not Allowed"),
        ("GET /in/7/8", "404 404 Not Found"),
        ("GET /x", "404 404 Not Found"),
    ];
    check(&router, &cases);
}

#[test]
fn mistakes_name_the_routes() {
    let ok = || |_: Request| ();
    let cases = [
        (Router::new().get("/a", ok()).get("/a", ok()), "GET /a is registered twice"),
        (Router::new().any("/a", ok()).any("/a", ok()), "any /a is registered twice"),
        (
            Router::new().get("/u/{id}", ok()).post("/u/{name}", ok()),
            "POST /u/{name} conflicts with GET /u/{id}: some paths would match both",
        ),
        (
            Router::new().any("/{*rest}", ok()).get("/{x}", ok()),
            "GET /{x} conflicts with any /{*rest}: some paths would match both",
        ),
        (Router::new().get("a", ok()), "GET a: a pattern must begin with '/'"),
        (Router::new().get("", ok()), "GET : a pattern must begin with '/'"),
        (Router::new().get("/a?b", ok()), "GET /a?b: a path can't contain '?'"),
        (Router::new().get("/a b", ok()), "GET /a b: a path can't contain ' '"),
        (
            Router::new().get("/100%", ok()),
            "GET /100%: '%' must be followed by two hexadecimal digits (write a literal % as %25)",
        ),
        (
            Router::new().get("/%{x}", ok()),
            "GET /%{x}: '%' must be followed by two hexadecimal digits (write a literal % as %25)",
        ),
        (Router::new().get("/é", ok()).get("/%c3%a9", ok()), "GET /%c3%a9 is registered twice"),
        (
            Router::new().get("/é/{a}", ok()).get("/%C3%A9/{b}", ok()),
            "GET /%C3%A9/{b} conflicts with GET /é/{a}: some paths would match both",
        ),
        (
            Router::new().get("/users/:id", ok()),
            "GET /users/:id: :id is no parameter: write {id} (a literal ':' at the start of a segment is %3A)",
        ),
        (
            Router::new().get("/*path", ok()),
            "GET /*path: *path is no parameter: write {*path} (a literal '*' at the start of a segment is %2A)",
        ),
        (
            Router::new().get("/a/**", ok()),
            "GET /a/**: ** is no parameter: write {*rest} (a literal '*' at the start of a segment is %2A)",
        ),
        (
            Router::new().get("/<id>", ok()),
            "GET /<id>: <id> is no parameter: write {id} (a literal '<' is %3C)",
        ),
        (
            Router::new().get("/<int:id>/x", ok()),
            "GET /<int:id>/x: <int:id> is no parameter: write {id} (a literal '<' is %3C)",
        ),
        (
            Router::new().get("/[id]", ok()),
            "GET /[id]: [id] is no parameter: write {id} (a literal '[' is %5B)",
        ),
        (
            Router::new().get("/{path...}", ok()),
            "GET /{path...}: {path...} matches nothing: all the rest of a path is {*path}",
        ),
        (
            Router::new().get("/{id:[0-9]+}", ok()),
            "GET /{id:[0-9]+}: a parameter has no type or expression: write {id}, and read it by `param_as`",
        ),
        (Router::new().get("/{}", ok()), "GET /{}: \"\" is not a parameter name"),
        (Router::new().get("/{a/b}", ok()), "GET /{a/b}: \"a/b\" is not a parameter name"),
        (Router::new().get("/{a}/{a}", ok()), "GET /{a}/{a}: two parameters are named \"a\""),
        (Router::new().get("/{a", ok()), "GET /{a: unbalanced brace (write a literal brace twice)"),
        (Router::new().get("/a}", ok()), "GET /a}: unbalanced brace (write a literal brace twice)"),
        (Router::new().get("/{a}-{b}", ok()), "GET /{a}-{b}: a segment can have one parameter only"),
        (
            Router::new().get("/{*a}/b", ok()),
            "GET /{*a}/b: {*name} can only be a whole segment, and the last",
        ),
        (
            Router::new().route(Method::CONNECT, "/", ok()),
            "CONNECT /: CONNECT has no path and can't be routed",
        ),
        (Router::new().fallback(ok()).fallback(ok()), "there are two fallbacks"),
        (Router::new().fallback(ok()).merge(Router::new().fallback(ok())), "there are two fallbacks"),
        (
            Router::new().nest("/a/", Router::new()),
            "nest /a/: a prefix is not empty and does not end with '/' (`merge` adds routes without a prefix)",
        ),
        (
            Router::new().nest("", Router::new()),
            "nest : a prefix is not empty and does not end with '/' (`merge` adds routes without a prefix)",
        ),
        (Router::new().nest("a", Router::new()), "nest a: a pattern must begin with '/'"),
        (
            Router::new().nest("/:id", Router::new()),
            "nest /:id: :id is no parameter: write {id} (a literal ':' at the start of a segment is %3A)",
        ),
        (
            Router::new().nest("/a/{*rest}", Router::new()),
            "nest /a/{*rest}: {*name} can only be a whole segment, and the last",
        ),
        (
            Router::new().nest("/a", Router::new()).nest("/a", Router::new()),
            "nest /a conflicts with nest /a: some paths would match both",
        ),
        (
            Router::new().any("/a/{*rest}", ok()).nest("/a", Router::new()),
            "nest /a conflicts with any /a/{*rest}: some paths would match both",
        ),
        (
            Router::new().nest("/a", Router::new()).any("/a/{*rest}", ok()),
            "any /a/{*rest} conflicts with nest /a: some paths would match both",
        ),
        (
            Router::new().get("/b", ok()).nest("/a", Router::new().get("/b", ok()).get("/b", ok())),
            "nest /a: GET /b is registered twice",
        ),
        (Router::new().get("/b", ok()).merge(Router::new().get("/b", ok())), "GET /b is registered twice"),
        (
            Router::new().fallback(Router::new().get("b", ok())),
            "the fallback: GET b: a pattern must begin with '/'",
        ),
        (
            Router::new().any("/a", streaming(Arc::new(Router::new().get("b", ok())))),
            "any /a: GET b: a pattern must begin with '/'",
        ),
        (
            Router::new().get("a", ok()).get("b", ok()),
            "GET a: a pattern must begin with '/'; GET b: a pattern must begin with '/'",
        ),
    ];
    for (router, why) in cases {
        assert_eq!(router.check(), Err(why.to_owned()));
        router.call(request("GET /a"));
    }
}

/// matchit has its own rules about conflicts; no two patterns may make it or this crate panic.
#[test]
fn no_patterns_panic() {
    let pieces = [
        "/", "/a", "/{x}", "/{y}", "/{x}s", "/p{x}", "/p{x}s", "/{*r}", "/é", "/{x}é", "/{{", "/}}a", "{",
        "}",
    ];
    let pairs: Vec<String> = pieces.iter().flat_map(|a| pieces.map(|b| format!("{a}{b}"))).collect();
    for a in pieces {
        for b in &pairs {
            let inner = Router::new().get(b, says("b")).fallback(says("b"));
            let router = Router::new().get(a, says("a")).get(b, says("b")).nest(a, inner);
            let _ = router.check();
            for path in ["/", "/a", "/ps", "/pé", "/{", "/a/ps", "/%C3%A9s/é"] {
                let _ = router.call(request(&format!("GET {path}")));
            }
        }
    }
}

#[test]
fn rules_are_found_before_the_body_is_read() {
    let ok = |_: Request| ();
    let rules = |streaming, body_bytes| RouteRules {
        streaming,
        limits: RouteLimits { body_bytes, ..RouteLimits::default() },
    };
    let inner = Router::new().post("/plain", ok).post("/small", max_body(1, ok));
    let router = Router::new()
        .post("/none", ok)
        .post("/streaming", streaming(ok))
        .post("/both", streaming(max_body(9, ok)))
        .post("/twice", max_body(8, max_body(7, ok)))
        .any("/plain", max_body(6, Arc::new(inner)))
        .fallback(streaming(ok));
    let cases = [
        ("POST /none", rules(false, None)),
        ("POST /streaming", rules(true, None)),
        ("POST /both", rules(true, Some(9))),
        ("POST /twice", rules(false, Some(7))),
        ("POST /plain", rules(false, Some(6))),
        ("POST /elsewhere", rules(true, None)),
    ];
    let found = |line: &str| {
        let request = request(line);
        find_route(&router, request.method(), request.uri().path())
    };
    for (line, want) in cases {
        assert_eq!(*found(line).rules(), want, "{line}");
        assert!(found(line).latency().is_some() && !found(line).is_refused());
    }
}

#[test]
fn each_route_has_a_latency_of_its_own() {
    let router = Router::new().get("/a", |_: Request| ()).post("/a", |_: Request| ());
    let latency = |method| find_route(&router, &method, "/a").latency().map(std::ptr::from_ref);
    assert_eq!(latency(Method::GET), latency(Method::HEAD));
    assert_ne!(latency(Method::GET), latency(Method::POST));
}

#[test]
fn debug_lists_the_routes() {
    let router = Router::new().get("/a", |_: Request| ()).any("/b", |_: Request| ());
    assert_eq!(format!("{router:?}"), r#"Router ["GET /a", "any /b"]"#);
}
