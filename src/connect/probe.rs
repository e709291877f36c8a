//! The statements of the [preflight](super::preflight).
//!
//! Each is a simple query, which takes one round trip and prepares nothing. Each begins by
//! disabling a role's or database's `statement_timeout`, for itself alone. All functions and
//! operators are qualified with their schema: the session's `search_path` is not set yet.
//!
//! A new session has an empty cache of the catalog, so that to plan a query takes longer than to run
//! it. `pg_stat_get_activity`, the function behind the view `pg_stat_activity`, saves 1 ms in
//! each of the two sessions ([Statistics Functions]).
//!
//! [Statistics Functions]: https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-STATS-FUNCTIONS

use crate::key::Key;
use crate::session::marker::{MARKER_CLASS, marker_key};
use crate::session::statements::is_of;

/// The functions that a session calls to lock and unlock.
const FUNCTIONS: [&str; 8] = [
    "pg_try_advisory_lock(bigint)",
    "pg_try_advisory_lock(integer, integer)",
    "pg_try_advisory_lock_shared(bigint)",
    "pg_try_advisory_lock_shared(integer, integer)",
    "pg_advisory_unlock(bigint)",
    "pg_advisory_unlock(integer, integer)",
    "pg_advisory_unlock_shared(bigint)",
    "pg_advisory_unlock_shared(integer, integer)",
];

const LIMITLESS: &str = "SET LOCAL statement_timeout = 0;";

const PRIMARY: &str = "NOT pg_catalog.pg_is_in_recovery()";

const PID: &str = "pg_catalog.pg_backend_pid()";

/// When the server was started, which identifies it.
const SERVER: &str = "(EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time()) \
     OPERATOR(pg_catalog.*) 1000000)::bigint";

const ADVISORY: &str = "locktype OPERATOR(pg_catalog.=) 'advisory' AND granted";

const OWN: &str = "pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()";

/// Takes `probe`, returns whether `pg_locks` shows it, and all else that the checks need. If the
/// probe of an earlier connect is still held, returns that and takes none.
pub(super) fn leave(probe: i64, earlier: Option<i64>) -> String {
    let functions = FUNCTIONS
        .map(|function| format!("'pg_catalog.{function}'"))
        .join(", ");
    let kept = match earlier {
        Some(earlier) => format!("EXISTS (SELECT {})", holders_of(earlier)),
        None => "false".to_owned(),
    };
    format!(
        "{LIMITLESS} \
         SELECT pg_catalog.current_setting('server_version_num') AS version, \
         {PRIMARY} AS primary, {PID} AS pid, {SERVER} AS server, {age}, \
         (SELECT pg_catalog.string_agg(f, ', ') FROM pg_catalog.unnest(ARRAY[{functions}]) AS f \
         WHERE NOT pg_catalog.has_function_privilege(f, 'EXECUTE')) AS forbidden, \
         {kept} AS kept; \
         SELECT CASE WHEN {PRIMARY} AND NOT {kept} \
         THEN pg_catalog.pg_try_advisory_lock({probe}) END AS locked; \
         SELECT EXISTS (SELECT {holders} AND {OWN}) AS shown",
        age = age(),
        holders = holders_of(probe),
    )
}

/// Takes the marker with the second half `marker` if no session holds `probe` any more.
pub(super) fn mark(probe: i64, marker: i32) -> String {
    format!(
        "{LIMITLESS} \
         SELECT {PRIMARY} AS primary, {PID} AS pid, {SERVER} AS server, \
         {age}, \
         keeper, CASE WHEN keeper IS NULL \
         THEN pg_catalog.pg_try_advisory_lock({MARKER_CLASS}, {marker}) END AS marked \
         FROM (SELECT pg_catalog.max(pid) AS keeper {holders}) AS probe",
        age = age(),
        holders = holders_of(probe),
    )
}

/// How many locks this session holds, whether the marker is one of them, and whether the server
/// process `first`, which was started at `born`, is still running.
pub(super) fn find(marker: i32, first: i32, born: i64) -> String {
    format!(
        "{LIMITLESS} \
         SELECT {PID} AS pid, EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity({first}) \
         WHERE {start} OPERATOR(pg_catalog.=) {born}) AS survived, \
         pg_catalog.count(*) AS locks, pg_catalog.bool_or({is_marker}) AS marked \
         FROM pg_catalog.pg_locks WHERE {ADVISORY} AND {OWN}",
        start = micros("backend_start"),
        is_marker = is_of(marker_key(marker)),
    )
}

/// Releases `probe` if this session holds it.
pub(super) fn release(probe: i64) -> String {
    format!(
        "{LIMITLESS} SELECT CASE WHEN EXISTS (SELECT {} AND {OWN}) \
         THEN pg_catalog.pg_advisory_unlock({probe}) END AS done",
        holders_of(probe)
    )
}

/// Releases the marker if this session is the server process `pid`, which took it.
pub(super) fn unmark(marker: i32, pid: i32) -> String {
    format!(
        "{LIMITLESS} SELECT CASE WHEN {PID} OPERATOR(pg_catalog.=) {pid} \
         THEN pg_catalog.pg_advisory_unlock({MARKER_CLASS}, {marker}) END AS done"
    )
}

/// The rows of `pg_locks` for the holders of the key `number`.
fn holders_of(number: i64) -> String {
    let is_of_key = is_of(Key::from(number));
    format!("FROM pg_catalog.pg_locks WHERE {ADVISORY} AND {is_of_key}")
}

/// When this session began (`born`), and the server's `time`.
fn age() -> String {
    format!(
        "(SELECT {born} FROM pg_catalog.pg_stat_get_activity({PID})) AS born, {time} AS time",
        born = micros("backend_start"),
        time = micros("pg_catalog.clock_timestamp()"),
    )
}

/// A point in time as an integer of microseconds.
fn micros(time: &str) -> String {
    format!("(EXTRACT(epoch FROM {time}) OPERATOR(pg_catalog.*) 1000000)::bigint")
}
