//! Whether a lock may still be believed in: per session, per hold, and as the
//! [`Watch`] that users see.
//!
//! A hold ends once, with the first cause there is. Losing a session is one store
//! for all its locks; only holds that somebody watches have state of their own.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::Weak;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::clock;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// Why a hold ended: the first cause that this side knew of.
///
/// A watch knows what the clock and the last round trips have said. So it can say
/// `Unlocked` of a guard that was dropped within a [heartbeat](crate::Builder::heartbeat)
/// and a round trip after the server had ended the session. Only the `Ok` of
/// [`Guard::unlock`](crate::Guard::unlock) proves that a lock lasted to the end.
///
/// ```no_run
/// # fn main() -> Result<(), distlock::Error> {
/// # let mgr = distlock::Manager::connect("host=localhost user=app")?;
/// use distlock::Ended;
///
/// let guard = mgr.lock("leader")?;
/// match guard.watch().wait() {
///     Ended::Unlocked => println!("given back, for all we know in time"),
///     Ended::SessionLost | Ended::LeaseExpired => println!("somebody else may lead by now"),
///     why => println!("told to stop: {why:?}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Ended {
    /// The guard was dropped or unlocked, and neither a round trip nor the clock had said
    /// by then that the lock was lost.
    Unlocked = 1,
    /// The database session that held the lock is gone, and the lock with it.
    SessionLost,
    /// The session was silent for so long that the server may have ended it.
    LeaseExpired,
    /// The [`CancelToken`](crate::CancelToken) of the acquire was cancelled. The lock stays
    /// with its guard until that is dropped, unless the token was given to
    /// [`Acquire::release_on`](crate::Acquire::release_on).
    Cancelled,
    /// The manager was closed.
    Closed,
}

/// Set once, to the first cause.
#[derive(Default)]
struct Cause(AtomicU8);

impl Cause {
    fn get(&self) -> Option<Ended> {
        [
            Ended::Unlocked,
            Ended::SessionLost,
            Ended::LeaseExpired,
            Ended::Cancelled,
            Ended::Closed,
        ]
        .into_iter()
        .find(|&ended| ended as u8 == self.0.load(Ordering::Acquire))
    }

    /// True if `ended` is the first cause.
    fn set(&self, ended: Ended) -> bool {
        self.0
            .compare_exchange(0, ended as u8, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// One database session's locks: whether they may still be believed in.
pub(crate) struct SessionState {
    generation: u64,
    cause: Cause,
    /// On [`clock::now`]; [`clock::NEVER`] without a lease.
    trusted_until: AtomicU64,
    /// The holds to tell. Dead ones are swept out when the list has doubled.
    watched: Mutex<Vec<Weak<Hold>>>,
}

impl SessionState {
    pub(crate) fn new(generation: u64) -> Self {
        SessionState {
            generation,
            cause: Cause::default(),
            trusted_until: AtomicU64::new(clock::NEVER),
            watched: Mutex::default(),
        }
    }

    /// Which of the manager's sessions this is, counted from 1.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Ends every hold of the session. Only the first cause counts.
    pub(crate) fn trip(&self, ended: Ended) {
        if self.cause.set(ended) {
            // Out of the mutex first: ending a hold wakes its watchers.
            let watched = std::mem::take(&mut *self.watched.lock());
            for hold in watched.iter().filter_map(Weak::upgrade) {
                hold.end(ended);
            }
        }
    }

    /// Why the session's locks are lost, if they are. The clock alone can decide:
    /// no thread has to run for a lease to expire.
    pub(crate) fn ended(&self) -> Option<Ended> {
        let ended = self.cause.get();
        if ended.is_none() && clock::now() >= self.trusted_until.load(Ordering::Acquire) {
            // Latched, so that a late renewal cannot bring the lock back to life.
            self.trip(Ended::LeaseExpired);
            return self.cause.get();
        }
        ended
    }

    /// The server has answered: believe until `until`, unless it is too late for that.
    pub(crate) fn renew(&self, until: u64) {
        if self.ended().is_none() {
            self.trust_until(until);
        }
    }

    /// While nothing is held: believe until `until` from now on.
    pub(crate) fn trust_until(&self, until: u64) {
        self.trusted_until.store(until, Ordering::Release);
    }

    /// How much of the lease is left, by the clock; nothing once the session has ended.
    /// `None` without a lease.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let until = self.trusted_until();
        let left = match self.ended() {
            None => until.saturating_sub(clock::now()),
            Some(_) => 0,
        };
        (until != clock::NEVER).then(|| Duration::from_nanos(left))
    }

    /// When the clock ends the session's locks, if nobody renews them.
    pub(crate) fn trusted_until(&self) -> u64 {
        self.trusted_until.load(Ordering::Acquire)
    }
}

/// One lock that somebody watches.
pub(crate) struct Hold {
    session: Arc<SessionState>,
    cause: Cause,
    /// True once somebody has taken it upon them to give the lock back.
    given_back: AtomicBool,
    /// Nothing is ever sent: dropping the sender is the signal.
    signal: Mutex<Option<Sender<Infallible>>>,
    over: Receiver<Infallible>,
}

impl Hold {
    pub(crate) fn new(session: &Arc<SessionState>) -> Arc<Self> {
        let (sender, over) = bounded(0);
        let hold = Arc::new(Hold {
            session: Arc::clone(session),
            cause: Cause::default(),
            given_back: AtomicBool::new(false),
            signal: Mutex::new(Some(sender)),
            over,
        });
        {
            let mut watched = session.watched.lock();
            if watched.len() == watched.capacity() {
                watched.retain(|hold| hold.strong_count() > 0);
            }
            watched.push(Arc::downgrade(&hold));
        }
        // A trip that came before the push has not told this hold.
        if let Some(ended) = session.ended() {
            hold.end(ended);
        }
        hold
    }

    /// True if this call ended the hold with `ended`, and not an earlier cause. The clock
    /// is asked first: a thread that wakes up after its lease has not given anything back.
    pub(crate) fn end(&self, ended: Ended) -> bool {
        let cause = self.session.ended().unwrap_or(ended);
        let first = self.cause.set(cause);
        if first {
            let signal = self.signal.lock().take();
            drop(signal);
        }
        first && cause == ended
    }

    /// Ends the hold with `ended`, unless it has ended before, and says whether its lock is
    /// now the caller's to give back: once, and not after it was lost. The error says why
    /// not.
    pub(crate) fn give_back(&self, ended: Ended) -> Result<(), Ended> {
        if self.given_back.swap(true, Ordering::AcqRel) {
            // Guard and token came together, and the other one was first.
            self.end(Ended::Cancelled);
            return Err(self.cause.get().unwrap_or(Ended::Cancelled));
        }
        self.end(ended);
        // A hold that was cancelled, and then lost, has nothing left to give back.
        self.session.ended().map_or(Ok(()), Err)
    }

    /// Disconnects when the hold ends.
    pub(crate) fn over(&self) -> &Receiver<Infallible> {
        &self.over
    }

    pub(crate) fn ended(&self) -> Option<Ended> {
        self.cause.get().or_else(|| {
            // Latched before it is told: a release at the same moment cannot take it back.
            self.end(self.session.ended()?);
            self.cause.get()
        })
    }

    /// How much of the lease is left; `None` without one.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let left = self.session.time_left()?;
        let is_gone = self.given_back.load(Ordering::Acquire);
        Some(if is_gone { Duration::ZERO } else { left })
    }

    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Option<Ended> {
        loop {
            if let Some(ended) = self.ended() {
                return Some(ended);
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return None;
            }
            self.sleep(self.pause_until(self.session.trusted_until(), left));
        }
    }

    pub(crate) fn wait_at_risk(&self, margin: Duration) -> Option<Ended> {
        let margin = clock::nanos(margin);
        loop {
            if let Some(ended) = self.ended() {
                return Some(ended);
            }
            // Again each time, because a renewal may have come in between.
            let at_risk = match self.session.trusted_until() {
                clock::NEVER => clock::NEVER,
                trusted => trusted.saturating_sub(margin),
            };
            if clock::now() >= at_risk {
                return None;
            }
            self.sleep(self.pause_until(at_risk, None));
        }
    }

    /// How long to sleep until `due` by the lease's clock, and no longer than what is `left`.
    pub(crate) fn pause_until(&self, due: u64, left: Option<Duration>) -> Option<Duration> {
        match (clock::pause(due, clock::now()), left) {
            (Some(pause), Some(left)) => Some(pause.min(left)),
            (pause, left) => pause.or(left),
        }
    }

    /// Sleeps for `pause`, or less if the hold ends; the state then says what happened.
    fn sleep(&self, pause: Option<Duration>) {
        let woken = match pause {
            Some(pause) => self.over.recv_timeout(pause),
            None => self.over.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match woken {
            Ok(never) => match never {},
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
}

#[cfg(all(test, distlock_model))]
mod model;
