//! Target 11: the command `distlock`, beside psql, a client in C that does the same without a lease, a
//! guardian and the checks of a connect, and beside flock(1), which needs no server.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use throwaway_postgres::Server;

use crate::machine::resident;
use crate::measure::{interleave, micros_each};
use crate::setup::Setup;

/// On a server with the settings of a new cluster. The one of the other targets has room for ten times
/// as many locks, and each look at `pg_locks` takes longer.
pub(crate) fn run(setup: &mut Setup) -> Result<()> {
    let server = Server::start()?;
    times(setup, &server)?;
    memory(setup, &server)
}

/// The command, which is built into this program's folder.
fn distlock(server: &Server) -> Result<Command> {
    let path = std::env::current_exe()?.with_file_name("distlock");
    ensure!(
        path.exists(),
        "build the command first: cargo build --profile bench --features cli --bin distlock"
    );
    let mut distlock = Command::new(path);
    distlock.env("DATABASE_URL", server.url());
    Ok(distlock)
}

/// The one beside the server's program: that on the PATH may be a script that looks for it.
fn psql(server: &Server) -> Result<PathBuf> {
    let pid = server.pid().context("the server has ended")?;
    Ok(fs::read_link(format!("/proc/{pid}/exe"))?.with_file_name("psql"))
}

/// The wall time of `true` under a lock, from the start of the process to its end.
fn times(setup: &mut Setup, server: &Server) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    let mut distlock = distlock(server)?;
    distlock.args(["run", "report", "--", "true"]);
    let mut psql = Command::new(psql(server)?);
    psql.args(["-XqAt", &server.url()])
        .args(["-c", "SELECT pg_advisory_lock(1)", "-c", r"\! true"])
        .args(["-c", "SELECT pg_advisory_unlock(1)"]);
    let mut flock = Command::new("flock");
    flock.arg(file.path()).arg("true");
    let rounds = -3..setup.rounds(100);
    let micros = interleave(rounds, &mut [distlock, psql, flock], |command, _| {
        micros_each(1, || {
            let status = command.stdout(Stdio::null()).status();
            let status = status.with_context(|| format!("{command:?}"))?;
            ensure!(status.success(), "{command:?}: {status}");
            Ok(())
        })
    })?;
    let millis = |micros: f64| format!("{:.1} ms", micros / 1e3);
    let [distlock, psql, flock] = &micros[..] else {
        unreachable!("each of them has its figures")
    };
    let what = "distlock run KEY -- true";
    let row = setup.row(11, what);
    row.by_turns(millis, distlock, "psql", psql);
    row.ratio_at_most(1.5);
    let row = setup.row(11, what);
    row.by_turns(millis, distlock, "flock", flock);
    setup.keep(
        "command",
        json!({ "distlock": distlock, "psql": psql, "flock": flock }),
    )
}

/// Of the two processes that stay while the command runs.
fn memory(setup: &mut Setup, server: &Server) -> Result<()> {
    let mut supervisor = distlock(server)?
        .args(["run", "report", "--", "sh", "-c", "echo; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    // The command ends with its input.
    let input = supervisor.stdin.take();
    let output = supervisor.stdout.take().context("it has no output")?;
    BufReader::new(output).read_line(&mut String::new())?;
    let pid = supervisor.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let sizes = resident(&pid.to_string()).and_then(|own| Ok((own, resident(children.trim())?)));
    drop(input);
    supervisor.wait()?;
    let (supervisor, guardian) = sizes?;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let (supervisor, guardian) = (megabytes(supervisor), megabytes(guardian));
    setup
        .row(11, "resident memory of distlock run")
        .figure(format!("{supervisor:.1} MB, guardian {guardian:.1} MB"))
        .goal("≤ 15 MB together", supervisor + guardian <= 15.0);
    setup.keep(
        "command, resident",
        json!({ "supervisor": supervisor, "guardian": guardian }),
    )
}
