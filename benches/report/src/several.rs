//! Target 10: several locks at once.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use distlock::Manager;
use postgres::Client;
use serde_json::json;

use crate::measure::{interleave, micros_each, rate};
use crate::setup::Setup;
use crate::table::{self, grouped};

/// Free keys that are locked together.
const SET: i64 = 1000;

/// Keys to choose from, of which every other one is taken.
const CHOICE: i64 = 10_000;
const MOST: usize = 16;

/// Threads that each want so many of the keys, again and again.
const THREADS: u64 = 64;
const WANTED: usize = 4;
const KEYS: u64 = 1000;

pub(crate) fn run(setup: &mut Setup) -> Result<()> {
    all(setup)?;
    some(setup)?;
    overlapping(setup)?;
    threads(setup)
}

/// A set of free keys beside the statement that takes them. Both are given back in between.
fn all(setup: &mut Setup) -> Result<()> {
    let mgr = setup.manager()?;
    let mut client = setup.server.client();
    let keys: Vec<i64> = (0..SET).collect();
    let lock = client.prepare("SELECT count(pg_try_advisory_lock(n)) FROM unnest($1::int8[]) n")?;
    let unlock = client.prepare("SELECT count(pg_advisory_unlock(n)) FROM unnest($1::int8[]) n")?;
    let rounds = -3..setup.rounds(60);
    let micros = interleave(rounds, &mut [false, true], |is_bare, _| {
        if *is_bare {
            let micros = micros_each(1, || {
                client.query_one(&lock, &[&keys])?;
                Ok(())
            })?;
            client.query_one(&unlock, &[&keys])?;
            return Ok(micros);
        }
        let mut set = None;
        let micros = micros_each(1, || {
            set = Some(mgr.lock_all(keys.iter().copied())?);
            Ok(())
        })?;
        set.ok_or_else(|| anyhow!("no set"))?.unlock()?;
        Ok(micros)
    })?;
    mgr.close()?;
    let row = setup.row(10, "lock_all of 1,000 free keys");
    row.by_turns(table::micros, &micros[0], "one statement", &micros[1]);
    row.ratio_at_most(2.0);
    setup.keep(
        "lock_all",
        json!({ "manager": micros[0], "statement": micros[1] }),
    )
}

/// Some of many keys beside the statement that takes as many.
fn some(setup: &mut Setup) -> Result<()> {
    let mgr = setup.manager()?;
    let (mut client, mut holder) = (setup.server.client(), setup.server.client());
    holder.execute(
        "SELECT pg_advisory_lock(2 * n) FROM generate_series(0, $1::int8 / 2 - 1) n",
        &[&CHOICE],
    )?;
    let keys: Vec<i64> = (0..CHOICE).collect();
    let pick = client.prepare(
        "SELECT n FROM unnest($1::int8[]) n WHERE pg_try_advisory_lock(n) LIMIT $2::int8",
    )?;
    let most = i64::try_from(MOST)?;
    let rounds = -3..setup.rounds(60);
    let micros = interleave(rounds, &mut [false, true], |is_bare, _| {
        if *is_bare {
            let micros = micros_each(1, || {
                client.query(&pick, &[&keys, &most])?;
                Ok(())
            })?;
            client.batch_execute("SELECT pg_advisory_unlock_all()")?;
            return Ok(micros);
        }
        let mut some = Vec::new();
        let micros = micros_each(1, || {
            some = mgr.try_lock_some(keys.iter().copied(), MOST)?;
            Ok(())
        })?;
        assert_eq!(some.len(), MOST);
        some.into_iter().try_for_each(|guard| guard.unlock())?;
        Ok(micros)
    })?;
    mgr.close()?;
    let row = setup.row(10, "try_lock_some of 10,000 keys, 16");
    row.by_turns(table::micros, &micros[0], "one statement", &micros[1]);
    row.ratio_at_most(3.0);
    setup.keep(
        "try_lock_some",
        json!({ "manager": micros[0], "statement": micros[1] }),
    )
}

/// Threads that want sets with keys in common, beside as many clients that lock one key after the
/// other, in their order.
fn overlapping(setup: &mut Setup) -> Result<()> {
    let mgr = setup.manager()?;
    let mut clients: Vec<_> = (0..THREADS).map(|_| setup.server.client()).collect();
    let time = setup.millis(2000);
    let rounds = 0..setup.rounds(5);
    let rates = interleave(rounds, &mut [false, true], |is_bare, _| match is_bare {
        false => {
            let mut managers: Vec<_> = (0..THREADS).map(|_| mgr.clone()).collect();
            sets_per_second(&mut managers, time, |mgr: &mut Manager, keys| {
                drop(mgr.lock_all(keys.iter().copied())?);
                Ok(())
            })
        }
        true => sets_per_second(&mut clients, time, |client: &mut Client, keys| {
            for key in keys {
                client.execute("SELECT pg_advisory_lock($1)", &[key])?;
            }
            for key in keys {
                client.execute("SELECT pg_advisory_unlock($1)", &[key])?;
            }
            Ok(())
        }),
    })?;
    mgr.close()?;
    let row = setup.row(10, "64 threads, sets of 4 of 1,000 keys");
    row.by_turns(grouped, &rates[0], "bare clients", &rates[1]);
    row.ratio_at_least(5.0);
    setup.keep("sets", json!({ "manager": rates[0], "bare": rates[1] }))
}

fn sets_per_second<S: Send>(
    subjects: &mut [S],
    time: Duration,
    lock: impl Fn(&mut S, &[i64]) -> Result<()> + Sync,
) -> Result<f64> {
    let begin = Barrier::new(subjects.len());
    let counts: Vec<Result<u64>> = thread::scope(|scope| {
        let (begin, lock) = (&begin, &lock);
        let threads: Vec<_> = subjects
            .iter_mut()
            .zip(1_u64..)
            .map(|(subject, seed)| {
                scope.spawn(move || {
                    let mut random = seed;
                    begin.wait();
                    let (start, mut count) = (Instant::now(), 0);
                    while start.elapsed() < time {
                        lock(subject, &wanted(&mut random)?)?;
                        count += 1;
                    }
                    Ok(count)
                })
            })
            .collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        let panicked = |_| Err(anyhow!("a thread has panicked"));
        ended.map(|ended| ended.unwrap_or_else(panicked)).collect()
    });
    let count: u64 = counts.into_iter().sum::<Result<u64>>()?;
    Ok(count as f64 / time.as_secs_f64())
}

/// Different random keys, in their order.
fn wanted(random: &mut u64) -> Result<Vec<i64>> {
    let mut keys = Vec::with_capacity(WANTED);
    while keys.len() < WANTED {
        *random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let key = i64::try_from((*random >> 33) % KEYS)?;
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys.sort_unstable();
    Ok(keys)
}

/// Few threads beside one, none of which takes a key twice.
fn threads(setup: &mut Setup) -> Result<()> {
    let mut mgr = setup.manager()?;
    let time = setup.millis(1000);
    let mut counts = [1, 2, 4, 8];
    let rounds = -1..setup.rounds(7);
    let rates = interleave(rounds, &mut counts, |count, _| rate(&mut mgr, *count, time))?;
    mgr.close()?;
    let (one, more) = rates.split_first().ok_or_else(|| anyhow!("no rates"))?;
    for ((count, rates), least) in counts.iter().skip(1).zip(more).zip([1.6, 2.5, 4.0]) {
        let row = setup.row(10, &format!("{count} threads, distinct keys"));
        row.by_turns(grouped, rates, "one thread", one);
        row.ratio_at_least(least);
    }
    setup.keep("few threads", json!(rates))
}
