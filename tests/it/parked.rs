//! Managers that wait in the server's queue: what comes at the same time as the end of their wait,
//! and what breaks meanwhile.

use std::thread;
use std::time::{Duration, Instant};

use distlock::{CancelToken, ErrorKind, Key, Manager};
use postgres::Client;
use throwaway_postgres::{Proxy, Server, Shutdown};

use crate::support::*;

/// A client, not of a manager, that takes and releases the lock `"awaited"`.
struct Holder(Client);

impl Holder {
    fn new(server: &Server) -> Holder {
        Holder(server.client())
    }

    fn call(&mut self, function: &str) {
        let sql = format!("SELECT {function}($1)");
        let number = Key::from("awaited").as_i64();
        self.0.execute(&sql, &[&number]).unwrap();
    }

    fn lock(&mut self) {
        self.call("pg_advisory_lock");
    }

    fn unlock(&mut self) {
        self.call("pg_advisory_unlock");
    }
}

/// Waits for the lock with `mgr` on another thread.
fn wait(mgr: &Manager, token: &CancelToken) -> thread::JoinHandle<Result<(), ErrorKind>> {
    let (mgr, token) = (mgr.clone(), token.clone());
    thread::spawn(move || {
        let guard = mgr.acquire("awaited").cancel(&token).lock();
        guard
            .and_then(distlock::Guard::unlock)
            .map_err(|error| error.kind())
    })
}

/// Waits for the lock, which `holder` takes before, with `mgr` on another thread, until it is parked.
fn park(
    mgr: &Manager,
    token: &CancelToken,
    holder: &mut Holder,
    admin: &mut Client,
) -> thread::JoinHandle<Result<(), ErrorKind>> {
    holder.lock();
    let waiting = wait(mgr, token);
    eventually(|| queued(admin) == 1);
    waiting
}

/// Keeps the processor busy, which is more exact than to sleep.
fn spin(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// The grants come around the end of a slice, which is short here. A grant that was overlooked would
/// be a lock that nobody has and nobody gets.
#[apply(isolated_test)]
fn a_grant_at_the_end_of_a_slice_is_not_overlooked() {
    let mut holder = Holder::new(server());
    let mut admin = server().client();
    // A slice lasts a third of the lease at most.
    let mgr = builder()
        .lease(Duration::from_millis(300))
        .connect()
        .unwrap();
    for round in 0..300 {
        let waiting = park(&mgr, &CancelToken::new(), &mut holder, &mut admin);
        spin(Duration::from_micros(331 * round % 100_000));
        holder.unlock();
        // A short lease may expire on a busy machine, also while it waits.
        let outcome = waiting.join().unwrap();
        let may_be = [Ok(()), Err(ErrorKind::Lost), Err(ErrorKind::Unavailable)];
        assert!(may_be.contains(&outcome), "{outcome:?}");
    }
    eventually(|| advisory_locks(&mut admin).is_empty());
}

/// A grant and a cancel of the wait come at the same time, some thousand times.
#[apply(isolated_test)]
fn a_grant_that_meets_a_cancel_leaves_no_lock() {
    let mut holder = Holder::new(server());
    let mut admin = server().client();
    let mgr = manager();
    let (mut granted, mut cancelled) = (0, 0);
    for round in 0..1500_u64 {
        holder.lock();
        let token = CancelToken::new();
        let waiting = wait(&mgr, &token);
        if round % 3 > 0 {
            eventually(|| queued(&mut admin) == 1);
        }
        thread::scope(|scope| {
            scope.spawn(|| {
                spin(Duration::from_micros(round * 7 % 3000));
                token.cancel();
            });
            holder.unlock();
        });
        match waiting.join().unwrap() {
            Ok(()) => granted += 1,
            Err(ErrorKind::Cancelled) => cancelled += 1,
            Err(kind) => panic!("{kind:?} in round {round}"),
        }
        // Whoever asks next gets it: nothing is left behind.
        mgr.lock("awaited").unwrap().unlock().unwrap();
    }
    assert!(granted > 0 && cancelled > 0, "{granted} and {cancelled}");
    eventually(|| advisory_locks(&mut admin).is_empty());
    assert_eq!(mgr.stats().reconnects, 0);
}

#[apply(isolated_test)]
fn both_modes_and_key_spaces_wait_in_the_queue() {
    let mut admin = server().client();
    let (holder, mgr) = (manager(), manager());
    let keys = [
        Key::from(-1),
        Key::from(i64::MIN),
        Key::from((-3, 4)),
        Key::from((i32::MAX, i32::MIN)),
        Key::from("named"),
    ];
    for key in keys {
        for shared in [false, true] {
            let guard = holder.lock(key).unwrap();
            thread::scope(|scope| {
                let _unblock = Unblock(&mgr);
                let waiting = scope.spawn(|| {
                    let acquire = mgr.acquire(key);
                    let acquire = if shared { acquire.shared() } else { acquire };
                    acquire.lock().unwrap().unlock()
                });
                eventually(|| queued(&mut admin) == 1);
                guard.unlock().unwrap();
                waiting.join().unwrap().unwrap();
            });
        }
    }
    assert_eq!((mgr.stats().held, mgr.stats().waiting), (0, 0));
}

#[apply(isolated_test)]
fn a_parked_manager_gets_its_lock_although_its_backend_is_terminated() {
    let mut holder = Holder::new(server());
    let mut admin = server().client();
    let mgr = builder().wait_while_unavailable(true).connect().unwrap();
    holder.lock();
    let waiting = wait(&mgr, &CancelToken::new());
    for reconnects in 0..3 {
        eventually(|| queued(&mut admin) == 1);
        assert_eq!(mgr.stats().reconnects, reconnects);
        terminate_sessions(&mut admin);
        eventually(|| mgr.stats().reconnects > reconnects);
    }
    holder.unlock();
    assert_eq!(waiting.join().unwrap(), Ok(()));
}

#[apply(isolated_test)]
fn a_parked_manager_waits_on_over_a_restart_if_it_is_to(server: Server) {
    let mgr = Manager::builder(&server.url())
        .wait_while_unavailable(true)
        .connect()
        .unwrap();
    for shutdown in [Shutdown::Fast, Shutdown::Immediate] {
        let mut holder = Holder::new(&server);
        holder.lock();
        let waiting = wait(&mgr, &CancelToken::new());
        let mut admin = server.client();
        eventually(|| queued(&mut admin) == 1);
        server.restart(shutdown).unwrap();
        // The holder's session may end first, so that the lock is ours for the server's last moment.
        let waited = waiting.join().unwrap();
        assert!(
            matches!(waited, Ok(()) | Err(ErrorKind::Lost)),
            "{waited:?}"
        );
    }
}

#[apply(isolated_test)]
fn a_parked_manager_answers_while_its_backend_is_stopped() {
    let mut holder = Holder::new(server());
    let mut admin = server().client();
    let mgr = builder()
        .response_timeout(Duration::from_secs(2))
        .connect()
        .unwrap();
    let token = CancelToken::new();
    let waiting = park(&mgr, &token, &mut holder, &mut admin);
    let paused = Paused::new(backends(&mut admin));
    let error = mgr.try_lock_for("other", Duration::from_millis(20));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unavailable);
    token.cancel();
    assert_eq!(waiting.join().unwrap(), Err(ErrorKind::Cancelled));
    // The session is given up.
    eventually(|| mgr.try_lock("other").is_ok_and(|guard| guard.is_some()));
    drop(paused);
    holder.unlock();
    // Also what the stopped backend was granted goes with its session.
    eventually(|| advisory_locks(&mut admin).is_empty());
    mgr.close().unwrap();
}

#[apply(isolated_test)]
fn a_close_ends_a_parked_managers_session_at_once() {
    let mut holder = Holder::new(server());
    let mut admin = server().client();
    holder.lock();
    for _ in 0..20 {
        let mgr = manager();
        let waiting = wait(&mgr, &CancelToken::new());
        eventually(|| queued(&mut admin) == 1);
        mgr.close().unwrap();
        assert_eq!(waiting.join().unwrap(), Err(ErrorKind::Closed));
        eventually(|| queued(&mut admin) == 0);
    }
}

/// A grant whose answer comes too late is settled with the session that it was made on, or not at
/// all: whatever the next session does first, it does not have that lock.
#[apply(isolated_test)]
fn an_answer_of_the_last_session_is_not_taken_for_one_of_the_next() {
    let proxy = Proxy::to(server()).unwrap();
    let mut holder = Holder::new(server());
    let mut admin = server().client();
    let lease = Duration::from_secs(2);
    let far = Manager::builder(&proxy.url())
        .lease(lease)
        .warn_after(lease)
        .wait_while_unavailable(true)
        .connect()
        .unwrap();
    let near = manager();
    holder.lock();
    let [first, second] = [&far, &near].map(|mgr| {
        let mgr = mgr.clone();
        let waiting = thread::spawn(move || mgr.lock("awaited").unwrap());
        eventually(|| queued(&mut admin) > 0);
        waiting
    });
    // The answer comes after nine tenths of the lease, before the session is given up.
    proxy.silence(true);
    holder.unlock();
    thread::sleep(lease * 19 / 20);
    proxy.silence(false);
    let end = Instant::now() + 2 * lease;
    let mut waiting = [Some(first), Some(second)];
    let mut guards = Vec::new();
    while Instant::now() < end {
        for waiting in &mut waiting {
            if let Some(granted) = waiting.take_if(|thread| thread.is_finished()) {
                guards.push(granted.join().unwrap());
            }
        }
        let inside = guards.iter().filter(|guard| !guard.is_lost()).count();
        assert!(inside <= 1, "two inside");
        thread::sleep(Duration::from_millis(1));
    }
    drop(guards);
    for waiting in waiting.into_iter().flatten() {
        drop(waiting.join().unwrap());
    }
}

/// The slice of a worker that was replaced has nothing to do with its successor's session, and those
/// who interrupt it stop.
#[apply(isolated_test)]
fn a_wait_that_was_given_up_cancels_nothing_later() {
    for is_cancelled in [true, false] {
        let proxy = Proxy::to(server()).unwrap();
        let mut holder = Holder::new(server());
        let mut admin = server().client();
        let mgr = Manager::builder(&proxy.url())
            .response_timeout(Duration::from_secs(1))
            .connect()
            .unwrap();
        let token = CancelToken::new();
        let waiting = park(&mgr, &token, &mut holder, &mut admin);
        let paused = Paused::new(backends(&mut admin));
        if is_cancelled {
            token.cancel();
        }
        waiting.join().unwrap().unwrap_err();
        eventually(|| mgr.try_lock("other").is_ok_and(|guard| guard.is_some()));
        let before = proxy.accepted();
        thread::sleep(Duration::from_secs(1));
        // A cancel every 100 ms would be ten. A slow machine may lose a session.
        let connections = proxy.accepted() - before;
        assert!(
            connections < 7,
            "{connections} connections of an idle manager"
        );
        drop(paused);
        holder.unlock();
        eventually(|| advisory_locks(&mut admin).is_empty());
    }
}

/// What waits for room in the queue interrupts, too.
#[apply(isolated_test)]
fn a_full_queue_hides_no_message_from_a_parked_worker() {
    let mut holder = Holder::new(server());
    let mut admin = server().client();
    holder.lock();
    let mgr = builder().queue_capacity(1).connect().unwrap();
    let token = CancelToken::new();
    let waiting = wait(&mgr, &token);
    eventually(|| queued(&mut admin) == 1);
    thread::scope(|scope| {
        for thread in 0..8 {
            let mgr = &mgr;
            scope.spawn(move || {
                for round in 0..100 {
                    assert!(mgr.try_lock((thread, round)).unwrap().is_some());
                }
            });
        }
    });
    token.cancel();
    assert_eq!(waiting.join().unwrap(), Err(ErrorKind::Cancelled));
}
