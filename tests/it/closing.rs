//! Closing a manager: every pending call returns, and the worker and its connection end.

use std::sync::{Arc, Barrier};
use std::thread;

use distlock::{Ended, ErrorKind};

use crate::support::*;

#[apply(isolated_test)]
fn close_under_load_answers_every_caller() {
    for round in 0..20 {
        let mgr = builder().queue_capacity(4).connect().unwrap();
        let callers = (0..24)
            .map(|n: i64| {
                let mgr = mgr.clone();
                thread::spawn(move || {
                    loop {
                        let guard = match n % 4 {
                            0 => mgr.lock(n).map(Some),
                            1 => mgr.try_lock("common"),
                            2 => mgr.try_lock_for("common", FOREVER),
                            _ => mgr.lock("common").map(Some),
                        };
                        match guard {
                            Err(error) => return error.kind(),
                            Ok(Some(guard)) if n % 2 == 0 => guard.unlock().unwrap_or(()),
                            Ok(guard) => drop(guard),
                        }
                    }
                })
            })
            .collect();
        eventually(|| mgr.stats().acquired > 50 * (round % 4));
        mgr.close().unwrap();
        assert_eq!(finish(callers), [ErrorKind::Closed; 24]);
    }
}

#[apply(isolated_test)]
fn close_is_not_missed_by_a_worker_about_to_sleep() {
    for _ in 0..300 {
        let mgr = manager();
        let start = Arc::new(Barrier::new(5));
        let callers = (0..4)
            .map(|n: i64| {
                let (mgr, start) = (mgr.clone(), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    while mgr.try_lock(n).is_ok() {}
                })
            })
            .collect();
        start.wait();
        mgr.close().unwrap();
        finish(callers);
    }
}

#[apply(isolated_test)]
fn close_ends_threads_and_connections_while_clones_and_guards_remain() {
    let mgr = thread::spawn(manager).join().unwrap();
    let guard = mgr.lock("held").unwrap();
    let mut client = server().client();
    mgr.close().unwrap();
    // Clones and guards are still alive; threads and connections are not.
    eventually(|| threads().is_empty());
    eventually(|| backends(&mut client).is_empty());
    assert_eq!(mgr.clone().lock("x").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(guard.watch().ended(), Some(Ended::Closed));
}
