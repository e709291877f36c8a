//! The crate on the threads of an async runtime.

use std::time::Duration;

use distlock::{Ended, Manager};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{spawn_blocking, yield_now};

use crate::support::*;

fn runtimes() -> [Runtime; 2] {
    [Builder::new_current_thread(), Builder::new_multi_thread()]
        .map(|mut runtime| runtime.build().unwrap())
}

/// Makes every call that there is, on the current thread.
fn everything() {
    let mgr = manager();
    let guard = mgr.lock("key").unwrap();
    let watch = guard.watch();
    assert!(mgr.try_lock("key").unwrap().is_none());
    assert!(
        mgr.try_lock_for("key", Duration::from_millis(100))
            .unwrap()
            .is_none()
    );
    assert!(!guard.is_lost() && guard.time_left().is_some());
    assert_eq!(watch.wait_timeout(Duration::from_millis(5)), None);
    guard.unlock().unwrap();
    assert_eq!(watch.wait(), Ended::Unlocked);
    drop(mgr.lock_shared("key").unwrap());
    assert_eq!(mgr.with_lock("other", |_| 7).unwrap(), 7);
    // A loss and a reconnect.
    let lost = mgr.lock("lost").unwrap();
    let ends = std::thread::spawn(|| terminate_sessions(&mut server().client()));
    assert_eq!(lost.watch().wait(), Ended::SessionLost);
    finish(vec![ends]);
    mgr.lock("again").unwrap().unlock().unwrap();
    drop(lost);
    mgr.close().unwrap();
    // Dropped without a close, and before its guard.
    let mgr = Manager::connect(&server().url()).unwrap();
    let guard = mgr.lock("key").unwrap();
    drop(mgr);
    drop(guard);
}

#[apply(isolated_test)]
fn every_call_works_on_a_runtimes_threads() {
    for runtime in runtimes() {
        runtime.block_on(async {
            everything();
            tokio::spawn(async { everything() }).await.unwrap();
            spawn_blocking(everything).await.unwrap();
        });
    }
}

#[apply(isolated_test)]
fn a_guard_may_be_held_across_an_await() {
    let mgr = manager();
    for runtime in runtimes() {
        runtime.block_on(async {
            let tasks: Vec<_> = (0..20)
                .map(|_| {
                    let mgr = mgr.clone();
                    tokio::spawn(async move {
                        let locking = mgr.clone();
                        let lock = spawn_blocking(move || locking.lock("turns"));
                        let guard = lock.await.unwrap().unwrap();
                        for _ in 0..10 {
                            yield_now().await;
                            assert_eq!(mgr.stats().held, 1);
                        }
                        drop(guard);
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
    }
    assert_eq!(mgr.stats().acquired, 40);
}

#[apply(isolated_test)]
fn a_blocking_call_keeps_its_own_runtimes_holder_from_going_on() {
    let mgr = manager();
    let [single, _] = runtimes();
    single.block_on(async {
        let guard = mgr.lock("key").unwrap();
        let holder = tokio::spawn(async move {
            yield_now().await;
            drop(guard);
        });
        yield_now().await;
        // It would wait for ever without the limit.
        let limit = Duration::from_millis(100);
        assert!(mgr.try_lock_for("key", limit).unwrap().is_none());
        holder.await.unwrap();
        let waiting = mgr.clone();
        let lock = spawn_blocking(move || waiting.lock("key"));
        lock.await.unwrap().unwrap().unlock().unwrap();
    });
}
