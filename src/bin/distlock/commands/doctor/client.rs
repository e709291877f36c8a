//! A client beside the manager, for what a manager does not tell.
//!
//! The manager connects as psql does. The driver knows less: it reads no environment and no files,
//! and not all parameters. So it may be refused, or even reach another server than the manager, and
//! is only believed if it sees the manager's lock there.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use distlock::{Key, Manager};
use postgres::config::SslMode;
use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::exit::with_sources;
use crate::keys::columns;

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
    let mut client = connect(dsn).map_err(|error| {
        let why = with_sources(&error);
        match error.code() {
            Some(&SqlState::TOO_MANY_CONNECTIONS) => Refusal::Full(why),
            _ => Refusal::Other(format!(
                "the driver alone cannot connect, which reads no environment and no files: {why}"
            )),
        }
    })?;
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

fn connect(dsn: &str) -> Result<Client, postgres::Error> {
    let mut config: Config = dsn.parse()?;
    config.application_name("distlock doctor");
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    match config.get_ssl_mode() {
        SslMode::Require => config.connect(tls()),
        _ => config.connect(NoTls),
    }
}

/// Trusts the authorities of the system.
fn tls() -> MakeRustlsConnect {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions();
    MakeRustlsConnect::new(
        config
            .expect("ring has the protocols that are its default")
            .with_root_certificates(roots)
            .with_no_client_auth(),
    )
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
