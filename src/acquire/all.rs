//! [`AcquireAll`]: an acquire of several locks at once.

use std::fmt;
use std::sync::Arc;

use super::options::{Options, of_one_session, option_setters};
use crate::error::{Error, ErrorKind};
use crate::guard::set::GuardSet;
use crate::key::Key;
use crate::op::{Mode, Wait};
use crate::worker::handle::Handle;

/// An acquire of a set of locks, all of them or none, with options: from
/// [`Manager::acquire_all`](crate::Manager::acquire_all).
///
/// # Order
///
/// All sets of all processes take their locks in one order, that of the keys' numbers (those of one
/// `bigint` first), however they are given. A set that waits for a lock keeps those before it from
/// others, and takes none after it. So sets never wait for each other in a circle, whatever they
/// have in common. A thread that holds a lock besides and then waits for a set can wait in a circle,
/// as in any other order of locks.
///
/// A key that is given twice is locked once, exclusively if one of the two is. So are two names of
/// one number.
///
/// ```no_run
/// # fn main() -> Result<(), distlock::Error> {
/// # use std::time::Duration;
/// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
/// let accounts = mgr
///     .acquire_all(["account-17", "account-4"])
///     .shared(["rates"])
///     .timeout(Duration::from_secs(5))
///     .lock()?;
/// # drop(accounts);
/// # Ok(())
/// # }
/// ```
#[must_use = "an acquire does nothing until `lock` or `try_lock`"]
pub struct AcquireAll<'a> {
    handle: &'a Arc<Handle>,
    keys: Vec<(Key, Mode)>,
    options: Options<'a>,
}

impl<'a> AcquireAll<'a> {
    pub(crate) fn new<K: Into<Key>>(
        handle: &'a Arc<Handle>,
        keys: impl IntoIterator<Item = K>,
    ) -> Self {
        let none = AcquireAll {
            handle,
            keys: Vec::new(),
            options: Options::default(),
        };
        none.with(keys, Mode::Exclusive)
    }

    fn with<K: Into<Key>>(mut self, keys: impl IntoIterator<Item = K>, mode: Mode) -> Self {
        let namespace = self.handle.settings().namespace.as_ref();
        let keys = keys.into_iter().map(|key| key.into().within(namespace));
        self.keys.extend(keys.map(|key| (key, mode)));
        self
    }

    /// Adds locks of which a share is taken, together with other shared holders.
    pub fn shared<K: Into<Key>>(self, keys: impl IntoIterator<Item = K>) -> Self {
        self.with(keys, Mode::Shared)
    }

    option_setters!();

    /// Waits for all of the locks.
    ///
    /// # Errors
    ///
    /// [`Timeout`](crate::ErrorKind::Timeout) if they were not all free within the
    /// [`timeout`](AcquireAll::timeout), and what
    /// [`Manager::lock_all`](crate::Manager::lock_all) returns.
    pub fn lock(self) -> Result<GuardSet, Error> {
        let wait = self.options.patience(Wait::Forever);
        self.wait(wait)?.ok_or_else(Error::timeout)
    }

    /// Takes the locks if all are free now, or become so within the
    /// [`timeout`](AcquireAll::timeout).
    ///
    /// # Errors
    ///
    /// What [`Manager::lock_all`](crate::Manager::lock_all) returns.
    pub fn try_lock(self) -> Result<Option<GuardSet>, Error> {
        let wait = self.options.patience(Wait::Try(None));
        self.wait(wait)
    }

    /// `None`: one of the locks is held, and the wait is over.
    fn wait(self, wait: Wait) -> Result<Option<GuardSet>, Error> {
        let AcquireAll {
            handle,
            keys,
            options,
        } = self;
        let keys = in_order(keys);
        if keys.is_empty() {
            let message = "there is no key to lock";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        if let Some(max) = handle.settings().max_locks.filter(|&max| keys.len() > max) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!(
                    "a set of {} locks, and the manager holds at most {max}",
                    keys.len()
                ),
            ));
        }
        let keys: Arc<[_]> = keys.into();
        let limit = handle.settings().wait_limit;
        let what = format_args!("a set of {} locks", keys.len());
        let grants = options.obtain(wait, limit, &what, |wait, interrupt| {
            let grants = handle.acquire_all(Arc::clone(&keys), wait, interrupt)?;
            Ok(of_one_session(grants))
        })?;
        let guards = grants.map(|grants| options.guards(handle, grants));
        Ok(guards.transpose()?.map(GuardSet::new))
    }
}

/// Each key once, in the order in which sets are locked, and exclusively if it is so anywhere.
fn in_order(mut keys: Vec<(Key, Mode)>) -> Vec<(Key, Mode)> {
    keys.sort_unstable_by_key(|&(key, mode)| (key, mode == Mode::Shared));
    keys.dedup_by_key(|&mut (key, _)| key);
    keys
}

impl fmt::Debug for AcquireAll<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcquireAll")
            .field("keys", &self.keys)
            .field("options", &self.options)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_each_key_once_in_one_order_and_exclusively_if_so_anywhere() {
        let [low, high, pair] = [Key::from(-3), Key::from(5), Key::from((-9, 0))];
        let (exclusive, shared) = (Mode::Exclusive, Mode::Shared);
        let keys = vec![
            (pair, shared),
            (high, shared),
            (low, shared),
            (high, exclusive),
            (pair, shared),
        ];
        let expected = [(low, shared), (high, exclusive), (pair, shared)];
        assert_eq!(in_order(keys), expected);
    }
}
