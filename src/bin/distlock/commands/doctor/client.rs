//! A client beside the manager, for what a manager does not tell.

use std::error::Error as StdError;

use distlock::{Builder, Key, Manager};
use postgres::Client;
use postgres::error::SqlState;

use crate::exit::with_sources;
use crate::keys::columns;

/// Why there is no client.
pub(super) enum Refusal {
    /// There is no slot for it.
    Full(String),
    /// It cannot connect, or cannot be believed.
    Other(String),
}

/// A client of the same database as the same role, and the process of the manager's session. It is
/// only believed if it sees the manager's lock: a name may have several servers.
pub(super) fn beside(builder: Builder, mgr: &Manager) -> Result<(Client, i32), Refusal> {
    let client = builder.application_name("distlock doctor").client();
    let mut client = client.map_err(refused)?;
    let lock = mgr.lock(fastrand::i64(..)).map_err(unknown)?;
    match holder(&mut client, *lock.key()).map_err(unknown)? {
        Some(pid) => Ok((client, pid)),
        None => Err(Refusal::Other(
            "a second connection reaches another server or database".to_owned(),
        )),
    }
}

fn unknown(error: impl StdError + 'static) -> Refusal {
    Refusal::Other(with_sources(&error))
}

fn refused(error: distlock::Error) -> Refusal {
    let of_server = error.source().and_then(|it| it.downcast_ref());
    let code = of_server.and_then(postgres::Error::code);
    match code == Some(&SqlState::TOO_MANY_CONNECTIONS) {
        true => Refusal::Full(with_sources(&error)),
        false => unknown(error),
    }
}

/// The session of the same role that holds this lock.
fn holder(client: &mut Client, key: Key) -> Result<Option<i32>, postgres::Error> {
    let (classid, objid, objsubid) = columns(key);
    let row = client.query_opt(
        "SELECT l.pid FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
         WHERE l.locktype = 'advisory' AND l.granted AND a.usename = session_user \
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND l.classid = $1 AND l.objid = $2 AND l.objsubid = $3",
        &[&classid, &objid, &i16::from(objsubid)],
    )?;
    row.map(|row| row.try_get(0)).transpose()
}
