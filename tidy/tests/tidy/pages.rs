//! What the pages say of the sources: that each name, file and line in them exists, and that nothing is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use tidy::{SOURCES, files, quoted, read, root, section, table, tests_in};

/// Folders of the repository, by which a name between backticks is a path.
const TOP: [&str; 9] =
    ["src/", "tests/", "testkit/", "tidy/", "examples/", "docs/", "bench/", "fuzz/", "scripts/"];

fn pages() -> Vec<PathBuf> {
    let mut pages = files("docs", "md");
    pages.extend(
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "bench/README.md"]
            .map(PathBuf::from),
    );
    pages
}

/// The test that is called `a::b::test` is beside the code in `src/a/b.rs`, or in `tests/it/a.rs` or `tests/a.rs`; that of
/// `testkit::a::test` is in `testkit/tests/it/a.rs`. A module of tests is called by its path alone. Where it has modules of
/// its own, `a::tests::b::test` is in `src/a/tests/b.rs`.
fn is_test(name: &str) -> bool {
    if let Some((file, test)) = name.rsplit_once("::") {
        let file = root().join("src").join(file.replace("::", "/")).with_extension("rs");
        if file.is_file() && tests_in(&file).iter().any(|name| name == test) {
            return true;
        }
    }
    let mut modules: Vec<&str> = name.split("::").filter(|module| *module != "tests").collect();
    let beside = |modules: &[&str]| {
        let path = format!("src/{}", modules.join("/"));
        [".rs", "/mod.rs", "/tests.rs"].map(|end| path.clone() + end)
    };
    let tests = |paths: &[String]| -> Vec<String> {
        let paths = paths.iter().map(Path::new).filter(|path| root().join(path).is_file());
        paths.flat_map(tests_in).collect()
    };
    if !tests(&beside(&modules)).is_empty() {
        return true;
    }
    let test = modules.pop().unwrap_or_default().to_owned();
    let outside = match modules[..] {
        [file] => vec![format!("tests/it/{file}.rs"), format!("tests/{file}.rs")],
        ["testkit", file] => vec![format!("testkit/tests/it/{file}.rs")],
        _ => Vec::new(),
    };
    tests(&outside).contains(&test) || tests(&beside(&modules)).contains(&test)
}

/// Whether this is spelled as the path of a test or a module.
fn is_module_path(name: &str) -> bool {
    name.contains("::") && name.chars().all(|c| c.is_ascii_lowercase() || "_:0123456789".contains(c))
}

/// Whether this proves something: a test, a module of tests, or a file of the repository, if it is there.
fn is_proof(name: &str) -> bool {
    if is_module_path(name) { is_test(name) } else { name.contains('/') && root().join(name).exists() }
}

#[test]
fn the_check_of_tests_can_see() {
    assert!(is_test("http::codec::head::tests::hosts") && is_test("net::slots::tests"));
    assert!(is_test("net::tls::records::tests::debug::nothing_that_holds_a_key_shows_it"));
    assert!(!is_test("net::tls::records::tests::debug::no_such_test"));
    assert!(!is_test("wire::no_such_test") && !is_test("http::codec::head::tests::no_such_test"));
    assert!(!is_test("net::no_such_module"));
}

#[test]
fn what_the_pages_name_exists() {
    let mut links = 0;
    for page in pages() {
        let text = read(&page);
        let is_path = |name: &str| TOP.iter().any(|top| name.starts_with(top)) && !name.contains([' ', '*']);
        let names_tests =
            ["docs/http.md", "docs/security.md", "docs/tls.md"].map(Path::new).contains(&&*page);
        let missing = quoted(&text).into_iter().filter(|name| {
            (is_path(name) && !is_proof(name)) || (names_tests && is_module_path(name) && !is_proof(name))
        });
        assert_eq!(missing.collect::<Vec<_>>(), [""; 0], "in {}", page.display());
        let inline = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in inline.chain(definitions(&text).map(|(_, link)| link)) {
            if !link.contains("://") {
                links += 1;
                expect_link(&page, link);
            }
        }
    }
    assert!(links > 50, "{links} links: is the check blind?");
}

/// The definitions of links in a text, `[label]: link`.
fn definitions(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: "))
}

/// The pages are modules of rustdoc, too. Their links of files are defined there once more: see docs/guide.rs.
#[test]
fn the_guide_has_all_pages_and_defines_their_links() {
    let guide = read("docs/guide.rs");
    let listed = guide.split_once("pages! {").and_then(|(_, rest)| rest.split_once('}')).expect("a list").0;
    let listed: BTreeSet<String> = listed.split_whitespace().map(str::to_owned).collect();
    let defined: BTreeMap<&str, &str> = definitions(&guide).collect();
    let (mut there, mut used) = (BTreeSet::new(), BTreeSet::new());
    for page in files("docs", "md") {
        let (name, text) = (page.display(), read(&page));
        there.insert(page.file_stem().expect("a name").to_string_lossy().into_owned());
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            assert!(
                link.starts_with('#') || link.contains("://"),
                "{name}: [...]({link}) is broken in rustdoc"
            );
        }
        let own: BTreeSet<&str> = definitions(&text).map(|(label, _)| label).collect();
        let labels = text.split("][").skip(1).filter_map(|rest| rest.split(']').next());
        for label in labels.filter(|label| label.contains(".md") || label.contains('/')) {
            assert!(own.contains(label), "{name}: [...][{label}] is not defined");
        }
        for (label, link) in definitions(&text).filter(|(_, link)| !link.contains("://")) {
            assert_eq!(label, link, "{name}");
            let in_guide =
                defined.get(label).unwrap_or_else(|| panic!("{name}: the guide does not define {label}"));
            if let Some((file, heading)) = link.split_once(".md").filter(|_| !link.starts_with("../")) {
                assert_eq!(*in_guide, format!("crate::guide::{file}{heading}"), "{name}");
            }
            used.insert(label.to_owned());
        }
    }
    assert_eq!(listed, there, "the list of modules in docs/guide.rs");
    let unused: Vec<_> = defined.keys().filter(|label| !used.contains(**label)).collect();
    assert!(unused.is_empty() && used.len() > 30, "not used: {unused:?}");
}

/// The types of the library, with the names of their methods, variants and fields.
#[derive(Default)]
struct Members {
    of: BTreeMap<String, BTreeSet<String>>,
    public: BTreeSet<String>,
    owner: String,
}

impl Members {
    fn add(&mut self, owner: &syn::Ident, vis: &syn::Visibility, names: impl IntoIterator<Item = String>) {
        self.owner = owner.to_string();
        self.public.extend(matches!(vis, syn::Visibility::Public(_)).then(|| self.owner.clone()));
        self.of.entry(self.owner.clone()).or_default().extend(names);
    }
}

impl<'ast> Visit<'ast> for Members {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.add(
            &item.ident,
            &item.vis,
            item.fields.iter().filter_map(|field| Some(field.ident.as_ref()?.to_string())),
        );
    }
    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.add(&item.ident, &item.vis, item.variants.iter().map(|variant| variant.ident.to_string()));
    }
    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.add(&item.ident, &item.vis, []);
        visit::visit_item_trait(self, item);
    }
    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let syn::Type::Path(path) = &*item.self_ty {
            self.add(&path.path.segments.last().expect("a name").ident, &syn::Visibility::Inherited, []);
            visit::visit_item_impl(self, item);
        }
    }
    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.of.entry(self.owner.clone()).or_default().insert(signature.ident.to_string());
    }
}

/// Pages about other crates, whose types have the same names.
const ABOUT_OTHERS: [&str; 2] = ["docs/migration.md", "docs/tiny_http.md"];

#[test]
fn methods_in_the_pages_exist() {
    let mut members = Members::default();
    for path in files("src", "rs") {
        members.visit_file(&syn::parse_file(&read(path)).expect("Rust"));
    }
    let mut count = 0;
    for page in pages().into_iter().filter(|page| ABOUT_OTHERS.iter().all(|other| page != Path::new(other))) {
        let text = read(&page);
        for name in quoted(&text) {
            let name = name.split(['(', ' ', '.']).next().unwrap_or_default();
            let Some((owner, member)) = name.split_once("::") else { continue };
            if let Some(known) = members.of.get(owner).filter(|_| members.public.contains(owner)) {
                assert!(known.contains(member), "{}: there is no {name}", page.display());
                count += 1;
            }
        }
    }
    assert!(count > 100, "{count} names: is the check blind?");
}

fn expect_link(page: &Path, link: &str) {
    let (file, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() { page.to_owned() } else { page.parent().unwrap().join(file) };
    assert!(root().join(&target).exists(), "{} leads to {link}", page.display());
    if !heading.is_empty() {
        let text = read(&target);
        let mut headings =
            text.lines().filter_map(|line| Some(line.strip_prefix('#')?.trim_start_matches('#').trim()));
        assert!(headings.any(|line| slug(line) == heading), "{} leads to {link}", page.display());
    }
}

/// The anchor of a heading.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[test]
fn every_promise_has_its_proof() {
    let readme = read("README.md");
    let promises = readme.split("\n## ").find(|part| part.starts_with("Promises")).expect("promises");
    let promises: Vec<&str> = promises.split(". **").skip(1).collect();
    assert!(promises.len() >= 7, "{} promises", promises.len());
    let held = |promise: &&str| promise.contains("](") || quoted(promise).into_iter().any(is_proof);
    assert_eq!(promises.iter().find(|promise| !held(promise)), None, "no link to a proof");
}

#[test]
fn every_invariant_bound_fault_and_demand_has_its_test() {
    for (page, heads, at_least) in [
        ("ARCHITECTURE.md", &["| what is always true | test |"][..], 50),
        (
            "docs/security.md",
            &["| what | default | beyond it | tests |", "| fault | consequence | tests |"],
            30,
        ),
        ("docs/http.md", &["| § | | requirement | what the server does | file | tests |"], 80),
    ] {
        let text = read(page);
        let rows: Vec<_> = heads.iter().flat_map(|head| table(&text, head)).collect();
        assert!(rows.len() > at_least, "{} rows in {page}: is the check blind?", rows.len());
        for row in rows {
            let proofs = quoted(row.last().unwrap());
            assert!(!proofs.is_empty() && proofs.into_iter().all(is_proof), "in {page}: {row:?}");
        }
    }
}

#[test]
fn every_question_has_its_file() {
    let rows = table(&read("ARCHITECTURE.md"), "| question | path |");
    assert!(rows.len() >= 20, "{} questions", rows.len());
    let is_file = |row: &&Vec<String>| root().join(row[1].trim_matches('`')).is_file();
    assert_eq!(rows.iter().find(|row| !is_file(row)), None);
}

#[test]
fn every_test_file_holds_a_feature() {
    let rows = table(&read("CONTRIBUTING.md"), "| feature | file |");
    let named: BTreeSet<PathBuf> = rows.iter().flat_map(|row| quoted(&row[1])).map(PathBuf::from).collect();
    let with_tests =
        ["tests", "testkit/tests", "examples/shortener/tests", "examples/traced/tests"].into_iter();
    let with_tests =
        with_tests.flat_map(|folder| files(folder, "rs")).filter(|path| !tests_in(path).is_empty());
    assert_eq!(named, with_tests.collect());
}

#[test]
fn every_line_of_the_log_is_in_the_docs() {
    let page = read("docs/log.md");
    let said: BTreeSet<String> = SOURCES.iter().flat_map(|source| source.log_lines()).collect();
    assert!(said.len() > 50, "{said:?}");
    let missing: Vec<_> = said.iter().filter(|line| !page.contains(&format!("`{line}`"))).collect();
    assert!(missing.is_empty(), "not in docs/log.md: {missing:#?}");
    // What is between backticks and no line is a name, an example or the `…` itself.
    let no_line = |text: &str| text == "…" || !text.contains(['…', ' ']) || text.starts_with("kill ");
    let documented = quoted(&page).into_iter().filter(|text| !no_line(text));
    let stale: Vec<_> = documented.filter(|text| !said.contains(*text) && !text.contains("(bash)")).collect();
    assert!(stale.is_empty(), "no code logs this: {stale:#?}");
}

#[test]
fn every_key_of_the_log_is_in_the_docs() {
    let rows = table(&read("docs/log.md"), "| key | value |");
    let documented: BTreeSet<String> =
        rows.iter().flat_map(|row| quoted(&row[0])).map(str::to_owned).collect();
    let used: BTreeSet<String> = SOURCES.iter().flat_map(|source| source.log_keys()).collect();
    assert!(used.len() > 20, "{used:?}");
    // The macros add these two.
    let common = ["generation", "pid"].map(str::to_owned);
    let used: BTreeSet<String> = used.into_iter().chain(common).collect();
    let mentioned: BTreeSet<String> =
        rows.iter().flat_map(|row| quoted(&row[1])).map(str::to_owned).collect();
    let missing: Vec<_> = used.difference(&documented).filter(|key| !mentioned.contains(*key)).collect();
    assert!(missing.is_empty(), "not in docs/log.md: {missing:?}");
    let stale: Vec<_> = documented.difference(&used).collect();
    assert!(stale.is_empty(), "no line has these: {stale:?}");
}

#[test]
fn every_feature_is_in_both_tables() {
    const HEAD: &str = "| feature | adds | by |";
    let (readme, lib) = (table(&read("README.md"), HEAD), table(&read("src/lib.rs"), HEAD));
    assert_eq!(readme, lib);
    let cargo = read("Cargo.toml");
    let features = section(&cargo, "features").into_iter().filter(|(name, _)| *name != "default");
    let features: BTreeSet<String> = features.map(|(name, _)| format!("`{name}`")).collect();
    let documented: BTreeSet<String> = readme.into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(documented, features);
    let examples = read("doc-examples/Cargo.toml");
    let enabled = examples.split('"').filter_map(|text| text.strip_prefix("heirloom/"));
    assert_eq!(enabled.map(|name| format!("`{name}`")).collect::<BTreeSet<_>>(), features, "doc-examples");
}

#[test]
fn the_changelog_knows_this_version() {
    let (changelog, cargo) = (read("CHANGELOG.md"), read("Cargo.toml"));
    let package = section(&cargo, "package");
    let version = package.iter().find(|(name, _)| *name == "version").unwrap().1.trim_matches('"');
    let heading = format!("## {version}");
    let known = changelog.lines().filter_map(|line| line.strip_prefix(&heading));
    assert_eq!(known.filter(|rest| !rest.starts_with(|c: char| c.is_ascii_digit())).count(), 1, "{heading}");
}
