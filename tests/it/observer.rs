//! The events that an observer gets, their order, and that an observer does no harm.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use distlock::observer::{
    Acquired, Connected, Disconnected, Lost, Observer, Released, Retried, Waited,
};
use distlock::{Ended, Key, Manager};
use throwaway_postgres::{Server, Shutdown};

use crate::support::*;

#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Waited(Key, bool),
    Acquired { key: Key, hold: u64, via: Via },
    Released(Key, u64),
    Lost(usize, Ended),
    Connected(u64),
    Disconnected,
    Retried,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Via {
    Server,
    Guard,
}

/// Records the events.
#[derive(Default)]
struct Record(Mutex<Vec<Seen>>);

impl Record {
    fn push(&self, seen: Seen) {
        self.0.lock().unwrap().push(seen);
    }

    fn seen(&self) -> Vec<Seen> {
        self.0.lock().unwrap().clone()
    }

    /// Waits for `count` events since the last call, and returns them.
    #[track_caller]
    fn take(&self, count: usize) -> Vec<Seen> {
        eventually(|| self.seen().len() >= count);
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Observer for Record {
    fn waited(&self, event: &Waited) {
        self.push(Seen::Waited(event.key, event.shared));
    }

    fn acquired(&self, event: &Acquired) {
        let via = match event.handed_over {
            true => Via::Guard,
            false => Via::Server,
        };
        let (key, hold) = (event.key, event.hold);
        self.push(Seen::Acquired { key, hold, via });
    }

    fn released(&self, event: &Released) {
        self.push(Seen::Released(event.key, event.hold));
    }

    fn lost(&self, event: &Lost) {
        self.push(Seen::Lost(event.holds, event.ended));
    }

    fn connected(&self, event: &Connected) {
        self.push(Seen::Connected(event.session));
    }

    fn disconnected(&self, _: &Disconnected) {
        self.push(Seen::Disconnected);
    }

    fn retried(&self, _: &Retried) {
        self.push(Seen::Retried);
    }
}

fn observed() -> (Manager, Arc<Record>) {
    let record = Arc::new(Record::default());
    let observer = Arc::clone(&record);
    let mgr = builder().observer(observer).connect().unwrap();
    assert_eq!(record.take(1), [Seen::Connected(1)]);
    (mgr, record)
}

fn acquired(key: Key, hold: u64, via: Via) -> Seen {
    Seen::Acquired { key, hold, via }
}

#[apply(isolated_test)]
fn a_lock_is_told_of_from_its_wait_to_its_release() {
    let (mgr, record) = observed();
    let key = Key::from(17);
    let first = mgr.lock(17).unwrap();
    assert_eq!(record.take(1), [acquired(key, 1, Via::Server)]);
    assert!(mgr.try_lock(17).unwrap().is_none());
    assert_eq!(record.take(1), [Seen::Waited(key, false)]);
    let second = thread::spawn({
        let mgr = mgr.clone();
        move || mgr.lock(17).unwrap().unlock()
    });
    assert_eq!(record.take(1), [Seen::Waited(key, false)]);
    drop(first);
    second.join().unwrap().unwrap();
    let [released, acquired_second, last] = &record.take(3)[..] else {
        panic!("three events")
    };
    assert_eq!(*released, Seen::Released(key, 1));
    // Not by hand-over if the first hold has outlasted the hand-off budget.
    assert!(matches!(acquired_second, Seen::Acquired { hold: 2, .. }));
    assert_eq!(*last, Seen::Released(key, 2));
    drop(mgr.lock_shared(17).unwrap());
    record.take(2);
    mgr.close().unwrap();
    assert_eq!(record.take(1), [Seen::Disconnected]);
}

#[apply(isolated_test)]
fn a_loss_is_told_of_with_its_session_and_the_next_one() {
    let (mgr, record) = observed();
    let guards = [mgr.lock(1).unwrap(), mgr.lock(2).unwrap()];
    record.take(2);
    terminate_sessions(&mut server().client());
    let lost = Seen::Lost(2, Ended::SessionLost);
    assert_eq!(
        record.take(3),
        [lost, Seen::Disconnected, Seen::Connected(2)]
    );
    drop(guards);
    let _held = mgr.lock(3).unwrap();
    record.take(1);
    mgr.close().unwrap();
    let lost = Seen::Lost(1, Ended::Closed);
    assert_eq!(record.take(2), [lost, Seen::Disconnected]);
}

#[apply(isolated_test)]
fn the_end_of_an_unused_manager_is_told_of() {
    let (mgr, record) = observed();
    let guard = mgr.lock(1).unwrap();
    drop(mgr);
    drop(guard);
    let seen = record.take(3);
    let key = Key::from(1);
    let released = Seen::Released(key, 1);
    assert_eq!(
        seen,
        [acquired(key, 1, Via::Server), released, Seen::Disconnected]
    );
}

#[apply(isolated_test)]
fn a_connect_that_fails_is_told_of_each_time(server: Server) {
    let record = Arc::new(Record::default());
    let observer = Arc::clone(&record);
    let mgr = Manager::builder(&server.url())
        .reconnect_backoff(Duration::from_millis(1), Duration::from_millis(1))
        .observer(observer)
        .connect()
        .unwrap();
    // Without a held lock it would not detect the loss.
    let _held = mgr.lock(1).unwrap();
    server.stop(Shutdown::Fast).unwrap();
    eventually(|| {
        record
            .seen()
            .iter()
            .filter(|&seen| *seen == Seen::Retried)
            .count()
            > 2
    });
    server.start_again().unwrap();
    eventually(|| matches!(record.seen().last(), Some(Seen::Connected(_))));
    mgr.close().unwrap();
}

/// The events of many threads, each of which ends a hold and begins another.
#[apply(isolated_test)]
fn events_come_in_their_order_from_all_threads() {
    let (mgr, record) = observed();
    let threads = (0..8)
        .map(|_| {
            let mgr = mgr.clone();
            thread::spawn(move || (0..200).for_each(|_| drop(mgr.lock(17).unwrap())))
        })
        .collect::<Vec<_>>();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    let is_end = |seen: &&Seen| matches!(seen, Seen::Released(..));
    eventually(|| record.seen().iter().filter(is_end).count() == 1600);
    let mut inside = None;
    let mut hand_overs = 0;
    for seen in record.seen() {
        match seen {
            Seen::Acquired { hold, via, .. } => {
                hand_overs += u64::from(via == Via::Guard);
                assert_eq!(inside.replace(hold), None);
            }
            Seen::Released(_, hold) => assert_eq!(inside.take(), Some(hold)),
            _ => {}
        }
    }
    assert_eq!(mgr.stats().hand_overs, hand_overs);
    assert!(hand_overs > 0);
    mgr.close().unwrap();
}

struct Panics;

impl Observer for Panics {
    fn acquired(&self, _: &Acquired) {
        panic!("an observer that panics, as this test wants");
    }
}

#[apply(isolated_test)]
fn a_panic_of_an_observer_harms_nobody() {
    let mgr = builder().observer(Arc::new(Panics)).connect().unwrap();
    for _ in 0..3 {
        mgr.lock(1).unwrap().unlock().unwrap();
    }
    // Also on a thread that unwinds already: its guard's drop hands the lock over.
    let guard = mgr.lock(1).unwrap();
    let waiter = thread::spawn({
        let mgr = mgr.clone();
        move || mgr.lock(1).unwrap().unlock()
    });
    eventually(|| mgr.stats().waiting == 1);
    let holder = thread::spawn(move || {
        let _guard = guard;
        panic!("a holder that panics, as this test wants");
    });
    assert!(holder.join().is_err());
    waiter.join().unwrap().unwrap();
    assert_eq!(mgr.stats().lost, 0);
    mgr.close().unwrap();
}

/// Calls its manager, and drops a guard, inside of a callback.
struct Asks(Mutex<Option<(Manager, distlock::Guard)>>);

impl Observer for Asks {
    fn waited(&self, _: &Waited) {
        if let Some((mgr, guard)) = self.0.lock().unwrap().take() {
            assert_eq!(mgr.stats().held, 1);
            assert!(mgr.health().connected);
            drop(guard);
        }
    }
}

#[apply(isolated_test)]
fn an_observer_may_ask_its_manager_and_drop_guards() {
    let asks = Arc::new(Asks(Mutex::new(None)));
    let observer = Arc::clone(&asks);
    let mgr = builder().observer(observer).connect().unwrap();
    let guard = mgr.lock(1).unwrap();
    *asks.0.lock().unwrap() = Some((mgr.clone(), guard));
    mgr.lock(1).unwrap().unlock().unwrap();
    mgr.close().unwrap();
}
