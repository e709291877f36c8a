//! The manager's methods for who has locks.

use super::Manager;
use crate::error::{Error, ErrorKind};
use crate::holder::{Holder, Question};
use crate::key::Key;

impl Manager {
    /// Who holds the lock, waits for it, or has a fenced transaction open that keeps others from it:
    /// the sessions of all programs that use the database, as the server sees them. A session is
    /// listed once for each [`Claim`](crate::Claim), first those that hold it. Threads of a manager
    /// that wait for one of its own are not known to the server.
    ///
    /// A round trip, with a look at all locks of the server, whose cost grows with their number: for
    /// people and for monitoring, not for each job.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::ErrorKind::Unavailable) or another kind of
    /// [every acquire](Manager#errors) while there is no session;
    /// [`Closed`](crate::ErrorKind::Closed); [`Database`](crate::ErrorKind::Database).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// for holder in mgr.holders("nightly-report")? {
    ///     println!("{:?}: {:?}, pid {}", holder.claim, holder.application_name, holder.pid);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn holders(&self, key: impl Into<Key>) -> Result<Vec<Holder>, Error> {
        self.handle.inquire(Question::Of(self.key(key)))
    }

    /// What the managers of all programs that use the database hold and wait for: the same as
    /// [`holders`](Manager::holders), for all keys at once, in their order. A key is a number here;
    /// compare it with [`key`](Manager::key) of a name. A manager that waits for a lock which nobody
    /// has at that moment may be listed with a share of the key's [companion](Key#companions).
    ///
    /// # Errors
    ///
    /// Those of [`holders`](Manager::holders).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// for holder in mgr.list()? {
    ///     println!("{}: {:?}, {:?}", holder.key, holder.claim, holder.application_name);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn list(&self) -> Result<Vec<Holder>, Error> {
        self.handle.inquire(Question::OfManagers)
    }

    /// Ends the session of `holder`, a manager's, and so all that it holds: for one that hangs and
    /// does not come back. Returns the keys of all its locks, which go with it, and of those that it
    /// waited for; `None` if the session had ended before, or has nothing to do with the lock any more.
    ///
    /// The server ends it as `pg_terminate_backend` does, soon after the call. Its program is
    /// told as of any lost session, within a heartbeat, and may go on under the lock until then
    /// ([fenced](crate::Guard::fence) transactions keep the next one out); its manager connects again.
    /// Takes the role of the session, or the privileges of `pg_signal_backend` ([Server Signaling
    /// Functions]).
    ///
    /// [Server Signaling Functions]: https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-ADMIN-SIGNAL
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if it is not a manager's session
    /// (see [`evict_any`](Manager::evict_any)), or this manager's own;
    /// [`Database`](crate::ErrorKind::Database) if the role may not; those of
    /// [`holders`](Manager::holders).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// for holder in mgr.holders("nightly-report")? {
    ///     if let Some(keys) = mgr.evict(&holder)? {
    ///         println!("ended {}, which had {keys:?}", holder.pid);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn evict(&self, holder: &Holder) -> Result<Option<Vec<Key>>, Error> {
        if !holder.is_manager {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "the session is not a manager's, but of another program",
            ));
        }
        self.evict_any(holder)
    }

    /// The same for any session, such as that of a client that takes the lock by SQL, or has a
    /// fenced transaction open.
    ///
    /// # Errors
    ///
    /// Those of [`evict`](Manager::evict), but for the first.
    pub fn evict_any(&self, holder: &Holder) -> Result<Option<Vec<Key>>, Error> {
        let evict = Question::Evict(Box::new(holder.clone()));
        let its = self.handle.inquire(evict)?;
        let mut keys: Vec<Key> = its.iter().map(|holder| holder.key).collect();
        keys.sort_unstable();
        keys.dedup();
        Ok((!keys.is_empty()).then_some(keys))
    }
}
