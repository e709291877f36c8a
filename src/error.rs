//! The crate's one error type.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::lease::Ended;

/// What went wrong, for code that has to decide what to do next.
///
/// Contention is not an error and has no kind: an acquire that may return without the lock
/// returns `Ok(None)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The connection string or a builder setting is invalid. Nothing was
    /// sent to a server; trying again with the same input cannot help.
    Config,
    /// The arguments of the call are invalid, such as a set without a key. Nothing was sent to the
    /// server.
    InvalidInput,
    /// The database cannot be reached, accepts no connections now, or did not
    /// answer in time. Trying again later can help.
    Unavailable,
    /// The server refused the login: a wrong or expired password, a role that does not exist or
    /// may not log in, a database that does not exist or that the role may not connect to, or no
    /// line for it in `pg_hba.conf`; or
    /// [`Builder::credentials`](crate::Builder::credentials) returned no login.
    Login,
    /// The manager was closed.
    Closed,
    /// The [`CancelToken`](crate::CancelToken) of the acquire was cancelled.
    Cancelled,
    /// The manager already holds as many locks as
    /// [`Builder::max_locks`](crate::Builder::max_locks) allows.
    LimitReached,
    /// The server's shared lock table is full (SQLSTATE 53200). Raise
    /// `max_locks_per_transaction` on the server or hold fewer locks.
    LockTableFull,
    /// [`Acquire::lock`](crate::Acquire::lock) did not get the lock within its
    /// [`timeout`](crate::Acquire::timeout).
    Timeout,
    /// The lock was not free within the manager's
    /// [`Builder::wait_limit`](crate::Builder::wait_limit), which was shorter than the wait that
    /// the call asked for. The message has the key's number or numbers. Often a deadlock:
    /// two locks taken in opposite order, or one lock taken twice by one thread.
    WaitLimit,
    /// The lock was lost before it was released: another holder may have had it since.
    Lost,
    /// The server is a standby: its locks exclude no client of the primary. Connect to the
    /// primary, or name all hosts in the connection string.
    Standby,
    /// There is a pooler in front of the server that lends one session to many clients
    /// (transaction or statement mode), so that a lock and its unlock would be of different
    /// sessions, or one that does not reset its sessions. Connect to the server itself or to
    /// a pool in session mode with `server_reset_query = DISCARD ALL`.
    Pooler,
    /// The server accepts the lock functions but keeps no locks (`pg_locks` does not show
    /// them).
    NotLocking,
    /// The server is older than PostgreSQL 14, the first version with support for the
    /// [lease](crate::Builder::lease).
    ServerTooOld,
    /// There is no fencing token: the sequence is missing and may not be created, is
    /// unsuitable, or could not be drawn from. The message says what helps.
    Fencing,
    /// [`Guard::fence`](crate::Guard::fence) was called outside of a transaction, or in one that
    /// has failed.
    NoTransaction,
    /// There is no TLS connection: the server has no TLS where it is required, its
    /// certificate was refused (another authority, another host, expired), the trusted root
    /// certificates can no longer be read, or the handshake failed. The message says what
    /// helps.
    Tls,
    /// The database returned an error that has no kind of its own; the
    /// [`source`](StdError::source) says which.
    Database,
}

/// The error of every fallible call of this crate.
///
/// Decide by [`kind`](Error::kind); show with `Display`; the driver's own error, if there is
/// one, is the [`source`](StdError::source). It never contains a password.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    // Shared, because one failed round trip is returned to many callers.
    source: Option<Arc<dyn StdError + Send + Sync>>,
    /// True if it is transient although its kind is not.
    passing: bool,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Error {
            kind,
            message: message.into(),
            source: None,
            passing: false,
        }
    }

    pub(crate) fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    pub(crate) fn config(message: impl Into<Cow<'static, str>>) -> Self {
        Error::new(ErrorKind::Config, message)
    }

    pub(crate) fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Error::new(ErrorKind::Unavailable, message)
    }

    pub(crate) fn closed() -> Self {
        Error::new(ErrorKind::Closed, "the lock manager is closed")
    }

    pub(crate) fn cancelled() -> Self {
        Error::new(ErrorKind::Cancelled, "the cancel token was cancelled")
    }

    pub(crate) fn limit_reached(max: usize) -> Self {
        Error::new(
            ErrorKind::LimitReached,
            format!("the manager already holds its maximum of {max} locks"),
        )
    }

    /// The cause where the clock has ended a session.
    pub(crate) fn lease_expired() -> Self {
        Error::unavailable("the lease expired")
    }

    pub(crate) fn timeout() -> Self {
        Error::new(
            ErrorKind::Timeout,
            "the lock was not free within the timeout",
        )
    }

    pub(crate) fn wait_limit(what: &dyn fmt::Display, limit: Duration) -> Self {
        Error::new(
            ErrorKind::WaitLimit,
            format!("{what} was not free within the manager's wait limit of {limit:?}"),
        )
    }

    /// The error of releasing a lock whose hold had already `ended`.
    pub(crate) fn ended(ended: Ended) -> Self {
        match ended {
            Ended::Closed => Error::closed(),
            Ended::Cancelled => Error::cancelled(),
            Ended::LeaseExpired => Error::new(
                ErrorKind::Lost,
                "the lock was lost before it was released: its lease expired",
            ),
            Ended::SessionLost | Ended::Unlocked => Error::new(
                ErrorKind::Lost,
                "the lock was lost before it was released: its database session ended",
            ),
        }
    }

    /// [`caused_by`](Error::caused_by) a source whose type is not known.
    pub(crate) fn caused_by_any(mut self, source: Box<dyn StdError + Send + Sync>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Marks the error as transient, whatever its kind.
    pub(crate) fn passing(mut self) -> Self {
        self.passing = true;
        self
    }

    /// The error for callers while this is why there is no session: itself, or for
    /// [`Unavailable`](ErrorKind::Unavailable) one with all causes in its message.
    pub(crate) fn while_away(&self) -> Error {
        match self.kind {
            ErrorKind::Unavailable => {
                let message = format!("the database is away: {}", self.with_sources());
                Error::unavailable(message).caused_by(self.clone())
            }
            _ => self.clone(),
        }
    }

    /// The texts of the error and its sources.
    fn with_sources(&self) -> String {
        let mut text = self.to_string();
        for source in self.sources() {
            let source = source.to_string();
            if !text.ends_with(&source) {
                text = format!("{text}: {source}");
            }
        }
        text
    }

    fn sources(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        std::iter::successors(self.source(), |&source| source.source())
    }

    /// True if the same call may succeed later without a change to the program, its settings or
    /// its privileges: the database is away, starts, fails over or has no connection slot free; a
    /// lock table or disk is full; a lock was held, or a limit reached. False where retrying
    /// cannot help until something is fixed (a connection string, a login, a certificate, a
    /// pooler), where the caller itself has ended the wait, and for [`Lost`](ErrorKind::Lost): no
    /// library can know what to do about work that was not protected to its end.
    ///
    /// ```no_run
    /// # fn sweep() {}
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// match mgr.try_lock("sweep") {
    ///     Ok(Some(_guard)) => sweep(),
    ///     Ok(None) => {}
    ///     Err(error) if error.is_transient() => eprintln!("not now: {error}"),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_transient(&self) -> bool {
        match self.kind {
            ErrorKind::Unavailable
            | ErrorKind::LockTableFull
            | ErrorKind::LimitReached
            | ErrorKind::WaitLimit
            | ErrorKind::Timeout
            // During a fail-over the hosts of the connection string may all be standbys.
            | ErrorKind::Standby => true,
            ErrorKind::Config
            | ErrorKind::InvalidInput
            | ErrorKind::Closed
            | ErrorKind::Cancelled
            | ErrorKind::Lost
            | ErrorKind::Pooler
            | ErrorKind::NotLocking
            | ErrorKind::NoTransaction
            | ErrorKind::ServerTooOld => false,
            ErrorKind::Login | ErrorKind::Fencing | ErrorKind::Tls | ErrorKind::Database => {
                self.passing || self.sources().any(passes)
            }
        }
    }

    /// The kind of the error, to decide by.
    ///
    /// ```
    /// use distlock::{ErrorKind, Manager};
    ///
    /// let error = Manager::connect("not a connection string").unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Config);
    /// ```
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.kind);
        debug.field("message", &self.message);
        if let Some(source) = &self.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

/// True if `cause` comes from a state that passes by itself.
fn passes(cause: &(dyn StdError + 'static)) -> bool {
    if let Some(error) = cause.downcast_ref::<postgres::error::DbError>() {
        is_passing_code(error.code().code())
    } else if let Some(error) = cause.downcast_ref::<io::Error>() {
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::TimedOut
        )
    } else {
        false
    }
}

/// True for the SQLSTATEs of states that pass by themselves.
pub(crate) fn is_passing_code(code: &str) -> bool {
    match code {
        // Poolers use this for every error; only their texts tell the cause.
        "08P01" => false,
        // A server that rejected the connection.
        "08004" => false,
        // The database was dropped.
        "57P04" => false,
        // The statement was cancelled; serialization failure, deadlock; a lock was not free;
        // the server accepts no writes.
        "57014" | "40001" | "40P01" | "55P03" | "25006" => true,
        // The connection failed; a lack of resources; the server starts, stops or recovers.
        _ => ["08", "53", "57P"]
            .iter()
            .any(|class| code.starts_with(class)),
    }
}

#[cfg(all(test, not(distlock_model)))]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_transient_by_its_kind() {
        for (kind, transient) in [
            (ErrorKind::Config, false),
            (ErrorKind::InvalidInput, false),
            (ErrorKind::Unavailable, true),
            (ErrorKind::Login, false),
            (ErrorKind::Closed, false),
            (ErrorKind::Cancelled, false),
            (ErrorKind::LimitReached, true),
            (ErrorKind::WaitLimit, true),
            (ErrorKind::LockTableFull, true),
            (ErrorKind::Timeout, true),
            (ErrorKind::Lost, false),
            (ErrorKind::Standby, true),
            (ErrorKind::Pooler, false),
            (ErrorKind::NotLocking, false),
            (ErrorKind::ServerTooOld, false),
            (ErrorKind::Fencing, false),
            (ErrorKind::NoTransaction, false),
            (ErrorKind::Tls, false),
            (ErrorKind::Database, false),
        ] {
            assert_eq!(Error::new(kind, "").is_transient(), transient, "{kind:?}");
        }
        assert!(Error::new(ErrorKind::Login, "").passing().is_transient());
    }

    #[test]
    fn or_by_what_is_behind_it() {
        let tls =
            |kind: io::ErrorKind| Error::new(ErrorKind::Tls, "").caused_by(io::Error::from(kind));
        assert!(tls(io::ErrorKind::ConnectionReset).is_transient());
        assert!(
            !tls(io::ErrorKind::InvalidData).is_transient(),
            "a certificate"
        );
        let outer =
            Error::new(ErrorKind::Database, "").caused_by(tls(io::ErrorKind::UnexpectedEof));
        assert!(outer.is_transient());
    }

    #[test]
    fn the_servers_codes_say_whether_waiting_helps() {
        for code in [
            "53000", "53100", "53200", "53300", "53400", "57014", "57P01", "57P02", "57P03",
            "57P05", "08000", "08001", "08003", "08006", "40001", "40P01", "55P03", "25006",
        ] {
            assert!(is_passing_code(code), "{code}");
        }
        for code in [
            "28000", "28P01", "3D000", "42501", "42883", "08P01", "08004", "57P04", "0A000",
            "22023", "XX000",
        ] {
            assert!(!is_passing_code(code), "{code}");
        }
    }

    #[test]
    fn while_away_callers_hear_why_in_words_and_by_source() {
        let cause = Error::unavailable("cannot connect to the database")
            .caused_by(io::Error::other("connection refused"));
        let told = cause.while_away();
        assert_eq!(told.kind(), ErrorKind::Unavailable);
        assert_eq!(
            told.to_string(),
            "the database is away: cannot connect to the database: connection refused"
        );
        let source = told.source().expect("the cause").to_string();
        assert_eq!(source, "cannot connect to the database");

        let cause = Error::new(ErrorKind::Login, "the password is wrong");
        assert_eq!(cause.while_away().kind(), ErrorKind::Login);
        assert_eq!(cause.while_away().to_string(), "the password is wrong");
    }
}
