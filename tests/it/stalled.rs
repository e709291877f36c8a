//! A server that does not respond: its processes are stopped. Calls that must not wait for it
//! are made while it is stopped, and must return before it continues.

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use distlock::{CancelToken, Ended, Error, ErrorKind, Guard, Manager};
use serial_test::serial;
use throwaway_postgres::Server;

use crate::support::*;

const MS: Duration = Duration::from_millis(1);

/// Stops the session of the only manager.
fn pause_backend(server: &Server) -> Paused {
    let mut client = server.client();
    // The session of an earlier test may still be ending.
    eventually(|| backends(&mut client).len() == 1);
    Paused::new(backends(&mut client))
}

/// The result of `call`, which must not need the stopped server.
#[track_caller]
fn meanwhile<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    finish(vec![thread::spawn(call)]).remove(0)
}

fn kind(result: Result<Option<Guard>, Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// The worker is in a round trip by now, and the calls before this one are waiting.
fn assert_stalled(mgr: &Manager) {
    let result = mgr.try_lock_for("stalled", 200 * MS);
    assert_eq!(kind(result), ErrorKind::Unavailable);
}

#[apply(isolated_test)]
fn a_deadline_is_kept_and_the_watch_follows() {
    let mgr = builder()
        .heartbeat(10 * MS)
        .lease(1000 * MS)
        .connect()
        .unwrap();
    let guard = mgr.lock("held").unwrap();
    let paused = pause_backend(server());
    let result = meanwhile({
        let mgr = mgr.clone();
        move || mgr.try_lock_for("other", 200 * MS)
    });
    assert_eq!(kind(result), ErrorKind::Unavailable);
    // The lease expires by the clock, or the watchdog ends the session.
    let ended = guard.watch().wait_timeout(FOREVER);
    assert!(matches!(
        ended,
        Some(Ended::LeaseExpired | Ended::SessionLost)
    ));
    assert!(guard.is_lost());
    drop(paused);
}

#[apply(isolated_test)]
fn a_deadline_is_kept_when_the_queue_is_full() {
    let mgr = builder().queue_capacity(1).connect().unwrap();
    let _held = mgr.lock("held").unwrap();
    let paused = pause_backend(server());
    let calls = (0..20)
        .map(|n: i64| {
            let mgr = mgr.clone();
            thread::spawn(move || mgr.try_lock_for(n, 300 * MS))
        })
        .collect();
    for result in finish(calls) {
        assert_eq!(kind(result), ErrorKind::Unavailable);
    }
    drop(paused);
    // No lock of a call that has given up is taken later.
    mgr.lock("after").unwrap().unlock().unwrap();
    assert_eq!(mgr.stats().held, 1);
}

#[apply(isolated_test)]
fn a_silent_connection_is_replaced_and_then_closed() {
    let mgr = builder()
        .response_timeout(200 * MS)
        .lease(None)
        .connect()
        .unwrap();
    let guard = mgr.lock("old").unwrap();
    let paused = pause_backend(server());
    assert_eq!(
        guard.watch().wait_timeout(FOREVER),
        Some(Ended::SessionLost)
    );
    // The next connection works while the old backend is still stopped, and has its lock.
    eventually(|| mgr.try_lock("new").is_ok_and(|guard| guard.is_some()));
    assert!(mgr.try_lock("old").unwrap().is_none());
    assert_eq!(mgr.stats().reconnects, 1);
    drop(paused);
    mgr.lock("old").unwrap().unlock().unwrap();
    let mut client = server().client();
    eventually(|| backends(&mut client).len() == 1);
    assert_eq!(guard.unlock().unwrap_err().kind(), ErrorKind::Lost);
}

#[apply(isolated_test)]
fn try_lock_is_answered_when_the_whole_server_is_stopped() {
    let server = Server::start().unwrap();
    let mgr = Manager::builder(&server.url())
        .response_timeout(300 * MS)
        .connect()
        .unwrap();
    let session = backends(&mut server.client());
    let paused = Paused::new(session.into_iter().chain(server.pid()));
    for _ in 0..50 {
        let mgr = mgr.clone();
        let result = meanwhile(move || mgr.try_lock("x"));
        assert_eq!(kind(result), ErrorKind::Unavailable);
    }
    drop(paused);
    eventually(|| mgr.try_lock("x").is_ok_and(|guard| guard.is_some()));
}

#[apply(isolated_test)]
fn a_deadline_that_passes_in_an_outage_does_not_say_that_the_lock_is_taken() {
    let server = Server::start().unwrap();
    for wait in [true, false] {
        let mgr = Manager::builder(&server.url())
            .wait_while_unavailable(wait)
            .connect()
            .unwrap();
        let guard = mgr.lock("held").unwrap();
        let mut client = server.client();
        // It still accepts connections, and does not respond to them.
        let paused = Paused::new(server.pid());
        terminate_sessions(&mut client);
        assert_eq!(guard.watch().wait(), Ended::SessionLost);
        assert_eq!(
            kind(mgr.try_lock_for("free", 100 * MS)),
            ErrorKind::Unavailable,
            "with wait_while_unavailable({wait})"
        );
        drop(paused);
    }
}

#[apply(isolated_test)]
fn a_connect_that_succeeds_after_the_close_leaves_nothing() {
    let server = Server::start().unwrap();
    let mgr = Manager::connect(&server.url()).unwrap();
    let guard = mgr.lock("held").unwrap();
    let mut client = server.client();
    let paused = Paused::new(server.pid());
    terminate_sessions(&mut client);
    assert_eq!(guard.watch().wait(), Ended::SessionLost);
    eventually(|| threads().contains(&"distlock-dial".to_owned()));
    meanwhile(move || mgr.close()).unwrap();
    // The connections that the server now accepts are of no use any more.
    drop(paused);
    eventually(|| threads().is_empty());
    eventually(|| backends(&mut client).is_empty());
}

#[apply(isolated_test)]
fn connects_that_get_no_answer_do_not_pile_up() {
    let server = Server::start().unwrap();
    // A busy machine may need more than one attempt within this timeout.
    let mgr = Manager::builder(&server.url())
        .connect_timeout(60 * MS)
        .reconnect_backoff(MS, 5 * MS)
        .connect_within(FOREVER)
        .unwrap();
    let guard = mgr.lock("held").unwrap();
    let mut client = server.client();
    let paused = Paused::new(server.pid());
    terminate_sessions(&mut client);
    assert_eq!(guard.watch().wait(), Ended::SessionLost);
    // Time for about forty attempts.
    let connects = || {
        let name = |thread: &&String| thread.starts_with("distlock-conn");
        threads().iter().filter(name).count()
    };
    assert!(
        !within(2500 * MS, || connects() > 20),
        "{} threads",
        connects()
    );
    drop(paused);
    eventually(|| mgr.try_lock("free").is_ok_and(|guard| guard.is_some()));
}

#[apply(isolated_test)]
fn close_returns_and_answers_everybody() {
    let mgr = builder().queue_capacity(1).connect().unwrap();
    let guard = mgr.lock("held").unwrap();
    let paused = pause_backend(server());
    let waits: Vec<_> = (0..10)
        .map(|n: i64| {
            let mgr = mgr.clone();
            thread::spawn(move || mgr.lock(n).unwrap_err().kind())
        })
        .collect();
    assert_stalled(&mgr);
    let close = meanwhile({
        let mgr = mgr.clone();
        move || mgr.close()
    });
    assert_eq!(close.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(guard.watch().wait(), Ended::Closed);
    assert_eq!(finish(waits), [ErrorKind::Closed; 10]);
    drop(paused);
}

#[apply(isolated_test)]
fn close_answers_those_who_have_just_asked() {
    for _ in 0..8 {
        let mgr = builder().connect().unwrap();
        let callers: Vec<_> = (0..8)
            .map(|caller: i64| {
                let mgr = mgr.clone();
                let mut attempts = (caller << 32..).map(move |n| mgr.lock(n).map(drop));
                thread::spawn(move || attempts.find_map(Result::err).unwrap().kind())
            })
            .collect();
        eventually(|| mgr.stats().acquired > 100);
        let paused = pause_backend(server());
        // The worker may or may not have something to ask the server.
        meanwhile(move || mgr.close()).ok();
        assert_eq!(finish(callers), [ErrorKind::Closed; 8]);
        drop(paused);
    }
}

#[apply(isolated_test)]
fn dropping_guards_never_waits() {
    let mgr = builder().queue_capacity(1).connect().unwrap();
    let guards: Vec<Guard> = (0..50).map(|n: i64| mgr.lock(n).unwrap()).collect();
    let paused = pause_backend(server());
    // More than the queue holds.
    let waits: Vec<_> = (0..5)
        .map(|n: i64| {
            let mgr = mgr.clone();
            thread::spawn(move || mgr.lock(100 + n).unwrap().unlock().unwrap())
        })
        .collect();
    meanwhile(move || drop(guards));
    drop(paused);
    finish(waits);
    let mut client = server().client();
    eventually(|| advisory_locks(&mut client).is_empty());
    assert_eq!(mgr.stats().released, 55);
}

#[apply(isolated_test)]
fn a_cancel_ends_every_wait_while_the_server_is_stopped() {
    let mgr = builder().queue_capacity(1).connect().unwrap();
    let _held = mgr.lock("held").unwrap();
    let paused = pause_backend(server());
    let token = CancelToken::new();
    let waits: Vec<_> = (0..10)
        .map(|n: i64| {
            let (mgr, token) = (mgr.clone(), token.clone());
            thread::spawn(move || mgr.acquire(n).cancel(&token).lock().unwrap_err().kind())
        })
        .collect();
    assert_stalled(&mgr);
    token.cancel();
    assert_eq!(finish(waits), [ErrorKind::Cancelled; 10]);
    drop(paused);
    mgr.lock("after").unwrap().unlock().unwrap();
    assert_eq!((mgr.stats().held, mgr.stats().waiting), (1, 0));
}

#[apply(isolated_test)]
fn a_cancel_trips_the_watch_while_the_server_is_stopped() {
    let mgr = manager();
    let token = CancelToken::new();
    let guard = mgr.acquire("held").cancel(&token).lock().unwrap();
    let watch = guard.watch();
    let paused = pause_backend(server());
    meanwhile(move || token.cancel());
    assert_eq!(watch.ended(), Some(Ended::Cancelled));
    assert!(guard.is_lost());
    drop(paused);
}

#[apply(isolated_test)]
fn a_long_lease_does_not_make_the_response_timeout_longer() {
    let mgr = builder()
        .response_timeout(300 * MS)
        .lease(FOREVER * 10)
        .connect()
        .unwrap();
    let guard = mgr.lock("held").unwrap();
    // Long enough for all earlier requests to be done: the watchdog waits for none.
    let before = mgr.stats().round_trips;
    eventually(|| mgr.stats().round_trips > before + 50);
    let paused = pause_backend(server());
    assert_eq!(
        guard.watch().wait_timeout(FOREVER),
        Some(Ended::SessionLost)
    );
    drop(paused);
}

#[apply(isolated_test)]
fn a_deadline_too_short_to_tell_does_not_say_that_the_lock_is_taken() {
    let mgr = manager();
    let _held = mgr.lock("held").unwrap();
    let paused = pause_backend(server());
    assert_stalled(&mgr);
    for _ in 0..20 {
        assert_eq!(
            kind(mgr.try_lock_for("free", 5 * MS)),
            ErrorKind::Unavailable
        );
    }
    drop(paused);
}

#[apply(isolated_test)]
fn a_host_that_says_nothing_keeps_nobody_from_the_next(server: Server) {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let dsn = format!(
        "host=127.0.0.1,127.0.0.1 port={},{} user=postgres dbname=postgres",
        silent.local_addr().unwrap().port(),
        server.port()
    );
    let mgr = Manager::builder(&dsn)
        .connect_timeout(2000 * MS)
        .connect()
        .unwrap();
    mgr.lock("second").unwrap().unlock().unwrap();
}

#[test]
#[serial]
fn a_manager_goes_over_to_the_next_host_while_its_own_is_stopped() {
    let (first, second) = (Server::start().unwrap(), Server::start().unwrap());
    let _clean = [clean_on(&first), clean_on(&second)];
    let dsn = format!(
        "host=127.0.0.1,127.0.0.1 port={},{} user=postgres dbname=postgres",
        first.port(),
        second.port()
    );
    // Long enough for a connect on a busy machine: each timeout abandons one at the stopped
    // host, and delays the next.
    let mgr = Manager::builder(&dsn)
        .connect_timeout(2000 * MS)
        .response_timeout(300 * MS)
        .connect()
        .unwrap();
    let guard = mgr.lock("held").unwrap();
    let session = backends(&mut first.client());
    let paused = Paused::new(session.into_iter().chain(first.pid()));
    eventually(|| guard.is_lost());
    eventually(|| mgr.try_lock("held").is_ok_and(|guard| guard.is_some()));
    assert_eq!(backends(&mut second.client()).len(), 1);
    drop(paused);
}
