//! The summary: a numbered line for each job that was done, in a table that all workers share.
//!
//! Reading the last number and writing the next is a critical section, and nothing in the table
//! keeps two workers from the same number. The lock does, also from a worker that has lost it and
//! does not know yet: its transaction is fenced.

use std::path::Path;
use std::sync::Mutex;

use distlock::{ErrorKind, Guard};
use postgres::{Client, NoTls, Transaction};

use crate::folder;

/// The table, for the time of the demo.
pub(crate) struct Table {
    url: String,
    name: String,
}

impl Table {
    pub(crate) fn make(url: &str, folder: &Path) -> anyhow::Result<Table> {
        let table = Table {
            url: url.to_owned(),
            name: name(folder),
        };
        let columns = "line bigint NOT NULL, job bigint NOT NULL, process int NOT NULL";
        Client::connect(url, NoTls)?
            .batch_execute(&format!("CREATE TABLE {} ({columns})", table.name))?;
        Ok(table)
    }

    /// How many lines are not numbered as they should be.
    pub(crate) fn misnumbered(&self) -> anyhow::Result<usize> {
        let lines = format!("SELECT line FROM {} ORDER BY line", self.name);
        let lines = Client::connect(&self.url, NoTls)?.query(&lines, &[])?;
        let is_wrong = |(number, row): &(i64, _)| *number != postgres::Row::get::<_, i64>(row, 0);
        Ok((1..).zip(lines).filter(is_wrong).count())
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if let Ok(mut client) = Client::connect(&self.url, NoTls) {
            let dropped = client.batch_execute(&format!("DROP TABLE {}", self.name));
            // A throwaway server goes with it.
            dropped.ok();
        }
    }
}

fn name(folder: &Path) -> String {
    format!("\"distlock demo {}\"", folder::run_name(folder))
}

/// A worker process's side: one connection, which is made again if it is lost.
pub(crate) struct Summary {
    url: String,
    table: String,
    client: Mutex<Option<Client>>,
}

impl Summary {
    pub(crate) fn new(url: &str, folder: &Path) -> Summary {
        Summary {
            url: url.to_owned(),
            table: name(folder),
            client: Mutex::new(None),
        }
    }

    /// Adds the line of `job`, under the lock of the summary. Adding it again has no effect.
    pub(crate) fn add(&self, guard: &Guard, job: u32, process: u16) -> anyhow::Result<()> {
        let mut place = self.client.lock().expect("no thread has panicked");
        let mut client = match place.take() {
            Some(client) => client,
            None => Client::connect(&self.url, NoTls)?,
        };
        let mut transaction = client.transaction()?;
        guard.fence(&mut transaction)?;
        self.write(&mut transaction, job.into(), process.into())?;
        transaction.commit()?;
        *place = Some(client);
        Ok(())
    }

    fn write(
        &self,
        transaction: &mut Transaction<'_>,
        job: i64,
        process: i32,
    ) -> anyhow::Result<()> {
        let of_job = format!("SELECT FROM {} WHERE job = $1", self.table);
        if transaction.execute(&of_job, &[&job])? > 0 {
            return Ok(());
        }
        let last = format!("SELECT coalesce(max(line), 0) FROM {}", self.table);
        let last: i64 = transaction.query_one(&last, &[])?.get(0);
        let next = format!("INSERT INTO {} VALUES ($1, $2, $3)", self.table);
        transaction.execute(&next, &[&(last + 1), &job, &process])?;
        Ok(())
    }
}

/// True if the line may be added later, under another hold: the lock was lost, or the database is
/// away.
pub(crate) fn may_pass(error: &anyhow::Error) -> bool {
    if let Some(error) = error.downcast_ref::<distlock::Error>() {
        error.kind() == ErrorKind::Lost || error.is_transient()
    } else if let Some(error) = error.downcast_ref::<postgres::Error>() {
        // The connection failed; or the server stops, starts or has no slot free.
        let passes = |code: &str| {
            ["57P", "08", "53"]
                .iter()
                .any(|class| code.starts_with(class))
        };
        error.code().is_none_or(|code| passes(code.code()))
    } else {
        false
    }
}
