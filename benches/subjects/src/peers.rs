//! The other Rust crates, on sqlx pools. Both are asynchronous.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result};
use distributed_lock_core::traits::{DistributedLock, LockHandle, LockProvider};
use distributed_lock_postgres::PostgresLockProvider;
use sqlx::ConnectOptions;
use sqlx::postgres::{
    PgAdvisoryLock, PgAdvisoryLockKey, PgConnectOptions, PgConnection, PgPool, PgPoolOptions,
};
use throwaway_postgres::Server;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use crate::subject::{More, Subject};

/// The number of connections of a pool for many tasks.
pub const CONNECTIONS: u32 = 16;

/// Connections, and what runs the tasks that use them.
struct Pool {
    runtime: Runtime,
    connections: PgPool,
}

impl Pool {
    /// Runs one connection on the current thread, so that no other thread is woken, and many on
    /// one thread per core.
    fn connect(server: &Server, connections: u32) -> Result<Pool> {
        let mut builder = match connections {
            1 => Builder::new_current_thread(),
            _ => Builder::new_multi_thread(),
        };
        let runtime = builder.enable_all().build()?;
        let options = PgConnectOptions::new_without_pgpass()
            .socket(server.folder())
            .port(server.port())
            .username("postgres")
            .database("postgres")
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .min_connections(connections)
            .max_connections(connections)
            .connect_with(options);
        Ok(Pool {
            connections: runtime.block_on(pool)?,
            runtime,
        })
    }

    /// Runs that many tasks, each with a key of its own, which call `pair` while `more` returns
    /// true.
    fn load<F>(
        &self,
        tasks: u32,
        more: &More,
        pair: impl Fn(i64) -> F + Clone + Send + 'static,
    ) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send,
    {
        self.runtime.block_on(async {
            let mut running = JoinSet::new();
            for key in 0..i64::from(tasks) {
                let (more, pair) = (Arc::clone(more), pair.clone());
                running.spawn(async move {
                    while more() {
                        pair(key).await?;
                    }
                    Ok(())
                });
            }
            running.join_all().await.into_iter().collect()
        })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.runtime.block_on(self.connections.close());
    }
}

/// sqlx's `PgAdvisoryLock`.
pub struct Sqlx(Pool);

impl Sqlx {
    /// Connects.
    pub fn connect(server: &Server, connections: u32) -> Result<Sqlx> {
        Ok(Sqlx(Pool::connect(server, connections)?))
    }

    async fn pair(connection: &mut PgConnection, key: i64) -> Result<()> {
        let lock = PgAdvisoryLock::with_key(PgAdvisoryLockKey::BigInt(key));
        lock.acquire(connection).await?.release_now().await?;
        Ok(())
    }
}

impl Subject for Sqlx {
    fn name(&self) -> &'static str {
        "sqlx"
    }

    fn pairs(&mut self, keys: Range<i64>) -> Result<()> {
        self.0.runtime.block_on(async {
            // Once for all keys: the pool checks the connection at the server each time.
            let mut connection = self.0.connections.acquire().await?;
            for key in keys {
                Sqlx::pair(&mut connection, key).await?;
            }
            Ok(())
        })
    }

    fn load(&mut self, tasks: u32, more: &More) -> Result<()> {
        let connections = self.0.connections.clone();
        self.0.load(tasks, more, move |key| {
            let connections = connections.clone();
            async move { Sqlx::pair(&mut *connections.acquire().await?, key).await }
        })
    }
}

/// `distributed-lock-postgres`, with its default settings.
pub struct DistributedLockPostgres {
    pool: Pool,
    provider: Arc<PostgresLockProvider>,
}

impl DistributedLockPostgres {
    /// Connects.
    pub fn connect(server: &Server, connections: u32) -> Result<Self> {
        let pool = Pool::connect(server, connections)?;
        let provider = PostgresLockProvider::builder().pool(pool.connections.clone());
        let provider = Arc::new(pool.runtime.block_on(provider.build())?);
        Ok(DistributedLockPostgres { pool, provider })
    }

    async fn pair(provider: &PostgresLockProvider, key: i64) -> Result<()> {
        // Names of up to nine ASCII characters are encoded in the key itself, without a hash.
        let lock = provider.create_lock(&key.to_string());
        // Not `acquire`, which needs a transaction and five more statements.
        let handle = lock.try_acquire().await?;
        handle.context("somebody else has it")?.release().await?;
        Ok(())
    }
}

impl Subject for DistributedLockPostgres {
    fn name(&self) -> &'static str {
        "distributed-lock-postgres"
    }

    fn pairs(&mut self, keys: Range<i64>) -> Result<()> {
        self.pool.runtime.block_on(async {
            for key in keys {
                Self::pair(&self.provider, key).await?;
            }
            Ok(())
        })
    }

    fn load(&mut self, tasks: u32, more: &More) -> Result<()> {
        let provider = Arc::clone(&self.provider);
        self.pool.load(tasks, more, move |key| {
            let provider = Arc::clone(&provider);
            async move { Self::pair(&provider, key).await }
        })
    }
}
