//! Target 8, a writer that waits while readers of two other processes have the lock, never both
//! without it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use distlock::Manager;

use crate::setup::Setup;
use crate::stats::median;
use crate::turns::BUDGET;

const KEY: i64 = 10;

/// How long a reader keeps its share at least, and at most, if the other does not join it.
const SHARE: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(10)];

/// How long the writer waits at most.
const LIMIT: Duration = Duration::from_millis(300);

pub(crate) fn run(setup: &mut Setup) -> Result<()> {
    let managers = [setup.manager()?, setup.manager()?];
    let writer = setup.manager()?;
    let relay = Relay::default();
    let waits = thread::scope(|scope| {
        for (reader, mgr) in managers.iter().enumerate() {
            let relay = &relay;
            scope.spawn(move || relay.read(mgr, reader));
        }
        let waits = (0..setup.rounds(9)).map(|_| {
            // Both read again.
            thread::sleep(Duration::from_millis(50));
            let start = Instant::now();
            let guard = writer.try_lock_for(KEY, LIMIT)?;
            let waited = guard.is_some().then(|| start.elapsed());
            drop(guard);
            Ok(waited)
        });
        let waits = waits.collect::<Result<Vec<_>>>();
        relay.is_over.store(true, Relaxed);
        waits
    })?;
    for mgr in managers.into_iter().chain([writer]) {
        mgr.close()?;
    }
    let served = waits.iter().flatten().count();
    let millis: Vec<f64> = waits
        .iter()
        .map(|wait| wait.map_or(f64::INFINITY, |wait| wait.as_secs_f64() * 1e3))
        .collect();
    let typical = median(&millis);
    let figure = match typical.is_finite() {
        true => format!("{typical:.1} ms"),
        false => format!("not in {} ms", LIMIT.as_millis()),
    };
    setup
        .row(8, "a writer, while the shares of two processes overlap")
        .figure(format!("{figure}, served {served} of {}", waits.len()))
        .goal("two budgets (40 ms)", typical <= 2.0 * BUDGET);
    setup.keep("a writer against readers, ms", millis)
}

/// Two readers, each of which keeps its share until the other has joined it.
#[derive(Default)]
struct Relay {
    /// How many shares each has had.
    shares: Mutex<[u64; 2]>,
    joined: Condvar,
    is_over: AtomicBool,
}

impl Relay {
    fn read(&self, mgr: &Manager, reader: usize) {
        let other = 1 - reader;
        while !self.is_over.load(Relaxed) {
            let guard = mgr.lock_shared(KEY).expect("the server is there");
            let mut shares = self.shares.lock().expect("nobody panics with it");
            shares[reader] += 1;
            let seen = shares[other];
            drop(shares);
            self.joined.notify_all();
            let [least, most] = SHARE;
            thread::sleep(least);
            let shares = self.shares.lock().expect("nobody panics with it");
            let alone = |shares: &mut [u64; 2]| shares[other] == seen;
            let waited = self.joined.wait_timeout_while(shares, most - least, alone);
            drop(waited);
            drop(guard);
        }
    }
}
