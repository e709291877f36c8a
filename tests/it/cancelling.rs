//! What a token does to the lock of a hold: `cancel` leaves it with its guard, `release_on`
//! releases it at once.

use std::thread;

use distlock::{Acquire, CancelToken, Ended, ErrorKind, Guard, Manager};

use crate::support::*;

/// True if another program can have `key` now.
fn is_free(key: &str) -> bool {
    manager().try_lock(key).unwrap().is_some()
}

#[apply(isolated_test)]
fn a_cancelled_hold_keeps_its_lock_until_its_guard_goes() {
    let mgr = manager();
    let give_back: [fn(Guard); 2] = [drop, |guard| guard.unlock().unwrap()];
    for give_back in give_back {
        let shutdown = CancelToken::new();
        let guard = mgr.acquire("job").cancel(&shutdown).lock().unwrap();
        let watch = guard.watch();
        shutdown.cancel();
        assert_eq!(watch.wait(), Ended::Cancelled);
        assert!(guard.is_lost(), "the work has to stop");
        assert!(watch.channel().recv().is_err());
        // Free neither for a thread of this process nor for another process.
        assert!(mgr.try_lock("job").unwrap().is_none());
        assert!(!is_free("job"));
        assert_eq!(mgr.stats().held, 1);
        give_back(guard);
        eventually(|| is_free("job"));
        // The end that a watch reports does not change.
        assert_eq!(watch.ended(), Some(Ended::Cancelled));
    }
    assert_eq!((mgr.stats().released, mgr.stats().lost), (2, 0));
}

#[apply(isolated_test)]
fn who_waits_gets_a_cancelled_lock_after_its_guard() {
    let mgr = manager();
    let shutdown = CancelToken::new();
    let guard = mgr.acquire("job").cancel(&shutdown).lock().unwrap();
    let waits = [mgr.clone(), manager()].map(|mgr| {
        let wait = mgr.clone();
        let wait = thread::spawn(move || wait.lock("job").map(drop));
        eventually(|| mgr.stats().waiting == 1);
        wait
    });
    shutdown.cancel();
    // After a round trip of the worker and one of the other program a release would be visible.
    mgr.lock("other").unwrap().unlock().unwrap();
    assert!(!is_free("job"));
    assert!(waits.iter().all(|wait| !wait.is_finished()));
    guard.unlock().unwrap();
    for wait in finish(waits.into()) {
        wait.unwrap();
    }
}

#[apply(isolated_test)]
fn release_on_gives_the_lock_back_under_its_guard() {
    let mgr = manager();
    let token = CancelToken::new();
    let guard = mgr.acquire("seat").release_on(&token).lock().unwrap();
    token.cancel();
    eventually(|| is_free("seat"));
    assert_eq!(guard.watch().wait(), Ended::Cancelled);
    assert_eq!(guard.unlock().unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!((mgr.stats().released, mgr.stats().held), (1, 0));
}

/// Acquires with both tokens, in the two orders of setting them; the last one is to be cancelled.
fn with_both<'a>(mgr: &'a Manager, tokens: [&'a CancelToken; 2]) -> [Acquire<'a>; 2] {
    let [stop, release] = tokens;
    [
        mgr.acquire("both").cancel(stop).release_on(release),
        mgr.acquire("both").release_on(release).cancel(stop),
    ]
}

#[apply(isolated_test)]
fn cancel_and_release_on_work_independently_on_one_hold() {
    let mgr = manager();
    for order in 0..2 {
        let (stop, release) = (CancelToken::new(), CancelToken::new());
        let [first, second] = with_both(&mgr, [&stop, &release]);
        let acquire = if order == 0 { first } else { second };
        let guard = acquire.lock().unwrap();
        stop.cancel();
        assert_eq!(guard.watch().wait(), Ended::Cancelled);
        assert!(!is_free("both"));
        // The hold has ended already; its lock has not.
        release.cancel();
        eventually(|| is_free("both"));
        assert_eq!(guard.unlock().unwrap_err().kind(), ErrorKind::Cancelled);
    }
    // One token for both is one that releases.
    let token = CancelToken::new();
    for acquire in with_both(&mgr, [&token, &token]) {
        if let Ok(_guard) = acquire.lock() {
            token.cancel();
            eventually(|| is_free("both"));
        }
    }
    assert!(token.is_cancelled());
}

#[apply(isolated_test)]
fn either_of_two_tokens_ends_the_wait() {
    let mgr = manager();
    let _held = mgr.lock("both").unwrap();
    for which in 0..2 {
        let tokens = [CancelToken::new(), CancelToken::new()];
        thread::scope(|scope| {
            let wait = scope.spawn(|| {
                let [acquire, _] = with_both(&mgr, [&tokens[0], &tokens[1]]);
                acquire.lock().unwrap_err().kind()
            });
            eventually(|| mgr.stats().waiting == 1);
            tokens[which].cancel();
            assert_eq!(wait.join().unwrap(), ErrorKind::Cancelled);
        });
    }
}

#[apply(isolated_test)]
fn a_cancelled_hold_that_is_lost_afterwards_says_so_when_it_is_given_back() {
    let mgr = manager();
    let shutdown = CancelToken::new();
    let guard = mgr.acquire("job").cancel(&shutdown).lock().unwrap();
    let (watch, fellow) = (guard.watch(), mgr.lock("fellow").unwrap());
    shutdown.cancel();
    terminate_sessions(&mut server().client());
    assert_eq!(fellow.watch().wait(), Ended::SessionLost);
    // The watch keeps the first cause; the unlock returns an error because the lock was lost.
    assert_eq!(watch.ended(), Some(Ended::Cancelled));
    let next = manager().lock("job").unwrap();
    assert_eq!(guard.unlock().unwrap_err().kind(), ErrorKind::Lost);
    next.unlock().unwrap();
}

#[apply(isolated_test)]
fn a_token_that_is_cancelled_after_the_hold_touches_no_later_one() {
    let mgr = manager();
    let token = CancelToken::new();
    let acquire = || mgr.acquire("again").cancel(&token).release_on(&token);
    drop(acquire().lock().unwrap());
    let next = mgr.lock("again").unwrap();
    token.cancel();
    assert!(!next.is_lost() && !is_free("again"));
    next.unlock().unwrap();
}
