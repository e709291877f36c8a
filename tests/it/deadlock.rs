//! Waits that would never end, and the limit that ends them.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use distlock::{ErrorKind, Manager};
use throwaway_postgres::{Server, Shutdown};

use crate::support::*;

const LIMIT: Duration = Duration::from_millis(300);

fn limited() -> Manager {
    builder().wait_limit(LIMIT).connect().unwrap()
}

#[apply(isolated_test)]
fn a_thread_that_takes_a_lock_twice_is_told_which() {
    let mgr = limited();
    let guard = mgr.lock("twice").unwrap();
    let error = mgr.lock("twice").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitLimit);
    let message = error.to_string();
    assert!(message.contains(&guard.key().to_string()), "{message}");
    guard.unlock().unwrap();
    assert_eq!((mgr.stats().held, mgr.stats().waiting), (0, 0));
}

#[apply(isolated_test)]
fn locks_in_opposite_order_do_not_wait_for_ever() {
    let managers = [limited(), limited()];
    let both = Barrier::new(2);
    let outcomes = thread::scope(|scope| {
        let threads = [("a", "b"), ("b", "a")].map(|(first, second)| {
            let (mgr, both) = (&managers[usize::from(first == "b")], &both);
            scope.spawn(move || {
                let _first = mgr.lock(first).unwrap();
                both.wait();
                let second = mgr.lock(second).map(drop).map_err(|error| error.kind());
                both.wait();
                second
            })
        });
        threads.map(|thread| thread.join().unwrap())
    });
    assert_eq!(outcomes, [Err(ErrorKind::WaitLimit); 2]);
}

#[apply(isolated_test)]
fn no_call_waits_longer_than_the_limit_and_shorter_timeouts_stay() {
    let (mgr, other) = (limited(), manager());
    let _held = other.lock("held").unwrap();
    let kinds = [
        mgr.lock("held").unwrap_err(),
        mgr.lock_shared("held").unwrap_err(),
        mgr.acquire("held").lock().unwrap_err(),
        mgr.try_lock_for("held", FOREVER).unwrap_err(),
        mgr.acquire("held").timeout(FOREVER).try_lock().unwrap_err(),
        mgr.with_lock("held", |_| ()).unwrap_err().into(),
    ]
    .map(|error| error.kind());
    assert_eq!(kinds, [ErrorKind::WaitLimit; 6]);
    let short = LIMIT / 10;
    assert!(mgr.try_lock("held").unwrap().is_none());
    assert!(mgr.try_lock_for("held", short).unwrap().is_none());
    let timed = mgr.acquire("held").timeout(short).lock();
    assert_eq!(timed.unwrap_err().kind(), ErrorKind::Timeout);
    // A free lock can still be acquired.
    mgr.lock("free").unwrap().unlock().unwrap();
}

#[apply(isolated_test)]
fn a_limited_wait_for_the_database_ends_as_unavailable() {
    let server = Server::start().unwrap();
    let mgr = Manager::builder(&server.url())
        .wait_while_unavailable(true)
        .wait_limit(LIMIT)
        .connect()
        .unwrap();
    let guard = mgr.lock("held").unwrap();
    server.stop(Shutdown::Immediate).unwrap();
    guard.watch().wait();
    let error = mgr.lock("free").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[test]
fn a_wait_limit_of_zero_is_a_config_error() {
    let builder = Manager::builder("host=/nowhere").wait_limit(Duration::ZERO);
    let error = builder.connect().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("wait_limit"), "{error}");
}
