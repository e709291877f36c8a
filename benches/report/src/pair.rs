//! Target 1: what one uncontended pair costs, in time and in allocations.

use std::thread;

use anyhow::Result;
use distlock::Manager;
use peers::{DistributedLockPostgres, Sqlx};
use serde_json::json;
use throwaway_postgres::Server;

use crate::allocations::{Count, Snapshot, as_caller, counting};
use crate::setup::{Bare, Setup, micros_each, pairs};
use crate::stats::{median, median_ratio};
use crate::throughput::allocations_with_threads;

const NAMES: [&str; 4] = [
    "distlock",
    "bare client",
    "sqlx",
    "distributed-lock-postgres",
];

/// Pairs of one subject before it is the next one's turn.
const CHUNK: i64 = 400;

/// Turns with one set of connections. Where the scheduler puts a session's two ends
/// stays as it is for a while, and makes more difference than anything else.
const TURNS: i64 = 5;

pub(crate) fn latency(setup: &mut Setup) -> Result<()> {
    let mut micros: [Vec<f64>; 4] = Default::default();
    for _ in 0..setup.rounds(10) {
        let mgr = setup.manager()?;
        let mut bare = Bare::connect(&setup.url())?;
        let mut sqlx = Sqlx::connect(setup.socket(), setup.port())?;
        let mut other = DistributedLockPostgres::connect(setup.socket(), setup.port())?;
        for turn in 0..=TURNS {
            let keys = turn * CHUNK..(turn + 1) * CHUNK;
            let count = CHUNK.unsigned_abs();
            let times = [
                micros_each(count, || pairs(&mgr, keys.clone()))?,
                micros_each(count, || bare.pairs(keys.clone()))?,
                micros_each(count, || sqlx.pairs(keys.clone()))?,
                micros_each(count, || other.pairs(keys.clone()))?,
            ];
            // The first turn is there to warm up.
            if turn > 0 {
                for (all, time) in micros.iter_mut().zip(times) {
                    all.push(time);
                }
            }
        }
        mgr.close()?;
    }

    let medians = micros.each_ref().map(|micros| median(micros.clone()));
    for subject in 1..NAMES.len() {
        let ratio = median_ratio(&micros[0], &micros[subject]);
        let row = setup
            .row(1, "uncontended pair, one thread")
            .figure(format!("{:.1} µs", medians[0]))
            .against(
                format!("{} {:.1} µs", NAMES[subject], medians[subject]),
                ratio,
            );
        setup.rows.push(match subject {
            1 => row.ratio_at_most(1.0),
            _ => row.goal("below the peer", ratio < 1.0),
        });
    }
    setup.keep(
        "pair, µs",
        json!({ "subjects": NAMES, "medians": medians, "rounds": micros }),
    )
}

/// What tokens cost, on a server that keeps its log safe: each has to wait for that.
pub(crate) fn fencing(setup: &mut Setup) -> Result<()> {
    let server = Server::builder().setting("fsync", "on").start()?;
    let plain = Manager::connect(&server.url())?;
    let fenced = Manager::builder(&server.url())
        .fencing("public.distlock_token")
        .connect()?;
    for (count, threads) in [(400, 1), (100, 64)] {
        let mut micros: [Vec<f64>; 2] = Default::default();
        for round in -1..i64::try_from(setup.rounds(8))? {
            for (all, mgr) in micros.iter_mut().zip([&plain, &fenced]) {
                let time = micros_each(count * threads, || {
                    thread::scope(|scope| {
                        for thread in 0..threads.cast_signed() {
                            let first = ((round + 1) * 1000 + thread) * 1000;
                            let keys = first..first + count.cast_signed();
                            scope.spawn(move || pairs(mgr, keys).expect("nobody else wants them"));
                        }
                    });
                    Ok(())
                })?;
                // The first round is there to warm up.
                if round >= 0 {
                    all.push(time);
                }
            }
        }
        let [without, with] = micros.each_ref().map(|micros| median(micros.clone()));
        let what = format!("a pair with a fencing token, fsync on, threads: {threads}");
        let row = setup
            .row(1, &what)
            .figure(format!("{with:.1} µs"))
            .against(
                format!("without tokens {without:.1} µs"),
                median_ratio(&micros[1], &micros[0]),
            )
            .stated();
        setup.rows.push(row);
        setup.keep(&what, json!({ "without": micros[0], "with": micros[1] }))?;
    }
    plain.close()?;
    fenced.close()?;
    Ok(())
}

pub(crate) fn allocations(setup: &mut Setup) -> Result<()> {
    let (url, socket, port) = (setup.url(), setup.socket().to_owned(), setup.port());
    let count: i64 = if setup.quick { 1_000 } else { 10_000 };
    let mut bare = Bare::connect(&url)?;
    let bare = per_pair(count, |keys| bare.pairs(keys))?;
    let mut sqlx = Sqlx::connect(&socket, port)?;
    let sqlx = per_pair(count, |keys| sqlx.pairs(keys))?;
    let mut other = DistributedLockPostgres::connect(&socket, port)?;
    let other = per_pair(count, |keys| other.pairs(keys))?;
    let one = allocations_with_threads(setup, 1)?;
    let many = allocations_with_threads(setup, 64)?;

    let whole = one.whole();
    let row = setup
        .row(1, "allocations per pair, whole process")
        .figure(format!("{:.2}", whole.calls))
        .against(
            format!("bare client {:.2}", bare.calls),
            whole.calls / bare.calls,
        )
        // The driver's read buffer is one more every few hundred pairs.
        .goal("≤ 9, to a tenth", whole.calls < 9.05);
    setup.rows.push(row);
    let row = setup
        .row(1, "bytes allocated per pair, whole process")
        .figure(format!("{:.0}", whole.bytes))
        .against(
            format!("bare client {:.0}", bare.bytes),
            whole.bytes / bare.bytes,
        )
        .goal("≤ 500", whole.bytes <= 500.0);
    setup.rows.push(row);
    let row = setup
        .row(1, "allocations per pair on the caller's thread")
        .figure(format!("{:.4}", one.caller.calls))
        .goal("none", one.caller.calls < 0.001);
    setup.rows.push(row);
    for (name, peer) in [("sqlx", sqlx), ("distributed-lock-postgres", other)] {
        let row = setup
            .row(1, "allocations per pair, whole process")
            .figure(format!("{:.2} ({:.0} B)", whole.calls, whole.bytes))
            .against(
                format!("{name} {:.2} ({:.0} B)", peer.calls, peer.bytes),
                whole.calls / peer.calls,
            )
            .goal(
                "below the peer",
                whole.calls < peer.calls && whole.bytes < peer.bytes,
            );
        setup.rows.push(row);
    }
    let whole = many.whole();
    let row = setup
        .row(2, "allocations per pair, whole process, 64 threads")
        .figure(format!(
            "{:.2} (callers {:.4}, {:.0} B)",
            whole.calls, many.caller.calls, whole.bytes
        ))
        .goal("< 1", whole.calls < 1.0);
    setup.rows.push(row);
    let figures = json!({
        "distlock, 1 thread": one.json(),
        "distlock, 64 threads": many.json(),
        "bare client": bare.json(),
        "sqlx": sqlx.json(),
        "distributed-lock-postgres": other.json(),
    });
    setup.keep("allocations per pair", figures)
}

/// The allocations of the whole process for one pair, when everything that is kept has
/// been made.
fn per_pair(
    count: i64,
    mut pairs: impl FnMut(std::ops::Range<i64>) -> Result<()>,
) -> Result<PerPair> {
    pairs(1..1000)?;
    let before = Snapshot::take();
    counting(|| as_caller(|| pairs(1000..1000 + count)))?;
    let counted = Snapshot::take().since(before);
    let sum = Count {
        calls: counted.caller.calls + counted.other.calls,
        bytes: counted.caller.bytes + counted.other.bytes,
    };
    Ok(PerPair::new(sum, count.unsigned_abs()))
}

/// Allocations and bytes of one pair.
#[derive(Clone, Copy)]
pub(crate) struct PerPair {
    pub(crate) calls: f64,
    pub(crate) bytes: f64,
}

impl PerPair {
    pub(crate) fn new(count: Count, pairs: u64) -> Self {
        PerPair {
            calls: count.calls as f64 / pairs as f64,
            bytes: count.bytes as f64 / pairs as f64,
        }
    }

    pub(crate) fn json(self) -> serde_json::Value {
        json!({ "allocations": self.calls, "bytes": self.bytes })
    }
}

/// Whose allocations they are.
pub(crate) struct Shares {
    pub(crate) caller: PerPair,
    pub(crate) worker: PerPair,
}

impl Shares {
    pub(crate) fn whole(&self) -> PerPair {
        PerPair {
            calls: self.caller.calls + self.worker.calls,
            bytes: self.caller.bytes + self.worker.bytes,
        }
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "callers": self.caller.json(),
            "worker": self.worker.json(),
            "process": self.whole().json(),
        })
    }
}
