//! The command, as two shells use it: one runs a job under a lock, the other waits for its turn, and
//! then the first one's `distlock` is killed, which cannot clean up after itself.
//!
//! `make demo` builds the command and runs this; by hand:
//! `cargo build --features cli && cargo run --features cli --example two_shells`.
// An example prints.
#![allow(clippy::print_stdout)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use throwaway_postgres::Server;

/// A job that writes its name for as long as it lives.
const JOB: &str = r#"while sleep 0.05; do echo "$0" >>"$1"; done"#;

fn main() -> Result<()> {
    let server = Server::start()?;
    let folder = tempfile::tempdir()?;
    let record = folder.path().join("record");
    let first = Shell::start(&server, "first", &record)?;
    println!("first shell:  distlock run nightly -- job    (has the lock)");
    await_line(&record, "first")?;
    let second = Shell::start(&server, "second", &record)?;
    println!("second shell: distlock run nightly -- job    (waits)");
    await_waiter(&server)?;
    println!("kill -9 of the first distlock");
    drop(first);
    await_line(&record, "second")?;
    println!("second shell: has the lock, its job runs");
    // Its supervisor is killed, too, and nobody is left.
    drop(second);
    let text = fs::read_to_string(&record)?;
    let lines: Vec<_> = text.lines().collect();
    let begin = lines.iter().position(|line| *line == "second");
    let begin = begin.context("the second job has not run")?;
    let late = lines[begin..]
        .iter()
        .filter(|line| **line == "first")
        .count();
    ensure!(
        late == 0,
        "the first job wrote {late} lines after the second had begun"
    );
    println!("the first job wrote {begin} lines, none of them after the second job's first");
    println!("verdict: ok");
    Ok(())
}

/// A `distlock run`, which is killed when this is dropped.
struct Shell(Child);

impl Shell {
    fn start(server: &Server, name: &str, record: &Path) -> Result<Shell> {
        let mut command = Command::new(distlock()?);
        command.env("DATABASE_URL", server.url());
        command
            .args(["run", "nightly", "--", "sh", "-c", JOB, name])
            .arg(record);
        Ok(Shell(command.spawn()?))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // SIGKILL.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The command, which is built into the folder above the examples'.
fn distlock() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let above = this.parent().and_then(Path::parent);
    let path = above.context("no such folder")?.join("distlock");
    ensure!(
        path.exists(),
        "build the command first: cargo build --features cli"
    );
    Ok(path)
}

fn await_line(record: &Path, line: &str) -> Result<()> {
    eventually(|| Ok(fs::read_to_string(record).is_ok_and(|text| text.contains(line))))
}

fn await_waiter(server: &Server) -> Result<()> {
    let mut client = server.client();
    let count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    eventually(|| Ok(client.query_one(count, &[])?.get::<_, i64>(0) > 0))
}

fn eventually(mut what: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    while !what()? {
        if Instant::now() > end {
            bail!("it did not happen in a minute");
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
