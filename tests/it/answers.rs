//! What a call answers when things break while it is under way.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use distlock::Manager;
use serial_test::serial;
use throwaway_postgres::Server;

use crate::support::*;

#[test]
#[serial]
fn a_lock_that_is_lost_before_the_call_returns_is_waited_for_again() {
    let server = Server::start().unwrap();
    let _clean = clean_on(&server);
    let mgr = Manager::builder(&server.url())
        .wait_while_unavailable(true)
        .reconnect_backoff(Duration::from_millis(1), Duration::from_millis(1))
        .connect()
        .unwrap();
    let over = AtomicBool::new(false);
    // More than the processors: some have their grant and no processor when it is lost.
    let callers = 32;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..callers)
            .map(|n: i64| {
                let (mgr, over) = (&mgr, &over);
                scope.spawn(move || {
                    while !over.load(SeqCst) {
                        drop(mgr.lock(n)?);
                        mgr.try_lock_for(n, FOREVER)?;
                    }
                    Ok::<_, distlock::Error>(())
                })
            })
            .collect();
        let mut client = server.client();
        for _ in 0..40 {
            let before = mgr.stats().acquired;
            terminate_sessions(&mut client);
            eventually(|| {
                mgr.stats().acquired > before + 100 || threads.iter().any(|t| t.is_finished())
            });
        }
        over.store(true, SeqCst);
        for thread in threads {
            thread.join().unwrap().unwrap();
        }
    });
}
