//! The trait of everything that is measured.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;

/// True while a load is to run one more pair.
pub type More = Arc<dyn Fn() -> bool + Send + Sync>;

/// One way to lock and unlock on a server.
pub trait Subject {
    /// Its name in the tables.
    fn name(&self) -> &'static str;

    /// Locks and unlocks each key, one after the other.
    fn pairs(&mut self, keys: Range<i64>) -> Result<()>;

    /// Locks and unlocks in `tasks` threads or tasks, no two on one key, while `more` returns
    /// true.
    fn load(&mut self, tasks: u32, more: &More) -> Result<()>;
}
