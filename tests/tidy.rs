//! What no compiler checks: the shape of the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The folders of `src/`, each of which may import those before it.
const FOLDERS: &[&str] = &["base", "process", "net", "web", "http", "server"];

/// These move connections and know nothing of HTTP.
const NOT_HTTP: &[&str] = &["base", "process", "net", "server/launch", "server/stream_server"];

#[derive(Debug)]
struct Source {
    path: PathBuf,
    /// Its path below `src/` without `.rs` or `/mod.rs`: `net/acceptor`.
    place: String,
    /// Without tests, comments and the insides of strings.
    code: String,
}

impl Source {
    fn is_in(&self, places: &[&str]) -> bool {
        let below = |place: &&str| {
            self.place.strip_prefix(*place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        places.iter().any(below)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let relative = path.strip_prefix(root().join("src")).unwrap().to_str().unwrap();
                let place = relative.trim_end_matches(".rs").trim_end_matches("/mod").to_owned();
                sources.push(Source { place, code: code(&text), path });
            }
        }
    }
    // Files that are modules only of tests: `#[cfg(test)] mod x;` beside them.
    let texts: Vec<(PathBuf, String)> =
        sources.iter().map(|s| (s.path.clone(), fs::read_to_string(&s.path).unwrap())).collect();
    let of_tests: BTreeSet<PathBuf> = texts.iter().flat_map(|(path, text)| test_files(path, text)).collect();
    sources.retain(|source| !of_tests.contains(&source.path));
    assert!(sources.len() > 20, "{} sources", sources.len());
    sources
}

fn test_files(path: &Path, text: &str) -> Vec<PathBuf> {
    let folder = match path.file_stem().and_then(|stem| stem.to_str()) {
        Some("mod" | "lib") => path.parent().unwrap().to_owned(),
        _ => path.with_extension(""),
    };
    let lines: Vec<&str> = text.lines().collect();
    let pairs = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]");
    pairs
        .filter_map(|pair| pair[1].strip_prefix("mod ")?.strip_suffix(';'))
        .map(|name| folder.join(format!("{name}.rs")))
        .collect()
}

/// Without `#[cfg(test)]` items, comments, and what strings and characters say.
fn code(text: &str) -> String {
    let mut out = String::new();
    let mut lines = blanked(text).lines().map(str::to_owned).collect::<Vec<_>>().into_iter();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            out.push_str(&line);
            out.push('\n');
            continue;
        }
        // The item ends at the line that closes it, as indented as it began.
        let indent = line.len() - line.trim_start().len();
        for line in lines.by_ref() {
            let is_end = line.len() > indent && line[indent..].starts_with('}');
            if is_end || (line.ends_with(';') && line.len() - line.trim_start().len() == indent) {
                break;
            }
        }
    }
    out
}

/// Comments gone, strings and characters emptied.
fn blanked(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some(hashes) = raw_string(rest) {
            let end = format!("\"{}", "#".repeat(hashes));
            let open = 2 + hashes;
            rest[open..].find(&end).map_or(rest.len(), |at| open + at + end.len())
        } else if c == '"' {
            closing(rest, '"')
        } else if c == '\'' && is_char(rest) {
            closing(rest, '\'')
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        // Lines stay lines.
        out.extend(rest[..skipped].matches('\n').map(|_| '\n'));
        if c != '/' {
            out.push_str("\"\"");
        }
        rest = &rest[skipped..];
    }
    out
}

fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

/// And no lifetime.
fn is_char(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    chars.next() == Some('\\') || chars.next() == Some('\'')
}

fn closing(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Words of the code, and where they start.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut from = 0;
    std::iter::from_fn(move || {
        from += code[from..].find(is_word)?;
        let len = code[from..].find(|c| !is_word(c)).unwrap_or(code.len() - from);
        let word = (from, &code[from..from + len]);
        from += len;
        Some(word)
    })
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// The modules that come after `crate::`, alone or in braces.
fn imports(code: &str, exported: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let after = &code[at + "crate::".len()..];
        let names: Vec<&str> = match after.strip_prefix('{') {
            Some(list) => {
                let list = &list[..list.find('}').unwrap()];
                list.split(',').map(|name| name.trim()).filter(|name| !name.is_empty()).collect()
            }
            None => vec![after],
        };
        for name in names {
            let first = words(name).next().unwrap().1;
            found.insert(exported.get(first).cloned().unwrap_or_else(|| first.to_owned()));
        }
    }
    found
}

/// What lib.rs exports under a short name, and from where.
fn exports(lib: &str) -> BTreeMap<String, String> {
    let mut exported = BTreeMap::new();
    for (at, _) in lib.match_indices("pub use ") {
        let text = &lib[at + "pub use ".len()..];
        let text = &text[..text.find(';').unwrap()];
        let mut names = words(text).map(|(_, word)| word);
        let folder = names.next().unwrap().to_owned();
        exported.extend(names.map(|name| (name.to_owned(), folder.clone())));
    }
    for name in ["Request", "Response"] {
        exported.insert(name.to_owned(), "web".to_owned());
    }
    exported
}

fn lib() -> String {
    code(&fs::read_to_string(root().join("src/lib.rs")).unwrap())
}

#[test]
fn the_root_has_eight_entries_and_one_kind_of_module_file() {
    let entries = fs::read_dir(root().join("src")).unwrap();
    let entries: BTreeSet<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let expected = FOLDERS.iter().chain(&["lib.rs", "prelude.rs"]).map(|name| (*name).to_owned());
    assert_eq!(entries, expected.collect());
    for source in sources() {
        assert!(!source.path.with_extension("").is_dir(), "not a mod.rs: {}", source.path.display());
    }
}

#[test]
fn imports_point_down() {
    let exported = exports(&lib());
    let rank = |folder: &str| FOLDERS.iter().position(|name| *name == folder);
    let mut seen = BTreeSet::new();
    for source in sources().iter().filter(|source| !source.is_in(&["lib", "prelude"])) {
        let folder = source.place.split('/').next().unwrap();
        for import in imports(&source.code, &exported) {
            let Some(to) = rank(&import) else { panic!("{}: what is {import}?", source.path.display()) };
            assert!(rank(folder) >= Some(to), "{} must not import {import}", source.path.display());
            seen.insert((folder.to_owned(), import));
        }
    }
    assert!(seen.len() > 10, "{seen:?}: is the check blind?");
}

#[test]
fn only_the_upper_folders_know_http() {
    for source in sources().iter().filter(|source| source.is_in(NOT_HTTP)) {
        let knows = words(&source.code).find(|(_, word)| matches!(*word, "http" | "httparse" | "httpdate"));
        assert_eq!(knows, None, "{}", source.path.display());
    }
}

#[track_caller]
fn expect_only_in(places: &[&str], what: &str, found: impl Fn(&str) -> Option<usize>) {
    for source in sources().iter().filter(|source| !source.is_in(places)) {
        if let Some(at) = found(&source.code) {
            panic!("{what} in {}:{}", source.path.display(), line_of(&source.code, at));
        }
    }
    let used = sources().iter().any(|source| source.is_in(places) && found(&source.code).is_some());
    assert!(used || places.is_empty(), "nobody has {what}: is the check blind?");
}

fn word(wanted: &'static str) -> impl Fn(&str) -> Option<usize> {
    move |code| words(code).find(|(_, word)| *word == wanted).map(|(at, _)| at)
}

fn text(wanted: &'static str) -> impl Fn(&str) -> Option<usize> {
    move |code| code.find(wanted)
}

#[test]
fn one_place_for_each_power() {
    expect_only_in(&["base/sys"], "unsafe", word("unsafe"));
    expect_only_in(&["process/control", "process/state"], "a look at lifecycle actions", word("Action"));
    expect_only_in(&["net/acceptor"], "an accept on a listener", |code| {
        code.match_indices(".accept()").map(|(at, _)| at).find(|at| !code[..*at].ends_with("service"))
    });
    expect_only_in(&["process/control"], "a change of the phase", text("phase.set("));
    expect_only_in(&["base/log"], "a line of the log that may panic", |code| {
        let macros = ["$write", "error", "warn", "info", "debug", "trace"];
        let said = macros.map(|level| code.find(&format!("log::{level}!(")));
        said.into_iter().chain([code.find("use log::")]).flatten().min()
    });
    expect_only_in(&[], "a sleep", |code| {
        words(code).find(|(at, word)| *word == "sleep" && code[..*at].ends_with("thread::")).map(|(at, _)| at)
    });
    expect_only_in(&[], "an exit", text("process::exit"));
    // It fails for each byte beyond ASCII, and hides the rest of the value: `fields` reads parts of it.
    expect_only_in(&[], "a field's value read as ASCII text", text(".to_str()"));
    expect_only_in(&[], "a thread without a name", text("thread::spawn"));
}

#[test]
fn every_thread_has_a_name() {
    let mut threads = 0;
    for source in sources() {
        for (at, _) in source.code.match_indices("thread::Builder::new()") {
            threads += 1;
            let after = source.code[at + "thread::Builder::new()".len()..].trim_start();
            assert!(after.starts_with(".name("), "{}:{}", source.path.display(), line_of(&source.code, at));
        }
        let others = source.code.matches("Builder::new()").count();
        assert_eq!(
            others,
            source.code.matches("thread::Builder::new()").count(),
            "{}",
            source.path.display()
        );
    }
    assert!(threads >= 5, "{threads} threads: is the check blind?");
}

#[test]
fn the_changelog_knows_this_version() {
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    let heading = format!("## {}", env!("CARGO_PKG_VERSION"));
    let known = changelog.lines().filter_map(|line| line.strip_prefix(&heading));
    assert_eq!(known.filter(|rest| !rest.starts_with(|c: char| c.is_ascii_digit())).count(), 1, "{heading}");
}

#[test]
fn no_test_sleeps() {
    for entry in fs::read_dir(root().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "rs") {
            let code = code(&fs::read_to_string(&path).unwrap());
            assert_eq!(words(&code).find(|(_, word)| *word == "sleep"), None, "{}", path.display());
        }
    }
}

#[test]
fn the_check_can_see() {
    let text = "use a; // unsafe\nlet s = \"unsafe \\\" {\"; let c = '\"'; fn f<'a>() {}\n/* x\n */ let r = r#\"un\"safe\"#;\n\
                #[cfg(test)]\nmod tests {\n    unsafe {}\n}\nunsafe fn g() {}\n";
    let code = code(text);
    let unsafes: Vec<usize> = words(&code).filter(|(_, w)| *w == "unsafe").map(|(at, _)| at).collect();
    assert_eq!(unsafes.len(), 1, "{code}");
    assert!(code[unsafes[0]..].starts_with("unsafe fn g"));
    let exported = exports("pub use body::{Body, Name};\npub use error::Error;\n");
    let found = imports(
        "use crate::{Body, Request};\nuse crate::queue::{Look, Queue};\ncrate::Error::new()",
        &exported,
    );
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["body", "error", "queue", "web"]);
}

/// What `info!`, `warn!` and `error!` say first, with `…` for what differs.
fn log_lines(text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let text: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut lines = Vec::new();
    for level in ["info!(", "warn!(", "error!("] {
        for (at, _) in text.match_indices(level) {
            let rest = text[at + level.len()..].trim_start();
            let Some(literal) = rest.strip_prefix('"') else { continue };
            let mut line = String::new();
            let mut chars = literal.chars();
            while let Some(c) = chars.next() {
                match c {
                    '"' => break,
                    // A literal that goes on in the next line.
                    '\\' => {
                        let rest = chars.as_str().trim_start();
                        chars = rest.chars();
                    }
                    '{' => {
                        chars.by_ref().find(|c| *c == '}');
                        line.push('…');
                    }
                    c => line.push(c),
                }
            }
            lines.push(line);
        }
    }
    lines
}

#[test]
fn every_line_of_the_log_is_in_the_docs() {
    let page = fs::read_to_string(root().join("docs/log.md")).unwrap();
    let mut said = BTreeSet::new();
    for source in sources() {
        said.extend(log_lines(&fs::read_to_string(&source.path).unwrap()));
    }
    assert!(said.len() > 50, "{said:?}");
    let missing: Vec<_> = said.iter().filter(|line| !page.contains(&format!("`{line}`"))).collect();
    assert!(missing.is_empty(), "not in docs/log.md: {missing:#?}");
    // What is between backticks and no line is a name, an example or the `…` itself.
    let no_line = |text: &str| text == "…" || !text.contains(['…', ' ']) || text.starts_with("kill ");
    let documented = page.split('`').skip(1).step_by(2).filter(|text| !no_line(text));
    let stale: Vec<_> = documented.filter(|text| !said.contains(*text) && !text.contains("(bash)")).collect();
    assert!(stale.is_empty(), "nobody says this any more: {stale:#?}");
}

#[test]
fn log_lines_are_found() {
    let text = r#"/// info!("an example");
        info!("a {b} c"); warn!(
        "d {e:?}", x); error!(target: "y", "no"); #[cfg(test)] mod tests { info!("not this") }"#;
    assert_eq!(log_lines(text), ["a … c", "d …"]);
}

/// The file that a test named `a::b::test` is in, if it is there: `tests/a.rs`, or beside the code; of
/// `testkit::a::test` it is `testkit/tests/a.rs`.
fn file_of_test(name: &str) -> Option<PathBuf> {
    let (folder, name) = match name.strip_prefix("testkit::") {
        Some(name) => ("testkit/tests/it", name),
        None => ("tests/it", name),
    };
    let mut modules: Vec<&str> = name.split("::").collect();
    let test = modules.pop()?;
    modules.first()?;
    let integration = |folder: &str| root().join(folder).join(modules[0]).with_extension("rs");
    let integration = [integration(folder), integration("tests")].into_iter().find(|path| path.exists());
    let path = if let (1, Some(integration)) = (modules.len(), integration) {
        integration
    } else {
        modules.retain(|module| *module != "tests");
        let path = modules.iter().fold(root().join("src"), |path, module| path.join(module));
        let folder = path.join("mod.rs");
        if folder.is_file() { folder } else { path.with_extension("rs") }
    };
    let text = fs::read_to_string(&path).ok()?;
    let at = text.find(&format!("fn {test}("))?;
    text[..at].trim_end().ends_with("#[test]").then_some(path)
}

/// What is between backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn is_test(name: &str) -> bool {
    name.contains("::") && name.chars().all(|c| c.is_ascii_lowercase() || "_:0123456789".contains(c))
}

/// Each test that a page names is there.
#[track_caller]
fn expect_tests_of(page: &str) {
    // The published crate is without the testkit.
    let is_here = |name: &String| root().join("testkit").is_dir() || !name.starts_with("testkit::");
    let named = quoted(page).into_iter().filter(|name| is_test(name) && is_here(name));
    let missing: Vec<_> = named.filter(|name| file_of_test(name).is_none()).collect();
    assert!(missing.is_empty(), "no such test: {missing:?}");
}

#[test]
fn every_bound_and_every_fault_has_its_test() {
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    expect_tests_of(&page);
    let (mut in_table, mut rows) = (false, 0);
    for line in page.lines() {
        in_table = line.ends_with(" tests |") || (in_table && line.starts_with('|'));
        if in_table && !line.ends_with(" tests |") && !line.starts_with("| ---") {
            rows += 1;
            let tests = line.trim_end_matches(" |").rsplit(" | ").next().unwrap();
            assert!(quoted(tests).iter().any(|name| is_test(name)), "held by nothing: {line}");
        }
    }
    assert!(rows > 30, "{rows} rows: is the check blind?");
}

#[test]
fn every_demand_of_http_has_its_file_and_its_test() {
    let page = fs::read_to_string(root().join("docs/http.md")).unwrap();
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
        let is_demand = cells.len() == 6 && (cells[1].starts_with("MUST") || cells[1].starts_with("SHOULD"));
        is_demand.then_some(cells)
    });
    let mut demands = 0;
    for cells in rows {
        demands += 1;
        let (files, tests) = (quoted(cells[4]), quoted(cells[5]));
        assert!(!files.is_empty() && !tests.is_empty(), "kept nowhere, or held by nothing: {cells:?}");
        let missing: Vec<_> = files.iter().filter(|file| !root().join(file).is_file()).collect();
        assert!(missing.is_empty(), "no such file: {missing:?}");
    }
    let strong = page.matches("| MUST").count() + page.matches("| SHOULD").count();
    assert_eq!(demands, strong, "a row that is not understood");
    assert!(demands > 80, "{demands} demands: is the check blind?");
    expect_tests_of(&page);
    assert!(
        file_of_test("wire::no_such_test").is_none()
            && file_of_test("http::codec::head::tests::hosts").is_some()
    );
}

/// Rows of the table under this head, cell by cell.
fn table(page: &str, head: &str) -> Vec<Vec<String>> {
    let lines = page.lines().map(|line| line.trim_start_matches("//! "));
    let rows = lines.skip_while(|line| *line != head).skip(2).take_while(|line| line.starts_with("| "));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

#[test]
fn every_question_has_its_file() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rows = table(&page, "| question | path |");
    assert!(rows.len() >= 20, "{} questions", rows.len());
    let missing: Vec<_> =
        rows.iter().filter(|row| !root().join(row[1].trim_matches('`')).is_file()).collect();
    assert!(missing.is_empty(), "no such file: {missing:?}");
}

#[test]
fn every_feature_is_in_both_tables() {
    const HEAD: &str = "| feature | adds | by |";
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let (readme, lib, cargo) =
        (table(&read("README.md"), HEAD), table(&read("src/lib.rs"), HEAD), read("Cargo.toml"));
    assert_eq!(readme, lib);
    let of_cargo = cargo.lines().skip_while(|line| *line != "[features]").skip(1);
    let of_cargo =
        of_cargo.take_while(|line| !line.starts_with('[')).filter_map(|line| line.split_once(" = "));
    let of_cargo: BTreeSet<String> =
        of_cargo.filter(|(name, _)| *name != "default").map(|(name, _)| format!("`{name}`")).collect();
    let documented: BTreeSet<String> = readme.into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(documented, of_cargo);
}

/// The types that `use` brings from one of these crates.
fn names_of<'c>(code: &'c str, crates: &BTreeSet<String>) -> BTreeMap<&'c str, String> {
    let mut names = BTreeMap::new();
    for (at, _) in code.match_indices("use ") {
        let text = &code[at + "use ".len()..];
        let text = &text[..text.find(';').unwrap_or(text.len())];
        let mut words = words(text).map(|(_, word)| word);
        let Some(first) = words.next().filter(|first| crates.contains(*first)) else { continue };
        // Types and traits by the names that they have here.
        let words: Vec<&str> = words.collect();
        let renamed = |at: usize| words.get(at + 1) == Some(&"as");
        let is_type = |word: &str| word.starts_with(|c: char| c.is_ascii_uppercase());
        let types = words.iter().enumerate().filter(|(at, word)| is_type(word) && !renamed(*at));
        names.extend(types.map(|(_, word)| (*word, first.to_owned())));
    }
    names
}

/// The parts of the code that say what is public: `unreachable_pub` sees to it that `pub` is.
fn public_parts<'c>(
    code: &'c str,
    public: &BTreeSet<String>,
    names: &BTreeMap<&str, String>,
) -> Vec<&'c str> {
    let until = |from: usize, ends: &[char]| {
        let rest = &code[from..];
        &rest[..rest.find(ends).unwrap_or(rest.len())]
    };
    let mut parts = Vec::new();
    for (at, _) in code.match_indices("pub ") {
        let item = words(&code[at + "pub ".len()..]).next().map_or("", |(_, word)| word);
        parts.push(match item {
            "trait" => {
                // To the brace that closes it, as indented as it began.
                let rest = &code[at..];
                &rest[..rest.find("\n}").unwrap_or(rest.len())]
            }
            "fn" | "const" | "struct" | "enum" | "mod" => until(at, &['{', ';']),
            "use" | "type" => until(at, &[';']),
            // A field.
            _ => until(at, &['\n']),
        });
    }
    for (at, _) in code.match_indices("\nimpl") {
        let header = until(at + 1, &['{']);
        let Some((what, of)) = header.rsplit_once(" for ") else { continue };
        let Some((_, of)) = words(of).next() else { continue };
        let ours_for_theirs = || names.contains_key(of) && words(what).any(|(_, word)| public.contains(word));
        if public.contains(of) || ours_for_theirs() {
            parts.push(header);
        }
    }
    parts
}

#[test]
fn public_dependencies_are_as_documented() {
    let cargo = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let of_cargo = cargo.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let of_cargo = of_cargo.take_while(|line| !line.starts_with('['));
    let crates: BTreeSet<String> =
        of_cargo.filter_map(|line| Some(line.split_once(" = ")?.0.replace('-', "_"))).collect();
    assert!(crates.len() > 15, "{crates:?}");
    let sources = sources();
    let mut public = BTreeSet::new();
    for source in &sources {
        for (at, _) in source.code.match_indices("pub ") {
            let mut words = words(&source.code[at + "pub ".len()..]).map(|(_, word)| word);
            if words.next().is_some_and(|item| ["struct", "enum", "trait", "type"].contains(&item)) {
                public.extend(words.next().map(str::to_owned));
            }
        }
    }
    assert!(public.contains("Router") && !public.contains("Acceptor"), "{public:?}");
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    for source in &sources {
        let names = names_of(&source.code, &crates);
        for part in public_parts(&source.code, &public, &names) {
            for (at, word) in words(part) {
                let whole = part[at + word.len()..].starts_with("::") || part == format!("pub use {word}");
                let named =
                    if whole && crates.contains(word) { Some(word) } else { names.get(word).map(|n| &**n) };
                if let Some(name) = named {
                    shown
                        .entry(name.to_owned())
                        .or_insert_with(|| format!("{}: {part}", source.path.display()));
                }
            }
        }
    }
    let page = fs::read_to_string(root().join("docs/versions.md")).unwrap();
    let rows = table(&page, "| crate | where it shows | with the feature |");
    let documented: BTreeSet<&str> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    let missing: Vec<_> = shown.iter().filter(|(name, _)| !documented.contains(&***name)).collect();
    assert!(missing.is_empty(), "public, and not in docs/versions.md: {missing:#?}");
    let beyond: Vec<_> = documented.iter().filter(|name| !shown.contains_key(**name)).collect();
    assert!(beyond.is_empty(), "not public: {beyond:?}");
}
