//! Targets 1 and 2: what a pair allocates.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use anyhow::Result;
use serde_json::json;
use subjects::Subject;

use crate::allocator::{Count, Shares, as_caller, counting};
use crate::setup::Setup;

pub(crate) fn run(setup: &mut Setup) -> Result<()> {
    let pairs = if setup.quick { 1_000 } else { 10_000 };
    let [bare, sqlx, other] = subjects::others(&setup.server)?
        .map(|mut subject| anyhow::Ok((subject.name(), one_by_one(&mut *subject, pairs)?)));
    let ((_, bare), peers) = (bare?, [sqlx?, other?]);
    let one = with_threads(setup, 1)?;
    let many = with_threads(setup, 64)?;

    let (own, callers) = (one.sum(), one.callers.calls);
    let what = "allocations per pair, whole process";
    let calls = |calls| format!("{calls:.2}");
    setup
        .row(1, what)
        .beside(calls, own.calls, "bare client", bare.calls)
        // The driver's read buffer is one more every few hundred pairs.
        .goal("≤ 9, to a tenth", own.calls < 9.05);
    let bytes = |bytes| format!("{bytes:.0}");
    setup
        .row(1, "bytes allocated per pair, whole process")
        .beside(bytes, own.bytes, "bare client", bare.bytes)
        .goal("≤ 500", own.bytes <= 500.0);
    setup
        .row(1, "allocations per pair on the caller's thread")
        .figure(format!("{callers:.4}"))
        .goal("none", callers < 0.001);
    for (name, peer) in peers {
        let told = |count: Count| format!("{:.2} ({:.0} B)", count.calls, count.bytes);
        let below = own.calls < peer.calls && own.bytes < peer.bytes;
        setup
            .row(1, what)
            .figure(told(own))
            .against(format!("{name} {}", told(peer)), own.calls / peer.calls)
            .goal("below the peer", below);
    }
    let (Count { calls, bytes }, callers) = (many.sum(), many.callers.calls);
    setup
        .row(2, "allocations per pair, whole process, 64 threads")
        .figure(format!("{calls:.2} (callers {callers:.4}, {bytes:.0} B)"))
        .goal("< 1", calls < 1.0);
    let figures = json!({
        "distlock, 1 thread": one,
        "distlock, 64 threads": many,
        "bare client": bare,
        "peers": peers,
    });
    setup.keep("allocations per pair", figures)
}

/// What the whole process allocates for a pair after warm-up.
fn one_by_one(subject: &mut dyn Subject, pairs: i64) -> Result<Count> {
    subject.pairs(1..1000)?;
    let before = Shares::now();
    counting(|| as_caller(|| subject.pairs(1000..1000 + pairs)))?;
    Ok(Shares::now().each_since(before, pairs.unsigned_abs()).sum())
}

/// What a pair of the manager's allocates while `threads` threads make pairs.
fn with_threads(setup: &Setup, threads: u32) -> Result<Shares> {
    let mgr = setup.manager()?;
    let over = AtomicBool::new(false);
    let (load, shares) = thread::scope(|scope| {
        let load = scope.spawn(|| {
            subjects::spread(threads, 0, |keys| {
                let keys = keys.take_while(|_| !over.load(Relaxed));
                as_caller(|| subjects::pairs(&mgr, keys))
            })
        });
        let shares = counting(|| {
            // The warm-up is over by then.
            thread::sleep(setup.millis(1000));
            let (before, pairs) = (Shares::now(), mgr.stats().acquired);
            thread::sleep(setup.millis(1000));
            Shares::now().each_since(before, mgr.stats().acquired - pairs)
        });
        over.store(true, Relaxed);
        (load.join().expect("it returns its errors"), shares)
    });
    mgr.close()?;
    load.into_iter().collect::<Result<()>>()?;
    Ok(shares)
}
