//! The crate's one error type.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::key::Key;
use crate::watch::Ended;

/// What went wrong, for code that has to decide what to do next.
///
/// Contention is no error and has no kind: an acquire that may come back
/// without the lock returns `Ok(None)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The connection string or a builder setting is not usable. Nothing was
    /// sent to a server; trying again with the same input cannot help.
    Config,
    /// The database cannot be reached, refused the connection, or did not
    /// answer in time. Trying again later can help.
    Unavailable,
    /// The manager was closed.
    Closed,
    /// The [`CancelToken`](crate::CancelToken) of the acquire was cancelled.
    Cancelled,
    /// The manager already has as many locks out as
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
    /// the call asked for. The message has the key's number, as in `pg_locks`. Often a deadlock:
    /// two locks taken in opposite order, or one twice by one thread.
    WaitLimit,
    /// The lock had been lost before it was given back: somebody else may have
    /// held it since.
    Lost,
    /// The server is a standby, or takes no writes: its locks would exclude nobody on the
    /// primary. Connect to the primary, or name all hosts in the connection string.
    Standby,
    /// There is a pooler in transaction or statement mode before the server: a lock and
    /// its unlock would be of different sessions. Connect to the server itself or to a
    /// pool in session mode.
    Pooler,
    /// The server accepts the lock functions but keeps no locks (they do not show in
    /// `pg_locks`).
    NotLocking,
    /// The server is older than PostgreSQL 12.
    ServerTooOld,
    /// There is no fencing token: the sequence is missing and may not be made, is not
    /// fit, or could not be drawn from. The message says what helps.
    Fencing,
    /// There is no TLS connection: the server has no TLS where it is required, its
    /// certificate was refused (another authority, another host, expired), or the
    /// handshake failed. The message says what helps.
    Tls,
    /// The database answered with an error that has no kind of its own; the
    /// [`source`](StdError::source) says which.
    Database,
}

/// The error of every fallible call of this crate.
///
/// Decide by [`kind`](Error::kind); show with `Display`; the driver's own error,
/// where there is one, is the [`source`](StdError::source). No password ever
/// appears in it.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    // Shared, because one failed round trip is the answer to many callers.
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Error {
            kind,
            message: message.into(),
            source: None,
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
            format!("the manager already has its maximum of {max} locks out"),
        )
    }

    pub(crate) fn timeout() -> Self {
        Error::new(
            ErrorKind::Timeout,
            "the lock was not free within the timeout",
        )
    }

    pub(crate) fn wait_limit(key: &Key, limit: Duration) -> Self {
        Error::new(
            ErrorKind::WaitLimit,
            format!("the lock {key} was not free within the manager's wait limit of {limit:?}"),
        )
    }

    /// The error of giving back a lock whose hold had already `ended`.
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

    /// Does the server that answers not do, whatever the reason? Then callers are told
    /// that, and not just that it is away.
    pub(crate) fn is_unfit(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Standby
                | ErrorKind::Pooler
                | ErrorKind::NotLocking
                | ErrorKind::ServerTooOld
                | ErrorKind::Fencing
                | ErrorKind::Tls
        )
    }

    /// What went wrong, to decide by.
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
