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
