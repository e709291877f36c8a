//! Locks that several may hold at a time.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use distlock::{CancelToken, Ended, ErrorKind, Key, Manager};

use crate::support::*;

#[apply(isolated_test)]
fn as_many_are_inside_as_there_are_permits() {
    const PERMITS: usize = 3;
    let managers: Vec<_> = (0..3).map(|_| manager()).collect();
    let each = managers.iter().cycle().take(PERMITS);
    let all: Vec<_> = each
        .map(|mgr| {
            mgr.semaphore("exports", PERMITS)
                .unwrap()
                .acquire()
                .unwrap()
        })
        .collect();
    drop(all);
    let (inside, had) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for (mgr, n) in managers.iter().cycle().zip(0..12) {
            let (inside, had) = (&inside, &had);
            scope.spawn(move || {
                let _unblock = Unblock(mgr);
                let semaphore = mgr.semaphore("exports", PERMITS).unwrap();
                for round in 0..40 {
                    let permit = match (n + round) % 4 {
                        0 => semaphore.try_acquire().unwrap(),
                        _ => Some(semaphore.acquire().unwrap()),
                    };
                    let Some(permit) = permit else { continue };
                    let now = inside.fetch_add(1, SeqCst) + 1;
                    assert!(now <= PERMITS, "{now} inside");
                    had.fetch_add(1, SeqCst);
                    thread::yield_now();
                    inside.fetch_sub(1, SeqCst);
                    drop(permit);
                }
            });
        }
    });
    assert!(had.load(SeqCst) >= 12 * 30);
    for mgr in &managers {
        assert_eq!(mgr.stats().lost, 0);
        eventually(|| mgr.stats().held == 0);
    }
}

#[apply(isolated_test)]
fn a_permit_that_is_not_free_is_not_given() {
    let (mgr, other) = (manager(), manager());
    let (ours, theirs) = (
        mgr.semaphore("exports", 3).unwrap(),
        other.semaphore("exports", 3).unwrap(),
    );
    assert_eq!(ours.available().unwrap(), 3);
    let permits = [
        ours.try_acquire().unwrap().unwrap(),
        theirs.try_acquire().unwrap().unwrap(),
        ours.acquire().unwrap(),
    ];
    assert!(ours.try_acquire().unwrap().is_none() && theirs.try_acquire().unwrap().is_none());
    assert_eq!(theirs.available().unwrap(), 0);
    let brief = Duration::from_millis(50);
    assert!(theirs.try_acquire_for(brief).unwrap().is_none());
    let timed = ours.request(1).timeout(brief).acquire();
    assert_eq!(timed.unwrap_err().kind(), ErrorKind::Timeout);
    // Its name is that of another lock, and of another semaphore in a namespace.
    assert!(other.try_lock("exports").unwrap().is_some());
    let elsewhere = builder().namespace("billing").connect().unwrap();
    let elsewhere = elsewhere.semaphore("exports", 3).unwrap();
    assert!(elsewhere.try_acquire().unwrap().is_some());
    for permit in permits {
        permit.unlock().unwrap();
    }
    assert_eq!(ours.available().unwrap(), 3);
    assert!(theirs.try_acquire().unwrap().is_some());
}

/// Whichever it is, and whoever releases it: the same process, or another one.
#[apply(isolated_test)]
fn any_permit_ends_the_wait() {
    let (mgr, other) = (manager(), manager());
    for holder in [&mgr, &other] {
        let semaphore = holder.semaphore("exports", 3).unwrap();
        for place in 0..3 {
            let mut permits: Vec<_> = (0..3).map(|_| semaphore.acquire().unwrap()).collect();
            permits.sort_by_key(|permit| *permit.key());
            let waiting = {
                let mgr = mgr.clone();
                thread::spawn(move || mgr.semaphore("exports", 3).unwrap().acquire().unwrap())
            };
            // It has the turn.
            let turn = Key::slot("exports", 0);
            eventually(|| !other.holders(turn).unwrap().is_empty());
            let released = *permits[place].key();
            drop(permits.remove(place));
            let permit = waiting.join().unwrap();
            assert_eq!(*permit.key(), released);
            permit.unlock().unwrap();
            for permit in permits {
                permit.unlock().unwrap();
            }
        }
    }
}

#[apply(isolated_test)]
fn several_permits_are_had_at_once_and_before_who_comes_later() {
    let (mgr, other) = (manager(), manager());
    let semaphore = mgr.semaphore("exports", 3).unwrap();
    let three = semaphore.acquire_many(3).unwrap();
    assert_eq!(three.keys().len(), 3);
    assert_eq!(semaphore.available().unwrap(), 0);
    three.unlock().unwrap();
    let one = semaphore.acquire().unwrap();
    let waiting = {
        let other = other.clone();
        thread::spawn(move || {
            other
                .semaphore("exports", 3)
                .unwrap()
                .acquire_many(3)
                .unwrap()
        })
    };
    let turn = Key::slot("exports", 0);
    eventually(|| !mgr.holders(turn).unwrap().is_empty());
    // Two are free, but not for those who come later.
    assert_eq!(semaphore.available().unwrap(), 2);
    assert!(semaphore.try_acquire().unwrap().is_none());
    one.unlock().unwrap();
    let three = waiting.join().unwrap();
    assert_eq!(three.keys().len(), 3);
    drop(three);
    assert!(
        semaphore
            .request(3)
            .timeout(FOREVER)
            .try_acquire()
            .unwrap()
            .is_some()
    );
}

#[apply(isolated_test)]
fn a_wait_for_a_permit_ends_with_its_token() {
    let (mgr, other) = (manager(), manager());
    let all = other
        .semaphore("exports", 2)
        .unwrap()
        .acquire_many(2)
        .unwrap();
    let token = CancelToken::new();
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let (mgr, token) = (mgr.clone(), token.clone());
            thread::spawn(move || {
                let semaphore = mgr.semaphore("exports", 2).unwrap();
                semaphore.request(1).cancel(&token).acquire()
            })
        })
        .collect();
    // The first one looks for permits, the others wait for their turn.
    eventually(|| (mgr.stats().held, mgr.stats().waiting) == (1, 2));
    token.cancel();
    for waiting in waiting {
        let error = waiting.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }
    eventually(|| (mgr.stats().held, mgr.stats().waiting) == (0, 0));
    drop(all);
    // A permit ends with its token, too.
    let token = CancelToken::new();
    let semaphore = mgr.semaphore("exports", 2).unwrap();
    let permit = semaphore.request(2).release_on(&token).acquire().unwrap();
    token.cancel();
    assert_eq!(permit.watch().ended(), Some(Ended::Cancelled));
    eventually(|| semaphore.available().unwrap() == 2);
}

/// The larger number counts, and who has the smaller one uses the first permits.
#[apply(isolated_test)]
fn processes_may_have_different_numbers_of_permits() {
    let (few, many) = (manager(), manager());
    let (few, many) = (
        few.semaphore("exports", 2).unwrap(),
        many.semaphore("exports", 5).unwrap(),
    );
    let two = few.acquire_many(2).unwrap();
    let three: Vec<_> = (0..3).map(|_| many.acquire().unwrap()).collect();
    assert!(many.try_acquire().unwrap().is_none());
    two.unlock().unwrap();
    let mut rest: Vec<_> = (0..2).map(|_| many.acquire().unwrap()).collect();
    assert!(few.try_acquire().unwrap().is_none());
    let keys: Vec<_> = rest.iter().map(|permit| *permit.key()).collect();
    assert!(keys.contains(&Key::slot("exports", 1)) && keys.contains(&Key::slot("exports", 2)));
    drop(three);
    assert!(few.try_acquire().unwrap().is_none(), "its own are not free");
    rest.pop().unwrap().unlock().unwrap();
    eventually(|| few.try_acquire().unwrap().is_some());
}

#[apply(isolated_test)]
fn a_permit_is_watched_numbered_and_fenced_as_any_lock() {
    let connect = || {
        let builder = builder().fencing("public.distlock_permit_token");
        builder.connect().unwrap()
    };
    let (mgr, other) = (connect(), connect());
    let semaphore = mgr.semaphore("exports", 1).unwrap();
    let mut last = None;
    let mut writer = server().client();
    for _ in 0..5 {
        let permit = semaphore.acquire().unwrap();
        assert!(permit.token() > last);
        last = permit.token();
        let mut transaction = writer.transaction().unwrap();
        permit.fence(&mut transaction).unwrap();
        permit.unlock().unwrap();
        assert!(
            other
                .semaphore("exports", 1)
                .unwrap()
                .try_acquire()
                .unwrap()
                .is_none()
        );
        transaction.commit().unwrap();
    }
    let mut admin = server().client();
    let permit = semaphore.acquire().unwrap();
    terminate_sessions(&mut admin);
    assert_eq!(permit.watch().wait(), Ended::SessionLost);
    drop((permit, semaphore, mgr, other));
    admin
        .batch_execute("DROP SEQUENCE public.distlock_permit_token")
        .unwrap();
}

#[apply(isolated_test)]
fn a_wait_for_a_permit_outlasts_its_session() {
    let (mgr, other) = (
        builder().wait_while_unavailable(true).connect().unwrap(),
        manager(),
    );
    let all = other
        .semaphore("exports", 2)
        .unwrap()
        .acquire_many(2)
        .unwrap();
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let mgr = mgr.clone();
            thread::spawn(move || {
                let semaphore = mgr.semaphore("exports", 2).unwrap();
                semaphore.acquire().unwrap().unlock().unwrap();
            })
        })
        .collect();
    eventually(|| (mgr.stats().held, mgr.stats().waiting) == (1, 2));
    let mut admin = server().client();
    let turn = Key::slot("exports", 0);
    let waiter = other.holders(turn).unwrap().remove(0);
    admin
        .execute("SELECT pg_terminate_backend($1)", &[&waiter.pid])
        .unwrap();
    eventually(|| mgr.stats().reconnects == 1 && mgr.stats().held == 1);
    drop(all);
    waiting.into_iter().for_each(|it| it.join().unwrap());
}

#[apply(isolated_test)]
fn a_number_of_permits_that_cannot_be_is_an_error() {
    let mgr = manager();
    for permits in [0, 1025, usize::MAX] {
        let error = mgr.semaphore("exports", permits).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    let semaphore = mgr.semaphore("", 1024).unwrap();
    for count in [0, 1025] {
        let error = semaphore.acquire_many(count).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(semaphore.acquire_many(1024).unwrap().keys().len(), 1024);
}

/// Any program can compute the keys.
#[apply(isolated_test)]
fn the_keys_of_permits_do_not_change() {
    let mut client = server().client();
    for (name, number) in [("exports", 0), ("exports", 1), ("", 7), ("é\n", 1024)] {
        let sql = "SELECT ('x' || left(encode(sha256(sha256(convert_to($1, 'UTF8')) || 'slot' \
                   || int8send($2)), 'hex'), 16))::bit(64)::bigint";
        let row = client.query_one(sql, &[&name, &i64::from(number)]).unwrap();
        assert_eq!(Key::slot(name, number).as_i64(), row.get::<_, i64>(0));
    }
}

/// Many threads of two processes that only come and go.
#[apply(isolated_test)]
fn a_permit_that_is_hardly_held_goes_round() {
    let managers = [manager(), manager()];
    let barrier = Barrier::new(4);
    thread::scope(|scope| {
        for mgr in managers.iter().cycle().take(4) {
            let barrier = &barrier;
            scope.spawn(move || {
                let _unblock = Unblock(mgr);
                let semaphore = mgr.semaphore("exports", 1).unwrap();
                barrier.wait();
                for _ in 0..50 {
                    drop(semaphore.acquire().unwrap());
                }
            });
        }
    });
    let lost: u64 = managers.iter().map(|mgr: &Manager| mgr.stats().lost).sum();
    assert_eq!(lost, 0);
}

/// Whatever the server does.
#[apply(isolated_test)]
fn a_deadline_is_kept_while_the_server_is_stopped() {
    let connect = || builder().lease(FOREVER).connect().unwrap();
    let (mgr, other) = (connect(), connect());
    let all = other.semaphore("exports", 1).unwrap().acquire().unwrap();
    let waiting = {
        let mgr = mgr.clone();
        thread::spawn(move || {
            let semaphore = mgr.semaphore("exports", 1).unwrap();
            let tried = semaphore.try_acquire_for(Duration::from_secs(2));
            tried.unwrap().is_none()
        })
    };
    let turn = Key::slot("exports", 0);
    eventually(|| !other.holders(turn).unwrap().is_empty());
    let mut client = server().client();
    let paused = Paused::new(backends(&mut client));
    assert!(waiting.join().unwrap(), "it was seen to be taken");
    drop(paused);
    drop(all);
}

/// The second in the queue, whose process asks only now and then, is not overtaken either.
#[apply(isolated_test)]
fn who_comes_later_does_not_overtake() {
    let slow = builder()
        .retry_interval(FOREVER, FOREVER)
        .connect()
        .unwrap();
    let (first, second, later) = (manager(), manager(), manager());
    // One that holds a lock does not wait in the server's queue.
    let busy = slow.lock("busy").unwrap();
    let permit = first.semaphore("exports", 1).unwrap().acquire().unwrap();
    let wait = |mgr: &Manager| {
        let (mgr, token) = (mgr.clone(), CancelToken::new());
        let cancel = token.clone();
        let waiting = thread::spawn(move || {
            let semaphore = mgr.semaphore("exports", 1).unwrap();
            semaphore.request(1).cancel(&cancel).acquire()
        });
        (waiting, token)
    };
    let turn = Key::slot("exports", 0);
    let in_queue = || later.holders(turn).unwrap().len();
    let (has_turn, _) = wait(&second);
    eventually(|| in_queue() == 1);
    let (waits, token) = wait(&slow);
    eventually(|| in_queue() == 2);
    permit.unlock().unwrap();
    has_turn.join().unwrap().unwrap().unlock().unwrap();
    eventually(|| in_queue() == 1);
    let newcomer = later.semaphore("exports", 1).unwrap();
    for _ in 0..20 {
        assert!(newcomer.try_acquire().unwrap().is_none());
    }
    token.cancel();
    assert!(waits.join().unwrap().is_err());
    eventually(|| newcomer.try_acquire().unwrap().is_some());
    drop(busy);
}

#[apply(isolated_test)]
fn a_close_ends_the_wait_for_a_permit() {
    let mgr = builder()
        .retry_interval(FOREVER, FOREVER)
        .connect()
        .unwrap();
    let other = manager();
    let all = other.semaphore("exports", 1).unwrap().acquire().unwrap();
    let waiting = {
        let mgr = mgr.clone();
        thread::spawn(move || mgr.semaphore("exports", 1).unwrap().acquire().map(drop))
    };
    eventually(|| mgr.stats().held == 1);
    mgr.close().unwrap();
    let error = waiting.join().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    drop(all);
}

/// The wait for a permit waits for the database as that for a lock does.
#[apply(isolated_test)]
fn a_wait_for_a_permit_outlasts_a_refused_login(server: throwaway_postgres::Server) {
    let mut admin = server.client();
    admin.batch_execute("CREATE ROLE app LOGIN").unwrap();
    let mgr = Manager::builder(&server.url().replace("user=postgres", "user=app"))
        .wait_while_unavailable(true)
        .reconnect_backoff(Duration::from_millis(10), Duration::from_millis(50))
        .connect()
        .unwrap();
    admin.batch_execute("ALTER ROLE app NOLOGIN").unwrap();
    terminate_sessions(&mut admin);
    // An idle manager notices with its next call.
    let refused = |error: distlock::Error| error.kind() == ErrorKind::Login;
    eventually(|| mgr.try_lock("any").is_err_and(refused));
    let waiting = {
        let mgr = mgr.clone();
        thread::spawn(move || mgr.semaphore("exports", 1).unwrap().acquire().map(drop))
    };
    eventually(|| mgr.stats().waiting == 1);
    admin.batch_execute("ALTER ROLE app LOGIN").unwrap();
    waiting.join().unwrap().unwrap();
}
