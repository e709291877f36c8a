//! A client beside the manager, for what a manager does not tell.
//!
//! The manager connects as psql does. The driver knows less: it reads no environment and no files,
//! and not all parameters. So it may be refused, or even reach another database than the manager, and
//! is only believed if it sees the manager's lock there.

use std::env;
use std::error::Error as StdError;
use std::ffi::OsStr;
use std::time::Duration;

use distlock::{Key, Manager};
use postgres::config::{Host, SslMode};
use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};

use super::tls;
use crate::exit::with_sources;
use crate::keys::columns;

/// How the names of such variables begin.
const ELSEWHERE: [&str; 6] = [
    "PGCHANNELBINDING",
    "PGHOST",
    "PGPORT",
    "PGREQUIRE",
    "PGSERVICE",
    "PGSSL",
];

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no client.
pub(super) enum Refusal {
    /// There is no slot for it.
    Full(String),
    /// It cannot connect, or cannot be believed.
    Other(String),
}

/// A client of the same database as the same role, and the process of the manager's session.
pub(super) fn beside(dsn: &str, mgr: &Manager) -> Result<(Client, i32), Refusal> {
    if let Some(name) = env::vars_os().find_map(|(name, _)| elsewhere(&name)) {
        return Err(Refusal::Other(format!(
            "the driver alone reads no environment, which has {name}"
        )));
    }
    let mut client = connect(dsn)?;
    let lock = mgr.lock(fastrand::i64(..)).map_err(unknown)?;
    match holder(&mut client, *lock.key()).map_err(unknown)? {
        Some(pid) => Ok((client, pid)),
        None => Err(Refusal::Other(
            "the driver alone, which reads no environment and no files, reaches another database \
             or has another role"
                .to_owned(),
        )),
    }
}

fn unknown(error: impl StdError + 'static) -> Refusal {
    Refusal::Other(with_sources(&error))
}

/// The variable, if with it the manager's login goes elsewhere, or more safely. Without it a password
/// would go to a server that was not meant, or that is not verified.
fn elsewhere(name: &OsStr) -> Option<String> {
    let name = name.to_string_lossy();
    let begins = |prefix: &&str| name.starts_with(prefix);
    ELSEWHERE.iter().any(begins).then(|| name.into_owned())
}

fn connect(dsn: &str) -> Result<Client, Refusal> {
    let mut config: Config = dsn.parse().map_err(refused)?;
    config.application_name("distlock doctor");
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    let is_tcp = |host: &Host| matches!(host, Host::Tcp(_));
    // The driver sets TLS up for a unix socket, too, which has no name to set it up for.
    let may_have_tls = config.get_hosts().iter().any(is_tcp) || !config.get_hostaddrs().is_empty();
    match config.get_ssl_mode() {
        SslMode::Disable => config.connect(NoTls),
        _ if !may_have_tls => config.connect(NoTls),
        _ => config.connect(tls::with_anybody().map_err(unknown)?),
    }
    .map_err(refused)
}

fn refused(error: postgres::Error) -> Refusal {
    let why = with_sources(&error);
    match error.code() {
        Some(&SqlState::TOO_MANY_CONNECTIONS) => Refusal::Full(why),
        _ => Refusal::Other(format!(
            "the driver alone cannot connect, which reads no environment and no files: {why}"
        )),
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
