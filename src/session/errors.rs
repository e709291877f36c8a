//! What the server's errors mean.

use postgres::error::SqlState;

use super::Lost;
use crate::config::SequenceName;
use crate::error::{Error, ErrorKind, is_passing_code};

/// How often a statement that is cancelled is tried. Unlocks and the query of `pg_locks` are tried
/// as often after other errors.
pub(crate) const ATTEMPTS: u32 = 3;

/// How often a command outside of locking is tried if it is cancelled: more often, because a role's
/// `statement_timeout` of a millisecond applies to a connect's first ones, on a busy machine, too.
const PATIENT_ATTEMPTS: u32 = 10;

/// Runs `command`, up to [`PATIENT_ATTEMPTS`] times if it is cancelled.
pub(crate) fn retry_if_cancelled<T>(
    mut command: impl FnMut() -> Result<T, postgres::Error>,
) -> Result<T, postgres::Error> {
    let mut attempt = 1;
    loop {
        match command() {
            Err(error) if attempt < PATIENT_ATTEMPTS && is_cancelled(&error) => attempt += 1,
            done => return done,
        }
    }
}

/// The error for a session that the server refuses, or whose connection is lost.
pub(crate) fn refused(error: postgres::Error) -> Error {
    let (kind, message) = match error.as_db_error() {
        Some(error) => judged_by_server(error.code().code(), error.message()),
        None => (
            ErrorKind::Unavailable,
            "the connection to the database was lost",
        ),
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
            "the server cancelled a statement of the connect",
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
        // It is starting, stopping or recovering.
        _ if code.starts_with("57P") => (
            ErrorKind::Unavailable,
            "the server accepts no connections now",
        ),
        _ if code.starts_with("53") => (ErrorKind::Unavailable, "the server lacks a resource"),
        _ if is_passing_code(code) => (
            ErrorKind::Unavailable,
            "the server cannot accept the connection now",
        ),
        _ => (ErrorKind::Database, "the server refused the session"),
    }
}

/// What an 08P01 means: PgBouncer sends it with every error, and only the text, which it does not
/// translate, tells them apart. The text may include a server's own message.
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
            "the pooler accepts no connections now, or cannot reach the server",
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

/// The SQLSTATE of the server error that caused `error`, if one did.
pub(crate) fn sqlstate(error: &Error) -> Option<&SqlState> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<postgres::Error>()?.code()
}

pub(crate) fn is_cancelled(error: &postgres::Error) -> bool {
    error.code() == Some(&SqlState::QUERY_CANCELED)
}

pub(crate) fn lost(error: postgres::Error) -> Lost {
    Lost(Error::unavailable("the connection to the database was lost").caused_by(error))
}

/// True if `error` ends the session.
pub(super) fn ends_session(error: &postgres::Error) -> bool {
    // 57P01 to 57P05: the server ends the session. 26000: it does not know our prepared statement,
    // so another session answers.
    error.code().map(SqlState::code).is_none_or(|code| {
        code.starts_with("57P") || code == SqlState::INVALID_SQL_STATEMENT_NAME.code()
    })
}

/// True if `error` says that the sequence with the OID that was looked up no longer exists.
pub(super) fn is_sequence_gone(error: &postgres::Error) -> bool {
    // The server has no SQLSTATE for an OID without a relation, and its text may be translated.
    matches!(
        error.code(),
        Some(&SqlState::INTERNAL_ERROR | &SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_OBJECT)
    )
}

/// The error for a full lock table, if `error` says that it is.
pub(crate) fn full(error: &postgres::Error) -> Option<Error> {
    let is_full = error.code() == Some(&SqlState::OUT_OF_MEMORY);
    is_full.then(|| {
        let message = "the server's lock table is full; raise max_locks_per_transaction";
        Error::new(ErrorKind::LockTableFull, message)
    })
}

/// The error for a failed lock step.
pub(super) fn lock_error(error: postgres::Error) -> Error {
    let other = || Error::new(ErrorKind::Database, "the server could not take the lock");
    full(&error).unwrap_or_else(other).caused_by(error)
}

/// The error of a look-up or creation of the sequence `name`.
pub(super) fn sequence_error(name: &SequenceName, error: postgres::Error) -> Error {
    if error
        .code()
        .is_none_or(|code| code.code().starts_with("57P"))
    {
        return refused(error);
    }
    if error.code() == Some(&SqlState::WRONG_OBJECT_TYPE) {
        let message = format!("{name} exists, but it is not a sequence");
        return Error::new(ErrorKind::Fencing, message).caused_by(error);
    }
    let schema = name.schema();
    Error::new(
        ErrorKind::Fencing,
        format!(
            "the sequence {name} does not exist and this role cannot create it: have an \
             administrator run CREATE SCHEMA IF NOT EXISTS {schema}; CREATE SEQUENCE {name}; \
             GRANT USAGE ON SCHEMA {schema} TO <role>; GRANT USAGE ON SEQUENCE {name} TO <role>"
        ),
    )
    .caused_by(error)
}

/// The error for a failed draw of a token.
pub(super) fn draw_error(error: postgres::Error) -> Error {
    let message = match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            "no fencing token: this role may no longer draw from the sequence"
        }
        Some(&SqlState::DISK_FULL) => "no fencing token: the server's disk is full",
        _ => "the server issued no fencing token",
    };
    Error::new(ErrorKind::Fencing, message).caused_by(error)
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
