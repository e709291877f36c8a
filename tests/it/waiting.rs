//! Which callers wait, for how long, and in which order.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use distlock::{CancelToken, ErrorKind, Guard, Manager};
use throwaway_postgres::{Server, Shutdown};

use crate::support::*;

/// A retry interval so long that no retry ends a wait in a test.
const NEVER: Duration = Duration::from_secs(24 * 3600);

type Take = fn(&Manager) -> Guard;

/// Runs `takes` on threads that enqueue one after the other, and returns the order in which they
/// got the lock after `release`.
fn order(mgr: &Manager, takes: &[Take], release: impl FnOnce()) -> Vec<usize> {
    let order = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let _unblock = Unblock(mgr);
        for (n, take) in takes.iter().enumerate() {
            let order = &order;
            scope.spawn(move || {
                let _guard = take(mgr);
                order.lock().unwrap().push(n);
            });
            eventually(|| mgr.stats().waiting == n as u64 + 1);
        }
        release();
    });
    order.into_inner().unwrap()
}

fn exclusive(mgr: &Manager) -> Guard {
    mgr.lock("queue").unwrap()
}

fn shared(mgr: &Manager) -> Guard {
    mgr.lock_shared("queue").unwrap()
}

#[apply(isolated_test)]
fn threads_are_served_first_in_first_out() {
    let mgr = manager();
    let guard = mgr.lock("queue").unwrap();
    let served = order(&mgr, &[exclusive as Take; 32], || drop(guard));
    assert_eq!(served, (0..32).collect::<Vec<_>>());
}

#[apply(isolated_test)]
fn threads_that_wait_for_another_process_are_served_first_in_first_out() {
    let (mgr, other) = (manager(), manager());
    let guard = other.lock("queue").unwrap();
    let served = order(&mgr, &[exclusive as Take; 16], || drop(guard));
    assert_eq!(served, (0..16).collect::<Vec<_>>());
}

#[apply(isolated_test)]
fn an_exclusive_request_is_not_overtaken_by_later_shared_ones() {
    let mgr = manager();
    let guard = mgr.lock_shared("queue").unwrap();
    let served = order(&mgr, &[exclusive, shared, shared], || {
        assert!(mgr.try_lock_shared("queue").unwrap().is_none());
        drop(guard);
    });
    assert_eq!(served[0], 0);
}

#[apply(isolated_test)]
fn one_thread_at_a_time_is_inside_whatever_process_it_is_of() {
    let managers = [manager(), manager()];
    let inside = AtomicBool::new(false);
    let entered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for n in 0..8 {
            let (mgr, inside, entered) = (&managers[n % 2], &inside, &entered);
            scope.spawn(move || {
                for _ in 0..20 {
                    let _guard = mgr.lock("inside").unwrap();
                    assert!(!inside.swap(true, SeqCst));
                    thread::yield_now();
                    assert!(inside.swap(false, SeqCst));
                    entered.fetch_add(1, SeqCst);
                }
            });
        }
    });
    assert_eq!(entered.into_inner(), 160);
}

#[apply(isolated_test)]
fn readers_and_writers_of_two_processes_exclude_each_other() {
    let managers = [manager(), manager()];
    let (readers, writers) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for n in 0..8 {
            let (mgr, readers, writers) = (&managers[n % 2], &readers, &writers);
            scope.spawn(move || {
                for round in 0..15 {
                    if (n / 2 + round) % 3 == 0 {
                        let _guard = mgr.lock("rw").unwrap();
                        assert_eq!(writers.fetch_add(1, SeqCst), 0);
                        assert_eq!(readers.load(SeqCst), 0);
                        writers.fetch_sub(1, SeqCst);
                    } else {
                        let _guard = mgr.lock_shared("rw").unwrap();
                        readers.fetch_add(1, SeqCst);
                        assert_eq!(writers.load(SeqCst), 0);
                        readers.fetch_sub(1, SeqCst);
                    }
                }
            });
        }
    });
}

/// A manager in which nothing but the event under test can end a wait.
fn patient() -> Manager {
    builder().retry_interval(NEVER, NEVER).connect().unwrap()
}

#[apply(isolated_test)]
fn a_cancelled_token_ends_its_waits_at_once_and_no_others() {
    let (holder, mgr) = (manager(), patient());
    let _guard = holder.lock("away").unwrap();
    let token = CancelToken::new();
    let (child, unrelated) = (token.child(), CancelToken::new());
    let wait = |token: CancelToken| {
        let mgr = mgr.clone();
        thread::spawn(move || {
            mgr.acquire("away")
                .cancel(&token)
                .lock()
                .unwrap_err()
                .kind()
        })
    };
    let cancelled = [token.clone(), child, token.clone()].map(wait);
    let other = wait(unrelated.clone());
    eventually(|| mgr.stats().waiting == 4);
    token.cancel();
    assert_eq!(finish(cancelled.into()), [ErrorKind::Cancelled; 3]);
    eventually(|| mgr.stats().waiting == 1);
    assert!(!other.is_finished());
    unrelated.cancel();
    finish(vec![other]);
    let late = mgr.acquire("free").cancel(&token).lock();
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[apply(isolated_test)]
fn close_ends_every_wait_at_once() {
    let (holder, mgr) = (manager(), patient());
    let _guard = holder.lock("away").unwrap();
    let _own = mgr.lock("here").unwrap();
    let waits: Vec<_> = ["away", "here"]
        .repeat(8)
        .into_iter()
        .map(|name| {
            let mgr = mgr.clone();
            thread::spawn(move || mgr.try_lock_for(name, NEVER).unwrap_err().kind())
        })
        .collect();
    eventually(|| mgr.stats().waiting == 16);
    mgr.close().unwrap();
    assert_eq!(finish(waits), [ErrorKind::Closed; 16]);
}

#[apply(isolated_test)]
fn a_deadline_ends_its_wait_and_leaves_the_others_waiting() {
    let (holder, mgr) = (manager(), patient());
    let _guard = holder.lock("away").unwrap();
    let token = CancelToken::new();
    thread::scope(|scope| {
        let _unblock = Unblock(&mgr);
        let other = scope.spawn(|| mgr.acquire("away").cancel(&token).lock().map(drop));
        eventually(|| mgr.stats().waiting == 1);
        let start = Instant::now();
        let wait = Duration::from_millis(200);
        assert!(mgr.try_lock_for("away", wait).unwrap().is_none());
        assert!(start.elapsed() >= wait);
        let late = mgr.acquire("away").timeout(wait).lock();
        assert_eq!(late.unwrap_err().kind(), ErrorKind::Timeout);
        eventually(|| mgr.stats().waiting == 1);
        assert!(!other.is_finished());
        token.cancel();
        other.join().unwrap().unwrap_err();
    });
}

#[apply(isolated_test)]
fn many_waiters_for_other_processes_cost_few_statements() {
    const KEYS: i64 = 100;
    let (holder, mgr) = (manager(), manager());
    let mut guards: Vec<_> = (0..KEYS).map(|key| holder.lock(key).unwrap()).collect();
    let token = CancelToken::new();
    let batches = thread::scope(|scope| {
        let _unblock = Unblock(&mgr);
        for key in (0..KEYS - 1).chain(0..KEYS - 1) {
            let (mgr, token) = (&mgr, &token);
            scope.spawn(move || mgr.acquire(key).cancel(token).lock().map(drop));
        }
        eventually(|| mgr.stats().waiting == 2 * (KEYS as u64 - 1));
        let before = mgr.stats().batches;
        // One more waiter as a measure of time: 20 attempts or more, as its pauses are at
        // most 50 ms.
        let missed = mgr.try_lock_for(KEYS - 1, Duration::from_secs(1));
        token.cancel();
        assert!(missed.unwrap().is_none());
        mgr.stats().batches - before
    });
    // 100 keys, each by itself, would be 2000 attempts and more.
    assert!(batches < 500, "{batches}");
    guards.clear();
    eventually(|| mgr.stats().waiting == 0);
}

#[apply(isolated_test)]
fn a_wait_lasts_through_a_restart_of_the_server_if_it_may(server: Server) {
    let mgr = Manager::builder(&server.url())
        .wait_while_unavailable(true)
        .reconnect_backoff(Duration::from_millis(5), Duration::from_millis(20))
        .connect()
        .unwrap();
    let lost = mgr.lock("through").unwrap();
    let watch = lost.watch();
    server.stop(Shutdown::Immediate).unwrap();
    watch.wait();
    thread::scope(|scope| {
        let _unblock = Unblock(&mgr);
        let waits: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| mgr.lock("through").unwrap().unlock().unwrap()))
            .collect();
        eventually(|| mgr.stats().waiting == 8);
        // A call that cannot wait returns an error.
        eventually(|| {
            let error = mgr.try_lock("other").unwrap_err();
            error.kind() == ErrorKind::Unavailable
        });
        assert!(waits.iter().all(|wait| !wait.is_finished()));
        server.start_again().unwrap();
    });
    assert_eq!(mgr.stats().reconnects, 1);
    assert_eq!(mgr.stats().acquired, 9);
}

#[apply(isolated_test)]
fn a_deadline_holds_while_the_database_is_away(server: Server) {
    let mgr = Manager::builder(&server.url())
        .wait_while_unavailable(true)
        .connect()
        .unwrap();
    server.stop(Shutdown::Immediate).unwrap();
    let wait = Duration::from_millis(50);
    let error = mgr.try_lock_for("away", wait).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[apply(isolated_test)]
fn while_the_database_is_away_requests_fail_at_once_by_default(server: Server) {
    let mgr = Manager::builder(&server.url())
        .reconnect_backoff(Duration::from_millis(5), Duration::from_millis(20))
        .connect()
        .unwrap();
    server.stop(Shutdown::Immediate).unwrap();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let error = mgr.lock("away").unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Unavailable);
                    let error = mgr.try_lock_for("away", NEVER).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Unavailable);
                    let error = mgr.try_lock("away").unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Unavailable);
                }
            });
        }
    });
    server.start_again().unwrap();
    eventually(|| mgr.lock("away").is_ok());
}

#[apply(isolated_test)]
fn a_full_queue_drops_nothing() {
    let mgr = builder().queue_capacity(1).connect().unwrap();
    let taken = AtomicUsize::new(0);
    thread::scope(|scope| {
        for n in 0..64_i64 {
            let (mgr, taken) = (&mgr, &taken);
            scope.spawn(move || {
                for round in 0..20 {
                    let guard = match round % 4 {
                        0 => mgr.lock("everybody").unwrap(),
                        1 => mgr.try_lock(n).unwrap().unwrap(),
                        2 => mgr.try_lock_for(n, FOREVER).unwrap().unwrap(),
                        _ => mgr.acquire(n).cancel(&CancelToken::new()).lock().unwrap(),
                    };
                    drop(guard);
                    taken.fetch_add(1, SeqCst);
                }
            });
        }
    });
    assert_eq!(taken.into_inner(), 64 * 20);
    let stats = mgr.stats();
    assert_eq!((stats.acquired, stats.held, stats.waiting), (64 * 20, 0, 0));
}

/// Other processes get the lock by chance: a process that has had it for 20 ms leaves it free
/// for 2 ms or more, and a waiter retries at least every 50 ms. So a retry meets at least about
/// one such pause in 25. Each process has two threads, so that without the pauses there would be
/// almost no time in which the lock is free.
#[apply(isolated_test)]
fn processes_that_take_a_lock_again_and_again_take_turns() {
    const TENURE: Duration = Duration::from_millis(20);
    /// How often each process must get the lock, and within how many pauses: 20 are expected.
    const TURNS: usize = 5;
    const PAUSES: f64 = 500.0;
    // Holds above the hand-off budget, and far below it.
    for hold in [25, 3].map(Duration::from_millis) {
        let limit = PAUSES * TENURE.div_duration_f64(hold).max(1.0);
        let managers = [manager(), manager()];
        let holds = AtomicUsize::new(0);
        let turns = [(); 2].map(|()| AtomicUsize::new(0));
        // The process that had the lock last.
        let last = AtomicUsize::new(usize::MAX);
        let all_served = || turns.iter().all(|turns| turns.load(SeqCst) >= TURNS);
        let go_on = || !all_served() && (holds.load(SeqCst) as f64) < limit;
        thread::scope(|scope| {
            for process in [0, 1, 0, 1] {
                let mgr = &managers[process];
                let (holds, turns, last) = (&holds, &turns, &last);
                scope.spawn(move || {
                    while go_on() {
                        let guard = mgr.lock("key").unwrap();
                        holds.fetch_add(1, SeqCst);
                        if last.swap(process, SeqCst) != process {
                            turns[process].fetch_add(1, SeqCst);
                        }
                        thread::sleep(hold);
                        guard.unlock().unwrap();
                    }
                });
            }
        });
        assert!(all_served(), "{turns:?} of {holds:?} holds of {hold:?}");
    }
}

#[apply(isolated_test)]
fn a_cancel_or_a_deadline_does_not_wait_for_the_next_retry() {
    let holder = manager();
    let mgr = builder()
        .retry_interval(FOREVER, FOREVER)
        .connect()
        .unwrap();
    let guard = holder.lock("key").unwrap();
    let token = CancelToken::new();
    let wait = thread::spawn({
        let (mgr, token) = (mgr.clone(), token.clone());
        move || mgr.acquire("key").cancel(&token).lock().unwrap_err().kind()
    });
    eventually(|| mgr.stats().contended == 1);
    let start = Instant::now();
    token.cancel();
    assert_eq!(finish(vec![wait]), [ErrorKind::Cancelled]);
    assert!(
        mgr.try_lock_for("key", Duration::from_millis(200))
            .unwrap()
            .is_none()
    );
    guard.unlock().unwrap();
    assert!(mgr.try_lock("key").unwrap().is_some());
    assert!(start.elapsed() < FOREVER / 4, "{:?}", start.elapsed());
}
