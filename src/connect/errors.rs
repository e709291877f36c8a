//! What the driver's errors of a connect mean.

use std::error::Error as _;

use postgres::error::SqlState;

use super::tls;
use crate::error::{Error, ErrorKind};
use crate::session::errors::judged_by_server;

/// The error of a login that the driver or the server ended.
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

/// The error of a connect that the driver or the server ended.
pub(super) fn refused(error: postgres::Error) -> Error {
    let (kind, message) = match error.as_db_error() {
        Some(said) => judged_by_server(said.code().code(), said.message()),
        None => judged_by_driver(&error),
    };
    Error::new(kind, message).caused_by(error)
}

/// What an error means that is not the server's own. The driver tells them apart by
/// their texts alone.
fn judged_by_driver(error: &postgres::Error) -> (ErrorKind, &'static str) {
    let cause = error.source().map(ToString::to_string);
    if let Some(advice) = tls::advice(error) {
        (ErrorKind::Tls, advice)
    } else if cause.is_some_and(|cause| cause == "password missing") {
        (
            ErrorKind::Login,
            "the server refused the login: it asks for a password, and the connection string \
             has none",
        )
    } else if error.to_string().starts_with("authentication error") {
        (
            ErrorKind::Login,
            "the login failed: the server does not authenticate in a way that the driver and \
             the connection string accept",
        )
    } else {
        (ErrorKind::Unavailable, "cannot connect to the database")
    }
}
