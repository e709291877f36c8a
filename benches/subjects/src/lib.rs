//! What is measured: the manager, the bare client and the other Rust crates that take
//! Postgres advisory locks, each behind one trait.

mod bare;
mod manager;
mod peers;

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use throwaway_postgres::Server;

pub use bare::BareClient;
pub use manager::{pairs, spread};
pub use peers::{CONNECTIONS, DistributedLockPostgres, Sqlx};

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

/// All that the manager is compared with, on one connection each.
pub fn others(server: &Server) -> Result<[Box<dyn Subject>; 3]> {
    Ok([
        Box::new(BareClient::connect(&server.url())?),
        Box::new(Sqlx::connect(server, 1)?),
        Box::new(DistributedLockPostgres::connect(server, 1)?),
    ])
}
