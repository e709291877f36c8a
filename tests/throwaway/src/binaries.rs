//! Finds PostgreSQL's programs.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder with `initdb` and `postgres`: `$PG_BINDIR`, else the newest of Debian's,
/// else that of `pg_config` or the `PATH`.
pub(crate) fn folder() -> io::Result<PathBuf> {
    // A folder that is named excludes all others.
    let candidates = match env::var_os("PG_BINDIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => vec![PathBuf::from(folder)],
        None => found(),
    };
    candidates
        .into_iter()
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "no PostgreSQL server found; install one with `apt-get install postgresql`, \
                 or set PG_BINDIR to the folder of its programs",
            )
        })
}

fn found() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    debian()
        .into_iter()
        .chain(pg_config())
        .chain(env::split_paths(&path))
        .collect()
}

fn debian() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, folder)| folder).collect()
}

fn pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(Path::new(text.trim()).to_owned())
}
