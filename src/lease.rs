//! Whether locks still count as held: per session ([`Lease`]) and per lock ([`Hold`]).
//!
//! A session's locks count as held as long as this holds:
//!
//! ```text
//! no cause to end them is known    and, while the lease is armed,
//! now < begin of the last round trip that was answered + 9/10 of the lease
//! ```
//!
//! The server ends a session that has been silent for the whole lease (`idle_session_timeout`),
//! counted from the end of its last statement, which is after the begin of that round trip. So
//! this side always stops first, by a tenth of the lease or more, by its own clock alone. The
//! first cause is latched: what has ended never counts as held again.
//!
//! Losing a session is one store for all its locks; only holds that are watched have state of
//! their own.

use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::clock::{AtomicBootInstant, BootInstant};
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use crate::sync::{Latch, Mutex};

/// Why a hold ended: the first cause that this side knew of.
///
/// A watch knows only the clock and the outcome of the last round trips. So it can report
/// `Unlocked` for a guard that was dropped within a [heartbeat](crate::Builder::heartbeat)
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
    /// The guard was dropped or unlocked, and neither a round trip nor the clock had shown
    /// by then that the lock was lost.
    Unlocked = 1,
    /// The database session that held the lock has ended, and the lock with it.
    SessionLost,
    /// The session was silent for so long that the server may have ended it.
    LeaseExpired,
    /// The [`CancelToken`](crate::CancelToken) of the acquire was cancelled. The guard keeps the
    /// lock until it is dropped, unless the token was given to
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

/// For how much of a lease its locks count as held: the rest is the time to act on its end
/// before the server does.
fn trusted(length: Duration) -> Duration {
    length - length / 10
}

/// How long one round trip may take before its session is given up.
pub(crate) fn response_limit(length: Option<Duration>, response_timeout: Duration) -> Duration {
    length.map_or(response_timeout, |length| length.min(response_timeout))
}

/// The pause before a heartbeat that is due each `interval`: an eighth less, so that its round
/// trip is within the interval, too.
pub(crate) fn heartbeat_pause(interval: Duration) -> Duration {
    interval * 7 / 8
}

/// Whether the server enforces a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseState {
    /// The manager was made without one.
    Off,
    /// Nothing is held, and the session may be silent for any time.
    Disarmed,
    /// The server ends the session if it is silent for too long.
    Armed,
}

/// One database session's locks: whether they still count as held.
pub(crate) struct Lease {
    generation: u64,
    length: Option<Duration>,
    cause: Cause,
    /// `None` unless it is armed.
    trusted_until: AtomicBootInstant,
    /// The holds to notify. Dropped ones are removed when the list is full.
    watched: Mutex<Vec<Weak<Hold>>>,
}

impl Lease {
    /// The lease of a manager's session number `generation`; not armed.
    pub(crate) fn new(generation: u64, length: Option<Duration>) -> Self {
        Lease {
            generation,
            length,
            cause: Cause::default(),
            trusted_until: AtomicBootInstant::default(),
            watched: Mutex::default(),
        }
    }

    pub(crate) fn state(&self) -> LeaseState {
        match (self.length, self.trusted_until()) {
            (None, _) => LeaseState::Off,
            (Some(_), None) => LeaseState::Disarmed,
            (Some(_), Some(_)) => LeaseState::Armed,
        }
    }

    /// How long the session may be silent while the lease is armed. `None` without a lease.
    pub(crate) fn length(&self) -> Option<Duration> {
        self.length
    }

    /// How long nothing must have been held or awaited before it is disarmed: short enough for
    /// the lease, long enough that it is rarely armed again at once. `None` if it is not armed.
    pub(crate) fn disarm_after(&self) -> Option<Duration> {
        self.length
            .filter(|_| self.state() == LeaseState::Armed)
            .map(|length| length / 4)
    }

    /// Which of the manager's sessions this is, counted from 1.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Ends every hold of the session. Only the first cause counts.
    pub(crate) fn trip(&self, ended: Ended) {
        if self.cause.set(ended) {
            // Ended outside the mutex, because that wakes their watchers.
            let watched = std::mem::take(&mut *self.watched.lock());
            for hold in watched.iter().filter_map(Weak::upgrade) {
                hold.end(ended);
            }
        }
    }

    /// Why the session's locks are lost, if they are. The clock alone decides: no other
    /// thread has to run for a lease to expire.
    pub(crate) fn ended(&self) -> Option<Ended> {
        let ended = self.cause.get();
        let is_over = |until: BootInstant| BootInstant::now() >= until;
        if ended.is_none() && self.trusted_until().is_some_and(is_over) {
            // Latched, so that a late renewal cannot revive the lock.
            self.trip(Ended::LeaseExpired);
            return self.cause.get();
        }
        ended
    }

    /// The server enforces the lease, as of a round trip that began at `started`. Only while no
    /// lock relies on it.
    pub(crate) fn arm(&self, started: BootInstant) {
        self.trust_since(started);
    }

    /// The server does not enforce the lease any more.
    pub(crate) fn disarm(&self) {
        self.trusted_until.store(None);
    }

    /// The server has answered in a round trip that began at `started`: renews the lease, if
    /// it is armed and has not expired.
    pub(crate) fn renew(&self, started: BootInstant) {
        if self.state() == LeaseState::Armed && self.ended().is_none() {
            self.trust_since(started);
        }
    }

    fn trust_since(&self, started: BootInstant) {
        let until = self.length.map(|length| started + trusted(length));
        self.trusted_until.store(until);
    }

    /// How much of the lease is left, by the clock; nothing once the session has ended.
    /// `None` unless it is armed.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let until = self.trusted_until()?;
        Some(match self.ended() {
            None => until.saturating_duration_since(BootInstant::now()),
            Some(_) => Duration::ZERO,
        })
    }

    /// When the session's locks cease to count as held, unless the lease is renewed before.
    pub(crate) fn trusted_until(&self) -> Option<BootInstant> {
        self.trusted_until.load()
    }
}

/// A lock that is watched, or that a token can end.
pub(crate) struct Hold {
    lease: Arc<Lease>,
    cause: Cause,
    /// True once the guard or a token has claimed the release of the lock.
    release_claimed: AtomicBool,
    over: Latch,
}

impl Hold {
    pub(crate) fn new(lease: &Arc<Lease>) -> Arc<Self> {
        let hold = Arc::new(Hold {
            lease: Arc::clone(lease),
            cause: Cause::default(),
            release_claimed: AtomicBool::new(false),
            over: Latch::default(),
        });
        {
            let mut watched = lease.watched.lock();
            if watched.len() == watched.capacity() {
                watched.retain(|hold| hold.strong_count() > 0);
            }
            watched.push(Arc::downgrade(&hold));
        }
        // A trip before the push has not notified this hold.
        if let Some(ended) = lease.ended() {
            hold.end(ended);
        }
        hold
    }

    /// True if this call ended the hold with `ended`, and not an earlier cause. The clock
    /// is read first: a thread that wakes up after its lease has expired releases nothing.
    pub(crate) fn end(&self, ended: Ended) -> bool {
        let cause = self.lease.ended().unwrap_or(ended);
        let first = self.cause.set(cause);
        if first {
            self.over.set();
        }
        first && cause == ended
    }

    /// Ends the hold with `ended`, unless it has ended before. `Ok` if the caller is the one to
    /// release the lock, which happens once, and not after a loss; else why not.
    pub(crate) fn claim_release(&self, ended: Ended) -> Result<(), Ended> {
        if self.release_claimed.swap(true, Ordering::AcqRel) {
            // Guard and token came at the same time, and the other one was first.
            self.end(Ended::Cancelled);
            return Err(self.cause.get().unwrap_or(Ended::Cancelled));
        }
        self.end(ended);
        // A hold that was cancelled, and then lost, has nothing left to release.
        self.lease.ended().map_or(Ok(()), Err)
    }

    /// Disconnects when the hold ends.
    pub(crate) fn over(&self) -> &Receiver<Infallible> {
        self.over.channel()
    }

    pub(crate) fn ended(&self) -> Option<Ended> {
        self.cause.get().or_else(|| {
            // Latched before it is returned: a concurrent release cannot change it.
            self.end(self.lease.ended()?);
            self.cause.get()
        })
    }

    /// How much of the lease is left; `None` without one.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let left = self.lease.time_left()?;
        let is_gone = self.release_claimed.load(Ordering::Acquire);
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
            self.sleep(pause_until(self.lease.trusted_until(), left));
        }
    }

    pub(crate) fn wait_at_risk(&self, margin: Duration) -> Option<Ended> {
        loop {
            if let Some(ended) = self.ended() {
                return Some(ended);
            }
            // Read each time, because the lease may have been renewed meanwhile.
            let at_risk = self.lease.trusted_until().map(|until| until - margin);
            if at_risk.is_some_and(|at_risk| BootInstant::now() >= at_risk) {
                return None;
            }
            self.sleep(pause_until(at_risk, None));
        }
    }

    /// Sleeps for `pause`, or less if the hold ends.
    fn sleep(&self, pause: Option<Duration>) {
        let woken = match pause {
            Some(pause) => self.over().recv_timeout(pause),
            None => self
                .over()
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
        };
        match woken {
            Ok(never) => match never {},
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
}

/// How long to sleep until `due` by the lease's clock, at most for `left`. `None`: until woken.
fn pause_until(due: Option<BootInstant>, left: Option<Duration>) -> Option<Duration> {
    let pause = due.map(|due| due.pause(BootInstant::now()));
    pause.into_iter().chain(left).min()
}

#[cfg(all(test, not(distlock_model)))]
mod tests {
    use super::*;

    #[test]
    fn this_side_stops_a_tenth_of_the_lease_before_the_server() {
        for (length, trust) in [(10_000_000, 9_000_000), (1_000, 900)] {
            let length = Duration::from_micros(length);
            assert_eq!(trusted(length), Duration::from_micros(trust));
        }
    }

    #[test]
    fn no_wait_sleeps_for_longer_than_a_second_while_there_is_a_lease() {
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        assert_eq!(pause_until(None, None), None);
        assert_eq!(pause_until(None, Some(hour)), Some(hour));
        let due = BootInstant::now() + 9 * second;
        for left in [None, Some(hour), Some(second / 2)] {
            let pause = pause_until(Some(due), left).expect("it is due");
            assert!(pause <= left.unwrap_or(second).min(second), "{pause:?}");
        }
    }

    #[test]
    fn a_lease_is_renewed_only_while_it_is_armed_and_has_not_expired() {
        let second = Duration::from_secs(1);
        let lease = Lease::new(1, Some(10 * second));
        assert_eq!(lease.state(), LeaseState::Disarmed);
        lease.renew(BootInstant::now());
        assert_eq!(lease.time_left(), None);
        lease.arm(BootInstant::now());
        assert_eq!(lease.state(), LeaseState::Armed);
        assert!(lease.time_left() <= Some(9 * second));
        lease.disarm();
        assert_eq!(lease.state(), LeaseState::Disarmed);
        lease.arm(BootInstant::now() - 3600 * second);
        assert_eq!(lease.ended(), Some(Ended::LeaseExpired));
        lease.renew(BootInstant::now());
        assert_eq!(lease.time_left(), Some(Duration::ZERO));

        let off = Lease::new(1, None);
        off.arm(BootInstant::now());
        assert_eq!((off.state(), off.time_left()), (LeaseState::Off, None));
    }
}

#[cfg(all(test, distlock_model))]
mod model;
