//! Changes one place of the code after another in a copy of the sources, and names the changes that no test notices.
//! See the README beside this workspace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use heirloom_bench::Error;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

const USAGE: &str = "mutate [--list] [--sample N] [--sources PATH] [state|ledger|policy|exchange]...
MUTATE_TARGET is the target directory, if what is compiled there is to be kept.";

/// A name, the file or directory that is changed, and the tests that must notice, the fastest first.
struct Part {
    name: &'static str,
    path: &'static str,
    tests: &'static [&'static [&'static str]],
}

const PARTS: [Part; 4] = [
    Part { name: "state", path: "src/process/state", tests: &[&["--lib", "process::state"]] },
    Part { name: "ledger", path: "src/net/transfer/ledger", tests: &[&["--lib", "ledger"]] },
    Part { name: "policy", path: "src/net/scheduler/policy.rs", tests: &[&["--lib", "net::scheduler"]] },
    Part {
        name: "exchange",
        path: "src/http/exchange",
        tests: &[&["--lib", "http"], &["--lib", "fuzzing"], &["--test", "it"]],
    },
];

/// Nothing that works takes so long.
const HANGS: Duration = Duration::from_secs(1_800);

/// Files that are tests.
const TESTS: [&str; 5] = ["table.rs", "model.rs", "managed.rs", "tests.rs", "loom_tests.rs"];

/// Survivors that are known, by a part of their names, and why these tests don't notice them.
const KNOWN: [(&str, &str); 1] = [(
    "src/http/exchange/keep_alive.rs:53: `true` -> `false`",
    "a test of processes notices it: testkit/tests/it/connection_transfer.rs",
)];

/// A text with one piece replaced.
struct Mutant {
    file: PathBuf,
    line: usize,
    range: std::ops::Range<usize>,
    to: String,
    what: String,
}

impl Mutant {
    fn name(&self) -> String {
        format!("{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

fn main() -> Result<ExitCode, Error> {
    let (mut list, mut sample, mut sources, mut names) = (false, usize::MAX, PathBuf::from(".."), Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--list" => list = true,
            "--sample" => sample = args.next().ok_or(USAGE)?.parse()?,
            "--sources" => sources = args.next().ok_or(USAGE)?.into(),
            name if PARTS.iter().any(|part| part.name == name) => names.push(name.to_owned()),
            _ => return Err(USAGE.into()),
        }
    }
    let chosen = PARTS.iter().filter(|part| names.is_empty() || names.iter().any(|name| name == part.name));
    if list {
        for part in chosen {
            mutants(&sources, part)?.iter().for_each(|mutant| println!("{}: {}", part.name, mutant.name()));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let copy = std::env::temp_dir().join(format!("heirloom-mutants-{}", std::process::id()));
    copy_tree(&sources, &copy)?;
    let survivors = chosen.map(|part| run(&copy, part, sample)).collect::<Result<Vec<_>, _>>();
    fs::remove_dir_all(&copy)?;
    let survivors = survivors?.concat();
    println!();
    survivors.iter().for_each(|name| println!("survivor: {name}"));
    Ok(if survivors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tests the mutants of a part, and returns the names of those that survive and are not known.
fn run(copy: &Path, part: &Part, sample: usize) -> Result<Vec<String>, Error> {
    let mut within = Vec::new();
    for tests in part.tests {
        let compiles = compiles(copy, tests);
        let begin = Instant::now();
        if !compiles || !passes(copy, tests, HANGS) {
            return Err(format!("the tests of {} fail without any mutation", part.name).into());
        }
        // A mutant that makes them much slower is noticed, too.
        within.push(begin.elapsed() * 4 + Duration::from_secs(20));
    }
    let all = mutants(copy, part)?;
    let taken = sample.min(all.len());
    let (mut by_compiler, mut by_tests, mut known, mut survivors) = (0, 0, 0, Vec::new());
    for n in 0..taken {
        let mutant = &all[n * all.len() / taken];
        let file = copy.join(&mutant.file);
        let text = fs::read_to_string(&file)?;
        let mut changed = text.clone();
        changed.replace_range(mutant.range.clone(), &mutant.to);
        fs::write(&file, changed)?;
        let mut verdict = "NO TEST";
        for (tests, within) in part.tests.iter().zip(&within) {
            if !compiles(copy, tests) {
                verdict = "the compiler";
                by_compiler += 1;
                break;
            }
            if !passes(copy, tests, *within) {
                verdict = "a test";
                by_tests += 1;
                break;
            }
        }
        fs::write(&file, text)?;
        let name = mutant.name();
        println!("{name}: noticed by {verdict}");
        if verdict == "NO TEST" {
            match KNOWN.iter().find(|(part, _)| name.contains(part)) {
                Some((_, reason)) => {
                    known += 1;
                    println!("    known: {reason}");
                }
                None => survivors.push(name),
            }
        }
    }
    println!(
        "\n{}: {taken} of {} mutants: {by_tests} noticed by a test, {by_compiler} by the compiler, {known} known, {} by nothing",
        part.name,
        all.len(),
        survivors.len()
    );
    Ok(survivors)
}

fn mutants(sources: &Path, part: &Part) -> Result<Vec<Mutant>, Error> {
    let mut all = Vec::new();
    for file in rust_files(sources, Path::new(part.path))? {
        let text = fs::read_to_string(sources.join(&file))?;
        let mut found = Found { text: &text, file, all: Vec::new() };
        found.visit_file(&syn::parse_file(&text)?);
        all.append(&mut found.all);
    }
    if part.name == "state" {
        all.append(&mut rows(sources)?);
    }
    Ok(all)
}

/// The rows of the lifecycle's tables, whose first column is headed "event".
fn rows(sources: &Path) -> Result<Vec<Mutant>, Error> {
    let file = PathBuf::from("ARCHITECTURE.md");
    let text = fs::read_to_string(sources.join(&file))?;
    let (mut rows, mut inside, mut from) = (Vec::new(), false, 0);
    for (n, line) in text.split_inclusive('\n').enumerate() {
        inside = line.starts_with("| event |") || (inside && line.starts_with('|'));
        if inside && !line.starts_with("| event |") && !line.starts_with("| ---") {
            let what = format!("row `{}` deleted", line.split(" | ").next().unwrap_or_default());
            let range = from..from + line.len();
            rows.push(Mutant { file: file.clone(), line: n + 1, range, to: String::new(), what });
        }
        from += line.len();
    }
    Ok(rows)
}

struct Found<'a> {
    text: &'a str,
    file: PathBuf,
    all: Vec<Mutant>,
}

impl Found<'_> {
    fn replace(&mut self, what: &impl Spanned, to: impl FnOnce(&str) -> String) {
        let (span, range) = (what.span(), what.span().byte_range());
        let Some(from) = self.text.get(range.clone()) else { return };
        let to = to(from);
        let short = |text: &str| {
            text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(70).collect::<String>()
        };
        let what = match to.as_str() {
            "" => format!("`{}` deleted", short(from)),
            _ => format!("`{}` -> `{}`", short(from), short(&to)),
        };
        self.all.push(Mutant { file: self.file.clone(), line: span.start().line, range, to, what });
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    let is_test = |attribute: &syn::Attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    };
    attributes.iter().any(is_test)
}

impl<'ast> Visit<'ast> for Found<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_stmt(&mut self, stmt: &'ast syn::Stmt) {
        use syn::Expr::{Assign, Binary, Call, MethodCall};
        if let syn::Stmt::Expr(Assign(_) | Binary(_) | Call(_) | MethodCall(_), Some(_)) = stmt {
            self.replace(stmt, |_| String::new());
        }
        visit::visit_stmt(self, stmt);
    }

    fn visit_expr_if(&mut self, item: &'ast syn::ExprIf) {
        if !has_let(&item.cond) {
            self.replace(&*item.cond, |cond| format!("!({cond})"));
        }
        visit::visit_expr_if(self, item);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        self.replace(arm, |_| String::new());
        if let Some((_, guard)) = arm.guard.as_ref().filter(|(_, guard)| !has_let(guard)) {
            self.replace(&**guard, |guard| format!("!({guard})"));
        }
        visit::visit_arm(self, arm);
    }

    fn visit_bin_op(&mut self, op: &'ast syn::BinOp) {
        let to = match self.text.get(op.span().byte_range()) {
            Some("<") => "<=",
            Some("<=") => "<",
            Some(">") => ">=",
            Some(">=") => ">",
            Some("==") => "!=",
            Some("!=") => "==",
            Some("&&") => "||",
            Some("||") => "&&",
            Some("+=") => "-=",
            Some("-=") => "+=",
            _ => return,
        };
        self.replace(op, |_| to.to_owned());
    }

    fn visit_lit_bool(&mut self, lit: &'ast syn::LitBool) {
        self.replace(lit, |_| (!lit.value).to_string());
    }

    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
}

fn has_let(cond: &syn::Expr) -> bool {
    struct HasLet(bool);
    impl<'ast> Visit<'ast> for HasLet {
        fn visit_expr_let(&mut self, _: &'ast syn::ExprLet) {
            self.0 = true;
        }
    }
    let mut found = HasLet(false);
    found.visit_expr(cond);
    found.0
}

/// The Rust files at a path that are not tests.
fn rust_files(sources: &Path, path: &Path) -> Result<Vec<PathBuf>, Error> {
    if path.extension().is_some_and(|extension| extension == "rs") {
        let is_test = TESTS.iter().any(|name| path.ends_with(name));
        return Ok(if is_test { Vec::new() } else { vec![path.to_owned()] });
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(sources.join(path)).map_err(|e| format!("{}: {e}", path.display()))? {
        all.append(&mut rust_files(sources, &path.join(entry?.file_name()))?);
    }
    all.sort();
    Ok(all)
}

fn cargo(copy: &Path, within: Duration, args: &[&str]) -> bool {
    // Kills the tests as well, which are in its process group.
    let mut command = Command::new("timeout");
    command.arg(within.as_secs().to_string()).args(["cargo", "test", "-p", "heirloom", "--all-features"]);
    command.args(args).current_dir(copy);
    // Not where other builds of the sources are, which would take turns with these.
    command.env(
        "CARGO_TARGET_DIR",
        std::env::var_os("MUTATE_TARGET").map_or(copy.join("target"), PathBuf::from),
    );
    command.env("CARGO_PROFILE_DEV_DEBUG", "0");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn compiles(copy: &Path, tests: &[&str]) -> bool {
    // Without the names of the tests.
    let target: Vec<&str> = match tests {
        ["--lib", ..] => vec!["--lib", "--no-run"],
        other => [other, &["--no-run"]].concat(),
    };
    cargo(copy, HANGS, &target)
}

fn passes(copy: &Path, tests: &[&str], within: Duration) -> bool {
    cargo(copy, within, tests)
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (name, target) = (entry.file_name(), to.join(entry.file_name()));
        if name == "target" || name == ".git" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
