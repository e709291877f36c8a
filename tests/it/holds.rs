//! What a holder can query while it holds a lock.

use std::thread;
use std::time::Duration;

use distlock::{CancelToken, Ended};

use crate::support::*;

const LEASE: Duration = Duration::from_secs(4);

#[apply(isolated_test)]
fn the_time_left_is_that_of_the_lease() {
    let mgr = builder().lease(LEASE).connect().unwrap();
    let guard = mgr.lock("lease").unwrap();
    let left = || guard.time_left().unwrap();
    // Nine tenths of the lease count, and each heartbeat renews them.
    assert!(left() <= LEASE * 9 / 10);
    for _ in 0..3 {
        let before = left();
        eventually(|| left() > before);
    }
    // The same with a watch on the hold.
    let watch = guard.watch();
    assert!(left() > Duration::ZERO && left() <= LEASE * 9 / 10);
    terminate_sessions(&mut server().client());
    watch.wait();
    assert_eq!(guard.time_left(), Some(Duration::ZERO));
    assert_eq!(watch.wait_at_risk(LEASE), Some(Ended::SessionLost));

    let without = builder().lease(None).connect().unwrap();
    let guard = without.lock("no lease").unwrap();
    assert_eq!(guard.time_left(), None);
    drop(guard);
}

#[apply(isolated_test)]
fn a_lock_that_a_token_gave_back_has_no_time_left() {
    let mgr = manager();
    let (stop, release) = (CancelToken::new(), CancelToken::new());
    let acquire = mgr.acquire("job").cancel(&stop).release_on(&release);
    let guard = acquire.lock().unwrap();
    stop.cancel();
    assert!(guard.time_left() > Some(Duration::ZERO), "it is still ours");
    release.cancel();
    assert_eq!(guard.time_left(), Some(Duration::ZERO));
}

#[apply(isolated_test)]
fn a_silent_server_puts_a_hold_at_risk_before_it_is_lost() {
    let mgr = builder().lease(LEASE).connect().unwrap();
    let guard = mgr.lock("risk").unwrap();
    let wait = thread::spawn({
        let watch = guard.watch();
        move || watch.wait_at_risk(LEASE / 2)
    });
    // Long enough for the lease to be renewed many times.
    let before = mgr.stats().round_trips;
    eventually(|| mgr.stats().round_trips > before + 60);
    assert!(!wait.is_finished());
    let paused = Paused::new(backends(&mut server().client()));
    assert_eq!(finish(vec![wait]), [None]);
    assert!(!guard.is_lost(), "there is time to stop");
    drop(paused);
}
