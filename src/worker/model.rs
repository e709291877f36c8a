//! Callers, the worker and a close, under many thread schedules. The worker is the real one, but
//! with a simpler loop and without a server: every statement succeeds.
// Tests may panic.
#![allow(clippy::unwrap_used)]

use shuttle::thread;

use super::*;
use crate::acquire::Acquire;
use crate::config::Settings;
use crate::error::ErrorKind;
use crate::key::Key;
use crate::lease::Lease;
use crate::op::Wait;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::try_schedules;

/// A manager that has a session, and its worker.
fn manager() -> (Arc<Handle>, Worker) {
    let settings = Settings {
        queue_capacity: 64,
        ..Settings::default()
    };
    let (handle, shared, _) = assemble(Dialer::nowhere(settings));
    let mut state = shared.state().lock();
    state.lane.connected(Arc::new(Lease::new(1, None)), 0, None);
    let worker = Worker::new(&shared, &mut state, Connection::new(Duration::ZERO, None));
    drop(state);
    (handle, worker)
}

impl Worker {
    /// Runs until the manager is closed. It sleeps until a caller wakes it, so a lost wake-up makes
    /// the model run forever, which shuttle reports. Deferred retries are due at once: a model has
    /// no clock.
    fn serve(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut awake = false;
        loop {
            while !awake {
                match shared.mailbox().queue().try_recv() {
                    Ok(message) => {
                        self.requests.push(message);
                        awake = true;
                    }
                    Err(_) => thread::yield_now(),
                }
            }
            let mut state = shared.state().lock();
            if !self.is_in_charge(&state) {
                return;
            }
            let now = Instant::now();
            let now = state.table.next_retry().map_or(now, |retry| retry.max(now));
            self.take_in(&mut state, now);
            self.exchange.plan_batch(&mut state, now);
            state.lane.begin_exchange(Duration::ZERO);
            drop(state);
            thread::yield_now();
            let mut state = shared.state().lock();
            if !self.is_in_charge(&state) {
                return;
            }
            self.exchange.succeed();
            self.exchange.settle(&mut state).unwrap();
            awake = state.table.has_ready()
                || state.table.next_retry().is_some()
                || state.lane.has_unlocks();
        }
    }
}

/// Takes the lock and releases it. False if the manager was closed meanwhile.
fn visit(acquire: Acquire<'_>, inside: &AtomicBool, wait: bool) -> bool {
    match acquire.wait(Wait::Forever) {
        Ok(guard) => {
            let guard = guard.expect("it waits for as long as it takes");
            assert!(!inside.swap(true, Ordering::SeqCst), "two inside");
            thread::yield_now();
            inside.store(false, Ordering::SeqCst);
            if !wait {
                drop(guard);
                return true;
            }
            let unlocked = guard.unlock().map_err(|error| error.kind());
            assert!(matches!(unlocked, Ok(()) | Err(ErrorKind::Closed)));
            unlocked.is_ok()
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Closed);
            false
        }
    }
}

/// Callers of one key, in different modes, and one of another key. With `close_early` the manager
/// is closed while they run.
fn callers(close_early: bool) {
    let (handle, worker) = manager();
    let worker = thread::spawn(move || worker.serve());
    let inside = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let callers: Vec<_> = (0..4)
        .map(|caller| {
            let key = usize::from(caller == 3);
            let (handle, inside) = (Arc::clone(&handle), Arc::clone(&inside[key]));
            thread::spawn(move || {
                let acquire = Acquire::new(&handle, Key::from((1, i32::from(key == 1))));
                let acquire = if caller == 2 {
                    acquire.shared()
                } else {
                    acquire
                };
                visit(acquire, &inside, caller != 0)
            })
        })
        .collect();
    if close_early {
        close(&handle);
    }
    for caller in callers {
        assert!(caller.join().unwrap() || close_early);
    }
    if !close_early {
        close(&handle);
    }
    worker.join().unwrap();
    assert_eq!(handle.shared().state().lock().table.held(), 0);
}

fn close(handle: &Handle) {
    assert!(handle.shut_down());
}

#[test]
fn everybody_has_their_turn() {
    try_schedules(|| callers(false));
}

#[test]
fn everybody_is_answered_by_a_close() {
    try_schedules(|| callers(true));
}

#[test]
fn who_gives_up_leaves_nothing_behind() {
    try_schedules(|| {
        let (handle, worker) = manager();
        let worker = thread::spawn(move || worker.serve());
        let key = Key::from((1, 1));
        let callers: Vec<_> = (0..3)
            .map(|caller| {
                let handle = Arc::clone(&handle);
                thread::spawn(move || {
                    let wait = match caller {
                        0 => Wait::Forever,
                        // Has passed when the request is sent.
                        _ => Wait::Until(Instant::now()),
                    };
                    match Acquire::new(&handle, key).wait(wait) {
                        Ok(guard) => assert!(guard.is_some() || caller > 0),
                        // The request had not been attempted when the caller gave up.
                        Err(error) => {
                            assert_eq!((error.kind(), caller > 0), (ErrorKind::Unavailable, true));
                        }
                    }
                })
            })
            .collect();
        callers
            .into_iter()
            .for_each(|caller| caller.join().unwrap());
        // Runs forever if anything is left.
        let is_clean = |state: &State| {
            let table = &state.table;
            (table.held(), table.waiting(), table.is_unlock_due(key)) == (0, 0, false)
        };
        while !is_clean(&handle.shared().state().lock()) {
            thread::yield_now();
        }
        close(&handle);
        worker.join().unwrap();
    });
}
