//! Instructions in user space of one turn of a loop in this program, counted by valgrind.

use crate::Error;
use std::fs;
use std::process::Command;

/// Turns of the run that is subtracted: start and end are in both.
const FEW: usize = 1_000;
const MANY: usize = 101_000;

/// Runs this program with these arguments and the number of turns.
pub fn instructions(arguments: &[&str]) -> Result<f64, Error> {
    let file = std::env::temp_dir().join(format!("heirloom-counted-{}", std::process::id()));
    let run = |turns: usize| -> Result<f64, Error> {
        let out = format!("--callgrind-out-file={}", file.display());
        let status = Command::new("valgrind")
            .args(["--quiet", "--tool=callgrind", &out])
            .arg(std::env::current_exe()?)
            .args(arguments)
            .arg(turns.to_string())
            .status()?;
        if !status.success() {
            return Err("valgrind failed".into());
        }
        let text = fs::read_to_string(&file)?;
        let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).ok_or("no totals")?;
        Ok(total.trim().parse()?)
    };
    let count = (run(MANY)? - run(FEW)?) / (MANY - FEW) as f64;
    fs::remove_file(&file)?;
    Ok(count)
}
