//! Shares that become exclusive locks, and the other way round.

use std::sync::Barrier;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst};
use std::thread;

use distlock::{CancelToken, Claim, ErrorKind, Guard, Holder, Manager};
use throwaway_postgres::Server;

use crate::support::*;

fn shared(mgr: &Manager) -> Vec<Option<bool>> {
    let holders = mgr.holders("book").unwrap();
    let holds = holders.iter().filter(|it| it.claim == Claim::Holds);
    holds.map(|it| it.shared).collect()
}

#[apply(isolated_test)]
fn a_share_becomes_exclusive_if_nobody_else_has_one() {
    let (mgr, other) = (manager(), manager());
    let mut guard = mgr.lock_shared("book").unwrap();
    let watch = guard.watch();
    assert!(guard.try_upgrade().unwrap());
    assert_eq!(shared(&other), [Some(false)]);
    assert!(other.try_lock_shared("book").unwrap().is_none());
    assert!(mgr.try_lock_shared("book").unwrap().is_none());
    assert!(guard.try_upgrade().unwrap(), "it is");
    guard.downgrade().unwrap();
    guard.downgrade().unwrap();
    assert_eq!(shared(&other), [Some(true)]);
    let (second, third) = (
        other.try_lock_shared("book").unwrap().unwrap(),
        mgr.try_lock_shared("book").unwrap().unwrap(),
    );
    assert!(!guard.try_upgrade().unwrap(), "three share it");
    third.unlock().unwrap();
    assert!(!guard.try_upgrade().unwrap(), "two of two processes do");
    assert!(!guard.is_lost() && watch.ended().is_none());
    second.unlock().unwrap();
    assert!(guard.try_upgrade().unwrap());
    guard.unlock().unwrap();
    // Also of a pair, and of a lock that was taken exclusively.
    let mut pair = mgr.lock((1, 2)).unwrap();
    pair.downgrade().unwrap();
    assert!(other.try_lock_shared((1, 2)).unwrap().is_some());
    eventually(|| pair.try_upgrade().unwrap());
    assert!(other.try_lock_shared((1, 2)).unwrap().is_none());
    drop(pair);
    let mut client = server().client();
    eventually(|| advisory_locks(&mut client).is_empty());
    assert_eq!((mgr.stats().held, mgr.stats().lost), (0, 0));
}

/// Of the same process and of two.
#[apply(isolated_test)]
fn of_two_that_try_at_most_one_gets_it_and_the_other_keeps_its_share() {
    let managers = [manager(), manager()];
    for pair in [[0, 1], [0, 0]] {
        for _ in 0..100 {
            let mut guards = pair.map(|n: usize| managers[n].lock_shared("book").unwrap());
            let barrier = Barrier::new(2);
            thread::scope(|scope| {
                let tried = guards.each_mut().map(|guard| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        barrier.wait();
                        guard.try_upgrade().unwrap()
                    })
                });
                assert!(!tried.map(|it| it.join().unwrap()).contains(&true));
            });
            assert!(guards.iter().all(|guard| !guard.is_lost()));
            let [one, mut two] = guards;
            one.unlock().unwrap();
            assert!(two.try_upgrade().unwrap());
            two.unlock().unwrap();
        }
    }
}

/// No writer gets in between.
#[apply(isolated_test)]
fn a_downgrade_has_no_gap() {
    let (mgr, other) = (manager(), manager());
    let wrote = AtomicUsize::new(0);
    let mut guard = mgr.lock("book").unwrap();
    thread::scope(|scope| {
        for writer in [&mgr, &other] {
            let wrote = &wrote;
            scope.spawn(move || {
                drop(writer.lock("book").unwrap());
                wrote.fetch_add(1, SeqCst);
            });
        }
        let waits = |it: &Holder| it.claim == Claim::Waits;
        eventually(|| mgr.stats().waiting == 1 && mgr.holders("book").unwrap().iter().any(waits));
        let mut upgraded = 0;
        for _ in 0..200 {
            guard.downgrade().unwrap();
            // Not while the other process waits in the server's queue.
            upgraded += usize::from(guard.try_upgrade().unwrap());
        }
        guard.downgrade().unwrap();
        assert_eq!(wrote.load(SeqCst), 0, "{upgraded}");
        assert_eq!(mgr.stats().lost, 0);
        drop(guard);
    });
}

#[apply(isolated_test)]
fn a_lock_that_became_exclusive_has_a_later_token() {
    let connect = || {
        let builder = builder().fencing("public.distlock_mode_token");
        builder.connect().unwrap()
    };
    let (mgr, other) = (connect(), connect());
    let mut guard = mgr.lock_shared("book").unwrap();
    let second = other.lock_shared("book").unwrap();
    let tokens = [guard.token(), second.token()];
    assert!(!guard.try_upgrade().unwrap());
    assert_eq!(guard.token(), tokens[0]);
    second.unlock().unwrap();
    assert!(guard.try_upgrade().unwrap());
    assert!(tokens.iter().all(|&token| guard.token() > token));
    let token = guard.token();
    guard.downgrade().unwrap();
    assert_eq!(guard.token(), token);
    assert!(other.lock_shared("book").unwrap().token() > token);
    drop((guard, mgr, other));
    let mut admin = server().client();
    admin
        .batch_execute("DROP SEQUENCE public.distlock_mode_token")
        .unwrap();
}

#[apply(isolated_test)]
fn fenced_transactions_end_before_the_mode_changes() {
    let (mgr, other) = (manager(), manager());
    let (mut client, mut second) = (server().client(), server().client());
    let mut guard = mgr.lock_shared("book").unwrap();
    let mut reading = client.transaction().unwrap();
    guard.fence(&mut reading).unwrap();
    let old = guard.fence_sql().unwrap();
    assert!(!guard.try_upgrade().unwrap(), "its own reading goes on");
    reading.commit().unwrap();
    assert!(guard.try_upgrade().unwrap());
    // The share's fence would not keep readers out.
    let mut late = client.transaction().unwrap();
    assert!(!late.query_one(&old, &[]).unwrap().get::<_, bool>(0));
    drop(late);
    let mut writing = client.transaction().unwrap();
    guard.fence(&mut writing).unwrap();
    guard.downgrade().unwrap();
    // It is a share, but what was written under the exclusive lock is not committed.
    assert!(other.try_lock_shared("book").unwrap().is_none());
    thread::scope(|scope| {
        let joins = scope.spawn(|| mgr.lock_shared("book").map(drop));
        eventually(|| mgr.stats().waiting == 1);
        // Another transaction of the hold.
        let mut more = second.transaction().unwrap();
        guard.fence(&mut more).unwrap();
        more.commit().unwrap();
        assert_eq!(mgr.stats().waiting, 1);
        drop(guard);
        eventually(|| mgr.stats().held == 0);
        assert_eq!(mgr.stats().waiting, 1, "the transaction is open");
        writing.commit().unwrap();
        joins.join().unwrap().unwrap();
    });
    assert!(other.try_lock_shared("book").unwrap().is_some());
}

#[apply(isolated_test)]
fn a_hold_that_is_over_changes_no_more() {
    let mgr = builder().wait_while_unavailable(true).connect().unwrap();
    let mut client = server().client();
    let mut guard = mgr.lock_shared("book").unwrap();
    terminate_sessions(&mut client);
    assert_eq!(guard.try_upgrade().unwrap_err().kind(), ErrorKind::Lost);
    assert_eq!(
        guard.downgrade().map_err(|it| it.kind()),
        Err(ErrorKind::Lost)
    );
    let mut guard = mgr.lock("book").unwrap();
    mgr.close().unwrap();
    assert_eq!(guard.downgrade().unwrap_err().kind(), ErrorKind::Closed);
}

/// Readers that write now and then, while statements are cancelled now and then.
#[apply(isolated_test)]
fn nobody_reads_while_one_writes() {
    const READER: i64 = 1;
    const WRITER: i64 = 1_000;
    let managers = [manager(), manager()];
    let (inside, written, ends) = (AtomicI64::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let work = |guard: &mut Guard| {
        let before = inside.fetch_add(READER, SeqCst);
        assert!(before < WRITER, "a reader beside a writer");
        inside.fetch_sub(READER, SeqCst);
        if guard.try_upgrade().unwrap() {
            assert_eq!(
                inside.fetch_add(WRITER, SeqCst),
                0,
                "a writer beside others"
            );
            inside.fetch_sub(WRITER, SeqCst);
            written.fetch_add(1, SeqCst);
            guard.downgrade().unwrap();
            let before = inside.fetch_add(READER, SeqCst);
            assert!(before < WRITER);
            inside.fetch_sub(READER, SeqCst);
        }
    };
    thread::scope(|scope| {
        for mgr in managers.iter().cycle().take(6) {
            let (work, written, ends) = (&work, &written, &ends);
            scope.spawn(move || {
                // Until one has written: six readers are in each other's way.
                for round in 0.. {
                    if round >= 150 && written.load(SeqCst) > 0 {
                        break;
                    }
                    let mut guard = mgr.lock_shared("book").unwrap();
                    work(&mut guard);
                    if round % 3 == 0 {
                        guard.unlock().unwrap();
                    }
                }
                ends.fetch_add(1, SeqCst);
            });
        }
        let ends = &ends;
        let managers = &managers;
        scope.spawn(move || {
            let mut client = server().client();
            while ends.load(SeqCst) < 6 {
                let before = managers[0].stats().round_trips;
                cancel_statements(&mut client);
                let is_over = || ends.load(SeqCst) == 6;
                while !is_over() && managers[0].stats().round_trips < before + 20 {
                    thread::yield_now();
                }
            }
        });
    });
    for mgr in &managers {
        assert_eq!(mgr.stats().lost, 0);
    }
}

/// The role may not call the function for it.
#[apply(isolated_test)]
fn a_downgrade_that_cannot_be_done_keeps_the_lock(server: Server) {
    let mut admin = server.client();
    admin.batch_execute("CREATE ROLE app LOGIN").unwrap();
    let mgr = Manager::connect(&server.url().replace("user=postgres", "user=app")).unwrap();
    let other = Manager::connect(&server.url()).unwrap();
    let function = "FUNCTION pg_advisory_lock_shared(bigint)";
    let revoke = format!("REVOKE EXECUTE ON {function} FROM public");
    admin.batch_execute(&revoke).unwrap();
    let (mut guard, beside) = (mgr.lock("book").unwrap(), mgr.lock("beside").unwrap());
    assert_eq!(guard.downgrade().unwrap_err().kind(), ErrorKind::Database);
    assert_eq!(shared(&other), [Some(false)]);
    assert!(!guard.is_lost() && !beside.is_lost());
    let grant = format!("GRANT EXECUTE ON {function} TO public");
    admin.batch_execute(&grant).unwrap();
    guard.downgrade().unwrap();
    assert_eq!(shared(&other), [Some(true)]);
    assert_eq!(mgr.stats().lost, 0);
}

#[apply(isolated_test)]
fn what_its_token_has_released_is_not_upgraded() {
    let mgr = builder().lease(FOREVER).connect().unwrap();
    let token = CancelToken::new();
    let shared = mgr.acquire("book").shared().release_on(&token);
    let mut guard = shared.lock().unwrap();
    let mut client = server().client();
    let paused = Paused::new(backends(&mut client));
    let before = mgr.stats().round_trips;
    let upgrading = thread::spawn(move || guard.try_upgrade());
    eventually(|| mgr.stats().round_trips > before);
    token.cancel();
    drop(paused);
    assert!(upgrading.join().unwrap().is_err());
    eventually(|| advisory_locks(&mut client).is_empty());
}

/// Readers that come and go look for open transactions, and are not in the way.
#[apply(isolated_test)]
fn a_share_that_was_exclusive_is_fenced_beside_readers() {
    let (mgr, other) = (manager(), manager());
    let mut guard = mgr.lock("book").unwrap();
    guard.fence_sql().unwrap();
    guard.downgrade().unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    let fenced = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(SeqCst) {
                drop(other.try_lock_shared("book").unwrap());
            }
        });
        let mut client = server().client();
        let fenced: Result<(), distlock::Error> = (0..1000).try_for_each(|_| {
            let mut transaction = client.transaction().unwrap();
            guard.fence(&mut transaction)
        });
        over.store(true, SeqCst);
        fenced
    });
    fenced.unwrap();
}
