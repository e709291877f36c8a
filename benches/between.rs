//! Between processes, of which two managers are as good as any: the lock goes from one to
//! the other by looking for it. Beside two bare clients that look every millisecond, and
//! sixteen threads of one process that wait for one key beside as many that wait for a mutex.
#![allow(missing_docs)]

use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use distlock::Manager;
use parking_lot::{Mutex, MutexGuard};
use postgres::{Client, NoTls};
use throwaway_postgres::Server;

const HOLD: Duration = Duration::from_millis(1);

fn between(criterion: &mut Criterion) {
    let server = Server::start().expect("a throwaway server");
    let url = server.url();
    let mut group = criterion.benchmark_group("turns");

    group.bench_function("two bare clients, a look every millisecond", |bencher| {
        bencher.iter_custom(|count| {
            let clients = [(); 2].map(|()| Client::connect(&url, NoTls).expect("it is there"));
            take_turns(count, clients, |client| {
                let mut ask = |sql| -> bool {
                    let row = client.query_one(sql, &[]).expect("the server is there");
                    row.get(0)
                };
                while !ask("SELECT pg_try_advisory_lock(0)") {
                    thread::sleep(Duration::from_millis(1));
                }
                assert!(ask("SELECT pg_advisory_unlock(0)"));
            })
        });
    });
    let managers = [(); 2].map(|()| Manager::connect(&url).expect("the server is there"));
    group.bench_function("two managers", |bencher| {
        bencher.iter_custom(|count| {
            take_turns(count, managers.each_ref(), |mgr| {
                drop(mgr.lock(0).expect("the other one drops it"));
            })
        });
    });

    // Of the time of a turn a millisecond is the hold.
    group.bench_function("sixteen threads and a fair mutex, 1 ms hold", |bencher| {
        let mutex = Mutex::new(());
        bencher.iter_custom(|count| {
            take_turns(count, [&mutex; 16], |mutex| {
                let guard = mutex.lock();
                thread::sleep(HOLD);
                MutexGuard::unlock_fair(guard);
            })
        });
    });
    let [mgr, other] = managers;
    group.bench_function("sixteen threads and a manager, 1 ms hold", |bencher| {
        bencher.iter_custom(|count| {
            take_turns(count, [&mgr; 16], |mgr| {
                let _guard = mgr.lock(0).expect("the others drop it");
                thread::sleep(HOLD);
            })
        });
    });
    group.finish();
    for mgr in [mgr, other] {
        mgr.close().expect("the server answers");
    }
}

/// The time of `count` turns, taken by a thread for each of `holders`.
fn take_turns<T: Send, const N: usize>(
    count: u64,
    holders: [T; N],
    turn: impl Fn(&mut T) + Sync,
) -> Duration {
    let start = Instant::now();
    thread::scope(|scope| {
        for (place, mut holder) in (0..).zip(holders) {
            let (turn, others) = (&turn, N as u64);
            let own = count / others + u64::from(place < count % others);
            scope.spawn(move || (0..own).for_each(|_| turn(&mut holder)));
        }
    });
    start.elapsed()
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = between
}
criterion_main!(benches);
