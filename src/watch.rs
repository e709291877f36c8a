//! [`Watch`]: reports the end of a hold.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::lease::{Ended, Hold};

/// Reports the end of a hold, on any thread and at any later time.
///
/// Made by [`Guard::watch`](crate::Guard::watch); outlives the guard. Clones watch
/// the same hold.
///
/// ```no_run
/// # fn main() -> Result<(), distlock::Error> {
/// let mgr = distlock::Manager::connect("host=localhost user=app")?;
/// let guard = mgr.lock("leader")?;
/// let watch = guard.watch();
/// std::thread::spawn(move || {
///     let why = watch.wait();
///     eprintln!("no longer the leader: {why:?}");
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Watch {
    hold: Arc<Hold>,
}

impl Watch {
    pub(crate) fn new(hold: Arc<Hold>) -> Self {
        Watch { hold }
    }

    /// True if the work under the lock has to stop: as soon as this side must assume that
    /// another holder can have the lock, or the acquire's token is cancelled, and from then
    /// on. False while it is held, and after its guard has released it, which is not a loss
    /// ([`ended`](Watch::ended) reports it).
    pub fn is_lost(&self) -> bool {
        self.ended().is_some_and(|ended| ended != Ended::Unlocked)
    }

    /// Why the hold ended; `None` while it lasts.
    pub fn ended(&self) -> Option<Ended> {
        self.hold.ended()
    }

    /// Waits until the hold ends and returns the cause. Returns by the clock when the lease
    /// expires, even if no other thread of the process can run.
    pub fn wait(&self) -> Ended {
        self.hold
            .wait(None)
            .expect("a wait without a deadline ends with the hold")
    }

    /// Like [`wait`](Watch::wait), for at most `timeout`; `None` if the hold lasts longer.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Ended> {
        self.hold.wait(Instant::now().checked_add(timeout))
    }

    /// Waits until less than `margin` of the lease is left, so that work can stop *before*
    /// the lock is lost, and returns `None`; or until the hold ends, and returns the cause, as
    /// [`wait`](Watch::wait) does.
    ///
    /// While the server answers, each heartbeat renews the lease, of which nine tenths count
    /// ([`Builder::lease`](crate::Builder::lease)): by default up to 9 s are left, and with a
    /// `margin` of 5 s it returns when the server has been silent for 4 s. With a margin of
    /// more than those nine tenths less a heartbeat it returns although nothing is wrong. Without
    /// a lease it is [`wait`](Watch::wait).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// use std::time::Duration;
    ///
    /// let guard = mgr.lock("leader")?;
    /// let watch = guard.watch();
    /// std::thread::spawn(move || match watch.wait_at_risk(Duration::from_secs(5)) {
    ///     None => eprintln!("the database is silent: finish within five seconds"),
    ///     Some(why) => eprintln!("no longer the leader: {why:?}"),
    /// });
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_at_risk(&self, margin: Duration) -> Option<Ended> {
        self.hold.wait_at_risk(margin)
    }

    /// A channel that disconnects when the hold ends and never carries a message,
    /// for [`crossbeam_channel::select!`].
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # let (_stop, stop) = crossbeam_channel::bounded::<()>(0);
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// let guard = mgr.lock("leader")?;
    /// crossbeam_channel::select! {
    ///     recv(guard.watch().channel()) -> _ => eprintln!("lost: stop at once"),
    ///     recv(stop) -> _ => eprintln!("asked to stop"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn channel(&self) -> Receiver<Infallible> {
        self.hold.over().clone()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("ended", &self.ended())
            .finish()
    }
}

#[cfg(all(test, not(distlock_model)))]
mod tests;
