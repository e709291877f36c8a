//! The thread that supervises the worker.
//!
//! The worker can hang in the driver for as long as the network stack likes. Then the watchdog
//! gives its session up and starts another worker. It also ends the holds of an expired lease when
//! the worker does not. It sleeps until the first moment at which either could be needed, though a
//! second at most ([`BootInstant::pause`]), and indefinitely while nothing is going on.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use tracing::debug;

use super::shared::Shared;
use crate::clock::BootInstant;
use crate::error::Error;
use crate::lease::{self, Ended};

pub(super) fn spawn(shared: &Arc<Shared>, alarms: Receiver<()>) -> Result<(), Error> {
    // Weak: the watchdog must not keep the shared state alive.
    let shared = Arc::downgrade(shared);
    thread::Builder::new()
        .name("distlock-watch".into())
        .spawn(move || run(&shared, &alarms))
        .map(drop)
        .map_err(|error| Error::unavailable("no thread for the watchdog").caused_by(error))
}

fn run(shared: &Weak<Shared>, alarms: &Receiver<()>) {
    let mut woken_by = WokenBy::Clock;
    while let Some(pause) = shared.upgrade().and_then(|shared| check(&shared, woken_by)) {
        let woken = match pause {
            Pause::For(pause) => alarms.recv_timeout(pause),
            Pause::UntilWoken => alarms.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        woken_by = match woken {
            Ok(()) => WokenBy::Alarm,
            Err(RecvTimeoutError::Timeout) => WokenBy::Clock,
            Err(RecvTimeoutError::Disconnected) => return,
        };
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WokenBy {
    Clock,
    Alarm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    For(Duration),
    UntilWoken,
}

/// How long to wait before retrying to start a worker's thread.
const NO_THREAD_PAUSE: Duration = Duration::from_millis(100);

/// Does what is due, and returns how long to sleep; `None` if the manager is closed.
fn check(shared: &Arc<Shared>, woken_by: WokenBy) -> Option<Pause> {
    if shared.mailbox().is_closed() {
        return None;
    }
    let settings = shared.settings();
    let limit = lease::response_limit(settings.lease, settings.response_timeout);
    start_missing_worker(shared);
    // First the flag, then the check: an exchange that begins after the check rings.
    shared.alarm().expect_ring();
    let now = BootInstant::now();
    let since = shared.state().lock().lane.in_flight().round_trip_since();
    let stuck_at = match since {
        Some(since) => Some(since + limit),
        // After an alarm, more round trips are likely. One that begins right now may not last
        // longer than to the next check.
        None if woken_by == WokenBy::Alarm => Some(now + limit),
        None => None,
    };
    if let Some(since) = since
        && BootInstant::now() >= since + limit
    {
        replace_worker(shared, since);
    }
    if stuck_at.is_some() {
        // The next check comes soon enough for any round trip that begins meanwhile.
        shared.alarm().expect_none();
    }
    let state = shared.state().lock();
    let retry_at = state.lane.is_unmanned().then(|| now + NO_THREAD_PAUSE);
    let lease = state.lane.lease().cloned();
    drop(state);
    let lease = lease.filter(|lease| lease.ended().is_none());
    let expires_at = lease.and_then(|lease| lease.trusted_until());
    let due = [stuck_at, retry_at, expires_at].into_iter().flatten().min();
    Some(match due {
        Some(due) => Pause::For(due.pause(BootInstant::now())),
        None => Pause::UntilWoken,
    })
}

/// Gives up the session of the worker that hangs in the round trip that began at `since`, and
/// starts another worker. The old one notices when the driver returns; by then its results have no
/// effect. Until then its connection counts as abandoned, so a server that answers only logins gets
/// fewer and fewer of them.
fn replace_worker(shared: &Arc<Shared>, since: BootInstant) {
    let mut state = shared.state().lock();
    let round_trip = state.lane.in_flight().round_trip_since();
    if shared.mailbox().is_closed() || round_trip != Some(since) {
        return;
    }
    let error = Error::unavailable("the database did not answer in time");
    shared.disconnect(&mut state, Ended::SessionLost, error.clone());
    state.refuse(error, shared.settings());
    let pause = shared.dialer().pause();
    let canceller = state.lane.abandon_worker();
    shared.parking().abandon();
    drop(state);
    start_worker(shared, pause);
    if let Some(canceller) = canceller {
        canceller.cancel();
    }
    shared.flush_events();
}

fn start_missing_worker(shared: &Arc<Shared>) {
    if shared.state().lock().lane.is_unmanned() {
        start_worker(shared, shared.dialer().pause());
    }
}

/// Starts the missing worker. If no thread can be started, all requests are refused, and the start
/// is retried later.
fn start_worker(shared: &Arc<Shared>, pause: Duration) {
    let mut state = shared.state().lock();
    if shared.mailbox().is_closed() {
        return;
    }
    if let Err(error) = super::spawn(shared, &mut state, pause, None) {
        drop(state);
        debug!(error = &error as &dyn std::error::Error, "no worker");
        shared.mailbox().refuse_requests(&error);
        shared.mailbox().answer_lost();
    }
}

#[cfg(all(test, not(distlock_model)))]
mod tests {
    // Tests may panic.
    #![allow(clippy::unwrap_used)]

    use std::time::Instant;

    use super::*;
    use crate::config::Settings;
    use crate::connect::Dialer;
    use crate::error::ErrorKind;
    use crate::key::Key;
    use crate::lease::Lease;
    use crate::op::Mode;
    use crate::worker::answer::Grant;
    use crate::worker::handle::Handle;
    use crate::worker::reply::Waited;
    use crate::worker::request::Control;

    /// A manager's parts, without threads.
    fn parts() -> (Arc<Handle>, Arc<Shared>) {
        let (handle, shared, _) = crate::worker::assemble(Dialer::nowhere(Settings::default()));
        (handle, shared)
    }

    #[test]
    fn a_worker_for_which_there_was_no_thread_is_started_later() {
        let (handle, shared) = parts();
        shared.state().lock().lane.abandon_worker();
        assert!(check(&shared, WokenBy::Clock).is_some());
        let mut state = shared.state().lock();
        assert!(!state.lane.is_unmanned());
        let thread = state.lane.take_thread().unwrap();
        drop(state);
        drop(handle);
        shared.shut_down(Ended::Closed, &Error::closed());
        thread.join().unwrap();
    }

    #[test]
    fn a_close_does_not_wait_for_a_worker_that_was_given_up() {
        let (handle, shared) = parts();
        let (release, stuck) = crossbeam_channel::bounded::<()>(0);
        let mut state = shared.state().lock();
        state.lane.manned_by(thread::spawn(move || {
            stuck.recv().ok();
        }));
        state.lane.abandon_worker();
        drop(state);
        handle.close().unwrap();
        drop(release);
    }

    #[test]
    fn an_unlock_is_answered_although_there_is_no_worker() {
        let (_handle, shared) = parts();
        let lease = Arc::new(Lease::new(1, None));
        let (pending, reply) = shared.unlock_replies().open();
        let grant = Grant {
            key: Key::from(1),
            mode: Mode::Exclusive,
            id: 1,
            token: None,
            keep_until: None,
            lease: Arc::clone(&lease),
        };
        let reply = Some(reply);
        assert!(shared.mailbox().post([Control::Release { grant, reply }]));
        lease.trip(Ended::SessionLost);
        shared.mailbox().answer_lost();
        let answer = pending.wait(Some(Instant::now()), None);
        assert!(matches!(
            answer,
            Waited::Answered(Err(error)) if error.kind() == ErrorKind::Lost
        ));
    }

    #[test]
    fn it_looks_at_the_clock_every_second_while_there_is_a_lease() {
        let (_handle, shared) = parts();
        let checked = || check(&shared, WokenBy::Clock).unwrap();
        assert_eq!(checked(), Pause::UntilWoken, "nothing to watch");
        let lease = Arc::new(Lease::new(1, Some(Duration::from_secs(10))));
        shared
            .state()
            .lock()
            .lane
            .connected(Arc::clone(&lease), 0, None);
        assert_eq!(checked(), Pause::UntilWoken, "the lease is not armed");
        lease.arm(BootInstant::now());
        let Pause::For(pause) = checked() else {
            panic!("there is a lease")
        };
        assert!(pause <= Duration::from_secs(1), "{pause:?}");
    }
}
