//! Takes the lifecycle apart: each arm and each action of `src/process/state/mod.rs`, and each row of its tables in
//! ARCHITECTURE.md, is deleted in a copy of the sources, and the tests of the lifecycle must notice. See the README
//! beside this workspace.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TABLE: &str = "lifecycle::table";
const MODEL: &str = "lifecycle::model";

/// A text without some of its lines.
struct Mutant {
    name: String,
    file: &'static str,
    from: usize,
    to: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let sources = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "..".to_owned()));
    let copy = std::env::temp_dir().join(format!("heirloom-mutants-{}", std::process::id()));
    copy_tree(&sources, &copy)?;
    let outcome = run(&copy);
    fs::remove_dir_all(&copy)?;
    outcome
}

fn run(copy: &Path) -> Result<(), Box<dyn Error>> {
    let code = fs::read_to_string(copy.join("src/process/state/mod.rs"))?;
    let text = fs::read_to_string(copy.join("ARCHITECTURE.md"))?;
    let mut mutants = arms(&code);
    mutants.extend(actions(&code));
    mutants.extend(rows(&text));
    if !passes(copy, TABLE)? {
        return Err("the tests fail without any mutation".into());
    }
    let (mut by_table, mut by_model, mut by_compiler, mut survivors) = (0, 0, 0, Vec::new());
    for mutant in &mutants {
        let original = if mutant.file == "ARCHITECTURE.md" { &text } else { &code };
        let lines = original.lines().enumerate();
        let kept = lines.filter(|(n, _)| !(mutant.from..mutant.to).contains(n)).map(|(_, line)| line);
        fs::write(copy.join(mutant.file), kept.collect::<Vec<_>>().join("\n") + "\n")?;
        let verdict = if !compiles(copy)? {
            by_compiler += 1;
            "the compiler"
        } else if !passes(copy, TABLE)? {
            by_table += 1;
            "the table"
        } else if !passes(copy, MODEL)? {
            by_model += 1;
            "the model"
        } else {
            survivors.push(&mutant.name);
            "NOBODY"
        };
        println!("{}: noticed by {verdict}", mutant.name);
        fs::write(copy.join(mutant.file), original)?;
    }
    println!(
        "\n{} mutants: {by_table} noticed by the table, {by_model} by the model, {by_compiler} by the compiler, {} by nobody",
        mutants.len(),
        survivors.len()
    );
    survivors.iter().for_each(|name| println!("survivor: {name}"));
    if survivors.is_empty() { Ok(()) } else { Err("something can be deleted and no test notices".into()) }
}

/// Arms of the matches, from their pattern to their end: those that begin at a depth of 12 or 16 in `step` and in
/// the functions after it.
fn arms(code: &str) -> Vec<Mutant> {
    let lines: Vec<&str> = code.lines().collect();
    let begin = lines.iter().position(|line| line.contains("fn step(")).unwrap_or(0);
    let mut arms = Vec::new();
    let mut n = begin;
    while n < lines.len() && !lines[n].starts_with("fn is_timed") {
        let depth = lines[n].len() - lines[n].trim_start().len();
        let is_pattern = matches!(depth, 12 | 16)
            && (lines[n].trim_start().starts_with('(')
                || lines[n].trim_start().starts_with("Stage::")
                || lines[n].trim_start().starts_with(|c: char| c.is_ascii_digit()))
            && !lines[n].trim_start().starts_with("(Finished");
        if is_pattern {
            let same = " ".repeat(depth);
            let closes = |line: &&str| {
                line.starts_with(&format!("{same}}}"))
                    || line.starts_with(&format!("{same})")) && !line.ends_with('{')
            };
            let mut end = n;
            if !(lines[n].ends_with(',') && lines[n].contains("=>")) && !lines[n].ends_with("{}") {
                end += 1;
                while end < lines.len() && !closes(&lines[end]) {
                    end += 1;
                }
            }
            arms.push(Mutant {
                name: format!("arm at line {}: {}", n + 1, lines[n].trim()),
                file: "src/process/state/mod.rs",
                from: n,
                to: end + 1,
            });
        }
        n += 1;
    }
    arms
}

/// Statements that do or change something, one line each.
fn actions(code: &str) -> Vec<Mutant> {
    let lines: Vec<&str> = code.lines().collect();
    let begin = lines.iter().position(|line| line.contains("fn step(")).unwrap_or(0);
    let of_lifecycle =
        lines.iter().enumerate().skip(begin).take_while(|(_, line)| !line.starts_with("fn is_timed"));
    let acts = |line: &str| {
        let line = line.trim_start();
        line.ends_with(';')
            && (line.starts_with("out.") || line.starts_with("self.") || line.starts_with("actions.push"))
    };
    let mutant = |(n, line): (usize, &&str)| Mutant {
        name: format!("line {}: {}", n + 1, line.trim()),
        file: "src/process/state/mod.rs",
        from: n,
        to: n + 1,
    };
    of_lifecycle.filter(|(_, line)| acts(line)).map(mutant).collect()
}

/// Rows of the tables whose first column is headed "event".
fn rows(text: &str) -> Vec<Mutant> {
    let mut rows = Vec::new();
    let mut inside = false;
    for (n, line) in text.lines().enumerate() {
        if line.starts_with("| event |") {
            inside = true;
        } else if !line.starts_with('|') {
            inside = false;
        } else if inside && !line.starts_with("| ---") {
            let event = line.split(" | ").next().unwrap_or_default();
            let name = format!("row at line {}: {}", n + 1, event.trim_start_matches("| "));
            rows.push(Mutant { name, file: "ARCHITECTURE.md", from: n, to: n + 1 });
        }
    }
    rows
}

fn cargo(copy: &Path, args: &[&str]) -> Result<bool, Box<dyn Error>> {
    let mut command = Command::new("cargo");
    command.args(args).current_dir(copy).env("CARGO_TARGET_DIR", copy.join("target"));
    Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success())
}

fn compiles(copy: &Path) -> Result<bool, Box<dyn Error>> {
    cargo(copy, &["test", "--package", "heirloom", "--lib", "--no-run"])
}

fn passes(copy: &Path, tests: &str) -> Result<bool, Box<dyn Error>> {
    cargo(copy, &["test", "--package", "heirloom", "--lib", tests])
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "target" || name == ".git" {
            continue;
        }
        let target = to.join(&name);
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
