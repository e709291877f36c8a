//! The other Rust crates beside the manager and the bare client: one pair after the
//! other on one connection, and 64 at once, there over sixteen connections and here
//! over one.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use distlock::Manager;
use peers::{DistributedLockPostgres, Sqlx, SqlxPool};
use postgres::{Client, NoTls};
use throwaway_postgres::Server;

const AT_ONCE: u32 = 64;

/// So many keys from an arbitrary first one.
fn keys(count: u64) -> std::ops::Range<i64> {
    1..1 + count.cast_signed()
}

/// Says yes so often, on any thread.
fn so_often(count: u64) -> impl Fn() -> bool + Send + Sync + 'static {
    let left = Arc::new(AtomicI64::new(count.cast_signed()));
    move || left.fetch_sub(1, Ordering::Relaxed) > 0
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn pair(criterion: &mut Criterion) {
    let server = Server::start().expect("a throwaway server");
    let mut group = criterion.benchmark_group("peers/pair");

    let mut client = Client::connect(&server.url(), NoTls).expect("the server is there");
    let mut prepare = |sql| client.prepare(sql).expect("valid SQL");
    let lock = prepare("SELECT FROM pg_try_advisory_lock($1) l WHERE l");
    let unlock = prepare("SELECT FROM pg_advisory_unlock($1) l WHERE l");
    group.bench_function("bare client", |bencher| {
        bencher.iter_custom(|count| {
            timed(|| {
                for key in keys(count) {
                    for statement in [&lock, &unlock] {
                        let rows = client.execute(statement, &[&key]);
                        assert_eq!(rows.expect("the server is there"), 1);
                    }
                }
            })
        });
    });

    let mgr = Manager::connect(&server.url()).expect("the server is there");
    group.bench_function("distlock", |bencher| {
        bencher.iter_custom(|count| {
            timed(|| {
                for key in keys(count) {
                    drop(mgr.lock(key).expect("nobody else wants it"));
                }
            })
        });
    });
    mgr.close().expect("the server answers");

    let (socket, port) = (server.folder(), server.port());
    let mut sqlx = Sqlx::connect(socket, port).expect("the server is there");
    group.bench_function("sqlx", |bencher| {
        bencher.iter_custom(|count| timed(|| sqlx.pairs(keys(count)).expect("it is free")));
    });

    let mut other = DistributedLockPostgres::connect(socket, port).expect("the server is there");
    group.bench_function("distributed-lock-postgres", |bencher| {
        bencher.iter_custom(|count| timed(|| other.pairs(keys(count)).expect("it is free")));
    });
    group.finish();
}

fn throughput(criterion: &mut Criterion) {
    let server = Server::start().expect("a throwaway server");
    let mut group = criterion.benchmark_group("peers/64 at once");
    group.throughput(Throughput::Elements(1));
    let id = |name| BenchmarkId::from_parameter(name);

    let mgr = Manager::connect(&server.url()).expect("the server is there");
    group.bench_function(id("distlock"), |bencher| {
        bencher.iter_custom(|count| {
            let more = so_often(count);
            timed(|| {
                thread::scope(|scope| {
                    for first in 0..i64::from(AT_ONCE) {
                        let (mgr, more) = (&mgr, &more);
                        scope.spawn(move || {
                            // With one key the server would have little to do.
                            let keys = (first..).step_by(AT_ONCE as usize);
                            for key in keys.take_while(|_| more()) {
                                drop(mgr.lock(key).expect("nobody else wants it"));
                            }
                        });
                    }
                });
            })
        });
    });
    mgr.close().expect("the server answers");

    let (socket, port) = (server.folder(), server.port());
    let sqlx = SqlxPool::connect(socket, port).expect("the server is there");
    group.bench_function(id("sqlx"), |bencher| {
        bencher.iter_custom(|count| timed(|| sqlx.run(AT_ONCE, so_often(count))));
    });

    let other = DistributedLockPostgres::connect_pool(socket, port).expect("the server is there");
    group.bench_function(id("distributed-lock-postgres"), |bencher| {
        bencher.iter_custom(|count| timed(|| other.run(AT_ONCE, so_often(count))));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = pair, throughput
}
criterion_main!(benches);
