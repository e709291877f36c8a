//! How a lock passes from one holder to the next: quickly, and to every waiter eventually.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::*;

const MS: Duration = Duration::from_millis(1);

#[apply(isolated_test)]
fn a_lock_passes_between_managers_within_75_ms_on_average() {
    let managers = [manager(), manager()];
    let start = Instant::now();
    let mut guard = managers[0].lock("key").unwrap();
    for n in 1..=40 {
        let mgr = managers[n % 2].clone();
        let contended = mgr.stats().contended;
        let next = thread::spawn({
            let mgr = mgr.clone();
            move || mgr.lock("key").unwrap()
        });
        eventually(|| mgr.stats().contended > contended);
        drop(guard);
        guard = finish(vec![next]).remove(0);
    }
    // A retry every quarter of a second would make it 5 s on average.
    assert!(start.elapsed() < 3000 * MS, "{:?}", start.elapsed());
    drop(guard);
}

#[apply(isolated_test)]
fn every_thread_that_contends_for_one_key_is_served() {
    let mgr = manager();
    let served: Arc<[AtomicUsize; 16]> = Arc::default();
    let done = Arc::new(AtomicBool::new(false));
    let callers = (0..16)
        .map(|n| {
            let (mgr, done) = (mgr.clone(), Arc::clone(&done));
            let served = Arc::clone(&served);
            thread::spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    let _guard = mgr.lock("key").unwrap();
                    served[n].fetch_add(1, Ordering::SeqCst);
                    thread::sleep(MS);
                }
            })
        })
        .collect();
    let all = within(Duration::from_secs(10), || {
        served.iter().all(|count| count.load(Ordering::SeqCst) >= 5)
    });
    done.store(true, Ordering::SeqCst);
    finish(callers);
    assert!(all, "{served:?}");
}
