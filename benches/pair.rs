//! The uncontended pair: one thread locks and unlocks, through the manager and its
//! worker thread, beside the bare client doing the same two statements itself.
#![allow(missing_docs)]

use std::cell::RefCell;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use distlock::Manager;
use postgres::{Client, NoTls};
use throwaway_postgres::Server;

fn pair(criterion: &mut Criterion) {
    let server = Server::start().expect("a throwaway server");
    let url = server.url();
    let mut group = criterion.benchmark_group("pair");

    let client = RefCell::new(Client::connect(&url, NoTls).expect("the server is there"));
    let prepare = |sql| client.borrow_mut().prepare(sql).expect("valid SQL");
    let lock = prepare("SELECT FROM pg_try_advisory_lock($1) l WHERE l");
    let unlock = prepare("SELECT FROM pg_advisory_unlock($1) l WHERE l");
    group.bench_function("bare client, two round trips", |bencher| {
        let mut key = 0_i64;
        bencher.iter(|| {
            key += 1;
            for statement in [&lock, &unlock] {
                let rows = client.borrow_mut().execute(statement, &[&key]);
                assert_eq!(rows.expect("the server is there"), 1);
            }
        });
    });

    let mgr = Manager::connect(&url).expect("the server is there");
    // Another key each time: the lock of one key would go from hand to hand inside.
    group.bench_function("manager, another key each time", |bencher| {
        let mut key = 0_i64;
        bencher.iter(|| {
            key += 1;
            drop(mgr.lock(key).expect("nobody else wants it"));
        });
    });
    group.bench_function("manager, one key", |bencher| {
        bencher.iter(|| drop(mgr.lock(0).expect("nobody else wants it")));
    });
    group.finish();
    mgr.close().expect("the server answers");
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = pair
}
criterion_main!(benches);
