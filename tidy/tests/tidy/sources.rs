//! The order of the folders, and which file alone may do what.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use syn::visit::Visit;
use tidy::{SOURCES, files, positions, read, root, tests_in, tokens, uses};

/// The folders of `src/`, each of which may import those before it.
const FOLDERS: [&str; 6] = ["base", "process", "net", "web", "http", "server"];

/// These move connections and know nothing of HTTP.
const NOT_HTTP: [&str; 5] = ["base", "process", "net", "server/launch", "server/stream_server"];

/// What stands only in these places of `src/`.
const ONLY_IN: [(&str, &[&str]); 11] = [
    ("unsafe", &["base/sys"]),
    // A look at what the lifecycle decided.
    ("Action", &["process/control", "process/state"]),
    ("phase.set", &["process/control"]),
    // The loop only has its service do it.
    (".accept()", &["net/acceptor", "process/control"]),
    // A logger may panic: lines go through `base::log`, which contains that.
    ("use log::", &["base/log"]),
    ("log::logger()", &["base/log"]),
    ("log::error!", &["base/log"]),
    ("log::warn!", &["base/log"]),
    ("log::info!", &["base/log"]),
    ("log::debug!", &["base/log"]),
    // It fails for each byte beyond ASCII, and hides the rest of a field's value: `web::fields` reads parts of it.
    (".to_str()", &[]),
];

/// Structs with more than 12 fields: configuration and counters, each field of which is explained by itself.
const LARGE_STRUCTS: [&str; 2] = ["Limits", "Stats"];

#[test]
fn the_root_has_eight_entries_and_one_kind_of_module_file() {
    let entries = fs::read_dir(root().join("src")).unwrap();
    let entries: BTreeSet<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let expected = FOLDERS.iter().chain(&["lib.rs", "prelude.rs"]).map(|name| (*name).to_owned());
    assert_eq!(entries, expected.collect());
    for path in files("src", "rs") {
        assert!(!root().join(path.with_extension("")).is_dir(), "not a mod.rs: {}", path.display());
    }
}

#[test]
fn imports_point_down() {
    // What lib.rs exports under a short name, and the folder it is from.
    let mut exported: BTreeMap<String, String> = uses(&syn::parse_file(&read("src/lib.rs")).unwrap(), true)
        .into_iter()
        .map(|(from, name)| (name, from))
        .collect();
    exported.extend(["Request", "Response"].map(|name| (name.to_owned(), "web".to_owned())));
    let rank = |folder: &str| FOLDERS.iter().position(|name| *name == folder);
    let mut seen = BTreeSet::new();
    for source in SOURCES.iter().filter(|source| !source.is_in(&["lib", "prelude"])) {
        let folder = source.place.split('/').next().unwrap();
        for import in source.imports() {
            let import = exported.get(import).map_or(import, |folder| folder);
            let to = rank(import).unwrap_or_else(|| panic!("{}: what is {import}?", source.path.display()));
            assert!(rank(folder) >= Some(to), "{} must not import {import}", source.path.display());
            seen.insert((folder.to_owned(), to));
        }
    }
    assert!(seen.len() > 10, "{seen:?}: is the check blind?");
}

#[test]
fn only_the_upper_folders_know_http() {
    for source in SOURCES.iter().filter(|source| source.is_in(&NOT_HTTP)) {
        let is_http = |text: &str| matches!(text, "http" | "httparse" | "httpdate");
        let knows = source.tokens.iter().find(|token| is_http(&token.text));
        assert_eq!(knows, None, "{}", source.path.display());
    }
}

#[test]
fn one_place_for_each_power() {
    for (piece, places) in ONLY_IN {
        for source in SOURCES.iter().filter(|source| !source.is_in(places)) {
            if let Some(at) = positions(&source.tokens, piece).next() {
                panic!("{piece} in {}:{}", source.path.display(), source.tokens[at].line);
            }
        }
    }
    // The rules that name a place see it there.
    for (piece, places) in
        [("unsafe", "base/sys"), (".accept()", "net/acceptor"), ("log::logger()", "base/log")]
    {
        let mut inside = SOURCES.iter().filter(|source| source.is_in(&[places]));
        assert!(inside.any(|source| positions(&source.tokens, piece).next().is_some()), "{piece}");
    }
}

#[test]
fn every_thread_has_a_name() {
    let mut threads = 0;
    for source in SOURCES.iter() {
        let count = |piece| positions(&source.tokens, piece).count();
        assert_eq!(
            count("Builder::new()"),
            count("thread::Builder::new().name"),
            "{}",
            source.path.display()
        );
        threads += count("Builder::new()");
    }
    assert!(threads >= 5, "{threads} threads: is the check blind?");
}

#[test]
fn the_name_of_a_test_fits_on_a_line() {
    let folders = ["src", "tests", "testkit", "heirloom-testkit", "examples/shortener"];
    let names: Vec<(String, PathBuf)> = folders
        .into_iter()
        .flat_map(|folder| files(folder, "rs"))
        .flat_map(|path| tests_in(&path).into_iter().map(move |name| (name, path.clone())))
        .collect();
    assert!(names.len() > 900, "{} tests: is the check blind?", names.len());
    let long: Vec<_> = names.iter().filter(|(name, _)| name.len() > 60).collect();
    assert!(long.is_empty(), "too long: {long:#?}");
}

#[test]
fn files_and_structs_stay_small() {
    struct Large(Vec<String>);
    impl<'ast> Visit<'ast> for Large {
        fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
            self.0.extend((item.fields.len() > 12).then(|| item.ident.to_string()));
        }
    }
    let mut large = Large(Vec::new());
    for path in files("src", "rs") {
        let text = read(&path);
        assert!(text.lines().count() <= 900, "{} has more than 900 lines", path.display());
        large.visit_file(&syn::parse_file(&text).unwrap());
    }
    for source in SOURCES.iter() {
        let code: BTreeSet<usize> = source.tokens.iter().map(|token| token.line).collect();
        assert!(code.len() <= 500, "{} has {} lines of code", source.path.display(), code.len());
    }
    large.0.sort();
    assert_eq!(large.0, LARGE_STRUCTS, "structs with more than 12 fields");
}

#[test]
fn comments_and_strings_are_no_code() {
    let text = "use a; // unsafe\nlet s = \"unsafe\"; /* unsafe */ let r = r#\"unsafe\"#;\nunsafe { f() }";
    let tokens = tokens(text);
    let lines: Vec<usize> = positions(&tokens, "unsafe").map(|at| tokens[at].line).collect();
    assert_eq!(lines, [3]);
}
