//! Collects the Rust examples of README.md, docs/*.md and of the comments in src/ into modules of one file.
//!
//! An example that needs another crate by its nature, such as serde's derive macros, says so in a line of its own, which
//! rustdoc hides: `# // needs the crate serde: it derives what is read`. In a page, the line is a comment above the
//! example: `<!-- needs the crate multer: ... -->`. Such an example is left out here.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const NEEDS: &str = "needs the crate ";

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned();
    let mut files = vec![root.join("README.md")];
    list(&root.join("docs"), "md", &mut files);
    list(&root.join("src"), "rs", &mut files);
    files.sort();
    let mut out = String::new();
    let mut count = 0;
    for file in &files {
        let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let name = file.strip_prefix(&root).expect("in the workspace").display().to_string();
        for example in examples(&name, &prose(&text, name.ends_with(".rs"))) {
            count += 1;
            module(&mut out, count, &name, &example);
        }
    }
    assert!(count > 50, "only {count} examples were found");
    let target = PathBuf::from(std::env::var_os("OUT_DIR").expect("set by cargo")).join("examples.rs");
    fs::write(target, out).expect("OUT_DIR can be written to");
    for watched in ["README.md", "docs", "src"] {
        println!("cargo:rerun-if-changed={}", root.join(watched).display());
    }
}

/// Adds the files in `folder` and below it that end with `.extension`.
fn list(folder: &Path, extension: &str, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("a readable directory").path();
        if path.is_dir() {
            list(&path, extension, files);
        } else if path.extension().is_some_and(|e| e == extension) {
            files.push(path);
        }
    }
}

/// The lines of Markdown in a file, with their numbers. In a Rust file, those of `///` and `//!`; other lines are empty.
fn prose(text: &str, is_rust: bool) -> Vec<(usize, &str)> {
    let comment = |line: &'_ str| -> Option<usize> {
        let start = line.trim_start();
        let text = start.strip_prefix("///").or_else(|| start.strip_prefix("//!"))?;
        Some(line.len() - text.strip_prefix(' ').unwrap_or(text).len())
    };
    let markdown = |line| if is_rust { comment(line).map_or("", |at| &line[at..]) } else { line };
    (1..).zip(text.lines().map(markdown)).collect()
}

struct Example {
    line: usize,
    code: Vec<String>,
}

/// The Rust examples among these lines, without those that need another crate.
fn examples(file: &str, lines: &[(usize, &str)]) -> Vec<Example> {
    let mut found = Vec::new();
    let mut before = "";
    let mut lines = lines.iter();
    while let Some((number, line)) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let block: Vec<&str> =
                lines.by_ref().map(|(_, line)| *line).take_while(|line| !line.starts_with("```")).collect();
            let needs = block.iter().chain([&before]).find_map(|line| line.split_once(NEEDS));
            if let Some((_, what)) = needs {
                let (_, reason) = what.split_once(": ").unwrap_or_default();
                assert!(!reason.trim().is_empty(), "{file}:{number}: {NEEDS:?} has no reason");
            } else if is_rust(info) {
                assert!(!info.contains("ignore"), "{file}:{number}: an example that is ignored must say why");
                let code = block.iter().map(|line| shown(line).to_owned()).collect();
                found.push(Example { line: *number, code });
            }
        }
        before = line;
    }
    found
}

/// As rustdoc decides by the words after the fence.
fn is_rust(info: &str) -> bool {
    info.split(',')
        .map(str::trim)
        .all(|word| matches!(word, "" | "rust" | "no_run" | "should_panic" | "ignore"))
}

/// A line as rustdoc compiles it.
fn shown(line: &str) -> &str {
    let start = line.trim_start();
    match start.strip_prefix('#') {
        Some("") => "",
        Some(rest) if rest.starts_with(' ') => rest,
        Some(rest) if rest.starts_with('#') => rest,
        _ => line,
    }
}

fn module(out: &mut String, number: usize, file: &str, example: &Example) {
    let code = example.code.join("\n");
    let has_main = code.contains("fn main(");
    let returns = if code.trim_end().ends_with("(())") { " -> Result<(), impl std::fmt::Debug>" } else { "" };
    writeln!(out, "/// {file}:{}", example.line).expect("a string");
    writeln!(out, "mod example_{number} {{").expect("a string");
    if has_main {
        writeln!(out, "{code}").expect("a string");
    } else {
        writeln!(out, "fn main(){returns} {{\n{code}\n}}").expect("a string");
    }
    writeln!(out, "}}").expect("a string");
}
