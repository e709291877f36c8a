//! What the driver's errors of a connect mean.

use std::error::Error as _;
use std::io;

use postgres::error::SqlState;

use super::preflight;
use crate::error::{Error, ErrorKind};
use crate::tls;

/// The error of a connect that the driver or the server ended.
pub(super) fn refused(error: postgres::Error) -> Error {
    let code = error.code().map(SqlState::code);
    let (kind, message) = match code {
        Some("53300") => (
            ErrorKind::Unavailable,
            "the server has no connection slot free",
        ),
        // The server starts, stops or recovers.
        Some(code) if code.starts_with("57P") => (
            ErrorKind::Unavailable,
            "the server takes no connections now",
        ),
        Some("28P01") => (
            ErrorKind::Database,
            "the server refused the login: the user or the password is wrong",
        ),
        Some(code) if code.starts_with("28") => (
            ErrorKind::Database,
            "the server refused the login: the role does not exist or may not log in, or \
             pg_hba.conf admits it from here only with TLS, only without, or not at all",
        ),
        Some("3D000") => (ErrorKind::Database, "the database does not exist"),
        Some(_) => (ErrorKind::Database, "the server refused the session"),
        None => judged_by_driver(&error),
    };
    Error::new(kind, message).caused_by(error)
}

/// What an error means that is not the server's own. The driver tells them apart by
/// their texts alone.
fn judged_by_driver(error: &postgres::Error) -> (ErrorKind, &'static str) {
    let cause = error.source().map(ToString::to_string);
    if is_read_only(error) {
        (ErrorKind::Standby, preflight::STANDBY)
    } else if let Some(advice) = tls::advice(error) {
        (ErrorKind::Tls, advice)
    } else if cause.is_some_and(|cause| cause == "password missing") {
        (
            ErrorKind::Database,
            "the server refused the login: it asks for a password, and the connection string \
             has none",
        )
    } else if error.to_string().starts_with("authentication error") {
        (
            ErrorKind::Database,
            "the login failed: the server does not authenticate in a way that the driver and \
             the connection string accept",
        )
    } else {
        (ErrorKind::Unavailable, "cannot connect to the database")
    }
}

/// The driver's way to say that no host takes writes.
fn is_read_only(error: &postgres::Error) -> bool {
    error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|source| {
            source.kind() == io::ErrorKind::PermissionDenied && source.raw_os_error().is_none()
        })
}
