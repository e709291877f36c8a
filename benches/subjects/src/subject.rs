//! What is asked of everything that is measured.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;

/// Tells a load before each pair whether there is to be one more.
pub type More = Arc<dyn Fn() -> bool + Send + Sync>;

/// One way to lock and unlock on a server.
pub trait Subject {
    /// As the tables call it.
    fn name(&self) -> &'static str;

    /// Locks and unlocks each key, one after the other.
    fn pairs(&mut self, keys: Range<i64>) -> Result<()>;

    /// Locks and unlocks in `tasks` threads or tasks, no two on one key, while there is to
    /// be one `more`.
    fn load(&mut self, tasks: u32, more: &More) -> Result<()>;
}
