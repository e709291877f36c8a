//! Making a session: the login, what must be true of the server, and how the session
//! is set up to hold locks.

use std::sync::Arc;
use std::time::Duration;

use postgres::Client;
use tracing::warn;

use super::errors::refused;
use super::login::login;
use super::sql::{self, LOCK, UNLOCK};
use super::{Session, fence, idle_timeouts, preflight};
use crate::config::Settings;
use crate::error::Error;
use crate::target::Target;
use crate::watch::SessionState;

/// idle_session_timeout and client_connection_check_interval came with this version
/// (release notes of PostgreSQL 14).
const FIRST_WITH_LEASE: i32 = 140_000;

impl Session {
    /// Connects, which may take long: not on a thread that somebody waits for.
    pub(crate) fn connect(
        target: &Target,
        settings: &Settings,
        generation: u64,
    ) -> Result<Session, Error> {
        let mut client = login(target)?;
        let again = target.clone();
        let version = preflight::check(&mut client, target, move || login(&again))?;
        let lease = prepare(&mut client, settings, version).map_err(refused)?;
        let batch_sql = match &settings.fencing {
            None => sql::batch(),
            Some(sequence) => sql::fenced_batch(fence::sequence(&mut client, sequence)?),
        };
        let lock = client.prepare(LOCK).map_err(refused)?;
        let unlock = client.prepare(UNLOCK).map_err(refused)?;
        Ok(Session {
            client,
            state: Arc::new(SessionState::new(generation)),
            lease,
            armed: false,
            locks: 0,
            transaction: None,
            fenced: settings.fencing.is_some(),
            batch_sql,
            lock,
            unlock,
            unlock_and_lock: None,
            batch: None,
            held: None,
            codes: Vec::new(),
            numbers: Vec::new(),
        })
    }
}

/// Makes the session fit to hold locks; returns the lease that the server can keep.
fn prepare(
    client: &mut Client,
    settings: &Settings,
    version: i32,
) -> Result<Option<Duration>, postgres::Error> {
    // What a role or database may have set against long statements and idle sessions
    // is not meant for this one; nor are functions and operators of the application's.
    let with_lease = version >= FIRST_WITH_LEASE;
    let mut settled = "SET search_path = pg_catalog; SET statement_timeout = 0; \
         SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0"
        .to_owned();
    if version >= 170_000 {
        settled += "; SET transaction_timeout = 0";
    }
    if with_lease {
        settled += &format!("; {}", idle_timeouts(Duration::ZERO));
    }
    client.batch_execute(&settled)?;
    watch_network(client, settings, with_lease)?;
    if !with_lease && settings.lease.is_some() {
        warn!(
            version,
            "no lease: a server before PostgreSQL 14 cannot end silent sessions"
        );
    }
    Ok(settings.lease.filter(|_| with_lease))
}

/// Has the server notice that this side is gone. A help only, which not every platform
/// has: the lease is what counts.
fn watch_network(
    client: &mut Client,
    settings: &Settings,
    with_check_interval: bool,
) -> Result<(), postgres::Error> {
    let keepalives = settings.tcp_keepalives;
    let mut parameters = vec![
        ("tcp_user_timeout", settings.tcp_user_timeout.as_millis()),
        ("tcp_keepalives_idle", u128::from(keepalives.idle.as_secs())),
        (
            "tcp_keepalives_interval",
            u128::from(keepalives.interval.as_secs()),
        ),
        ("tcp_keepalives_count", u128::from(keepalives.retries)),
    ];
    if with_check_interval {
        let interval = settings.client_check_interval.as_millis();
        parameters.push(("client_connection_check_interval", interval));
    }
    let set = |(name, value): &(&str, u128)| format!("SET {name} = {value}");
    let all: Vec<String> = parameters.iter().map(set).collect();
    match client.batch_execute(&all.join("; ")) {
        Err(error) if error.code().is_some() => {}
        done => return done,
    }
    // Each by itself, to see which one it is.
    for (parameter, set) in parameters.iter().zip(all) {
        if let Err(error) = client.batch_execute(&set) {
            if error.code().is_none() {
                return Err(error);
            }
            let error = &error as &dyn std::error::Error;
            warn!(
                error,
                name = parameter.0,
                "the server does not take this setting"
            );
        }
    }
    Ok(())
}
