//! A pair while many other locks are held, through the manager and through the bare
//! client. Outside of a transaction the server ends each statement with a walk over
//! all locks of the session.
#![allow(missing_docs)]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use distlock::{Guard, Manager};
use postgres::{Client, NoTls};
use throwaway_postgres::Server;

/// No other lock of this bench has a key from here on.
const OTHERS: i64 = 1 << 40;

fn held(criterion: &mut Criterion) {
    // Times max_connections: more locks than this bench ever holds.
    let server = Server::builder()
        .setting("max_locks_per_transaction", "512")
        .start()
        .expect("a throwaway server");
    let url = server.url();
    let mut group = criterion.benchmark_group("held");
    for others in [0, 1_000, 10_000] {
        let mut client = Client::connect(&url, NoTls).expect("the server is there");
        let take = "SELECT pg_advisory_lock(n) FROM generate_series($1::int8, $2::int8) n";
        client
            .execute(take, &[&OTHERS, &(OTHERS + others - 1)])
            .expect("nobody else wants them");
        let mut prepare = |sql| client.prepare(sql).expect("valid SQL");
        let lock = prepare("SELECT FROM pg_try_advisory_lock($1) l WHERE l");
        let unlock = prepare("SELECT FROM pg_advisory_unlock($1) l WHERE l");
        group.bench_function(BenchmarkId::new("bare client", others), |bencher| {
            bencher.iter(|| {
                for statement in [&lock, &unlock] {
                    let rows = client.execute(statement, &[&0_i64]);
                    assert_eq!(rows.expect("the server is there"), 1);
                }
            });
        });
        client.close().expect("the server answers");

        let mgr = Manager::connect(&url).expect("the server is there");
        let guards: Vec<Guard> = (OTHERS..OTHERS + others)
            .map(|key| mgr.lock(key).expect("nobody else wants it"))
            .collect();
        group.bench_function(BenchmarkId::new("manager", others), |bencher| {
            let mut key = 0_i64;
            bencher.iter(|| {
                key += 1;
                drop(mgr.lock(key).expect("nobody else wants it"));
            });
        });
        drop(guards);
        mgr.close().expect("the server answers");
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1));
    targets = held
}
criterion_main!(benches);
