//! Lifetimes: managers, guards, watches, and the session beneath them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use distlock::{Acquire, CancelToken, Ended, Error, ErrorKind, Guard, Key, Manager, Stats, Watch};
use postgres::Client;

use crate::support::*;

fn nothing_is_left(client: &mut Client) {
    eventually(|| advisory_locks(client).is_empty() && backends(client).is_empty());
    eventually(|| threads().is_empty());
}

#[apply(isolated_test)]
fn manager_guard_and_watch_may_go_in_any_order() {
    let mut client = server().client();
    let orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    for order in orders {
        let mgr = manager();
        let guard = mgr.lock("order").unwrap();
        let watch = guard.watch();
        let witness = watch.clone();
        let (mut mgr, mut guard, mut watch) = (Some(mgr), Some(guard), Some(watch));
        for part in order {
            assert_eq!(witness.ended(), guard.is_none().then_some(Ended::Unlocked));
            match part {
                0 => drop(mgr.take()),
                1 => drop(guard.take()),
                _ => drop(watch.take()),
            }
        }
        assert_eq!(witness.wait(), Ended::Unlocked);
        // The witness, a watch itself, keeps nothing alive.
        nothing_is_left(&mut client);
    }
}

#[apply(isolated_test)]
fn the_session_lives_until_the_last_manager_and_the_last_guard_are_gone() {
    let mut client = server().client();
    let mgr = manager();
    let pids = backends(&mut client);
    let clone = mgr.clone();
    let guard = clone.lock("kept").unwrap();
    drop(mgr);
    assert!(clone.try_lock("other").unwrap().is_some());
    drop(clone);
    eventually(|| advisory_locks(&mut client) == [guard.key().as_i64()]);
    assert_eq!(backends(&mut client), pids);
    assert!(!guard.is_lost());
    // An explicit unlock still works.
    guard.unlock().unwrap();
    nothing_is_left(&mut client);
}

#[apply(isolated_test)]
fn clones_are_one_manager() {
    let mgr = manager();
    let clone = mgr.clone();
    let _guard = mgr.lock("one").unwrap();
    assert!(clone.try_lock("one").unwrap().is_none());
    assert_eq!(clone.stats().held, 1);
    assert_eq!(backends(&mut server().client()).len(), 1);
    clone.close().unwrap();
    assert_eq!(mgr.lock("two").unwrap_err().kind(), ErrorKind::Closed);
}

#[apply(isolated_test)]
fn a_token_keeps_no_manager_alive() {
    let mut client = server().client();
    let token = CancelToken::new();
    let mgr = manager();
    drop(mgr.acquire("token").cancel(&token).lock().unwrap());
    drop(mgr);
    nothing_is_left(&mut client);
    token.cancel();
}

#[apply(isolated_test)]
fn a_guard_may_be_dropped_on_another_thread() {
    let mgr = manager();
    let guard = mgr.lock("thread").unwrap();
    thread::spawn(move || drop(guard)).join().unwrap();
    assert!(mgr.try_lock("thread").unwrap().is_some());
}

#[apply(isolated_test)]
fn a_panic_releases_the_lock() {
    let mgr = manager();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let _guard = mgr.lock("panic").unwrap();
        // Without a panic message in the test's output.
        std::panic::resume_unwind(Box::new("in the critical section"));
    }));
    assert!(panic.is_err());
    assert!(mgr.try_lock("panic").unwrap().is_some());
    assert_eq!(mgr.stats().lost, 0);
}

#[apply(isolated_test)]
fn a_guard_of_a_lost_session_frees_no_newer_hold() {
    let mgr = manager();
    let mut client = server().client();
    let old: Vec<Guard> = (0..3).map(|_| mgr.lock_shared("again").unwrap()).collect();
    let watch = old[0].watch();
    terminate_sessions(&mut client);
    assert_eq!(watch.wait(), Ended::SessionLost);
    let new = [(); 3].map(|()| mgr.lock_shared("again").unwrap());
    for (n, guard) in old.into_iter().enumerate() {
        if n == 0 {
            assert_eq!(guard.unlock().unwrap_err().kind(), ErrorKind::Lost);
        }
    }
    assert_eq!(mgr.stats().held, 3);
    assert!(mgr.try_lock("again").unwrap().is_none());
    assert_eq!(advisory_locks(&mut client), [new[0].key().as_i64()]);
    assert!(new.iter().all(|guard| !guard.is_lost()));
    assert_eq!(watch.ended(), Some(Ended::SessionLost));
}

#[apply(isolated_test)]
fn a_guard_may_be_dropped_after_close() {
    let mgr = manager();
    let [one, two] = ["one", "two"].map(|name| mgr.lock(name).unwrap());
    mgr.close().unwrap();
    assert!(one.is_lost());
    drop(one);
    assert_eq!(two.unlock().unwrap_err().kind(), ErrorKind::Closed);
    // Another manager can take them as soon as the server has read the end of the session.
    manager().lock("one").unwrap().unlock().unwrap();
}

#[apply(isolated_test)]
fn a_forgotten_guard_keeps_its_lock_and_nothing_else_until_close() {
    let mut client = server().client();
    let mgr = manager();
    let guard = mgr.lock("forgotten").unwrap();
    let (key, watch) = (*guard.key(), guard.watch());
    std::mem::forget(guard);
    for _ in 0..10 {
        mgr.lock("other").unwrap().unlock().unwrap();
        assert!(mgr.try_lock("forgotten").unwrap().is_none());
    }
    assert_eq!(advisory_locks(&mut client), [key.as_i64()]);
    mgr.close().unwrap();
    assert_eq!(watch.wait(), Ended::Closed);
    drop(mgr);
    nothing_is_left(&mut client);
}

/// A lease so short that a silent session soon ends.
const LEASE: Duration = Duration::from_millis(400);

/// Asserts that `holds` does not stop being true for two and a half leases.
fn throughout(mut holds: impl FnMut()) {
    let end = Instant::now() + LEASE * 5 / 2;
    while Instant::now() < end {
        holds();
        thread::sleep(Duration::from_millis(20));
    }
}

#[apply(isolated_test)]
fn an_idle_manager_sends_nothing_and_outlives_its_lease() {
    let mut client = server().client();
    let mgr = builder().lease(LEASE).connect().unwrap();
    let pids = backends(&mut client);
    let state = "SELECT state, state_change::text, query FROM pg_stat_activity WHERE pid = $1";
    let mut activity = || -> (String, String, String) {
        let row = client.query_one(state, &[&pids[0]]).unwrap();
        (row.get(0), row.get(1), row.get(2))
    };
    // Before its first lock, and after the last one.
    for round in 0..2 {
        if round == 1 {
            drop(mgr.lock("busy").unwrap());
            // Once it holds nothing, it disarms the lease at the server.
            let rest = "SET idle_session_timeout = 0";
            eventually(|| activity().2.starts_with(rest));
        }
        eventually(|| activity().0 == "idle");
        let (trips, at_rest) = (mgr.stats().round_trips, activity());
        throughout(|| {
            assert_eq!(activity(), at_rest);
            assert_eq!(mgr.stats().round_trips, trips);
        });
    }
    mgr.lock("awake").unwrap().unlock().unwrap();
    assert_eq!(backends(&mut server().client()), pids);
    assert_eq!((mgr.stats().reconnects, mgr.stats().lost), (0, 0));
}

#[apply(isolated_test)]
fn a_held_lock_and_a_wait_outlive_the_lease() {
    let mut client = server().client();
    let mgr = builder().lease(LEASE).connect().unwrap();
    let waiting = builder()
        .lease(LEASE)
        .retry_interval(FOREVER, FOREVER)
        .connect()
        .unwrap();
    let pids = backends(&mut client);
    let guard = mgr.lock("held").unwrap();
    let watch = guard.watch();
    let token = CancelToken::new();
    thread::scope(|scope| {
        scope.spawn(|| waiting.acquire("held").cancel(&token).lock().map(drop));
        throughout(|| {
            assert!(!guard.is_lost() && !watch.is_lost());
            assert_eq!(advisory_locks(&mut client), [guard.key().as_i64()]);
        });
        token.cancel();
    });
    guard.unlock().unwrap();
    assert_eq!(backends(&mut client), pids);
    assert_eq!((mgr.stats().reconnects, waiting.stats().reconnects), (0, 0));
}

#[test]
fn what_threads_share_is_send_and_sync() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Manager>();
    shared::<Guard>();
    shared::<Watch>();
    shared::<CancelToken>();
    shared::<Key>();
    shared::<Stats>();
    shared::<Error>();
    shared::<distlock::Builder>();
}

/// The public API that users compile against. It is enough that it compiles.
#[allow(dead_code)]
fn contract() -> Result<(), Error> {
    let mgr = Manager::connect("postgres://app@db/app")?;
    let clone: Manager = mgr.clone();
    drop(clone);
    let mgr_too = Manager::builder("host=db1,db2 user=app")
        .max_locks(100)
        .lease(Duration::from_secs(10))
        .connect()?;
    drop(mgr_too);

    let guard: Guard = mgr.lock("nightly-report")?;
    let _maybe: Option<Guard> = mgr.try_lock("nightly-report")?;
    let _maybe: Option<Guard> = mgr.try_lock_for("nightly-report", Duration::from_secs(2))?;
    let soon = Instant::now() + Duration::from_secs(2);
    let _maybe: Option<Guard> = mgr.try_lock_until("nightly-report", soon)?;
    let _shared: Guard = mgr.lock_shared("nightly-report")?;
    let _maybe: Option<Guard> = mgr.try_lock_shared("nightly-report")?;
    let _maybe: Option<Guard> = mgr.try_lock_shared_for("nightly-report", Duration::ZERO)?;
    let _maybe: Option<Guard> = mgr.try_lock_shared_until("nightly-report", soon)?;
    let token = CancelToken::new();
    let acquire: Acquire<'_> = mgr.acquire("nightly-report");
    let _guard: Guard = acquire
        .shared()
        .timeout(Duration::from_secs(1))
        .cancel(&token)
        .lock()?;
    let _maybe: Option<Guard> = mgr.acquire(String::from("name")).try_lock()?;

    let _: &Key = guard.key();
    let _: bool = guard.is_lost();
    let watch: Watch = guard.watch();
    let _: Option<i64> = guard.token();
    guard.unlock()?;

    let _: Watch = watch.clone();
    let _: bool = watch.is_lost();
    let ended: Ended = watch.wait();
    let _: Option<Ended> = watch.wait_timeout(Duration::from_secs(1));
    crossbeam_channel::select! {
        recv(watch.channel()) -> _ => {}
    }
    match ended {
        Ended::Unlocked | Ended::SessionLost | Ended::LeaseExpired => {}
        Ended::Cancelled | Ended::Closed => {}
        _ => {}
    }

    let keys = [
        Key::from("name"),
        Key::from(String::from("name")),
        Key::fnv1a64("name"),
        Key::from(7_i64),
        Key::from((7_i32, 7_i32)),
    ];
    let _: (String, i64) = (keys[0].to_string(), keys[0].as_i64());
    let error = mgr.lock("name").unwrap_err();
    let _: ErrorKind = error.kind();
    let _: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(&error);

    let _: Stats = mgr.stats();
    mgr.close()?;
    Ok(())
}

/// A manager whose heartbeats come too late to detect a loss.
fn blind() -> Manager {
    let builder = builder().heartbeat(FOREVER * 2).lease(None);
    builder.connect().unwrap()
}

/// Another manager that has `key` although the first one's session held it.
fn taken_over(key: &str) -> Guard {
    terminate_sessions(&mut server().client());
    let thief = builder().application_name("thief").connect().unwrap();
    thief.lock(key).unwrap()
}

#[apply(isolated_test)]
fn an_unlock_that_hands_over_says_whether_the_lock_lasted() {
    let mgr = blind();
    let guard = mgr.lock("key").unwrap();
    let token = CancelToken::new();
    let wait = thread::spawn({
        let (mgr, token) = (mgr.clone(), token.clone());
        move || mgr.acquire("key").cancel(&token).lock().map(drop)
    });
    eventually(|| mgr.stats().waiting == 1);
    let _thief = taken_over("key");
    assert!(!guard.is_lost(), "nobody has looked");
    assert_eq!(guard.unlock().unwrap_err().kind(), ErrorKind::Lost);
    token.cancel();
    // It may have held the lock briefly.
    finish(vec![wait]).remove(0).ok();
}

#[apply(isolated_test)]
fn an_unlock_of_a_share_says_whether_the_lock_lasted() {
    let mgr = blind();
    let shares = [(); 2].map(|()| mgr.lock_shared("key").unwrap());
    let _thief = taken_over("key");
    for share in shares {
        assert_eq!(share.unlock().unwrap_err().kind(), ErrorKind::Lost);
    }
}

#[apply(isolated_test)]
fn an_unlock_that_hands_over_is_answered_at_once() {
    let mgr = blind();
    let shares = [(); 2].map(|()| mgr.lock_shared("shared").unwrap());
    for share in shares {
        share.unlock().unwrap();
    }
    let mut guard = mgr.lock("key").unwrap();
    for _ in 0..20 {
        let wait = thread::spawn({
            let mgr = mgr.clone();
            move || mgr.lock("key").unwrap()
        });
        eventually(|| mgr.stats().waiting == 1);
        guard.unlock().unwrap();
        guard = finish(vec![wait]).remove(0);
    }
}
