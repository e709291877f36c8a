//! [`Semaphore`]: a lock that several may hold at a time.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{after, never, select};

use crate::acquire::options::{Options, option_setters, within, within_limit};
use crate::acquire::some::{from_anywhere, obtain};
use crate::backoff;
use crate::error::{Error, ErrorKind};
use crate::guard::Guard;
use crate::guard::set::GuardSet;
use crate::holder::Question;
use crate::key::Key;
use crate::lease::Ended;
use crate::op::{Mode, Wait};
use crate::sync::Latch;
use crate::table::Choice;
use crate::worker::handle::Handle;

/// The most permits that a semaphore may have.
const MOST_PERMITS: usize = 1024;

/// A lock that as many may hold at a time, in all processes together, as it has permits: from
/// [`Manager::semaphore`](crate::Manager::semaphore).
///
/// Each permit is a lock of its own, with the key [`Key::slot`], and is lost, watched, fenced and
/// numbered as any other. There is no table, and nothing is left of it when nobody holds one.
///
/// Those who wait do so in one queue, and who comes later does not overtake them: the first one takes
/// any permit that becomes free. Their order is that of a lock: first in, first out among the threads
/// of a process; between processes that hold something it is chance who is next. The first one is
/// told at once of a permit that is released in its process, and looks for others, and those kept by
/// [`hold_at_least`](Permits::hold_at_least), at growing intervals, of
/// [`Builder::retry_interval`](crate::Builder::retry_interval). It holds a lock for its turn meanwhile,
/// `Key::slot(name, 0)`, which counts as [held](crate::Stats::held), also for
/// [`Builder::max_locks`](crate::Builder::max_locks), and which observers are told of.
///
/// Processes should agree on the number of permits. If they do not, each uses the first ones, up to
/// its own number: as many as the largest number are inside in all, and who has a smaller one may
/// find its permits taken while others are free.
///
/// ```no_run
/// # fn export() {}
/// # fn main() -> Result<(), distlock::Error> {
/// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
/// let exports = mgr.semaphore("exports", 3)?;
/// let permit = exports.acquire()?;
/// export(); // at most three of us, on all machines, are here
/// drop(permit);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Semaphore {
    handle: Arc<Handle>,
    slots: Arc<[Key]>,
    /// Held by the first one that waits.
    queue: Key,
}

impl Semaphore {
    pub(crate) fn new(handle: &Arc<Handle>, name: &str, permits: usize) -> Result<Self, Error> {
        if !(1..=MOST_PERMITS).contains(&permits) {
            let message = format!("a semaphore has 1 to {MOST_PERMITS} permits, not {permits}");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let namespace = handle.settings().namespace.as_ref();
        let slot = |number| Key::slot(name, number).within(namespace);
        Ok(Semaphore {
            handle: Arc::clone(handle),
            slots: (1..).take(permits).map(slot).collect(),
            queue: slot(0),
        })
    }

    /// Waits for a permit.
    ///
    /// # Errors
    ///
    /// Those of [every acquire](crate::Manager#errors).
    pub fn acquire(&self) -> Result<Guard, Error> {
        let permit = self.request(1).wait(Wait::Forever)?;
        permit.and_then(only).ok_or_else(Error::timeout)
    }

    /// Takes a permit if one is free now, and nobody waits for one. `Ok(None)`: all are held, or
    /// somebody waits.
    ///
    /// # Errors
    ///
    /// Those of [every acquire](crate::Manager#errors).
    pub fn try_acquire(&self) -> Result<Option<Guard>, Error> {
        Ok(self.request(1).wait(Wait::Try(None))?.and_then(only))
    }

    /// Waits for a permit for at most `timeout`: as
    /// [`Manager::try_lock_for`](crate::Manager::try_lock_for).
    ///
    /// # Errors
    ///
    /// Those of [every acquire](crate::Manager#errors).
    pub fn try_acquire_for(&self, timeout: Duration) -> Result<Option<Guard>, Error> {
        Ok(self.request(1).wait(within(timeout))?.and_then(only))
    }

    /// Waits for `count` permits, and takes them at once: it holds none while it waits, and nobody
    /// who comes later gets one before it.
    ///
    /// # Errors
    ///
    /// Those of [every acquire](crate::Manager#errors);
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if `count` is 0, or more than there are.
    pub fn acquire_many(&self, count: usize) -> Result<GuardSet, Error> {
        self.request(count).acquire()
    }

    /// A request for `count` permits with options: with a timeout, ended by a token, held for a time.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), distlock::Error> {
    /// # use std::time::Duration;
    /// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
    /// # let shutdown = distlock::CancelToken::new();
    /// let exports = mgr.semaphore("exports", 3)?;
    /// let minute = Duration::from_secs(60);
    /// let two = exports.request(2).timeout(minute).cancel(&shutdown).acquire()?;
    /// # drop(two);
    /// # Ok(())
    /// # }
    /// ```
    pub fn request(&self, count: usize) -> Permits<'_> {
        Permits {
            semaphore: self,
            count,
            options: Options::default(),
        }
    }

    /// How many permits nobody holds now: a round trip, with a look at all locks of the server. It may
    /// be less by the time it is known.
    ///
    /// # Errors
    ///
    /// Those of [`Manager::holders`](crate::Manager::holders).
    pub fn available(&self) -> Result<usize, Error> {
        let holders = self
            .handle
            .inquire(Question::Among(Arc::clone(&self.slots)))?;
        Ok(self.slots.len().saturating_sub(holders.len()))
    }
}

/// A request for permits of a [`Semaphore`], with options: from [`Semaphore::request`].
#[must_use = "a request does nothing until `acquire` or `try_acquire`"]
pub struct Permits<'a> {
    semaphore: &'a Semaphore,
    count: usize,
    options: Options<'a>,
}

impl<'a> Permits<'a> {
    option_setters!();

    /// Waits for the permits.
    ///
    /// # Errors
    ///
    /// [`Timeout`](crate::ErrorKind::Timeout) if they were not free within the
    /// [`timeout`](Permits::timeout), and those of [`Semaphore::acquire_many`].
    pub fn acquire(self) -> Result<GuardSet, Error> {
        let wait = self.options.patience(Wait::Forever);
        self.wait(wait)?
            .map(GuardSet::new)
            .ok_or_else(Error::timeout)
    }

    /// Takes the permits if they are free now, or become so within the
    /// [`timeout`](Permits::timeout).
    ///
    /// # Errors
    ///
    /// Those of [`Semaphore::acquire_many`].
    pub fn try_acquire(self) -> Result<Option<GuardSet>, Error> {
        let wait = self.options.patience(Wait::Try(None));
        Ok(self.wait(wait)?.map(GuardSet::new))
    }

    fn wait(self, wait: Wait) -> Result<Option<Vec<Guard>>, Error> {
        let permits = self.semaphore.slots.len();
        if !(1..=permits).contains(&self.count) {
            let message = format!("{} permits of a semaphore with {permits}", self.count);
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let limit = self.semaphore.handle.settings().wait_limit;
        let what = format_args!("a semaphore with {permits} permits");
        within_limit(wait, limit, &what, |wait| self.wait_in_turn(wait))
    }

    fn wait_in_turn(&self, wait: Wait) -> Result<Option<Vec<Guard>>, Error> {
        let Semaphore { handle, queue, .. } = self.semaphore;
        // Not while somebody waits: there is one who has the queue's lock then.
        let attempt = Wait::Try(wait.deadline());
        match obtain(handle, &self.options, self.choice(Some(*queue)), attempt) {
            Ok(None) if !wait.is_try() => {}
            // The wait for a turn knows whether to wait for the database.
            Err(error) if !wait.is_try() && !is_final(&error) => {}
            tried => return tried,
        }
        let began = Instant::now();
        let plain = Options::default();
        loop {
            let turn = plain.attempt(wait, |wait, _| {
                let interrupt = self.options.interrupt();
                let grant = handle.acquire(*queue, Mode::Exclusive, wait, interrupt)?;
                Ok(grant.map(|grant| (Arc::clone(&grant.lease), grant)))
            })?;
            let Some(turn) = turn else {
                return Ok(None);
            };
            let turn = plain.guard(handle, turn)?;
            if let Some(done) = self.look_for_permits(&turn, wait, began)? {
                return Ok(done);
            }
        }
    }

    /// Looks for free permits again and again. `None` if the turn was lost.
    fn look_for_permits(
        &self,
        turn: &Guard,
        wait: Wait,
        began: Instant,
    ) -> Result<Option<Option<Vec<Guard>>>, Error> {
        let handle = &self.semaphore.handle;
        let settings = handle.settings();
        // Its own list, so that it is told from other listeners.
        let listener = handle.listen(self.semaphore.slots.iter().copied().collect());
        let (nothing, turn) = (never(), turn.watch());
        let interrupt = self.options.interrupt().map_or(&nothing, Latch::channel);
        while turn.ended().is_none() {
            let attempt = Wait::Try(wait.deadline());
            let left = || {
                let deadline = wait.deadline();
                deadline.map(|at| at.saturating_duration_since(Instant::now()))
            };
            match obtain(handle, &self.options, self.choice(None), attempt) {
                Ok(None) => {}
                Ok(permits) => return Ok(Some(permits)),
                Err(_) if turn.ended().is_some_and(|ended| ended != Ended::Closed) => break,
                // It was not answered in time: all were taken before.
                Err(_) if left() == Some(Duration::ZERO) => return Ok(Some(None)),
                Err(error) => return Err(error),
            }
            let left = left();
            if left == Some(Duration::ZERO) {
                return Ok(Some(None));
            }
            let pause =
                backoff::proportional(began.elapsed(), settings.retry_min, settings.retry_max);
            let pause = left.map_or(pause, |left| left.min(pause));
            select! {
                recv(listener.rings()) -> _ => {}
                recv(interrupt) -> _ => return Err(Error::cancelled()),
                recv(turn.channel()) -> _ => {}
                recv(after(pause)) -> _ => {}
            }
        }
        Ok(None)
    }

    fn choice(&self, gate: Option<Key>) -> Choice {
        Choice {
            keys: from_anywhere(self.semaphore.slots.to_vec()).into(),
            most: self.count,
            least: self.count,
            gate,
        }
    }
}

/// True if a wait for a turn would end in the same way.
fn is_final(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Closed | ErrorKind::Cancelled | ErrorKind::LimitReached
    )
}

fn only(mut permits: Vec<Guard>) -> Option<Guard> {
    permits.pop()
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("permits", &self.slots.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Permits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permits")
            .field("semaphore", &self.semaphore)
            .field("count", &self.count)
            .field("options", &self.options)
            .finish()
    }
}
