//! What every scenario needs: the server, how long to measure, and the subjects.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use distlock::Manager;
use postgres::{Client, NoTls, Statement};
use serde::Serialize;
use serde_json::{Map, Value};
use throwaway_postgres::Server;

use crate::machine::Placement;
use crate::table::Row;

/// The server, and what has been found so far.
pub(crate) struct Setup {
    pub(crate) server: Server,
    pub(crate) quick: bool,
    pub(crate) placement: Placement,
    pub(crate) rows: Vec<Row>,
    pub(crate) raw: Map<String, Value>,
}

impl Setup {
    pub(crate) fn start(quick: bool) -> Result<Setup> {
        // Lock table: times max_connections. More than 10,000 are held, by several at once.
        let server = Server::builder()
            .setting("max_locks_per_transaction", "256")
            .setting("max_connections", "300")
            .start()?;
        Ok(Setup {
            server,
            quick,
            placement: Placement::Free,
            rows: Vec::new(),
            raw: Map::new(),
        })
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    pub(crate) fn socket(&self) -> &Path {
        self.server.folder()
    }

    pub(crate) fn port(&self) -> u16 {
        self.server.port()
    }

    pub(crate) fn manager(&self) -> Result<Manager> {
        Ok(Manager::connect(&self.url())?)
    }

    /// A tenth of it in a smoke run.
    pub(crate) fn millis(&self, full: u64) -> Duration {
        Duration::from_millis(if self.quick { full / 10 } else { full })
    }

    /// So many rounds, fewer in a smoke run.
    pub(crate) fn rounds(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(8) } else { full }
    }

    /// Keeps a scenario's figures under `name`.
    pub(crate) fn keep(&mut self, name: &str, figures: impl Serialize) -> Result<()> {
        let name = format!("{name}, {} cpu", self.placement.name());
        self.raw.insert(name, serde_json::to_value(figures)?);
        Ok(())
    }

    pub(crate) fn row(&mut self, target: u8, what: &str) -> Row {
        Row::new(target, what, self.placement)
    }
}

/// The bare client with the SQL that the source document ends with: a round trip to
/// lock, and another to unlock.
pub(crate) struct Bare {
    client: Client,
    lock: Statement,
    unlock: Statement,
}

impl Bare {
    pub(crate) fn connect(url: &str) -> Result<Bare> {
        let mut client = Client::connect(url, NoTls)?;
        Ok(Bare {
            lock: client.prepare("SELECT FROM pg_try_advisory_lock($1) l WHERE l")?,
            unlock: client.prepare("SELECT FROM pg_advisory_unlock($1) l WHERE l")?,
            client,
        })
    }

    pub(crate) fn pairs(&mut self, keys: Range<i64>) -> Result<()> {
        for key in keys {
            for statement in [&self.lock, &self.unlock] {
                let rows = self.client.execute(statement, &[&key])?;
                anyhow::ensure!(rows == 1, "somebody else has the lock");
            }
        }
        Ok(())
    }

    pub(crate) fn hold(&mut self, keys: Range<i64>) -> Result<()> {
        let take = "SELECT pg_advisory_lock(n) FROM generate_series($1::int8, $2::int8) n";
        self.client.execute(take, &[&keys.start, &(keys.end - 1)])?;
        Ok(())
    }
}

/// One pair after the other, each with another key, and nobody waits for the last
/// unlock.
pub(crate) fn pairs(mgr: &Manager, keys: Range<i64>) -> Result<()> {
    for key in keys {
        drop(mgr.lock(key)?);
    }
    Ok(())
}

/// Microseconds for each of `count`.
pub(crate) fn micros_each(count: u64, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1e6 / count as f64)
}
