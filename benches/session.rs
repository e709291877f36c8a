//! A session as a whole: how long its end goes unnoticed, beside a bare client that makes a
//! round trip as often as the manager; and taking very many locks with eight threads,
//! beside the bare client that takes them one by one.
#![allow(missing_docs)]

use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use distlock::{Guard, Manager};
use postgres::{Client, NoTls};
use throwaway_postgres::Server;

/// The manager's default.
const HEARTBEAT: Duration = Duration::from_millis(30);

const MANY: i64 = 10_000;
const THREADS: usize = 8;

fn loss(criterion: &mut Criterion) {
    let server = Server::start().expect("a throwaway server");
    let url = server.url();
    let mut admin = server.client();
    let mut end = |pid: i32| {
        let ended = admin.execute("SELECT pg_terminate_backend($1)", &[&pid]);
        ended.expect("the server is there");
    };
    let mut group = criterion.benchmark_group("loss");
    group.bench_function("bare client, a round trip every 30 ms", |bencher| {
        bencher.iter_custom(|count| {
            (0..count)
                .map(|round| {
                    let mut client = Client::connect(&url, NoTls).expect("it is there");
                    let row = client.query_one("SELECT pg_backend_pid()", &[]);
                    let pid = row.expect("the server is there").get(0);
                    let watch = thread::spawn(move || {
                        while client.check_connection().is_ok() {
                            thread::sleep(HEARTBEAT);
                        }
                    });
                    spread(round);
                    let start = Instant::now();
                    end(pid);
                    watch.join().expect("it only watches");
                    start.elapsed()
                })
                .sum()
        });
    });
    let mgr = Manager::builder(&url)
        .wait_while_unavailable(true)
        .reconnect_backoff(Duration::from_millis(1), Duration::from_millis(10))
        .connect()
        .expect("the server is there");
    let mut client = server.client();
    group.bench_function("manager", |bencher| {
        bencher.iter_custom(|count| {
            (0..count)
                .map(|round| {
                    let guard = mgr.lock(0).expect("nobody else wants it");
                    let pid =
                        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1";
                    let row = client.query_one(pid, &[]).expect("the server is there");
                    spread(round);
                    let start = Instant::now();
                    end(row.get(0));
                    guard.watch().wait();
                    start.elapsed()
                })
                .sum()
        });
    });
    group.finish();
    mgr.close().expect("the server answers");
}

/// At another distance from the next round trip each time.
fn spread(round: u64) {
    thread::sleep(Duration::from_millis(30 + 37 * round % 31));
}

fn acquire_many(criterion: &mut Criterion) {
    // Times max_connections: more locks than are ever held.
    let server = Server::builder()
        .setting("max_locks_per_transaction", "512")
        .start()
        .expect("a throwaway server");
    let url = server.url();
    let mut group = criterion.benchmark_group("10,000 locks");
    group.bench_function("bare client", |bencher| {
        bencher.iter_custom(|count| {
            (0..count)
                .map(|_| {
                    let mut client = Client::connect(&url, NoTls).expect("it is there");
                    let sql = "SELECT FROM pg_try_advisory_lock($1) l WHERE l";
                    let lock = client.prepare(sql).expect("valid SQL");
                    let start = Instant::now();
                    for key in 0..MANY {
                        let rows = client.execute(&lock, &[&key]);
                        assert_eq!(rows.expect("the server is there"), 1);
                    }
                    let elapsed = start.elapsed();
                    client.close().expect("the server answers");
                    elapsed
                })
                .sum()
        });
    });
    group.bench_function("manager, eight threads", |bencher| {
        bencher.iter_custom(|count| {
            (0..count)
                .map(|_| {
                    let mgr = Manager::connect(&url).expect("the server is there");
                    let start = Instant::now();
                    let guards: Vec<Vec<Guard>> = thread::scope(|scope| {
                        let take = |first| {
                            let mgr = &mgr;
                            let keys = (0..MANY).skip(first).step_by(THREADS);
                            let lock = |key| mgr.lock(key).expect("nobody else wants it");
                            scope.spawn(move || keys.map(lock).collect())
                        };
                        let threads: Vec<_> = (0..THREADS).map(take).collect();
                        let joined = threads.into_iter().map(|thread| thread.join());
                        joined.collect::<Result<_, _>>().expect("they only lock")
                    });
                    let elapsed = start.elapsed();
                    drop(guards);
                    mgr.close().expect("the server answers");
                    elapsed
                })
                .sum()
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = loss, acquire_many
}
criterion_main!(benches);
