//! What is measured: the manager, the bare client and the other Rust crates that take
//! Postgres advisory locks, each behind one trait.

mod bare;
mod manager;
mod peers;
mod subject;

use anyhow::Result;
use throwaway_postgres::Server;

pub use bare::BareClient;
pub use manager::{pairs, spread};
pub use peers::{CONNECTIONS, DistributedLockPostgres, Sqlx};
pub use subject::{More, Subject};

/// All that the manager is compared with, on one connection each.
pub fn others(server: &Server) -> Result<[Box<dyn Subject>; 3]> {
    Ok([
        Box::new(BareClient::connect(&server.url())?),
        Box::new(Sqlx::connect(server, 1)?),
        Box::new(DistributedLockPostgres::connect(server, 1)?),
    ])
}
