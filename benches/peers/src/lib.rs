//! The other Rust crates that take Postgres advisory locks, each behind the same two
//! calls: one pair after the other, and many tasks at once over sixteen connections.
//!
//! Both are asynchronous. Each gets the runtime that suits it: the current thread for
//! one task, where nothing has to wake another thread, and a thread a core for many.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use distributed_lock_core::traits::{DistributedLock, LockHandle, LockProvider};
use distributed_lock_postgres::PostgresLockProvider;
use sqlx::postgres::{
    PgAdvisoryLock, PgAdvisoryLockKey, PgConnectOptions, PgConnection, PgPool, PgPoolOptions,
};
use sqlx::{ConnectOptions, Connection};
use tokio::runtime::{Builder, Runtime};

/// Connections of a pool for many tasks.
pub const CONNECTIONS: u32 = 16;

/// The way to a throwaway server: the folder of its socket, and its port.
fn options(socket: &Path, port: u16) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket)
        .port(port)
        .username("postgres")
        .database("postgres")
        .disable_statement_logging()
}

fn one_thread() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

fn many_threads() -> Result<Runtime> {
    Ok(Builder::new_multi_thread().enable_all().build()?)
}

async fn pool(socket: &Path, port: u16, connections: u32) -> Result<PgPool> {
    Ok(PgPoolOptions::new()
        .min_connections(connections)
        .max_connections(connections)
        .connect_with(options(socket, port))
        .await?)
}

/// Runs `tasks` tasks that each do `pair(key)` for as long as `more` says, with a key of
/// their own.
async fn run<P, F>(tasks: u32, more: impl Fn() -> bool + Send + Sync + 'static, pair: P)
where
    P: Fn(i64) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let more = Arc::new(more);
    let tasks: Vec<_> = (0..tasks)
        .map(|task| {
            let (more, pair) = (Arc::clone(&more), pair.clone());
            tokio::spawn(async move {
                while more() {
                    pair(i64::from(task)).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task of the load has panicked");
    }
}

/// sqlx's `PgAdvisoryLock`, on one connection.
#[derive(Debug)]
pub struct Sqlx {
    runtime: Runtime,
    connection: Option<PgConnection>,
}

impl Sqlx {
    /// Connects.
    ///
    /// # Errors
    ///
    /// There is no such server.
    pub fn connect(socket: &Path, port: u16) -> Result<Sqlx> {
        let runtime = one_thread()?;
        let connection = runtime.block_on(options(socket, port).connect())?;
        Ok(Sqlx {
            runtime,
            connection: Some(connection),
        })
    }

    /// Locks and unlocks each key.
    ///
    /// # Errors
    ///
    /// The server did not do it.
    pub fn pairs(&mut self, keys: Range<i64>) -> Result<()> {
        let connection = self.connection.as_mut().context("it is closed")?;
        self.runtime.block_on(async {
            for key in keys {
                let lock = PgAdvisoryLock::with_key(PgAdvisoryLockKey::BigInt(key));
                lock.acquire(&mut *connection).await?.release_now().await?;
            }
            Ok(())
        })
    }
}

impl Drop for Sqlx {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.runtime.block_on(connection.close()).ok();
        }
    }
}

/// sqlx's `PgAdvisoryLock`, on a pool of connections.
#[derive(Debug)]
pub struct SqlxPool {
    runtime: Runtime,
    pool: PgPool,
}

impl SqlxPool {
    /// Connects.
    ///
    /// # Errors
    ///
    /// There is no such server.
    pub fn connect(socket: &Path, port: u16) -> Result<SqlxPool> {
        let runtime = many_threads()?;
        let pool = runtime.block_on(pool(socket, port, CONNECTIONS))?;
        Ok(SqlxPool { runtime, pool })
    }

    /// Locks and unlocks in `tasks` tasks for as long as `more` says.
    pub fn run(&self, tasks: u32, more: impl Fn() -> bool + Send + Sync + 'static) {
        let pool = self.pool.clone();
        self.runtime.block_on(run(tasks, more, move |key| {
            let pool = pool.clone();
            async move {
                let connection = pool.acquire().await.expect("the server is there");
                let lock = PgAdvisoryLock::with_key(PgAdvisoryLockKey::BigInt(key));
                let guard = lock.acquire(connection).await.expect("nobody else has it");
                guard.release_now().await.expect("it was held");
            }
        }));
    }
}

impl Drop for SqlxPool {
    fn drop(&mut self) {
        self.runtime.block_on(self.pool.close());
    }
}

/// `distributed-lock-postgres`, with its default settings on a pool of sqlx's.
pub struct DistributedLockPostgres {
    runtime: Runtime,
    pool: PgPool,
    provider: Arc<PostgresLockProvider>,
}

impl DistributedLockPostgres {
    /// Connects, for pairs one after the other.
    ///
    /// # Errors
    ///
    /// There is no such server.
    pub fn connect(socket: &Path, port: u16) -> Result<Self> {
        Self::with(one_thread()?, socket, port, 1)
    }

    /// Connects, for many tasks.
    ///
    /// # Errors
    ///
    /// There is no such server.
    pub fn connect_pool(socket: &Path, port: u16) -> Result<Self> {
        Self::with(many_threads()?, socket, port, CONNECTIONS)
    }

    fn with(runtime: Runtime, socket: &Path, port: u16, connections: u32) -> Result<Self> {
        let (pool, provider) = runtime.block_on(async {
            let pool = pool(socket, port, connections).await?;
            let provider = PostgresLockProvider::builder()
                .pool(pool.clone())
                .build()
                .await?;
            anyhow::Ok((pool, Arc::new(provider)))
        })?;
        Ok(DistributedLockPostgres {
            runtime,
            pool,
            provider,
        })
    }

    /// Locks and unlocks each key.
    ///
    /// # Errors
    ///
    /// The server did not do it.
    pub fn pairs(&mut self, keys: Range<i64>) -> Result<()> {
        self.runtime.block_on(async {
            for key in keys {
                pair(&self.provider, key).await?;
            }
            Ok(())
        })
    }

    /// Locks and unlocks in `tasks` tasks for as long as `more` says.
    pub fn run(&self, tasks: u32, more: impl Fn() -> bool + Send + Sync + 'static) {
        let provider = Arc::clone(&self.provider);
        self.runtime.block_on(run(tasks, more, move |key| {
            let provider = Arc::clone(&provider);
            async move { pair(&provider, key).await.expect("nobody else has it") }
        }));
    }
}

async fn pair(provider: &PostgresLockProvider, key: i64) -> Result<()> {
    // Names of up to nine ASCII characters are the key itself, without a hash.
    let lock = provider.create_lock(&key.to_string());
    // Not `acquire`, which needs a transaction and five more statements.
    let handle = lock.try_acquire().await?;
    handle.context("somebody else has it")?.release().await?;
    Ok(())
}

impl Drop for DistributedLockPostgres {
    fn drop(&mut self) {
        self.runtime.block_on(self.pool.close());
    }
}

impl std::fmt::Debug for DistributedLockPostgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DistributedLockPostgres")
            .finish_non_exhaustive()
    }
}
