//! The thread that looks after the worker.
//!
//! The worker can hang in the driver for as long as the network stack likes. Then the
//! watchdog gives its session up and starts another worker. It also tells watchers
//! that a lease has expired when the worker does not. It sleeps until the first
//! moment at which either could be needed, though a second at most ([`clock::pause`]), and
//! for good while nothing is going on.

use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use tracing::{debug, warn};

use crate::clock;
use crate::error::Error;
use crate::lease::Ended;
use crate::worker;
use crate::worker::shared::Core;

pub(crate) fn spawn(core: &Arc<Core>, alarm: Receiver<()>) -> Result<(), Error> {
    // Weak: the core must not live for its watchdog's sake.
    let core = Arc::downgrade(core);
    thread::Builder::new()
        .name("distlock-watch".into())
        .spawn(move || run(&core, &alarm))
        .map(drop)
        .map_err(|error| Error::unavailable("no thread for the watchdog").caused_by(error))
}

fn run(core: &Weak<Core>, alarm: &Receiver<()>) {
    let mut alarmed = false;
    while let Some(pause) = core.upgrade().and_then(|core| look(&core, alarmed)) {
        let woken = match pause {
            Some(pause) => alarm.recv_timeout(pause),
            None => alarm.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        alarmed = match woken {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => return,
        };
    }
}

/// How soon to try again where there was no thread for a worker.
const NO_THREAD_PAUSE: Duration = Duration::from_millis(100);

/// Does what is due. Returns how long to sleep (`None`: until woken), or nothing at
/// all if the manager is closed.
fn look(core: &Arc<Core>, alarmed: bool) -> Option<Option<Duration>> {
    if core.is_closed() {
        return None;
    }
    let limit = clock::nanos(core.settings.stall_limit());
    start_missing_worker(core);
    // First the flag, then the look: a round trip that begins after the look rings.
    core.unguarded.store(true, Ordering::SeqCst);
    let mut until = clock::NEVER;
    let since = core.state.lock().pulse.round_trip();
    if let Some(since) = since {
        until = since.saturating_add(limit);
        if clock::now() >= until {
            replace_worker(core, since);
        }
    } else if alarmed {
        // Where there was one round trip there will be more. One that begins right
        // now may not last longer than to the next look.
        until = clock::now().saturating_add(limit);
    }
    if until != clock::NEVER {
        // It looks again soon enough for any round trip that begins meanwhile.
        core.unguarded.store(false, Ordering::SeqCst);
    }
    let state = core.state.lock();
    if state.is_unmanned {
        until = until.min(clock::now().saturating_add(clock::nanos(NO_THREAD_PAUSE)));
    }
    let session = state.session.clone();
    drop(state);
    if let Some(session) = session
        && session.ended().is_none()
    {
        until = until.min(session.trusted_until());
    }
    Some(clock::pause(until, clock::now()))
}

/// The worker hangs in the round trip that began at `since`: gives its session up and
/// starts another worker. The old one finds out when the driver lets it go; by then its
/// answers have no takers and its grants no session. Until then it has a connection, so a
/// server that answers logins and nothing else gets fewer and fewer of them.
fn replace_worker(core: &Arc<Core>, since: u64) {
    let mut state = core.state.lock();
    if core.is_closed() || state.pulse.round_trip() != Some(since) {
        return;
    }
    let error = Error::unavailable("the database did not answer in time");
    state.lose(Ended::SessionLost, error.clone(), &core.counters);
    state.refuse(error, &core.settings);
    state.epoch += 1;
    let pause = core.abandoned.pause(&core.target);
    if let Some(waiting) = state.waiting.take() {
        waiting.leave();
    }
    let canceller = state.canceller.take();
    state.is_unmanned = true;
    drop(state);
    start_worker(core, pause);
    if let Some(canceller) = canceller {
        canceller.cancel();
    }
    warn!("the database does not answer; giving its connection up");
}

fn start_missing_worker(core: &Arc<Core>) {
    if core.state.lock().is_unmanned {
        start_worker(core, core.abandoned.pause(&core.target));
    }
}

/// Starts the worker that is missing. Without a thread to be had all requests are refused,
/// and it is tried again later.
fn start_worker(core: &Arc<Core>, pause: Duration) {
    let mut state = core.state.lock();
    if core.is_closed() {
        return;
    }
    match worker::spawn(core, &mut state, pause, None) {
        Ok(()) => state.is_unmanned = false,
        Err(error) => {
            drop(state);
            debug!(error = &error as &dyn std::error::Error, "no worker");
            core.answer_unmanned(&error);
        }
    }
}

#[cfg(all(test, not(distlock_model)))]
mod tests {
    // Tests may panic.
    #![allow(clippy::unwrap_used)]

    use crossbeam_channel::Sender;

    use super::*;
    use crate::config::Settings;
    use crate::connect::target::Target;
    use crate::error::ErrorKind;
    use crate::key::Key;
    use crate::lease::SessionState;
    use crate::op::Mode;
    use crate::worker::reply::Waited;
    use crate::worker::request::{Answer, Grant, Message, Note};

    /// A manager's parts, without a thread, and what keeps its queue open.
    fn core() -> (Arc<Core>, Sender<Message>) {
        let settings = Settings::default();
        let target = Target::parse("host=/nowhere", &settings, None).unwrap();
        let (queue, requests) = crossbeam_channel::bounded(1);
        let (alarm, _) = crossbeam_channel::bounded(1);
        (Core::new(target, settings, requests, alarm), queue)
    }

    #[test]
    fn a_worker_for_which_there_was_no_thread_is_started_later() {
        let (core, queue) = core();
        core.state.lock().is_unmanned = true;
        look(&core, false);
        let mut state = core.state.lock();
        assert!(!state.is_unmanned);
        let thread = state.thread.take().unwrap();
        drop((state, queue));
        core.shut(Ended::Closed, &Error::closed());
        thread.join().unwrap();
    }

    #[test]
    fn an_unlock_is_answered_although_there_is_no_worker() {
        let (core, _queue) = core();
        let session = Arc::new(SessionState::new(1));
        let (pending, reply) = core.replies.open();
        let grant = Grant {
            key: Key::from(1),
            mode: Mode::Exclusive,
            id: 1,
            token: None,
            keep_until: None,
            session: Arc::clone(&session),
        };
        let reply = Some(reply);
        core.notes.lock().push(Note::Release { grant, reply });
        session.trip(Ended::SessionLost);
        core.answer_unmanned(&Error::unavailable("no thread"));
        let answer = pending.wait(Some(std::time::Instant::now()), None);
        assert!(matches!(
            answer,
            Waited::Answered(Answer::Failed(error)) if error.kind() == ErrorKind::Lost
        ));
    }

    #[test]
    fn it_looks_at_the_clock_every_second_while_there_is_a_lease() {
        let (core, _queue) = core();
        assert_eq!(look(&core, false), Some(None), "nothing to look after");
        let session = Arc::new(SessionState::new(1));
        core.state.lock().session = Some(Arc::clone(&session));
        assert_eq!(look(&core, false), Some(None), "no lease");
        session.trust_until(clock::now().saturating_add(9_000_000_000));
        let pause = look(&core, false).flatten().unwrap();
        assert!(pause <= Duration::from_secs(1), "{pause:?}");
    }
}
