//! PostgreSQL's own load generator, in C.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use subjects::CONNECTIONS;
use throwaway_postgres::Server;

const PAIR: &str = "SELECT pg_try_advisory_lock(:client_id);\n\
                    SELECT pg_advisory_unlock(:client_id);\n";

/// The program, and the script that it runs.
pub(crate) struct Pgbench {
    host: String,
    port: String,
    script: tempfile::NamedTempFile,
}

impl Pgbench {
    pub(crate) fn is_installed() -> bool {
        let version = Command::new("pgbench").arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    }

    /// With prepared statements, which `pipelined` sends together.
    pub(crate) fn new(server: &Server, pipelined: bool) -> Result<Pgbench> {
        let script = tempfile::NamedTempFile::new()?;
        let pair = match pipelined {
            true => format!("\\startpipeline\n{PAIR}\\endpipeline\n"),
            false => PAIR.to_owned(),
        };
        fs::write(&script, pair)?;
        Ok(Pgbench {
            host: server.folder().display().to_string(),
            port: server.port().to_string(),
            script,
        })
    }

    /// Pairs per second.
    pub(crate) fn rate(&self, time: Duration) -> Result<f64> {
        let seconds = time.as_secs().max(1).to_string();
        let connections = CONNECTIONS.to_string();
        let output = Command::new("pgbench")
            .args(["-n", "-M", "prepared", "-c", &connections, "-j", "2"])
            .args(["-T", &seconds, "-h", &self.host, "-p", &self.port])
            .args(["-U", "postgres", "-f"])
            .arg(self.script.path())
            .arg("postgres")
            .output()?;
        ensure!(
            output.status.success(),
            "pgbench failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
            .context("pgbench said no rate")
    }
}
