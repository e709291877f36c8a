//! The reply path from the worker to a caller: with reply channels from a pool and with fresh
//! ones, with one slot and with none. The request goes over one bounded channel each time; only
//! the reply channel differs.
#![allow(missing_docs)]

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use crossbeam_channel::{Receiver, Sender, bounded};
use object_pool::Pool;

/// The reply, as large as one with a grant.
type Answer = [u64; 5];
type Reply = (Sender<Answer>, Receiver<Answer>);

/// Where a call gets its reply channel from.
enum Source {
    Fresh(usize),
    Pool(Pool<Arc<Reply>>, usize),
}

impl Source {
    /// Sends a request with a reply channel and waits for the reply.
    fn call(&self, request: impl FnOnce(Sender<Answer>)) -> Answer {
        let answered = "what was requested is answered";
        match self {
            Source::Fresh(slots) => {
                let (sender, receiver) = bounded(*slots);
                request(sender);
                receiver.recv().expect(answered)
            }
            Source::Pool(pool, slots) => {
                let reply = pool.pull(|| Arc::new(bounded(*slots)));
                request(reply.0.clone());
                reply.1.recv().expect(answered)
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
    // The channel alone, without threads, whose wake-ups dominate the time.
    let mut group = criterion.benchmark_group("reply, one thread");
    for (name, source) in &sources[..2] {
        group.bench_function(*name, |bencher| {
            let answer = |reply: Sender<Answer>| reply.send([0; 5]).expect("there is a slot");
            bencher.iter(|| source.call(answer));
        });
    }
    group.finish();
}

/// The time that `threads` callers need for `count` calls to one server thread.
fn calls(source: &Source, count: u64, threads: u64) -> Duration {
    let (requests, queue) = bounded::<Sender<Answer>>(1024);
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            for reply in queue {
                reply.send([0; 5]).expect("the caller waits");
            }
        });
        for thread in 0..threads {
            let requests = requests.clone();
            let own = count / threads + u64::from(thread < count % threads);
            scope.spawn(move || {
                let request = |reply| requests.send(reply).expect("the server thread is there");
                for _ in 0..own {
                    source.call(request);
                }
            });
        }
        drop(requests);
    });
    start.elapsed()
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
