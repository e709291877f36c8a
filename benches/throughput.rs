//! Pairs a second with many threads, no two on one key, over one connection: the unlocks
//! and locks of all that wait travel together. Beside the bare client, which does them
//! one at a time.
//!
//! With another key each time every lock and unlock is done by the server. A thread that
//! drops a lock and takes it again mostly gets it back inside the process.
#![allow(missing_docs)]

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use distlock::Manager;
use postgres::{Client, NoTls};
use throwaway_postgres::Server;

fn throughput(criterion: &mut Criterion) {
    let server = Server::start().expect("a throwaway server");
    let url = server.url();
    let mut group = criterion.benchmark_group("throughput");
    group.throughput(Throughput::Elements(1));

    let mut client = Client::connect(&url, NoTls).expect("the server is there");
    let mut prepare = |sql| client.prepare(sql).expect("valid SQL");
    let lock = prepare("SELECT FROM pg_try_advisory_lock($1) l WHERE l");
    let unlock = prepare("SELECT FROM pg_advisory_unlock($1) l WHERE l");
    group.bench_function("bare client", |bencher| {
        bencher.iter(|| {
            for statement in [&lock, &unlock] {
                let rows = client.execute(statement, &[&0_i64]);
                assert_eq!(rows.expect("the server is there"), 1);
            }
        });
    });

    let mgr = Manager::connect(&url).expect("the server is there");
    for threads in [1, 16, 64, 256] {
        let id = BenchmarkId::new("manager, another key each time", threads);
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|count| spread(&mgr, count, threads, true));
        });
    }
    group.bench_function(
        BenchmarkId::new("manager, one key a thread", 64),
        |bencher| {
            bencher.iter_custom(|count| spread(&mgr, count, 64, false));
        },
    );
    group.finish();
    mgr.close().expect("the server answers");
}

/// The time that `threads` threads need for `count` pairs between them.
fn spread(mgr: &Manager, count: u64, threads: u64, another_key: bool) -> Duration {
    let barrier = Barrier::new(usize::try_from(threads).expect("a few hundred") + 1);
    let start = thread::scope(|scope| {
        for thread in 0..threads {
            let barrier = &barrier;
            let own = count / threads + u64::from(thread < count % threads);
            scope.spawn(move || {
                barrier.wait();
                for pair in 0..own {
                    let step = if another_key { pair * threads } else { 0 };
                    let key = (thread + step).cast_signed();
                    drop(mgr.lock(key).expect("nobody else wants it"));
                }
            });
        }
        barrier.wait();
        Instant::now()
    });
    start.elapsed()
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = throughput
}
criterion_main!(benches);
