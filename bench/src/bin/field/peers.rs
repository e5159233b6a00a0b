//! The servers of the field: how each is started, and what it can do.

use crate::scenarios::Needs;
use heirloom_bench::machine::has;
use heirloom_bench::nginx::{self, Nginx};
use heirloom_bench::server::Running;
use heirloom_bench::{Error, free_address};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Ours,
    /// Blocking handlers on threads.
    Sync,
    Other,
}

pub struct Peer {
    pub name: String,
    pub kind: Kind,
    command: Vec<String>,
    lacks: Vec<Needs>,
    /// A file and its content, with `{addr}` and `{workers}` to be replaced.
    config: Option<(String, String)>,
}

impl Peer {
    fn new(name: &str, kind: Kind, program: &Path, lacks: &[Needs]) -> Peer {
        let command = [program.display().to_string(), "--listen".into(), "{addr}".into()].into();
        Peer { name: name.into(), kind, command, lacks: lacks.into(), config: None }
    }

    pub fn can(&self, needs: Needs) -> bool {
        !self.lacks.contains(&needs)
    }

    /// On these cores, as for `taskset -c`; None: all.
    pub fn start(&self, cpus: Option<&str>) -> Result<Running, Error> {
        let address = free_address()?;
        if let Some((file, template)) = &self.config {
            // The others see for themselves how many cores they may use.
            let cores = match cpus {
                Some(cpus) => cpus.split(',').count(),
                None => std::thread::available_parallelism()?.get(),
            };
            let text = template.replace("{addr}", &address).replace("{workers}", &cores.to_string());
            fs::write(file, text)?;
        }
        Running::start_at(address, &self.command, cpus)
    }
}

/// What is not installed is named on stderr and left out.
pub fn known(scratch: &Path) -> Result<Vec<Peer>, Error> {
    let here = std::env::current_exe()?;
    let beside = here.parent().ok_or("no folder")?;
    let mut peers = Vec::new();
    let mut add = |name: &str, kind, lacks: &[Needs]| {
        let program = beside.join(if name == "floor" { name.to_owned() } else { format!("{name}_hello") });
        if program.is_file() {
            peers.push(Peer::new(name, kind, &program, lacks));
        } else {
            eprintln!("field: no {}: left out (cargo build --release builds it)", program.display());
        }
    };
    use Needs::{Block, Burn, Bytes, Close, Echo, Mixed, Router};
    add("heirloom", Kind::Ours, &[]);
    add("hyper", Kind::Other, &[Router]);
    add("axum", Kind::Other, &[]);
    add("actix", Kind::Other, &[]);
    add("may_minihttp", Kind::Other, &[Router, Close]);
    add("astra", Kind::Sync, &[Router]);
    add("touche", Kind::Sync, &[Router]);
    add("rouille", Kind::Sync, &[]);
    add("tiny_http", Kind::Sync, &[Router]);
    add("floor", Kind::Other, &[Router, Bytes, Echo, Block, Burn, Mixed]);
    if has("go") {
        match go(scratch) {
            Ok(program) => peers.push(Peer::new("go", Kind::Other, &program, &[Router])),
            Err(error) => eprintln!("field: Go's server can't be built, it is left out: {error}"),
        }
    } else {
        eprintln!("field: no go on the PATH: Go's net/http is left out");
    }
    match nginx::program() {
        Some(program) => peers.push(nginx(scratch, &program)?),
        None => eprintln!("field: no nginx: it is left out"),
    }
    Ok(peers)
}

/// `NAME=COMMAND`, with `{addr}` where the address belongs.
pub fn own(text: &str) -> Option<Peer> {
    let (name, command) = text.split_once('=')?;
    let command = command.split_whitespace().map(String::from).collect();
    Some(Peer { name: name.into(), kind: Kind::Other, command, lacks: Vec::new(), config: None })
}

fn go(scratch: &Path) -> Result<PathBuf, Error> {
    let source = scratch.join("main.go");
    fs::write(&source, include_str!("../../../peers/main.go"))?;
    let program = scratch.join("go_hello");
    let built = Command::new("go").arg("build").arg("-o").arg(&program).arg(&source).status()?;
    if built.success() { Ok(program) } else { Err(format!("go build: {built}").into()) }
}

fn nginx(scratch: &Path, program: &str) -> Result<Peer, Error> {
    let Nginx { command, config, template } = nginx::prepare(scratch, program)?;
    let lacks = vec![Needs::Router, Needs::Echo, Needs::Block, Needs::Burn, Needs::Mixed];
    let config = Some((config, template));
    Ok(Peer { name: "nginx".into(), kind: Kind::Other, command, lacks, config })
}
