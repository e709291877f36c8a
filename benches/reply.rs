//! The way back from the worker to a caller: is the pool of reply channels worth its
//! keep, and is one slot better than none? The same request and answer over one bounded
//! channel each time; only the reply differs.
#![allow(missing_docs)]

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use crossbeam_channel::{Receiver, Sender, bounded};
use object_pool::Pool;

/// What goes back: as large as an answer with a grant.
type Answer = [u64; 5];
type Reply = (Sender<Answer>, Receiver<Answer>);

/// Where a call gets its reply channel from.
enum Source {
    Fresh(usize),
    Pool(Pool<Arc<Reply>>, usize),
}

impl Source {
    fn call(&self, requests: &Sender<Sender<Answer>>) -> Answer {
        let sent = "the server thread is there";
        match self {
            Source::Fresh(slots) => {
                let (sender, receiver) = bounded(*slots);
                requests.send(sender).expect(sent);
                receiver.recv().expect(sent)
            }
            Source::Pool(pool, slots) => {
                let reply = pool.pull(|| Arc::new(bounded(*slots)));
                requests.send(reply.0.clone()).expect(sent);
                reply.1.recv().expect(sent)
            }
        }
    }
}

fn reply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reply");
    let pool = |slots| Source::Pool(Pool::new(16, || Arc::new(bounded(slots))), slots);
    let sources = [
        ("fresh, one slot", Source::Fresh(1)),
        ("pool, one slot", pool(1)),
        ("fresh, no slot", Source::Fresh(0)),
        ("pool, no slot", pool(0)),
    ];
    for threads in [1, 16] {
        for (name, source) in &sources {
            group.bench_function(BenchmarkId::new(*name, threads), |bencher| {
                bencher.iter_custom(|count| calls(source, count, threads));
            });
        }
    }
    group.finish();
    // The channel alone, without the threads whose waking covers everything else.
    let mut group = criterion.benchmark_group("reply, one thread");
    group.bench_function("fresh", |bencher| {
        bencher.iter(|| {
            let (sender, receiver) = bounded::<Answer>(1);
            sender.send([0; 5]).expect("there is a slot");
            receiver.recv().expect("it was sent")
        });
    });
    let pool = Pool::new(16, || Arc::new(bounded::<Answer>(1)));
    group.bench_function("pool", |bencher| {
        bencher.iter(|| {
            let reply = pool.pull(|| Arc::new(bounded(1)));
            reply.0.send([0; 5]).expect("there is a slot");
            reply.1.recv().expect("it was sent")
        });
    });
    group.finish();
}

/// The time that `threads` callers need for `count` calls to one server thread.
fn calls(source: &Source, count: u64, threads: u64) -> Duration {
    let (requests, queue) = bounded::<Sender<Answer>>(1024);
    thread::scope(|scope| {
        scope.spawn(move || {
            for reply in queue {
                reply.send([0; 5]).expect("the caller waits");
            }
        });
        let start = Instant::now();
        let callers: Vec<_> = (0..threads)
            .map(|thread| {
                let requests = requests.clone();
                let own = count / threads + u64::from(thread < count % threads);
                scope.spawn(move || {
                    for _ in 0..own {
                        source.call(&requests);
                    }
                })
            })
            .collect();
        drop(requests);
        for caller in callers {
            caller.join().expect("it only calls");
        }
        start.elapsed()
    })
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = reply
}
criterion_main!(benches);
