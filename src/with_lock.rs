//! Runs a closure under a lock, and [`WithLockError`], the error if the lock did not last.

use std::error::Error as StdError;
use std::fmt;

use crate::error::{Error, ErrorKind};
use crate::guard::Guard;

/// The lock did not last for as long as the closure of
/// [`Manager::with_lock`](crate::Manager::with_lock) ran, or was not acquired at all.
///
/// In the first case it has the closure's value: the work is done, and another holder may have
/// been inside meanwhile. It converts to an [`Error`], as by `?`; then the value is dropped.
///
/// ```no_run
/// # fn rebuild() -> u64 { 0 }
/// # fn main() -> Result<(), distlock::Error> {
/// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
/// match mgr.with_lock("index", |_guard| rebuild()) {
///     Ok(rows) => println!("{rows} rows, and nobody else was at it"),
///     Err(error) => match error.into_parts() {
///         (error, Some(rows)) => println!("{rows} rows, perhaps twice: {error}"),
///         (error, None) => return Err(error), // nothing was done
///     },
/// }
/// # Ok(())
/// # }
/// ```
pub struct WithLockError<T> {
    error: Error,
    value: Option<T>,
}

impl<T> WithLockError<T> {
    /// The kind of the error, to decide by. [`Lost`](ErrorKind::Lost),
    /// [`Closed`](ErrorKind::Closed) and the like can mean either case;
    /// [`value`](WithLockError::value) tells which.
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }

    /// What the closure returned; `None` if it has not run.
    pub fn value(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// Both parts: the error, and what the closure returned if it has run.
    pub fn into_parts(self) -> (Error, Option<T>) {
        (self.error, self.value)
    }
}

/// Runs `work` under `guard`'s lock and releases that. A panic of `work` continues, and the
/// guard's drop releases the lock.
pub(crate) fn run<T>(guard: Guard, work: impl FnOnce(&Guard) -> T) -> Result<T, WithLockError<T>> {
    let value = work(&guard);
    match guard.unlock() {
        Ok(()) => Ok(value),
        Err(error) => Err(WithLockError {
            error,
            value: Some(value),
        }),
    }
}

/// The lock was not acquired.
impl<T> From<Error> for WithLockError<T> {
    fn from(error: Error) -> Self {
        WithLockError { error, value: None }
    }
}

impl<T> From<WithLockError<T>> for Error {
    fn from(error: WithLockError<T>) -> Self {
        error.error
    }
}

impl<T> fmt::Display for WithLockError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

// Not derived: the value need not be Debug.
impl<T> fmt::Debug for WithLockError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithLockError")
            .field("error", &self.error)
            .field("has_value", &self.value.is_some())
            .finish()
    }
}

impl<T> StdError for WithLockError<T> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.source()
    }
}
