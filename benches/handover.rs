//! From one thread's drop to the next thread inside, when both wait for one key, beside
//! what waking a thread costs at all.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use crossbeam_channel::bounded;
use distlock::Manager;
use throwaway_postgres::Server;

fn handover(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hand-over");

    group.bench_function("park and unpark", |bencher| {
        bencher.iter_custom(|count| {
            let turn = Arc::new(AtomicU64::new(0));
            let main = thread::current();
            let other = thread::spawn({
                let turn = Arc::clone(&turn);
                move || {
                    for round in 0..count / 2 {
                        await_turn(&turn, 2 * round + 1);
                        turn.store(2 * round + 2, Ordering::Release);
                        main.unpark();
                    }
                }
            });
            let start = Instant::now();
            for round in 0..count / 2 {
                turn.store(2 * round + 1, Ordering::Release);
                other.thread().unpark();
                await_turn(&turn, 2 * round + 2);
            }
            let elapsed = start.elapsed();
            other.join().expect("it only waits");
            elapsed
        });
    });

    group.bench_function("channel", |bencher| {
        bencher.iter_custom(|count| {
            let (there, here) = (bounded::<()>(1), bounded::<()>(1));
            thread::scope(|scope| {
                scope.spawn(|| {
                    for () in there.1.iter().take(usize::try_from(count / 2).unwrap_or(0)) {
                        here.0.send(()).expect("the other end is there");
                    }
                });
                let start = Instant::now();
                for _ in 0..count / 2 {
                    there.0.send(()).expect("the other end is there");
                    here.1.recv().expect("the other end is there");
                }
                start.elapsed()
            })
        });
    });

    let server = Server::start().expect("a throwaway server");
    let mgr = Manager::connect(&server.url()).expect("the server is there");
    // With the pauses in which other processes get their turn.
    group.bench_function("manager, two threads on one key", |bencher| {
        bencher.iter_custom(|count| {
            let start = Instant::now();
            thread::scope(|scope| {
                for own in [count / 2, count - count / 2] {
                    let mgr = &mgr;
                    scope.spawn(move || {
                        for _ in 0..own {
                            drop(mgr.lock(0).expect("the other one drops it"));
                        }
                    });
                }
            });
            start.elapsed()
        });
    });
    group.finish();
    mgr.close().expect("the server answers");
}

fn await_turn(turn: &AtomicU64, mine: u64) {
    while turn.load(Ordering::Acquire) != mine {
        thread::park();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1));
    targets = handover
}
criterion_main!(benches);
