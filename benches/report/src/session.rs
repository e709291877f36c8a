//! Targets 5 to 7: a session that is lost, one that holds very much, one that holds
//! nothing.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use distlock::{Guard, Manager};
use serde_json::json;

use crate::allocations::{counting, live};
use crate::machine::{Placement, cpu_time, resident, wake_ups};
use crate::plots::{self, Series};
use crate::setup::{Bare, Setup, micros_each, pairs};
use crate::stats::{Latencies, median, median_ratio};
use crate::table::grouped;

/// The default.
const HEARTBEAT: Duration = Duration::from_millis(30);

/// No other key of these scenarios is that large.
const OTHERS: i64 = 1 << 40;

/// Of the session that holds a lock on a number, not of every session with its marker.
const PID: &str = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1";

/// Target 5.
pub(crate) fn loss(setup: &mut Setup) -> Result<()> {
    let mut admin = setup.server.client();
    // One loss after the other: the manager would take its time to connect again.
    let mgr = Manager::builder(&setup.url())
        .reconnect_backoff(Duration::from_millis(1), Duration::from_millis(10))
        .wait_while_unavailable(true)
        .connect()?;
    let mut latencies = Latencies::new();
    for round in 0..setup.rounds(80) {
        let guard = mgr.lock(1)?;
        let watch = guard.watch();
        let pid: i32 = admin.query_one(PID, &[])?.get(0);
        // At any distance from the next heartbeat, whatever their real interval is: the
        // waits are spread over a time of many.
        thread::sleep(Duration::from_millis(30 + 37 * round as u64 % 211));
        let start = Instant::now();
        admin.execute("SELECT pg_terminate_backend($1)", &[&pid])?;
        watch.wait();
        latencies.record(u64::try_from(start.elapsed().as_nanos())?);
        drop(guard);
    }
    let (median, max) = (latencies.median() / 1e3, latencies.max() / 1e3);
    let row = setup
        .row(5, "lost lock noticed, median")
        .figure(format!("{median:.1} ms of {} rounds", latencies.len()))
        .goal("≤ 15 ms", median <= 15.0);
    setup.rows.push(row);
    let row = setup
        .row(5, "lost lock noticed, max")
        .figure(format!("{max:.1} ms"))
        .goal(
            "≤ 2 heartbeats (60 ms)",
            latencies.max() <= 2e6 * HEARTBEAT.as_secs_f64(),
        );
    setup.rows.push(row);

    // What the server pays for it.
    let guard = mgr.lock(1)?;
    let pid: i32 = admin.query_one(PID, &[])?.get(0);
    let (start, beats, used) = (Instant::now(), mgr.stats().round_trips, cpu_time(pid)?);
    thread::sleep(setup.millis(3000));
    let beats = (mgr.stats().round_trips - beats) as f64;
    let used = (cpu_time(pid)? - used).as_secs_f64();
    let elapsed = start.elapsed().as_secs_f64();
    drop(guard);
    mgr.close()?;
    let row = setup
        .row(5, "heartbeats, the server's side")
        .figure(format!(
            "{:.0}/s, {:.0} µs CPU each, {:.2} % of a core",
            beats / elapsed,
            used * 1e6 / beats,
            used / elapsed * 100.0
        ))
        .stated();
    setup.rows.push(row);
    let figures = json!({
        "noticed": latencies.json(),
        "heartbeats/s": beats / elapsed,
        "server cpu of a heartbeat, µs": used * 1e6 / beats,
    });
    setup.keep("loss", figures)
}

const HELD: [i64; 6] = [0, 10, 100, 1_000, 4_000, 10_000];

/// Target 6.
pub(crate) fn held(setup: &mut Setup, results: &Path) -> Result<()> {
    let url = setup.url();
    let mut subjects = Vec::new();
    for (place, held) in (0..).zip(HELD) {
        let first = OTHERS * (1 + 2 * place);
        let mgr = setup.manager()?;
        let guards = hold(&mgr, first, held, 1)?;
        let mut bare = Bare::connect(&url)?;
        bare.hold(first + OTHERS..first + OTHERS + held)?;
        subjects.push((mgr, guards, bare));
    }
    let chunk: i64 = 100;
    let mut own: [Vec<f64>; HELD.len()] = Default::default();
    let mut by_bare = own.clone();
    for round in -1..i64::try_from(setup.rounds(24))? {
        for (place, (mgr, _, bare)) in subjects.iter_mut().enumerate() {
            let count = chunk.unsigned_abs();
            let keys = (round + 2) * chunk..(round + 3) * chunk;
            let time = micros_each(count, || pairs(mgr, keys.clone()))?;
            let bare = micros_each(count / 4, || bare.pairs(0..chunk / 4))?;
            // The first round is there to warm up.
            if round >= 0 {
                own[place].push(time);
                by_bare[place].push(bare);
            }
        }
    }
    for (mgr, guards, _) in subjects {
        drop(guards);
        mgr.close()?;
    }
    let medians = own.each_ref().map(|micros| median(micros.clone()));
    let bare_medians = by_bare.each_ref().map(|micros| median(micros.clone()));
    for place in [3, 4, 5] {
        let row = setup
            .row(
                6,
                &format!("a pair with {} held", grouped(HELD[place] as f64)),
            )
            .figure(format!(
                "{:.1} µs (bare client {:.0})",
                medians[place], bare_medians[place]
            ))
            .against(
                format!("none held {:.1} µs", medians[0]),
                median_ratio(&own[place], &own[0]),
            )
            .ratio_at_most(1.5);
        setup.rows.push(row);
    }
    if setup.placement == Placement::Free {
        let points = |medians: [f64; HELD.len()]| {
            let held = HELD.into_iter().map(|held| held as f64);
            held.zip(medians).collect::<Vec<_>>()
        };
        let series = [
            Series::line("distlock", points(medians)),
            Series::line("bare client, autocommit", points(bare_medians)),
        ];
        plots::held(&results.join("held.svg"), &series)?;
    }
    let figures = json!({ "held": HELD, "distlock": own, "bare client": by_bare });
    setup.keep("pair by locks held, µs", figures)
}

/// Takes `count` locks from `first` on, with so many threads.
fn hold(mgr: &Manager, first: i64, count: i64, threads: i64) -> Result<Vec<Guard>> {
    let mut guards = Vec::with_capacity(usize::try_from(count)?);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    (first..first + count)
                        .skip(usize::try_from(thread)?)
                        .step_by(usize::try_from(threads)?)
                        .map(|key| Ok(mgr.lock(key)?))
                        .collect::<Result<Vec<_>>>()
                })
            })
            .collect();
        for thread in threads {
            guards.extend(thread.join().expect("it only locks")?);
        }
        anyhow::Ok(())
    })?;
    Ok(guards)
}

/// Target 6, how fast very many are acquired.
pub(crate) fn acquire_many(setup: &mut Setup) -> Result<()> {
    let count = *HELD.last().expect("there are some");
    let mut seconds = Vec::new();
    for _ in 0..setup.rounds(5) {
        let mgr = setup.manager()?;
        let start = Instant::now();
        let guards = hold(&mgr, OTHERS, count, 8)?;
        seconds.push(start.elapsed().as_secs_f64());
        drop(guards);
        mgr.close()?;
    }
    let typical = median(seconds.clone());
    let row = setup
        .row(6, "10,000 acquired by 8 threads")
        .figure(format!("{typical:.2} s"))
        .goal("< 1 s", typical < 1.0);
    setup.rows.push(row);
    setup.keep("10,000 acquired by 8 threads, s", seconds)
}

/// Target 6, the memory of a held lock.
pub(crate) fn memory(setup: &mut Setup) -> Result<()> {
    let count = *HELD.last().expect("there are some");
    let mgr = setup.manager()?;
    // What every manager needs, however much it holds.
    drop(hold(&mgr, 0, 100, 8)?);
    let (before, pages) = (live(), resident()?);
    let guards = counting(|| hold(&mgr, OTHERS, count, 8))?;
    let each = (live() - before) as f64 / count as f64;
    let pages = resident()?.saturating_sub(pages) as f64 / count as f64;
    drop(guards);
    mgr.close()?;
    let row = setup
        .row(6, "bytes per held lock, its guard included")
        .figure(format!("{each:.0} (resident {pages:.0})"))
        .goal("≤ 250", each <= 250.0);
    setup.rows.push(row);
    let figures = json!({
        "counted": each,
        "resident": pages,
        "of which the guard": size_of::<Guard>(),
    });
    setup.keep("bytes per held lock", figures)
}

/// Target 7.
pub(crate) fn idle(setup: &mut Setup) -> Result<()> {
    let mgr = setup.manager()?;
    let mut admin = setup.server.client();
    let guard = mgr.lock(1)?;
    let pid: i32 = admin.query_one(PID, &[])?.get(0);
    drop(guard);
    // A quarter of the lease later the server is told that there will be silence; a second
    // after that it looks once whether this end is there (client_connection_check_interval).
    thread::sleep(Duration::from_secs(4));
    let look = || -> Result<_> {
        Ok((
            mgr.stats().round_trips,
            wake_ups("distlock")?,
            cpu_time(pid)?,
        ))
    };
    let before = look()?;
    ensure!(before.1 > 0, "the manager's threads are not to be found");
    thread::sleep(setup.millis(3000));
    let after = look()?;
    mgr.close()?;
    let round_trips = after.0 - before.0;
    let woken = after.1 - before.1;
    let server = (after.2 - before.2).as_micros();
    let row = setup
        .row(
            7,
            "holding nothing, 3 s of it, from 4 s after the last unlock",
        )
        .figure(format!(
            "{round_trips} round trips, {woken} wake-ups, {server} µs of the server"
        ))
        .goal("none", round_trips == 0 && woken == 0 && server == 0);
    setup.rows.push(row);
    let figures = json!({ "round trips": round_trips, "wake-ups": woken, "server, µs": server });
    setup.keep("idle", figures)
}
