//! Makes a session: connects, verifies the server and the path to it, and sets the session up
//! to hold locks.

use postgres::Client;
use tracing::warn;

use super::errors::refused;
use super::preflight::{self, Proven};
use super::target::Target;
use crate::config::Settings;
use crate::error::Error;
use crate::session::Session;
use crate::session::errors::retry_if_cancelled;
use crate::session::marker::{Marker, mark_again};
use crate::session::sequence::{self, Missing};

/// What `DISCARD ALL` does, which is not allowed among other statements: the last client of a
/// pooled session may have left any state. Locks are not released: the marker is proven to be
/// the only one. `RESET ALL` restores a role's `statement_timeout`, which is disabled again.
const CLEAN: &str = "SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; \
     SET statement_timeout = 0; CLOSE ALL; \
     UNLISTEN *; DEALLOCATE ALL; DISCARD PLANS; DISCARD TEMP; DISCARD SEQUENCES";

/// Replaces settings of a role or database that are not meant for this session: timeouts of
/// statements and of idle sessions, read-only or serializable transactions, functions and
/// operators of the application's. JIT compilation would take longer than all the rest.
const SETTINGS: &str = "SET lock_timeout = 0; \
     SET idle_session_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
     SET default_transaction_read_only = off; SET default_transaction_deferrable = off; \
     SET default_transaction_isolation = 'read committed'; SET jit = off; \
     SET client_encoding = 'UTF8'; SET search_path = pg_catalog";

/// The first version with `transaction_timeout`.
const WITH_TRANSACTION_TIMEOUT: i32 = 170_000;

/// Connects, which may take long: never on a thread that callers wait for. With fencing,
/// `missing` says what to do about a sequence that does not exist.
pub(super) fn connect_once(
    target: &Target,
    settings: &Settings,
    missing: Missing,
    generation: u64,
) -> Result<Session, Error> {
    let Proven {
        mut client,
        wait_notice,
        pid,
        is_pooled,
        version,
        marker,
    } = preflight::connect(target)?;
    let name = target.config.get_application_name().unwrap_or_default();
    prepare(&mut client, settings, version, name, marker).map_err(refused)?;
    let sequence = match &settings.fencing {
        None => None,
        Some(name) => Some(sequence::find_or_make(&mut client, name, missing)?),
    };
    let marker = Marker::new(marker, pid, is_pooled);
    Ok(Session::new(
        client,
        wait_notice,
        marker,
        sequence,
        settings.lease,
        generation,
    ))
}

/// Resets the session and sets it up to hold locks, in one round trip if the server accepts all
/// settings.
fn prepare(
    client: &mut Client,
    settings: &Settings,
    version: i32,
    application_name: &str,
    marker: i32,
) -> Result<(), postgres::Error> {
    // An `E''` string, whose meaning does not depend on a setting.
    let name = application_name.replace('\\', r"\\").replace('\'', "''");
    let mut all = format!(
        "SET LOCAL statement_timeout = 0; {CLEAN}; {SETTINGS}; \
         SET application_name = E'{name}'; {}",
        mark_again(marker),
    );
    if version >= WITH_TRANSACTION_TIMEOUT {
        all += "; SET transaction_timeout = 0";
    }
    let network = network_settings(settings);
    let set_all = network
        .iter()
        .fold(all.clone(), |all, (_, set)| all + "; " + set);
    match retry_if_cancelled(|| client.batch_execute(&set_all)) {
        Err(error) if error.code().is_some() => {}
        done => return done,
    }
    retry_if_cancelled(|| client.batch_execute(&all))?;
    // One by one, to find the setting that the platform does not support.
    for (name, set) in &network {
        if let Err(error) = client.batch_execute(set) {
            if error.code().is_none() {
                return Err(error);
            }
            let error = &error as &dyn std::error::Error;
            warn!(error, name, "the server does not accept this setting");
        }
    }
    Ok(())
}

/// Makes the server detect that this client is gone. Best effort, because not every platform
/// supports it: only the lease is relied on.
fn network_settings(settings: &Settings) -> Vec<(&'static str, String)> {
    let keepalives = settings.tcp_keepalives;
    [
        ("tcp_user_timeout", settings.tcp_user_timeout.as_millis()),
        ("tcp_keepalives_idle", u128::from(keepalives.idle.as_secs())),
        (
            "tcp_keepalives_interval",
            u128::from(keepalives.interval.as_secs()),
        ),
        ("tcp_keepalives_count", u128::from(keepalives.retries)),
        (
            "client_connection_check_interval",
            settings.client_check_interval.as_millis(),
        ),
    ]
    .into_iter()
    .map(|(name, value)| (name, format!("SET {name} = {value}")))
    .collect()
}
