//! What the driver's errors of a connect mean.

use std::error::Error as _;

use postgres::error::SqlState;

use crate::error::{Error, ErrorKind, is_passing_code};
use crate::tls;

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

/// What the server's own errors mean, by SQLSTATE.
fn judged_by_server(code: &str, text: &str) -> (ErrorKind, &'static str) {
    match code {
        "53300" => (
            ErrorKind::Unavailable,
            "the server has no connection slot free",
        ),
        "53200" => (
            ErrorKind::LockTableFull,
            "the server's lock table is full; raise max_locks_per_transaction",
        ),
        "57014" => (
            ErrorKind::Unavailable,
            "the server cancelled what the connect asked of it",
        ),
        "28P01" => (
            ErrorKind::Login,
            "the server refused the login: the user or the password is wrong",
        ),
        "3D000" => (ErrorKind::Login, "the database does not exist"),
        "08P01" => judged_by_pooler(text),
        _ if code.starts_with("28") => (
            ErrorKind::Login,
            "the server refused the login: the role does not exist or may not log in, or \
             pg_hba.conf admits it from here only with TLS, only without, or not at all",
        ),
        // It starts, stops or recovers.
        _ if code.starts_with("57P") => (
            ErrorKind::Unavailable,
            "the server takes no connections now",
        ),
        _ if code.starts_with("53") => (ErrorKind::Unavailable, "the server lacks a resource"),
        _ if is_passing_code(code) => (ErrorKind::Unavailable, "the server cannot connect us now"),
        _ => (ErrorKind::Database, "the server refused the session"),
    }
}

/// What an 08P01 means: PgBouncer says it of everything, and the text, which it does not
/// translate, tells what it is. A server's own message may be a part of it.
fn judged_by_pooler(text: &str) -> (ErrorKind, &'static str) {
    const FULL: [&str; 4] = [
        "no more connections allowed",
        "too many clients",
        "too many connections",
        "connection slots",
    ];
    const AWAY: [&str; 11] = [
        "is disabled",
        "server_login_retry",
        "query_wait_timeout",
        "client_login_timeout",
        "cannot connect to server",
        "server conn crashed",
        "server DNS lookup failed",
        "shutting down",
        "shut down",
        "the database system is",
        "terminating connection",
    ];
    const NO_LOGIN: [&str; 5] = [
        "no such user",
        "no such database",
        "authentication failed",
        "auth failed",
        "login rejected",
    ];
    let says = |texts: &[&str]| texts.iter().any(|part| text.contains(part));
    if says(&FULL) {
        (
            ErrorKind::Unavailable,
            "the pooler or the server has no connection slot free",
        )
    } else if says(&AWAY) {
        (
            ErrorKind::Unavailable,
            "the pooler takes no connections now, or cannot reach the server",
        )
    } else if says(&NO_LOGIN) {
        (
            ErrorKind::Login,
            "the pooler refused the login, or the server refused the pooler's: the user, the \
             password or the database is wrong",
        )
    } else {
        (ErrorKind::Database, "the pooler refused the session")
    }
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

#[cfg(all(test, not(distlock_model)))]
mod tests {
    use super::*;

    #[test]
    fn each_sqlstate_has_its_kind() {
        use ErrorKind::{Database, LockTableFull, Login, Unavailable};
        for (code, kind) in [
            ("53300", Unavailable),
            ("53100", Unavailable),
            ("53400", Unavailable),
            ("53200", LockTableFull),
            ("57014", Unavailable),
            ("57P01", Unavailable),
            ("57P03", Unavailable),
            ("08006", Unavailable),
            ("28000", Login),
            ("28P01", Login),
            ("3D000", Login),
            ("08P01", Database),
            ("08004", Database),
            ("22023", Database),
            ("42501", Database),
            ("XX000", Database),
        ] {
            assert_eq!(judged_by_server(code, "").0, kind, "{code}");
        }
    }

    #[test]
    fn a_poolers_words_have_theirs() {
        use ErrorKind::{Database, Login, Unavailable};
        for (text, kind) in [
            ("no more connections allowed (max_client_conn)", Unavailable),
            (
                "server login failed: FATAL sorry, too many clients already",
                Unavailable,
            ),
            (
                "server login failed: FATAL remaining connection slots are reserved",
                Unavailable,
            ),
            (
                "server login has been failing, try again later (server_login_retry)",
                Unavailable,
            ),
            ("database \"app\" is disabled", Unavailable),
            ("query_wait_timeout", Unavailable),
            ("client_login_timeout (server down)", Unavailable),
            (
                "server login failed: FATAL the database system is starting up",
                Unavailable,
            ),
            ("password authentication failed", Login),
            ("no such user: app", Login),
            ("no such database: app", Login),
            ("unsupported startup parameter: options", Database),
        ] {
            assert_eq!(judged_by_server("08P01", text).0, kind, "{text}");
        }
    }
}
