//! nginx as a peer: its program, its files, its configuration.

use crate::machine::has;
use crate::{Error, work};
use std::fs;
use std::path::Path;

/// It is often installed where only root looks.
pub fn program() -> Option<String> {
    let places = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"];
    let elsewhere = places.into_iter().find(|place| Path::new(place).is_file());
    if has("nginx") { Some("nginx".into()) } else { elsewhere.map(String::from) }
}

pub struct Nginx {
    pub command: Vec<String>,
    /// The file that it reads.
    pub config: String,
    /// What is written there, with `{addr}` and `{workers}` to be replaced.
    pub template: String,
}

/// Puts the files that it serves into a folder within `scratch`.
pub fn prepare(scratch: &Path, program: &str) -> Result<Nginx, Error> {
    let folder = scratch.join("nginx");
    let files = folder.join("files");
    fs::create_dir_all(&files)?;
    for (name, text) in [("1k", work::KIB), ("64k", work::KIB64), ("1m", work::MIB)] {
        fs::write(files.join(name), text)?;
    }
    let folder = folder.display().to_string();
    let template = include_str!("../peers/nginx.conf").replace("{folder}", &folder);
    let (config, log) = (format!("{folder}/nginx.conf"), format!("{folder}/error.log"));
    let command = [program, "-p", &folder, "-c", &config, "-e", &log].map(String::from).into();
    Ok(Nginx { command, config, template })
}
