//! The bare `postgres` client: a round trip to lock, and another to unlock.

use std::ops::Range;

use anyhow::{Result, ensure};
use postgres::{Client, NoTls, Statement};

use crate::subject::{More, Subject};

/// The first key of a load. No other subject uses it.
const KEYS: i64 = 1 << 41;

/// One connection and the statements that lock and unlock.
pub struct BareClient {
    client: Client,
    statements: [Statement; 2],
    reads_rows: bool,
}

impl BareClient {
    /// Connects, with statements that return a row only on success: rows are counted and not
    /// read.
    pub fn connect(url: &str) -> Result<BareClient> {
        let lock = "SELECT FROM pg_try_advisory_lock($1) l WHERE l";
        let unlock = "SELECT FROM pg_advisory_unlock($1) l WHERE l";
        BareClient::prepare(url, lock, unlock, false)
    }

    /// Connects, with the plain statements, whose row has the result.
    pub fn reading_rows(url: &str) -> Result<BareClient> {
        let lock = "SELECT pg_try_advisory_lock($1)";
        let unlock = "SELECT pg_advisory_unlock($1)";
        BareClient::prepare(url, lock, unlock, true)
    }

    fn prepare(url: &str, lock: &str, unlock: &str, reads_rows: bool) -> Result<BareClient> {
        let mut client = Client::connect(url, NoTls)?;
        Ok(BareClient {
            statements: [client.prepare(lock)?, client.prepare(unlock)?],
            client,
            reads_rows,
        })
    }

    /// Waits for `key` in the server's queue.
    pub fn lock(&mut self, key: i64) -> Result<()> {
        self.client
            .execute("SELECT pg_advisory_lock($1)", &[&key])?;
        Ok(())
    }

    /// Gives `key` back.
    pub fn unlock(&mut self, key: i64) -> Result<()> {
        self.client.execute(&self.statements[1], &[&key])?;
        Ok(())
    }

    /// Locks all of `keys` until the connection ends.
    pub fn hold(&mut self, keys: Range<i64>) -> Result<()> {
        let take = "SELECT pg_advisory_lock(n) FROM generate_series($1::int8, $2::int8) n";
        self.client.execute(take, &[&keys.start, &(keys.end - 1)])?;
        Ok(())
    }
}

impl Subject for BareClient {
    fn name(&self) -> &'static str {
        "bare client"
    }

    fn pairs(&mut self, keys: Range<i64>) -> Result<()> {
        for key in keys {
            for statement in &self.statements {
                let done = if self.reads_rows {
                    self.client.query_one(statement, &[&key])?.get(0)
                } else {
                    self.client.execute(statement, &[&key])? == 1
                };
                ensure!(done, "somebody else has the lock");
            }
        }
        Ok(())
    }

    /// One pair at a time: on one connection more tasks would only alternate.
    fn load(&mut self, _: u32, more: &More) -> Result<()> {
        let mut keys = (KEYS..KEYS + 50).cycle().take_while(|_| more());
        keys.try_for_each(|key| self.pairs(key..key + 1))
    }
}
