//! Reads the sources of the repository as tokens, so that comments and strings never count as code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::{fs, iter};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace")
}

/// The text of a file of the repository.
pub fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All files with this extension in a directory and below it, by their paths from the root.
pub fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root().join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path.strip_prefix(root()).expect("below the root").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// A token and its line. Of a group, the two delimiters are tokens.
#[derive(Debug, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// The tokens of a text in one sequence, without documentation.
pub fn tokens(text: &str) -> Vec<Token> {
    let mut all = Vec::new();
    flatten(text.parse().unwrap_or_else(|e| panic!("{e}: {text}")), &mut all, &mut None);
    all
}

/// With `modules`, items under `#[cfg(test)]` are left out, and modules among them are listed.
fn flatten(stream: TokenStream, all: &mut Vec<Token>, modules: &mut Option<Vec<String>>) {
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        let line = tree.span().start().line;
        if let TokenTree::Group(group) = tree {
            let text =
                |end: usize| ["()", "{}", "[]", "  "][group.delimiter() as usize][end..=end].to_owned();
            all.push(Token { text: text(0), line });
            flatten(group.stream(), all, modules);
            all.push(Token { text: text(1), line: group.span_close().start().line });
            continue;
        }
        let next = trees.peek().map(ToString::to_string).unwrap_or_default().replace(' ', "");
        match (tree.to_string().as_str(), next.as_str()) {
            ("#", "[cfg(test)]") if modules.is_some() => {
                let ends = |tree: &TokenTree| match tree {
                    TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                    tree => matches!(tree.to_string().as_str(), ";" | ","),
                };
                let mut item = Vec::new();
                while item.last().is_none_or(|last| !ends(last)) {
                    item.extend(trees.next().or_else(|| panic!("no end of {item:?}")));
                }
                if let ([.., word, name, _], Some(modules)) = (&item[..], modules.as_mut()) {
                    modules.extend((word.to_string() == "mod").then(|| name.to_string()));
                }
            }
            ("#", next) if next.starts_with("[doc=") => drop(trees.next()),
            (text, _) => all.push(Token { text: text.to_owned(), line }),
        }
    }
}

/// Where this piece of Rust stands in these tokens.
pub fn positions<'t>(tokens: &'t [Token], piece: &str) -> impl Iterator<Item = usize> + use<'t> {
    let piece = self::tokens(piece);
    let mut windows = tokens.windows(piece.len()).enumerate();
    iter::from_fn(move || windows.find(|(_, w)| w.iter().zip(&piece).all(|(a, b)| a.text == b.text)))
        .map(|(at, _)| at)
}

/// A file of `src/`.
#[derive(Debug)]
pub struct Source {
    pub path: PathBuf,
    /// Its path below `src/` without `.rs` or `/mod.rs`: `net/acceptor`.
    pub place: String,
    /// Without `#[cfg(test)]` items and comments, documentation among them.
    pub tokens: Vec<Token>,
}

impl Source {
    pub fn is_in(&self, places: &[&str]) -> bool {
        let below = |place: &&str| {
            self.place.strip_prefix(*place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        places.iter().any(below)
    }

    /// The names that follow `crate::`, alone or in braces.
    pub fn imports(&self) -> Vec<&str> {
        let mut found = Vec::new();
        for at in positions(&self.tokens, "crate::") {
            let mut depth = 0;
            for (before, token) in self.tokens[at + 2..].iter().zip(&self.tokens[at + 3..]) {
                match token.text.as_str() {
                    "{" => depth += 1,
                    "}" => depth -= 1,
                    name if depth == 0 || (depth == 1 && ["{", ","].contains(&&*before.text)) => {
                        found.push(name)
                    }
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
        }
        found
    }

    /// The first string of each `info!`, `warn!` and `error!`, with `…` for what differs.
    pub fn log_lines(&self) -> Vec<String> {
        let is_level = |token: &Token| matches!(token.text.as_str(), "info" | "warn" | "error");
        let macros = self.tokens.windows(4).filter(|w| is_level(&w[0]) && w[1].text == "!");
        let strings = macros.filter_map(|w| syn::parse_str::<syn::LitStr>(&w[3].text).ok());
        strings.map(|string| with_gaps(&string.value())).collect()
    }

    /// The key-values of all lines of the log, by their names: after the `;` of a macro.
    pub fn log_keys(&self) -> BTreeSet<String> {
        let mut keys = BTreeSet::new();
        let is_level = |token: &Token| matches!(token.text.as_str(), "debug" | "info" | "warn" | "error");
        let starts =
            |n: &usize| self.tokens[*n..].get(..3).is_some_and(|w| is_level(&w[0]) && w[1].text == "!");
        for begin in (0..self.tokens.len()).filter(starts) {
            let (mut depth, mut in_fields, mut is_key) = (0, false, false);
            for token in &self.tokens[begin + 2..] {
                match token.text.as_str() {
                    "(" | "[" | "{" => depth += 1,
                    ")" | "]" | "}" => depth -= 1,
                    ";" if depth == 1 => (in_fields, is_key) = (true, true),
                    "," if depth == 1 => is_key = in_fields,
                    name if std::mem::take(&mut is_key) => drop(keys.insert(name.to_owned())),
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
        }
        keys
    }
}

fn with_gaps(format: &str) -> String {
    let mut pieces = format.split('{');
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |line, piece| line + "…" + piece.split_once('}').map_or("", |(_, after)| after))
}

/// The files of `src/` that are not only tests.
pub static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let mut only_tests = Vec::new();
    let mut sources = Vec::new();
    for path in files("src", "rs") {
        let (mut tokens, mut modules) = (Vec::new(), Some(Vec::new()));
        let text = read(&path).parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        flatten(text, &mut tokens, &mut modules);
        let place = path.to_str().expect("UTF-8").trim_start_matches("src/").trim_end_matches(".rs");
        let place = place.trim_end_matches("/mod").to_owned();
        only_tests.extend(modules.iter().flatten().map(|module| format!("{place}/{module}")));
        sources.push(Source { place, path, tokens });
    }
    sources.retain(|source| !only_tests.contains(&source.place));
    assert!(sources.len() > 20, "{} sources", sources.len());
    sources
});

/// What the `use` items of a file bring, only those that are `pub` or all: the first name of the path, and the last.
pub fn uses(file: &syn::File, only_public: bool) -> Vec<(String, String)> {
    struct Uses(Vec<(String, String)>, Vec<String>, bool);
    impl<'ast> Visit<'ast> for Uses {
        fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
            if !self.2 || matches!(item.vis, syn::Visibility::Public(_)) {
                visit::visit_item_use(self, item);
            }
        }
        fn visit_use_path(&mut self, path: &'ast syn::UsePath) {
            self.1.push(path.ident.to_string());
            visit::visit_use_path(self, path);
            self.1.pop();
        }
        fn visit_use_name(&mut self, name: &'ast syn::UseName) {
            let name = name.ident.to_string();
            self.0.push((self.1.first().unwrap_or(&name).clone(), name));
        }
        fn visit_use_rename(&mut self, name: &'ast syn::UseRename) {
            self.0.push((self.1.first().unwrap_or(&name.ident.to_string()).clone(), name.rename.to_string()));
        }
    }
    let mut uses = Uses(Vec::new(), Vec::new(), only_public);
    uses.visit_file(file);
    uses.0
}

/// Names of the tests in a file.
pub fn tests_in(path: &Path) -> Vec<String> {
    let text = read(path);
    let names = text.split("#[test]\n").skip(1).filter_map(|rest| rest.trim_start().strip_prefix("fn "));
    names.filter_map(|rest| Some(rest.split_once('(')?.0.to_owned())).collect()
}

/// The rows of all tables with this head, cell by cell.
pub fn table(page: &str, head: &str) -> Vec<Vec<String>> {
    let lines: Vec<&str> = page.lines().map(|line| line.trim_start_matches("//! ")).collect();
    let tables = lines.split(|line| !line.starts_with('|')).filter(|table| table.first() == Some(&head));
    let cells = |row: &&str| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
    tables.flat_map(|table| table.iter().skip(2).map(cells)).collect()
}

/// What is between backticks.
pub fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Names and values of a section of Cargo.toml.
pub fn section<'c>(cargo: &'c str, name: &str) -> Vec<(&'c str, &'c str)> {
    let lines = cargo.lines().skip_while(|line| *line != format!("[{name}]")).skip(1);
    lines.take_while(|line| !line.starts_with('[')).filter_map(|line| line.split_once(" = ")).collect()
}
