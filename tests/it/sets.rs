//! Several locks at once: all of them or none, and never a circle of waits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use distlock::{CancelToken, Claim, Ended, ErrorKind, GuardSet, Key, Manager};
use postgres::Client;
use serial_test::serial;
use throwaway_postgres::Server;

use crate::support::*;

fn held(client: &mut Client) -> Vec<i64> {
    let mut held = advisory_locks(client);
    held.sort_unstable();
    held
}

#[apply(isolated_test)]
fn free_locks_are_taken_and_given_back_together() {
    let (mgr, other) = (manager(), manager());
    let mut client = server().client();
    // Has everything prepared that the first call has to, but for the set itself.
    drop(mgr.lock_all([7, 8]).unwrap());
    eventually(|| held(&mut client).is_empty());
    let before = mgr.stats().round_trips;
    let set = mgr.lock_all((100..200).rev()).unwrap();
    assert_eq!(mgr.stats().round_trips, before + 1);
    assert_eq!(held(&mut client), (100..200).collect::<Vec<_>>());
    let keys: Vec<_> = set.keys().map(Key::as_i64).collect();
    assert_eq!(keys, (100..200).collect::<Vec<_>>());
    assert_eq!(mgr.stats().held, 100);
    assert!(!set.is_lost() && set.time_left().is_some() && set.tokens().next().is_none());
    assert!(other.try_lock(150).unwrap().is_none());
    set.unlock().unwrap();
    assert!(held(&mut client).is_empty());
    let set = other.try_lock_all(100..200).unwrap().unwrap();
    let watch = set.watch();
    drop(set);
    assert_eq!(watch.ended(), Some(Ended::Unlocked));
    eventually(|| held(&mut client).is_empty());
    let stats = mgr.stats();
    assert_eq!((stats.held, stats.acquired, stats.released), (0, 102, 102));
}

/// All kinds of keys, more than one batch has.
#[apply(isolated_test)]
fn a_set_may_be_large_and_mixed() {
    let mgr = manager();
    let mut client = server().client();
    let numbers = (0..1500).map(|n| Key::from(i64::from(n) - 700));
    let pairs = (0..1500).map(|n| Key::from((n - 700, n)));
    let names = (0..500).map(|n| Key::from(format!("job {n}")));
    let keys: Vec<_> = numbers.chain(pairs).chain(names).collect();
    for _ in 0..3 {
        let (shared, exclusive) = keys.split_at(1800);
        let all = mgr.acquire_all(exclusive).shared(shared).lock().unwrap();
        assert_eq!(all.keys().len(), keys.len());
        assert_eq!(held(&mut client).len(), keys.len());
        let modes = "SELECT count(*) FILTER (WHERE mode = 'ShareLock') FROM pg_locks \
                     WHERE locktype = 'advisory'";
        assert_eq!(client.query_one(modes, &[]).unwrap().get::<_, i64>(0), 1800);
    }
}

#[apply(isolated_test)]
fn a_key_counts_once_however_often_it_is_named() {
    let mgr = Manager::builder(&server().url())
        .namespace("billing")
        .connect()
        .unwrap();
    let mut client = server().client();
    let name = mgr.key("tenant");
    let names = [
        Key::from("tenant"),
        name,
        Key::from(name.as_i64()),
        Key::from(5),
    ];
    let set = mgr
        .acquire_all(names)
        .shared([5, 6])
        .shared([5])
        .lock()
        .unwrap();
    assert_eq!(set.keys().len(), 3);
    let share =
        "SELECT objid::int8 FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock'";
    let shared: i64 = client.query_one(share, &[]).unwrap().get(0);
    assert_eq!(shared, 6, "exclusive if it is so anywhere");
    drop(set);
    assert!(mgr.try_lock_all(["tenant"]).unwrap().is_some());
}

/// Threads of several managers want random sets in random order, in random modes.
#[apply(isolated_test)]
fn sets_never_wait_for_each_other_in_a_circle() {
    const KEYS: usize = 7;
    let managers: Vec<_> = (0..3).map(|_| manager()).collect();
    let inside: Arc<[AtomicI64; KEYS]> = Arc::default();
    let gotten = AtomicUsize::new(0);
    thread::scope(|scope| {
        for (mgr, thread) in managers.iter().cycle().zip(0..12_u64) {
            let (inside, gotten) = (Arc::clone(&inside), &gotten);
            scope.spawn(move || {
                let _unblock = Unblock(mgr);
                let mut random = thread + 1;
                let mut next = |below: u64| {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    (random >> 33) % below
                };
                for _ in 0..60 {
                    let mut wanted = BTreeMap::new();
                    for _ in 0..4 {
                        let key = usize::try_from(next(KEYS as u64)).unwrap();
                        wanted.entry(key).or_insert_with(|| next(3) == 0);
                    }
                    let of = |is_shared: bool| {
                        let keys = wanted
                            .iter()
                            .filter(move |(_, shared)| **shared == is_shared);
                        keys.map(|(&key, _)| key as i64).rev().collect::<Vec<_>>()
                    };
                    let acquire = mgr.acquire_all(of(false)).shared(of(true));
                    let set = match next(4) {
                        0 => acquire.try_lock().unwrap(),
                        1 => match acquire.timeout(Duration::from_millis(next(20))).try_lock() {
                            // It may be too short to be answered.
                            Err(error) if error.kind() == ErrorKind::Unavailable => None,
                            tried => tried.unwrap(),
                        },
                        _ => Some(acquire.lock().unwrap()),
                    };
                    let Some(set) = set else { continue };
                    gotten.fetch_add(1, SeqCst);
                    for (&key, &shared) in &wanted {
                        let before = inside[key].fetch_add(if shared { 1 } else { 1000 }, SeqCst);
                        assert!(before == 0 || shared && before < 1000, "two inside");
                    }
                    thread::yield_now();
                    for (&key, &shared) in &wanted {
                        inside[key].fetch_sub(if shared { 1 } else { 1000 }, SeqCst);
                    }
                    if next(2) == 0 {
                        set.unlock().unwrap();
                    }
                }
            });
        }
    });
    assert!(gotten.load(SeqCst) >= 12 * 60 / 3);
    for mgr in &managers {
        assert_eq!(mgr.stats().lost, 0);
        eventually(|| mgr.stats().held == 0);
        assert_eq!(mgr.stats().waiting, 0);
    }
}

/// A job that several machines begin at the same second has to run on one.
#[apply(isolated_test)]
fn of_several_that_try_the_same_set_at_once_one_gets_it() {
    const ROUNDS: usize = 200;
    let managers: Vec<_> = (0..3).map(|_| manager()).collect();
    let barrier = Barrier::new(managers.len() * 2);
    let gotten: Vec<AtomicUsize> = (0..ROUNDS).map(|_| AtomicUsize::new(0)).collect();
    thread::scope(|scope| {
        for (mgr, thread) in managers.iter().cycle().zip(0..managers.len() * 2) {
            let (barrier, gotten) = (&barrier, &gotten);
            scope.spawn(move || {
                for (round, gotten) in gotten.iter().enumerate() {
                    let round = i64::try_from(round).unwrap() * 10;
                    // What they have in common is not where they begin.
                    let own = round + 5 + i64::try_from(thread).unwrap() % 2;
                    barrier.wait();
                    let set = mgr.try_lock_all([round + 9, own, round]).unwrap();
                    gotten.fetch_add(usize::from(set.is_some()), SeqCst);
                    barrier.wait();
                }
            });
        }
    });
    for (round, gotten) in gotten.iter().enumerate() {
        assert_eq!(gotten.load(SeqCst), 1, "in round {round}");
    }
}

#[apply(isolated_test)]
fn what_is_refused_keeps_nothing() {
    let (mgr, other) = (manager(), manager());
    let mut client = server().client();
    // By another process, and by a thread of its own.
    for holder in [&other, &mgr] {
        let taken = holder.lock(3).unwrap();
        assert!(mgr.try_lock_all([1, 2, 3, 4]).unwrap().is_none());
        let timed = mgr.acquire_all(1..5).timeout(Duration::from_millis(700));
        assert!(timed.try_lock().unwrap().is_none());
        let timed = mgr.acquire_all(1..5).timeout(Duration::from_millis(700));
        assert_eq!(timed.lock().unwrap_err().kind(), ErrorKind::Timeout);
        eventually(|| held(&mut client) == [3]);
        let shared = mgr.acquire_all([1]).shared([3]).try_lock();
        assert!(shared.unwrap().is_none());
        taken.unlock().unwrap();
        eventually(|| held(&mut client).is_empty());
    }
    assert_eq!(mgr.stats().held, 0);
    assert!(mgr.try_lock_all(1..5).unwrap().is_some());
}

#[apply(isolated_test)]
fn a_set_that_waits_keeps_what_comes_before_and_nothing_after() {
    let (mgr, other) = (manager(), manager());
    let mut client = server().client();
    let taken = other.lock(3).unwrap();
    let waiting = {
        let mgr = mgr.clone();
        thread::spawn(move || mgr.lock_all([5, 1, 3]))
    };
    eventually(|| held(&mut client) == [1, 3]);
    assert_eq!((mgr.stats().held, mgr.stats().waiting), (0, 1));
    assert!(other.try_lock(1).unwrap().is_none());
    other.try_lock(5).unwrap().unwrap().unlock().unwrap();
    let waits = |it: &distlock::Holder| it.claim == Claim::Waits;
    eventually(|| other.holders(3).unwrap().iter().any(waits));
    drop(taken);
    let set = waiting.join().unwrap().unwrap();
    assert_eq!(held(&mut client), [1, 3, 5]);
    assert!(!set.is_lost());
}

#[apply(isolated_test)]
fn a_wait_for_a_set_ends_with_its_token_and_leaves_nothing() {
    let (mgr, other) = (manager(), manager());
    let mut client = server().client();
    let taken = other.lock(3).unwrap();
    let token = CancelToken::new();
    let waiting = {
        let (mgr, token) = (mgr.clone(), token.clone());
        thread::spawn(move || mgr.acquire_all([1, 2, 3, 4]).cancel(&token).lock())
    };
    eventually(|| held(&mut client) == [1, 2, 3]);
    token.cancel();
    let error = waiting.join().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    eventually(|| held(&mut client) == [3]);
    assert_eq!(mgr.stats().waiting, 0);
    drop(taken);
    // A set that is held: the token ends it, and releases it if it is to.
    let (stop, end) = (CancelToken::new(), CancelToken::new());
    let stopped = mgr.acquire_all(1..3).cancel(&stop).lock().unwrap();
    let ended = mgr.acquire_all(11..14).release_on(&end).lock().unwrap();
    let watches = [stopped.watch(), ended.watch()];
    stop.cancel();
    end.cancel();
    assert!(
        watches
            .iter()
            .all(|watch| watch.ended() == Some(Ended::Cancelled))
    );
    assert!(stopped.is_lost() && ended.is_lost());
    eventually(|| held(&mut client) == [1, 2]);
    stopped.unlock().unwrap();
    assert_eq!(ended.unlock().unwrap_err().kind(), ErrorKind::Cancelled);
    let late = mgr.acquire_all(1..3).cancel(&stop).lock();
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Cancelled);
    eventually(|| held(&mut client).is_empty());
}

#[apply(isolated_test)]
fn a_set_that_loses_its_session_while_it_waits_begins_again() {
    let (mgr, other) = (
        builder().wait_while_unavailable(true).connect().unwrap(),
        manager(),
    );
    let mut client = server().client();
    let taken = other.lock(3).unwrap();
    let waiting = {
        let mgr = mgr.clone();
        thread::spawn(move || mgr.lock_all(1..6).unwrap())
    };
    let pid = |client: &mut Client| -> Option<i32> {
        let holder =
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 2 AND granted";
        Some(client.query_opt(holder, &[]).unwrap()?.get(0))
    };
    let mut found = None;
    eventually(|| {
        found = pid(&mut client);
        found.is_some()
    });
    client
        .execute("SELECT pg_terminate_backend($1)", &[&found.unwrap()])
        .unwrap();
    eventually(|| pid(&mut client).is_some_and(|pid| Some(pid) != found));
    // It was nobody's yet.
    assert_eq!(mgr.stats().lost, 0);
    drop(taken);
    let set = waiting.join().unwrap();
    assert_eq!(held(&mut client), [1, 2, 3, 4, 5]);
    assert!(!set.is_lost());
    // Now it is: all of it is lost at once.
    let pid = pid(&mut client).unwrap();
    client
        .execute("SELECT pg_terminate_backend($1)", &[&pid])
        .unwrap();
    assert_eq!(set.watch().wait(), Ended::SessionLost);
    assert!(set.is_lost() && set.guards().iter().all(|guard| guard.is_lost()));
    assert_eq!(set.unlock().unwrap_err().kind(), ErrorKind::Lost);
    assert_eq!(mgr.stats().lost, 5);
}

#[apply(isolated_test)]
fn each_lock_of_a_set_has_a_token_of_its_own() {
    let mgr = builder()
        .fencing("public.distlock_set_token")
        .connect()
        .unwrap();
    let other = builder()
        .fencing("public.distlock_set_token")
        .connect()
        .unwrap();
    let mut newest = BTreeMap::new();
    for round in 0..20 {
        let mgr = [&mgr, &other][round % 2];
        let set = mgr.lock_all([3, 1, 2]).unwrap();
        let tokens: Vec<_> = set.tokens().collect();
        assert_eq!(tokens.len(), 3);
        for (guard, token) in set.guards().iter().zip(tokens) {
            assert_eq!(guard.token(), Some(token));
            let before = newest.insert(*guard.key(), token);
            assert!(before.is_none_or(|before| before < token));
        }
        // A part of them that is taken, and the rest that is not.
        let third = [&other, mgr][round % 2].try_lock_all([2, 9]).unwrap();
        assert!(third.is_none());
        set.unlock().unwrap();
    }
    drop((mgr, other));
    let mut admin = server().client();
    admin
        .batch_execute("DROP SEQUENCE public.distlock_set_token")
        .unwrap();
}

#[apply(isolated_test)]
fn a_transaction_is_fenced_by_all_of_a_set() {
    let (mgr, other) = (manager(), manager());
    let mut writer = server().client();
    let set = mgr
        .acquire_all(["one", "two"])
        .shared(["three"])
        .lock()
        .unwrap();
    let alone = set.fence(&mut writer).unwrap_err();
    assert_eq!(alone.kind(), ErrorKind::NoTransaction);
    let mut transaction = writer.transaction().unwrap();
    set.fence(&mut transaction).unwrap();
    // By the statement, and by one of them, the same.
    let sql = set.fence_sql().unwrap();
    let fenced: bool = transaction.query_one(&sql, &[]).unwrap().get(0);
    assert!(fenced);
    set.guards()[0].fence(&mut transaction).unwrap();
    set.unlock().unwrap();
    for key in ["one", "two", "three"] {
        assert!(other.try_lock(key).unwrap().is_none(), "{key}");
    }
    assert!(
        other
            .try_lock_all(["one", "two", "three"])
            .unwrap()
            .is_none()
    );
    other.lock_shared("three").unwrap().unlock().unwrap();
    transaction.commit().unwrap();
    let next = other.lock_all(["one", "two", "three"]).unwrap();
    let mut late = writer.transaction().unwrap();
    let fenced: bool = late.query_one(&sql, &[]).unwrap().get(0);
    assert!(!fenced, "it is over");
    drop(late);
    next.unlock().unwrap();
}

/// Threads that fence by one set, and by one of its guards, at the same time.
#[apply(isolated_test)]
fn threads_may_fence_by_a_set_at_the_same_time() {
    let mgr = manager();
    for _ in 0..20 {
        let set = mgr.lock_all(1..6).unwrap();
        thread::scope(|scope| {
            for n in 0..4 {
                let set = &set;
                scope.spawn(move || {
                    let mut client = server().client();
                    let mut transaction = client.transaction().unwrap();
                    match n % 2 {
                        0 => set.fence(&mut transaction).unwrap(),
                        _ => set.guards()[n].fence(&mut transaction).unwrap(),
                    }
                    transaction.commit().unwrap();
                });
            }
        });
        set.unlock().unwrap();
    }
    let mut client = server().client();
    assert!(held(&mut client).is_empty());
}

#[apply(isolated_test)]
fn the_locks_of_a_set_can_be_released_one_by_one() {
    let (mgr, other) = (manager(), manager());
    let mut guards = mgr.lock_all(["a", "b", "c"]).unwrap().into_guards();
    let first = guards.remove(0);
    let key = *first.key();
    first.unlock().unwrap();
    assert!(other.try_lock(key).unwrap().is_some());
    assert!(other.try_lock(guards[0].key()).unwrap().is_none());
    assert_eq!(mgr.stats().held, 2);
}

#[apply(isolated_test)]
fn a_set_is_handed_on_within_its_process_and_kept_for_its_time() {
    let (mgr, other) = (manager(), manager());
    let inside = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            let (mgr, inside) = (&mgr, &inside);
            scope.spawn(move || {
                for _ in 0..50 {
                    let set = mgr.lock_all([1, 2, 3]).unwrap();
                    assert_eq!(inside.fetch_add(1, SeqCst), 0);
                    inside.fetch_sub(1, SeqCst);
                    drop(set);
                }
            });
        }
    });
    assert!(mgr.stats().hand_overs > 0);
    let begin = Instant::now();
    let time = Duration::from_millis(300);
    let kept = mgr.acquire_all([1, 2]).hold_at_least(time).lock().unwrap();
    kept.unlock().unwrap();
    assert!(other.try_lock(1).unwrap().is_none());
    drop(other.lock_all([1, 2]).unwrap());
    assert!(begin.elapsed() >= time);
}

#[apply(isolated_test)]
fn a_set_of_nothing_or_of_too_many_is_an_error() {
    let mgr = builder().max_locks(3).connect().unwrap();
    let nothing: [i64; 0] = [];
    let kind = |set: Result<GuardSet, distlock::Error>| set.unwrap_err().kind();
    assert_eq!(kind(mgr.lock_all(nothing)), ErrorKind::InvalidInput);
    let tried = mgr.try_lock_all(nothing).unwrap_err();
    assert_eq!(tried.kind(), ErrorKind::InvalidInput);
    assert!(!tried.is_transient());
    assert_eq!(kind(mgr.lock_all(0..4)), ErrorKind::InvalidInput);
    // As many as it may hold, and then not one more.
    let set = mgr.lock_all([0, 1, 2, 1, 0]).unwrap();
    assert_eq!(mgr.lock(7).unwrap_err().kind(), ErrorKind::LimitReached);
    drop(set);
    let one = mgr.lock(7).unwrap();
    assert_eq!(kind(mgr.lock_all(0..3)), ErrorKind::LimitReached);
    let mut client = server().client();
    eventually(|| held(&mut client) == [7]);
    drop(one);
    mgr.lock_all(0..3).unwrap().unlock().unwrap();
    mgr.close().unwrap();
    assert_eq!(kind(mgr.lock_all(0..3)), ErrorKind::Closed);
}

/// The server has no room for the whole of it.
#[test]
#[serial]
fn a_set_that_does_not_fit_into_the_lock_table_leaves_room() {
    let server = Server::builder()
        .setting("max_locks_per_transaction", "10")
        .setting("max_connections", "10")
        .setting("max_prepared_transactions", "0")
        .setting("max_worker_processes", "1")
        .start()
        .unwrap();
    let _clean = clean_on(&server);
    let mgr = Manager::connect(&server.url()).unwrap();
    let mut client = server.client();
    let beside = mgr.lock("beside").unwrap();
    let error = mgr.lock_all(0..5000).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockTableFull);
    eventually(|| held(&mut client) == [beside.key().as_i64()]);
    assert!(!beside.is_lost());
    assert_eq!(mgr.stats().lost, 0);
    // As soon as the server may be asked again.
    eventually(|| match mgr.lock_all(0..40) {
        Ok(set) => set.unlock().is_ok(),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::LockTableFull);
            false
        }
    });
}

/// One of its locks is of a kind that the role may not take.
#[apply(isolated_test)]
fn a_set_with_a_lock_that_may_not_be_taken_keeps_nothing(server: Server) {
    let mut admin = server.client();
    admin.batch_execute("CREATE ROLE app LOGIN").unwrap();
    let mgr = Manager::connect(&server.url().replace("user=postgres", "user=app")).unwrap();
    let shared = "FUNCTION pg_try_advisory_lock_shared(bigint)";
    admin
        .batch_execute(&format!("REVOKE EXECUTE ON {shared} FROM public"))
        .unwrap();
    let error = mgr.acquire_all([1, 3]).shared([2]).lock().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Database);
    eventually(|| held(&mut admin).is_empty());
    mgr.lock_all([1, 3]).unwrap().unlock().unwrap();
}

/// Statements are cancelled all the time: nobody loses a lock or gets one that is not free.
#[apply(isolated_test)]
fn sets_hold_while_statements_are_cancelled() {
    let mgr = manager();
    let ends = AtomicUsize::new(0);
    thread::scope(|scope| {
        let ends = &ends;
        for n in 0..3 {
            let mgr = mgr.clone();
            scope.spawn(move || {
                for _ in 0..50 {
                    let set = mgr.lock_all((n..n + 40).map(i64::from)).unwrap();
                    set.unlock().unwrap();
                }
                ends.fetch_add(1, SeqCst);
            });
        }
        scope.spawn(move || {
            let mut client = server().client();
            while ends.load(SeqCst) < 3 {
                cancel_statements(&mut client);
            }
        });
    });
    assert_eq!(mgr.stats().lost, 0);
    assert_eq!(mgr.stats().held, 0);
}
