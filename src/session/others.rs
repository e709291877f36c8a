//! Which other sessions hold a lock.

use std::fmt;

use postgres::SimpleQueryRow;

use super::statements::is_of;
use super::{Lost, Session};
use crate::key::Key;

/// A session of another process, as far as this role may see it.
#[derive(Clone, Debug)]
pub(crate) struct OtherSession {
    pid: String,
    application: Option<String>,
    address: Option<String>,
}

impl OtherSession {
    fn read(row: &SimpleQueryRow) -> Option<Self> {
        let text = |column| Some(row.try_get(column).ok()??.to_owned());
        Some(OtherSession {
            pid: text(0)?,
            application: text(1),
            address: text(2),
        })
    }
}

impl fmt::Display for OtherSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the session with backend process {}", self.pid)?;
        if let Some(application) = &self.application {
            write!(f, " of {application:?}")?;
        }
        match &self.address {
            Some(address) => write!(f, " at {address}"),
            None => Ok(()),
        }
    }
}

impl Session {
    /// Some of the other sessions that hold `key`, or have a transaction open that an earlier holder
    /// has fenced; none if that cannot be found out.
    pub(crate) fn others_with(&mut self, key: Key) -> Result<Vec<OtherSession>, Lost> {
        let others = self.ask(&statement(key), OtherSession::read, &|| {})?;
        Ok(others.unwrap_or_default())
    }
}

fn statement(key: Key) -> String {
    format!(
        "SELECT l.pid, a.application_name, a.client_addr::text FROM pg_catalog.pg_locks l \
         LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
         WHERE l.locktype = 'advisory' AND l.granted AND l.pid <> pg_catalog.pg_backend_pid() \
         AND l.database = (SELECT oid FROM pg_catalog.pg_database \
         WHERE datname = pg_catalog.current_database()) \
         AND ({} OR {}) LIMIT 3",
        is_of(key),
        is_of(key.fenced()),
    )
}
