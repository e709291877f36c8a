//! Many callers of one manager at once: they share round trips, and all are served.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use distlock::Key;

use crate::support::*;

#[apply(isolated_test)]
fn callers_with_different_keys_share_round_trips() {
    let mgr = manager();
    let done = Arc::new(AtomicBool::new(false));
    let callers = (0..16)
        .map(|n: i64| {
            let (mgr, done) = (mgr.clone(), Arc::clone(&done));
            thread::spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    mgr.lock(n).unwrap().unlock().unwrap();
                }
            })
        })
        .collect();
    eventually(|| mgr.stats().largest_batch >= 4);
    done.store(true, Ordering::SeqCst);
    finish(callers);
}

#[apply(isolated_test)]
fn more_callers_than_the_queue_holds_are_all_served() {
    let mgr = builder().queue_capacity(4).connect().unwrap();
    for _ in 0..3 {
        let start = Arc::new(Barrier::new(300));
        let callers = (0..300)
            .map(|n: i64| {
                let (mgr, start) = (mgr.clone(), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    // Half of them all at the same five keys.
                    let key = if n % 2 == 0 { n } else { n % 5 };
                    mgr.lock(key).unwrap().key() == &Key::from(key)
                })
            })
            .collect();
        assert_eq!(finish(callers), [true; 300]);
    }
    assert_eq!(mgr.stats().acquired, 900);
}
