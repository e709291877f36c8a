//! Translates the driver's errors of a connect.

use std::error::Error as _;

use postgres::error::SqlState;

use super::tls;
use crate::error::{Error, ErrorKind};
use crate::session::errors::{self, sqlstate};

/// The error of a login that the driver or the server refused.
pub(super) fn refused_login(error: postgres::Error) -> Error {
    let (kind, message) = match error.code().map(SqlState::code) {
        Some("42501") => (
            ErrorKind::Login,
            "the server refused the login: the role may not connect to this database",
        ),
        // ALLOW_CONNECTIONS is off, or the database is being dropped.
        Some("55000") => (
            ErrorKind::Unavailable,
            "the database takes no connections now",
        ),
        _ => return refused(error),
    };
    Error::new(kind, message).caused_by(error)
}

/// The error of a connect that failed in the driver or at the server.
pub(super) fn refused(error: postgres::Error) -> Error {
    if error.as_db_error().is_some() {
        return errors::refused(error);
    }
    let (kind, message) = judged_by_driver(&error);
    Error::new(kind, message).caused_by(error)
}

/// Translates an error of the checks.
pub(super) fn refused_check(error: postgres::Error) -> Error {
    match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Error::new(
            ErrorKind::Database,
            "this role may not call a function that locks need: the source names it; have an \
             administrator GRANT EXECUTE ON FUNCTION … TO <role>",
        )
        .caused_by(error),
        Some(&SqlState::UNDEFINED_FUNCTION | &SqlState::UNDEFINED_TABLE) => {
            not_locking().caused_by(error)
        }
        _ => refused(error),
    }
}

pub(super) fn not_locking() -> Error {
    Error::new(
        ErrorKind::NotLocking,
        "the server accepts pg_try_advisory_lock, but the lock is not in pg_locks: it does \
         not keep advisory locks; use a PostgreSQL server",
    )
}

/// True if the error means that there is no slot for another connection.
pub(super) fn is_full(error: &Error) -> bool {
    // PgBouncer uses the second one for every refusal; the kind is more specific.
    let is_slot =
        |code| [SqlState::TOO_MANY_CONNECTIONS, SqlState::PROTOCOL_VIOLATION].contains(code);
    error.kind() == ErrorKind::Unavailable && sqlstate(error).is_some_and(is_slot)
}

/// What an error of the driver's own means. Only their texts distinguish them.
fn judged_by_driver(error: &postgres::Error) -> (ErrorKind, &'static str) {
    let cause = error.source().map(ToString::to_string);
    if let Some(hint) = tls::hint(error) {
        (ErrorKind::Tls, hint)
    } else if cause.is_some_and(|cause| cause == "password missing") {
        (
            ErrorKind::Login,
            "the server refused the login: it asks for a password, and the connection string \
             has none",
        )
    } else if error.to_string().starts_with("authentication error") {
        (
            ErrorKind::Login,
            "the login failed: the server's authentication method is not one that the driver \
             and the connection string accept",
        )
    } else {
        (ErrorKind::Unavailable, "cannot connect to the database")
    }
}
