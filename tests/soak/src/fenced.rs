//! Writes to a table without a token, in fenced transactions.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use distlock::{ErrorKind, Guard, Manager};
use postgres::{Client, NoTls};

use crate::history::FencedWrite;
use crate::worker::{Broken, Role, SPACE};

/// The keys of the holds that write.
const WRITTEN: Range<i32> = 200..202;

/// Names the connection string of the writers' own connections, which no fault is meant for.
pub(crate) const WRITERS_URL: &str = "WRITERS_URL";

const PAUSE: Duration = Duration::from_millis(20);

/// Creates the table.
pub(crate) fn make_table(client: &mut Client) -> Result<(), postgres::Error> {
    client.batch_execute(
        "CREATE TABLE written (n bigserial, key int NOT NULL, hold text NOT NULL, \
         shared bool NOT NULL)",
    )
}

/// All writes that were committed, in their order.
pub(crate) fn read(client: &mut Client) -> Result<Vec<FencedWrite>, postgres::Error> {
    let rows = client.query("SELECT key, hold, shared FROM written ORDER BY n", &[])?;
    let write = |row: &postgres::Row| FencedWrite {
        key: row.get(0),
        hold: row.get(1),
        shared: row.get(2),
    };
    Ok(rows.iter().map(write).collect())
}

/// A thread that takes locks and writes under them. It never asks whether a lock is lost: it relies
/// on the fence alone.
pub(crate) struct Writer<'a> {
    role: &'a Role,
    mgr: &'a Manager,
    url: String,
    client: Option<Client>,
    rng: fastrand::Rng,
    holds: u64,
}

/// A hold that has written, or is about to.
struct Held {
    guard: Option<Guard>,
    key: i32,
    name: String,
    shared: bool,
}

/// Why no more is written under a hold.
enum Stop {
    /// The fence has refused a transaction.
    Refused,
    /// The connection, or the server, has failed.
    Failed,
}

impl From<postgres::Error> for Stop {
    fn from(_: postgres::Error) -> Stop {
        Stop::Failed
    }
}

impl<'a> Writer<'a> {
    pub(crate) fn new(role: &'a Role, mgr: &'a Manager) -> anyhow::Result<Writer<'a>> {
        let seed = role.seed ^ (u64::from(role.process) << 48 | u64::from(role.life));
        Ok(Writer {
            role,
            mgr,
            url: std::env::var(WRITERS_URL).context("WRITERS_URL is missing")?,
            client: None,
            rng: fastrand::Rng::with_seed(seed),
            holds: 0,
        })
    }

    pub(crate) fn work(&mut self, over: &AtomicBool) -> anyhow::Result<()> {
        while !over.load(Ordering::SeqCst) {
            let (key, shared) = (self.rng.i32(WRITTEN), self.rng.u8(0..4) == 0);
            let acquire = self.mgr.acquire((SPACE, key));
            let acquire = acquire.timeout(Duration::from_millis(self.rng.u64(0..1500)));
            let acquire = if shared { acquire.shared() } else { acquire };
            match acquire.try_lock() {
                Ok(Some(guard)) => {
                    self.holds += 1;
                    let Role { process, life, .. } = self.role;
                    self.hold(Held {
                        guard: Some(guard),
                        key,
                        name: format!("{process}-{life}-{}", self.holds),
                        shared,
                    });
                }
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Unavailable => thread::sleep(PAUSE),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Writes for a while, until the fence refuses it.
    fn hold(&mut self, mut held: Held) {
        let end = Instant::now() + Duration::from_millis(self.rng.u64(0..3000));
        while held.guard.is_some() && Instant::now() < end {
            match self.write(&mut held) {
                Ok(()) => {}
                Err(Stop::Refused) => return,
                Err(Stop::Failed) => {
                    self.client = None;
                    thread::sleep(PAUSE);
                }
            }
        }
    }

    /// One transaction with several writes, which may last long, and longer than its hold.
    fn write(&mut self, held: &mut Held) -> Result<(), Stop> {
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(Client::connect(&self.url, NoTls)?),
        };
        let mut transaction = client.transaction()?;
        if let Some(guard) = &held.guard
            && self.role.broken != Some(Broken::FenceLeftOut)
        {
            guard
                .fence(&mut transaction)
                .map_err(|error| match error.kind() {
                    ErrorKind::Lost => Stop::Refused,
                    _ => Stop::Failed,
                })?;
        }
        let releases_early = self.rng.u8(0..8) == 0;
        for _ in 0..self.rng.u8(1..4) {
            transaction.execute(
                "INSERT INTO written (key, hold, shared) VALUES ($1, $2, $3)",
                &[&held.key, &held.name, &held.shared],
            )?;
            let long = self.rng.u8(0..16) == 0;
            let pause = self.rng.u64(if long { 500..1500 } else { 0..4 });
            thread::sleep(Duration::from_millis(pause));
            if releases_early && self.role.broken.is_none() {
                held.guard = None;
            }
        }
        Ok(transaction.commit()?)
    }
}
