//! What every scenario needs: the server, how long to measure, and where results are collected.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use distlock::Manager;
use serde::Serialize;
use serde_json::{Map, Value};
use throwaway_postgres::Server;

use crate::machine::Placement;
use crate::table::Row;

/// The server, and the results so far.
pub(crate) struct Setup {
    pub(crate) server: Server,
    pub(crate) quick: bool,
    pub(crate) results: PathBuf,
    pub(crate) placement: Placement,
    pub(crate) rows: Vec<Row>,
    pub(crate) raw: Map<String, Value>,
}

impl Setup {
    pub(crate) fn start(quick: bool, results: PathBuf) -> Result<Setup> {
        // The lock table has room for the product of the two. More than 10,000 locks are held, by
        // several managers at once.
        let server = Server::builder()
            .setting("max_locks_per_transaction", "256")
            .setting("max_connections", "300")
            .start()?;
        Ok(Setup {
            server,
            quick,
            results,
            placement: Placement::Free,
            rows: Vec::new(),
            raw: Map::new(),
        })
    }

    pub(crate) fn manager(&self) -> Result<Manager> {
        Ok(Manager::connect(&self.server.url())?)
    }

    /// A duration of `full` milliseconds, a tenth of it in a smoke run.
    pub(crate) fn millis(&self, full: u64) -> Duration {
        Duration::from_millis(if self.quick { full / 10 } else { full })
    }

    /// The number of rounds: `full`, fewer in a smoke run.
    pub(crate) fn rounds(&self, full: u32) -> i64 {
        i64::from(if self.quick { full.div_ceil(8) } else { full })
    }

    /// Stores a scenario's raw figures under `name`.
    pub(crate) fn keep(&mut self, name: &str, figures: impl Serialize) -> Result<()> {
        let name = format!("{name}, {} cpu", self.placement.name());
        self.raw.insert(name, serde_json::to_value(figures)?);
        Ok(())
    }

    /// Adds a row to the table.
    pub(crate) fn row(&mut self, target: u8, what: &str) -> &mut Row {
        self.rows.push(Row::new(target, what, self.placement));
        self.rows.last_mut().expect("it has just been added")
    }

    /// The file for a plot. `None` where it is not drawn: only one placement has plots.
    pub(crate) fn plot(&self, name: &str) -> Option<PathBuf> {
        (self.placement == Placement::Free).then(|| self.results.join(name))
    }
}
