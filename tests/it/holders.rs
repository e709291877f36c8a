//! Who holds a lock, waits for it or keeps others from it.

use std::thread;
use std::time::{Duration, SystemTime};

use distlock::{CancelToken, Claim, ErrorKind, Holder, Key, Manager};
use throwaway_postgres::{Server, Shutdown};

use crate::support::*;

fn claims(holders: &[Holder]) -> Vec<Claim> {
    holders.iter().map(|holder| holder.claim).collect()
}

#[apply(isolated_test)]
fn holders_and_those_who_wait_are_named() {
    let named = |name: &str| builder().application_name(name).connect().unwrap();
    let (first, parked) = (named("first"), named("parked"));
    assert_eq!(first.holders("work").unwrap(), []);
    let guard = first.lock("work").unwrap();
    let [holder] = &first.holders("work").unwrap()[..] else {
        panic!("one has it");
    };
    assert_eq!(holder.key, Key::from("work"));
    assert_eq!(holder.claim, Claim::Holds);
    assert_eq!(holder.shared, Some(false));
    assert_eq!(holder.since, None);
    assert_eq!(holder.application_name.as_deref(), Some("first"));
    assert_eq!(holder.address, None, "it is a unix socket");
    assert!(holder.is_manager);
    // Anybody sees the same.
    let ours = std::slice::from_ref(holder);
    assert_eq!(parked.holders("work").unwrap(), ours);

    let (token, mut admin) = (CancelToken::new(), server().client());
    let waiting = {
        let (mgr, token) = (parked.clone(), token.clone());
        thread::spawn(move || mgr.acquire("work").cancel(&token).lock().map(drop))
    };
    eventually(|| queued(&mut admin) == 1);
    let seen = first.holders("work").unwrap();
    assert_eq!(claims(&seen), [Claim::Holds, Claim::Waits]);
    assert_eq!(seen[1].application_name.as_deref(), Some("parked"));
    // In the queue, or between two slices.
    eventually(|| match &first.holders("work").unwrap()[..] {
        [_, parked] => parked.shared == Some(false) && parked.since < Some(SystemTime::now()),
        _ => false,
    });
    token.cancel();
    assert!(waiting.join().unwrap().is_err());

    // One that holds another lock asks at intervals.
    let other = parked.lock("other").unwrap();
    let waiting = {
        let mgr = parked.clone();
        thread::spawn(move || drop(mgr.lock("work").unwrap()))
    };
    eventually(|| claims(&first.holders("work").unwrap()) == [Claim::Holds, Claim::Waits]);
    let seen = first.holders("work").unwrap();
    assert_eq!((seen[1].shared, seen[1].since), (None, None));
    drop((guard, other));
    waiting.join().unwrap();
}

#[apply(isolated_test)]
fn other_programs_and_fenced_transactions_are_shown() {
    let mgr = manager();
    let key = mgr.key((-7, 4));
    let mut psql = server().client();
    psql.batch_execute("SET application_name = 'psql'; SELECT pg_advisory_lock_shared(-7, 4)")
        .unwrap();
    let share = mgr.lock_shared(key).unwrap();
    let seen = mgr.holders(key).unwrap();
    assert_eq!(claims(&seen), [Claim::Holds, Claim::Holds]);
    assert!(seen.iter().all(|holder| holder.shared == Some(true)));
    let managers = seen.iter().filter(|holder| holder.is_manager);
    assert_eq!(managers.count(), 1);
    let psqls = seen
        .iter()
        .filter(|it| it.application_name.as_deref() == Some("psql"));
    assert_eq!(psqls.count(), 1);
    psql.batch_execute("SELECT pg_advisory_unlock_shared(-7, 4)")
        .unwrap();
    let mut transaction = psql.transaction().unwrap();
    share.fence(&mut transaction).unwrap();
    share.unlock().unwrap();
    let [fenced] = &mgr.holders(key).unwrap()[..] else {
        panic!("only the transaction");
    };
    assert_eq!((fenced.claim, fenced.shared), (Claim::Fenced, None));
    assert_eq!(fenced.application_name.as_deref(), Some("psql"));
    transaction.commit().unwrap();
    assert_eq!(mgr.holders(key).unwrap(), []);
}

#[apply(isolated_test)]
fn what_a_role_may_not_see_is_none(server: Server) {
    server
        .client()
        .batch_execute("CREATE ROLE app LOGIN")
        .unwrap();
    let mgr = Manager::connect(&server.url().replace("user=postgres", "user=app")).unwrap();
    let mut psql = server.client();
    psql.batch_execute("SELECT pg_advisory_lock(42)").unwrap();
    let [holder] = &mgr.holders(42).unwrap()[..] else {
        panic!("one has it");
    };
    assert!(!holder.is_manager);
    assert!(holder.pid > 0);
    // PostgreSQL shows the names of all sessions to everybody, and not their addresses.
    assert_eq!(holder.address, None);
}

#[apply(isolated_test)]
fn without_a_session_nobody_can_tell(server: Server) {
    let mgr = Manager::builder(&server.url())
        .reconnect_backoff(Duration::from_millis(1), Duration::from_millis(10))
        .connect()
        .unwrap();
    let guard = mgr.lock("work").unwrap();
    server.stop(Shutdown::Immediate).unwrap();
    eventually(|| guard.is_lost());
    let error = mgr.holders("work").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    server.start_again().unwrap();
    eventually(|| mgr.holders("work").is_ok_and(|holders| holders.is_empty()));
    mgr.close().unwrap();
    let error = mgr.holders("work").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
}

#[apply(isolated_test)]
fn questions_are_answered_while_the_server_is_stopped() {
    let mgr = builder()
        .response_timeout(Duration::from_secs(1))
        .connect()
        .unwrap();
    let paused = Paused::new(backends(&mut server().client()));
    let asked: Vec<_> = (0..4)
        .map(|_| {
            let mgr = mgr.clone();
            thread::spawn(move || mgr.holders("work").map_err(|error| error.kind()))
        })
        .collect();
    for answer in finish(asked) {
        assert_eq!(answer, Err(ErrorKind::Unavailable));
    }
    drop(paused);
}

#[apply(isolated_test)]
fn a_holder_is_told_whether_others_wait() {
    let (mgr, other) = (manager(), manager());
    let guard = mgr.lock("work").unwrap();
    assert!(!guard.others_wait().unwrap());
    for waiter in [&mgr, &other] {
        let (token, waiter) = (CancelToken::new(), waiter.clone());
        let waiting = {
            let token = token.clone();
            thread::spawn(move || waiter.acquire("work").cancel(&token).lock().map(drop))
        };
        eventually(|| guard.others_wait().unwrap());
        token.cancel();
        assert!(waiting.join().unwrap().is_err());
        eventually(|| !guard.others_wait().unwrap());
    }
    guard.unlock().unwrap();
}

#[apply(isolated_test)]
fn all_that_managers_have_is_listed_and_nothing_else() {
    let named = |name: &str| builder().application_name(name).connect().unwrap();
    let (one, two, idle) = (named("one"), named("two"), named("idle"));
    assert_eq!(idle.list().unwrap(), []);
    let guards = one.lock_all(["a", "b"]).unwrap();
    let pair = one.lock((7, -8)).unwrap();
    let shares = [one.lock_shared(5).unwrap(), two.lock_shared(5).unwrap()];
    // What serves the locks is not listed: the number of a hold, and the transaction's mark.
    guards.fence_sql().unwrap();
    // Other programs' locks are not, either.
    let mut client = server().client();
    client.batch_execute("SELECT pg_advisory_lock(99)").unwrap();
    let waiting: Vec<_> = [Key::from("a"), Key::from((7, -8))]
        .map(|key| {
            let mgr = two.clone();
            thread::spawn(move || drop(mgr.lock(key).unwrap()))
        })
        .into();
    let mut expected = [
        (one.key("a"), Claim::Holds, Some(false), "one"),
        (one.key("a"), Claim::Waits, None, "two"),
        (one.key("b"), Claim::Holds, Some(false), "one"),
        (Key::from(5), Claim::Holds, Some(true), "one"),
        (Key::from(5), Claim::Holds, Some(true), "two"),
        (Key::from((7, -8)), Claim::Holds, Some(false), "one"),
        (Key::from((7, -8)), Claim::Waits, None, "two"),
    ];
    expected.sort_by_key(|&(key, claim, ..)| (key, claim as u8));
    let listed = || {
        let list = idle.list().unwrap();
        assert!(list.iter().all(|it| it.is_manager && it.since.is_none()));
        let mut listed: Vec<_> = list
            .into_iter()
            .map(|it| (it.key, it.claim, it.shared, it.application_name.unwrap()))
            .collect();
        listed.sort_by_key(|(key, claim, _, name)| (*key, *claim as u8, name.clone()));
        listed
    };
    eventually(|| {
        let listed = listed();
        let listed = listed
            .iter()
            .map(|(key, claim, shared, name)| (*key, *claim, *shared, &**name));
        listed.eq(expected.iter().copied())
    });
    drop((guards, pair, shares));
    waiting.into_iter().for_each(|it| it.join().unwrap());
    eventually(|| listed().is_empty());
}

/// Locks come and go: none is listed that nobody asked for.
#[apply(isolated_test)]
fn a_list_shows_no_lock_that_only_serves_others() {
    let managers = [manager(), manager(), manager()];
    let over = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for mgr in &managers {
            for key in [1, 2, 1, 3] {
                let over = &over;
                scope.spawn(move || {
                    while !over.load(std::sync::atomic::Ordering::SeqCst) {
                        let guard = mgr.lock(key).unwrap();
                        guard.fence_sql().unwrap();
                        thread::sleep(Duration::from_millis(3));
                    }
                });
            }
        }
        let watcher = manager();
        let mut others = Vec::new();
        for _ in 0..300 {
            let list = watcher.list().unwrap();
            others.extend(
                list.into_iter()
                    .filter(|it| !(1..4).contains(&it.key.as_i64())),
            );
        }
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        // The key that a session waits for is told from its companion by those that have it: for a
        // moment nobody may.
        let is_wait = |it: &Holder| (it.shared, it.claim) == (Some(true), Claim::Holds);
        assert!(others.iter().all(is_wait), "{others:?}");
    });
}

#[apply(isolated_test)]
fn a_session_is_ended_with_all_that_it_has() {
    let (mgr, hangs) = (manager(), manager());
    let set = hangs.lock_all(["a", "b"]).unwrap();
    let holder = mgr.holders("a").unwrap().remove(0);
    let mut keys = vec![mgr.key("a"), mgr.key("b")];
    keys.sort_unstable();
    assert_eq!(mgr.evict(&holder).unwrap(), Some(keys));
    let _next = mgr.lock_all(["a", "b"]).unwrap();
    eventually(|| set.is_lost());
    // It is a new session that has nothing to do with the holder.
    let other = hangs.lock("other").unwrap();
    assert_eq!(mgr.evict(&holder).unwrap(), None);
    assert!(!other.is_lost());
    assert_eq!(hangs.stats().lost, 2);
    // Nor one that has released the lock since.
    let now = mgr.holders("other").unwrap().remove(0);
    other.unlock().unwrap();
    assert_eq!(mgr.evict(&now).unwrap(), None);
    assert_eq!(hangs.stats().lost, 2);
    // Not its own.
    let own = mgr.holders("a").unwrap().remove(0);
    assert_eq!(mgr.evict(&own).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[apply(isolated_test)]
fn a_program_that_is_no_manager_is_ended_only_if_that_is_meant() {
    let mgr = manager();
    let mut client = server().client();
    client
        .batch_execute("SELECT pg_advisory_lock(1), pg_advisory_lock_shared(2)")
        .unwrap();
    let holder = mgr.holders(1).unwrap().remove(0);
    assert!(!holder.is_manager);
    let error = mgr.evict(&holder).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    client.batch_execute("SELECT").unwrap();
    let keys = mgr.evict_any(&holder).unwrap().unwrap();
    assert_eq!(keys.len(), 2);
    assert!(keys.contains(&Key::from(1)) && keys.contains(&Key::from(2)));
    assert!(client.batch_execute("SELECT").is_err());
    eventually(|| mgr.holders(1).unwrap().is_empty());
    assert_eq!(mgr.evict_any(&holder).unwrap(), None);
}

#[apply(isolated_test)]
fn a_role_without_the_right_ends_nothing(server: Server) {
    let mut admin = server.client();
    admin
        .batch_execute("CREATE ROLE app LOGIN; CREATE ROLE other LOGIN")
        .unwrap();
    let as_role = |role: &str| {
        let url = server
            .url()
            .replace("user=postgres", &format!("user={role}"));
        Manager::connect(&url).unwrap()
    };
    let (mgr, other) = (as_role("app"), as_role("other"));
    let guard = other.lock("a").unwrap();
    let holder = mgr.holders("a").unwrap().remove(0);
    assert!(holder.is_manager && holder.address.is_none());
    let error = mgr.evict(&holder).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Database, "{error:?}");
    admin
        .batch_execute("GRANT pg_signal_backend TO app")
        .unwrap();
    assert_eq!(mgr.evict(&holder).unwrap(), Some(vec![mgr.key("a")]));
    eventually(|| guard.is_lost());
}
