//! Target 8, processes that do nothing but wait for a lock: what they cost the server, and how soon
//! one of them has it. To the server each manager is a process.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use distlock::{CancelToken, Manager};
use serde_json::json;
use subjects::BareClient;

use crate::machine::now;
use crate::measure::interleave;
use crate::setup::Setup;
use crate::stats::{median, percentile, summary};
use crate::table;

const KEY: i64 = 8;

/// The first of the keys that the waiting managers hold meanwhile.
const OTHERS: i64 = 1 << 20;

pub(crate) fn run(setup: &mut Setup) -> Result<()> {
    statements(setup)?;
    hand_over(setup)?;
    maintenance(setup)
}

/// The statements per second of many that wait for one key.
fn statements(setup: &mut Setup) -> Result<()> {
    let count = if setup.quick { 10 } else { 100 };
    let mut holder = BareClient::connect(&setup.server.url())?;
    holder.lock(KEY)?;
    let managers = (0..count)
        .map(|_| setup.manager())
        .collect::<Result<Vec<_>>>()?;
    let time = setup.millis(3000);
    let idle = rates(&managers, setup.millis(1500), time)?;
    let guards = (OTHERS..)
        .zip(&managers)
        .map(|(key, mgr)| mgr.lock(key))
        .collect::<Result<Vec<_>, _>>()?;
    // By then the pauses between two attempts have grown to the longest.
    let holding = rates(&managers, setup.millis(10_000), time)?;
    drop(guards);
    for mgr in managers {
        mgr.close()?;
    }
    let what = format!("statements/s while {count} processes wait for one key");
    for (what, rates, most) in [
        (format!("{what}, nothing else"), &idle, 1.5),
        (format!("{what}, each holds another"), &holding, 2.5),
    ] {
        let Rates { statements, others } = rates;
        let most = most * f64::from(count);
        setup
            .row(8, &what)
            .figure(format!("{statements:.0}, and {others:.0} heartbeats"))
            .goal(format!("≤ {most:.0}"), *statements <= most);
    }
    let figures = json!({
        "processes": count,
        "nothing else": idle.statements,
        "holding": holding.statements,
        "heartbeats, holding": holding.others,
    });
    setup.keep("waiting for one key, statements/s", figures)
}

/// Per second.
struct Rates {
    /// That lock, unlock or wait.
    statements: f64,
    /// Other round trips: heartbeats, which are no statements, but for one in a second at most.
    others: f64,
}

/// The rates of `managers` during `time`, once they have waited for `waited`.
fn rates(managers: &[Manager], waited: Duration, time: Duration) -> Result<Rates> {
    let count = || {
        let stats = managers.iter().map(Manager::stats);
        stats.fold((0, 0), |(statements, all), stats| {
            (statements + stats.batches, all + stats.round_trips)
        })
    };
    beside(managers, || {
        thread::sleep(waited);
        let (start, before) = (Instant::now(), count());
        thread::sleep(time);
        let (after, elapsed) = (count(), start.elapsed().as_secs_f64());
        let (statements, all) = (after.0 - before.0, after.1 - before.1);
        Ok(Rates {
            statements: statements as f64 / elapsed,
            others: all.saturating_sub(statements) as f64 / elapsed,
        })
    })
}

/// Runs `work` while all `managers` wait for [`KEY`].
fn beside<T>(managers: &[Manager], work: impl FnOnce() -> Result<T>) -> Result<T> {
    let over = CancelToken::new();
    thread::scope(|scope| {
        for mgr in managers {
            scope.spawn(|| mgr.acquire(KEY).cancel(&over).lock().map(drop));
        }
        let result = work();
        let all_wait = managers.iter().all(|mgr| mgr.stats().waiting == 1);
        over.cancel();
        ensure!(all_wait, "some do not wait");
        result
    })
}

/// Waits for the lock, gives it back, and returns when it was there.
type Waiter<'a> = &'a mut (dyn FnMut() -> Result<u64> + Send);

/// How long a lock that is given back takes to the one that waits for it, beside a client that
/// waits in the server's queue.
fn hand_over(setup: &mut Setup) -> Result<()> {
    let url = setup.server.url();
    let mut holder = BareClient::connect(&url)?;
    let mgr = setup.manager()?;
    let mut bare = BareClient::connect(&url)?;
    let mut waiters: [Waiter<'_>; 2] = [
        &mut || {
            let guard = mgr.lock(KEY)?;
            let taken = now();
            guard.unlock()?;
            Ok(taken)
        },
        &mut || {
            bare.lock(KEY)?;
            let taken = now();
            bare.unlock(KEY)?;
            Ok(taken)
        },
    ];
    let rounds = -1..setup.rounds(20);
    let micros = interleave(rounds, &mut waiters, |waiter, round| {
        holder.lock(KEY)?;
        thread::scope(|scope| {
            let wait = scope.spawn(&mut **waiter);
            // Not always at the same distance from anything that a waiter does in intervals.
            let waited = 40 + 37 * round.unsigned_abs() % 300;
            thread::sleep(Duration::from_millis(waited));
            let released = now();
            holder.unlock(KEY)?;
            let taken = wait.join().expect("it returns its errors")?;
            Ok(taken.saturating_sub(released) as f64 / 1e3)
        })
    })?;
    mgr.close()?;
    let [own, bare] = &micros[..] else {
        unreachable!("there are two waiters");
    };
    setup
        .row(8, "hand-over to a process that does nothing but wait")
        .by_turns(table::micros, own, "bare client", bare)
        .ratio_at_most(1.5);
    let figures = json!({ "distlock": summary(own), "bare client": summary(bare) });
    setup.keep("hand-over to a process that waits", figures)
}

/// What waits for the snapshots of others.
fn maintenance(setup: &mut Setup) -> Result<()> {
    let mut admin = setup.server.client();
    admin.batch_execute("CREATE TABLE jobs AS SELECT n FROM generate_series(1, 1000) n")?;
    let mut holder = BareClient::connect(&setup.server.url())?;
    holder.lock(KEY)?;
    let managers = (0..20)
        .map(|_| setup.manager())
        .collect::<Result<Vec<_>>>()?;
    let rounds = setup.rounds(4);
    let mut millis = || {
        let rounds = (0..rounds).map(|_| {
            let start = Instant::now();
            admin.batch_execute("CREATE INDEX CONCURRENTLY fresh ON jobs (n)")?;
            admin.batch_execute("VACUUM jobs")?;
            let elapsed = start.elapsed();
            admin.batch_execute("DROP INDEX fresh")?;
            Ok(elapsed.as_secs_f64() * 1e3)
        });
        rounds.collect::<Result<Vec<f64>>>()
    };
    let alone = millis()?;
    let delayed = beside(&managers, || {
        thread::sleep(Duration::from_millis(200));
        millis()
    })?;
    admin.batch_execute("DROP TABLE jobs")?;
    for mgr in managers {
        mgr.close()?;
    }
    let (worst, typical) = (percentile(&delayed, 100), median(&alone));
    setup
        .row(
            8,
            "a concurrent index and a VACUUM beside 20 that wait, worst",
        )
        .beside(|millis| format!("{millis:.0} ms"), worst, "alone", typical)
        .goal("1 s more", worst - typical < 1000.0);
    let figures = json!({ "alone": alone, "beside 20": delayed });
    setup.keep("maintenance beside processes that wait, ms", figures)
}
