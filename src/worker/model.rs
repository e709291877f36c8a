//! Callers, the worker and a close under all orders of their threads. The worker is the
//! real one, but for its server: here every statement succeeds.
// Tests may panic.
#![allow(clippy::unwrap_used)]

use shuttle::thread;

use super::*;
use crate::acquire::{Acquire, Limit};
use crate::config::Settings;
use crate::connect::target::Target;
use crate::error::ErrorKind;
use crate::key::Key;
use crate::lease::SessionState;
use crate::sync::atomic::AtomicBool;
use crate::sync::try_schedules;
use crate::worker::handle::Handle;

fn manager() -> (Arc<Handle>, Worker) {
    let settings = Settings::default();
    let target = Target::parse("host=/nowhere", &settings, None).unwrap();
    let (queue, requests) = crossbeam_channel::bounded(64);
    let (alarm, _) = crossbeam_channel::bounded(1);
    let core = Core::new(target, settings, requests, alarm);
    core.state
        .lock()
        .connected(Arc::new(SessionState::new(1)), None);
    let worker = Worker {
        core: Arc::clone(&core),
        queue: core.queue.clone(),
        epoch: 0,
        pulse: Arc::default(),
        link: Link::new(Duration::ZERO, None),
        dialled: None,
        last_contact: Instant::now(),
        next: None,
        inbox: Vec::new(),
        notes: Vec::new(),
        batch: Vec::new(),
        outcomes: Vec::new(),
        crowd: 0,
        _working: core.abandoned.work().1,
    };
    (Arc::new(Handle { core, queue }), worker)
}

impl Worker {
    /// Works until the manager is closed. It sleeps until somebody calls, so a call that
    /// is lost has the model run for ever, which shuttle reports. What is put off is due at
    /// once: a model has no time.
    fn serve(mut self) {
        let core = Arc::clone(&self.core);
        let mut awake = false;
        loop {
            while !awake {
                match self.queue.try_recv() {
                    Ok(message) => {
                        self.inbox.push(message);
                        awake = true;
                    }
                    Err(_) => thread::yield_now(),
                }
            }
            let mut state = core.state.lock();
            if !self.is_in_charge(&state) {
                return;
            }
            let now = Instant::now();
            let now = state.table.next_look().map_or(now, |look| look.max(now));
            self.take_in(&mut state, now);
            self.plan(&mut state, now);
            state.round_trips += 1;
            drop(state);
            thread::yield_now();
            let mut state = core.state.lock();
            if !self.is_in_charge(&state) {
                return;
            }
            self.outcomes
                .extend(self.batch.iter().map(|_| Outcome::Done(None)));
            self.settle(&mut state);
            awake = state.table.has_ready()
                || state.table.next_look().is_some()
                || !state.unlocks.is_empty();
        }
    }
}

/// Takes the lock and gives it back. False if the manager was closed meanwhile.
fn visit(acquire: Acquire<'_>, inside: &AtomicBool, wait: bool) -> bool {
    match acquire.run(Limit::Forever) {
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

/// Callers of one key, in different modes, and one of another key; is the manager closed
/// under them?
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
    assert_eq!(handle.core.state.lock().table.held(), 0);
}

fn close(handle: &Handle) {
    assert!(handle.core.shut(Ended::Closed, &Error::closed()));
    handle.drain_if_closed();
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
                    let limit = match caller {
                        0 => Limit::Forever,
                        // It has passed when the request is sent.
                        _ => Limit::Until(Instant::now()),
                    };
                    match Acquire::new(&handle, key).run(limit) {
                        Ok(guard) => assert!(guard.is_some() || caller > 0),
                        // Nobody had looked at the request when the caller gave up.
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
        // For ever, if anything is left.
        let is_clean = |state: &State| {
            let table = &state.table;
            (table.held(), table.waiting(), table.is_unlock_due(key)) == (0, 0, false)
        };
        while !is_clean(&handle.core.state.lock()) {
            thread::yield_now();
        }
        close(&handle);
        worker.join().unwrap();
    });
}
