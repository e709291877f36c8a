//! Callers that stop waiting just when their lock is granted. None may leave it held.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use distlock::{CancelToken, Error, ErrorKind, Guard, Manager};

use crate::support::*;

const THREADS: u64 = 8;
const ROUNDS: u64 = 500;
const KEYS: u64 = 3;

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        // Xorshift64 (Marsaglia 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Calls from many threads of two managers; then all locks must be free, while the managers are
/// still alive.
fn storm(call: impl Fn(&Manager, i64, &mut Dice) -> Option<Guard> + Sync) {
    let managers = [manager(), manager()];
    let (got, missed) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for (n, mgr) in (0..THREADS).zip(managers.iter().cycle()) {
            let (call, got, missed) = (&call, &got, &missed);
            scope.spawn(move || {
                let mut dice = Dice(n + 1);
                for _ in 0..ROUNDS {
                    let key = dice.below(KEYS).cast_signed();
                    let counter = match call(mgr, key, &mut dice) {
                        Some(guard) if dice.below(2) == 0 => {
                            guard.unlock().unwrap();
                            got
                        }
                        Some(_dropped) => got,
                        None => missed,
                    };
                    counter.fetch_add(1, SeqCst);
                }
            });
        }
    });
    // Both must happen often, or nothing was tested.
    let (got, missed) = (got.into_inner(), missed.into_inner());
    assert!(got > 20 && missed > 20, "{got} got, {missed} missed");

    let mut client = server().client();
    for mgr in &managers {
        eventually(|| mgr.stats().waiting == 0 && mgr.stats().held == 0);
        let stats = mgr.stats();
        assert_eq!(stats.acquired, stats.released);
        assert_eq!((stats.lost, stats.reconnects), (0, 0));
    }
    let acquired: u64 = managers.iter().map(|mgr| mgr.stats().acquired).sum();
    assert!(acquired >= got);
    eventually(|| advisory_locks(&mut client).is_empty());
    for mgr in &managers {
        for key in 0..KEYS {
            assert!(mgr.try_lock(key.cast_signed()).unwrap().is_some(), "{key}");
            eventually(|| advisory_locks(&mut client).is_empty());
        }
    }
}

fn about_a_round_trip(dice: &mut Dice) -> Duration {
    Duration::from_micros(dice.below(1001))
}

/// With a timeout below a round trip it is unknown whether the lock is taken.
fn in_time(outcome: Result<Option<Guard>, Error>) -> Option<Guard> {
    outcome.unwrap_or_else(|error| {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        None
    })
}

#[apply(isolated_test)]
fn callers_whose_deadline_is_about_a_round_trip_away_leave_no_lock_behind() {
    storm(|mgr, key, dice| in_time(mgr.try_lock_for(key, about_a_round_trip(dice))));
}

#[apply(isolated_test)]
fn shared_and_exclusive_callers_that_give_up_leave_no_lock_behind() {
    storm(|mgr, key, dice| {
        let timeout = about_a_round_trip(dice);
        match dice.below(3) {
            0 => in_time(mgr.try_lock_for(key, timeout)),
            _ => in_time(mgr.try_lock_shared_for(key, timeout)),
        }
    });
}

#[apply(isolated_test)]
fn callers_that_are_cancelled_leave_no_lock_behind() {
    storm(|mgr, key, dice| {
        let token = CancelToken::new();
        let wait = about_a_round_trip(dice);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(wait);
                token.cancel();
            });
            match mgr.acquire(key).cancel(&token).lock() {
                // The token may end the hold as well, so the guard is not checked.
                Ok(guard) => drop(guard),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled),
            }
        });
        in_time(mgr.try_lock_for(key, wait))
    });
}
