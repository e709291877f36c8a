//! Targets 3 and 4: one key that many want, in one process and in several.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::machine::{Placement, now};
use crate::peer::{Order, Peer};
use crate::plots::{self, Series};
use crate::setup::Setup;
use crate::stats::{Latencies, median};

const KEY: i64 = 7;
const THREADS: usize = 16;
const HOLD: Duration = Duration::from_millis(1);

/// A hand-over is a wake-up and what two threads have to agree on.
const SMALL_MULTIPLE: f64 = 4.0;

/// The longest pause between two looks at a lock, by default.
const RETRY_MAX: Duration = Duration::from_millis(50);

/// Target 3. Returns the hand-overs and the bare wake-ups.
pub(crate) fn threads(setup: &mut Setup) -> Result<(Latencies, Latencies)> {
    let (mut hand_overs, mut wake_ups) = (Latencies::new(), Latencies::new());
    let mut turns = [0_u64; THREADS];
    // Side by side, in parts.
    for _ in 0..4 {
        contend(setup, setup.millis(1000), &mut hand_overs, &mut turns)?;
        wake(setup.millis(500), &mut wake_ups);
    }
    let fair = turns.iter().sum::<u64>() as f64 / THREADS as f64;
    let off = turns
        .iter()
        .map(|&turns| (turns as f64 / fair - 1.0).abs() * 100.0)
        .fold(0.0, f64::max);
    let row = setup
        .row(3, "16 threads, one key, 1 ms hold: worst share")
        .figure(format!("{off:.1} % off"))
        .against(format!("fair share {fair:.0} turns"), 1.0 + off / 100.0)
        .goal("± 20 %", off <= 20.0);
    setup.rows.push(row);
    let row = setup
        .row(3, "hand-over between threads, median")
        .figure(format!("{:.1} µs", hand_overs.median()))
        .against(
            format!("bare thread wake-up {:.1} µs", wake_ups.median()),
            hand_overs.median() / wake_ups.median(),
        )
        .ratio_at_most(SMALL_MULTIPLE);
    setup.rows.push(row);
    let figures = json!({
        "turns": turns,
        "hand-over": hand_overs.json(),
        "wake-up": wake_ups.json(),
    });
    setup.keep("16 threads, one key", figures)?;
    Ok((hand_overs, wake_ups))
}

fn contend(
    setup: &Setup,
    time: Duration,
    latencies: &mut Latencies,
    turns: &mut [u64; THREADS],
) -> Result<()> {
    let mgr = setup.manager()?;
    let released = AtomicU64::new(0);
    let all = Mutex::new((latencies, turns));
    let start = Instant::now();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (mgr, released, all) = (&mgr, &released, &all);
            scope.spawn(move || {
                let (mut own, mut count) = (Latencies::new(), 0);
                while start.elapsed() < time {
                    let guard = mgr.lock(KEY).expect("everybody drops it");
                    let locked = now();
                    // Nobody else writes it while the lock is held.
                    let before = released.load(Ordering::Relaxed);
                    if before != 0 {
                        own.record(locked - before);
                    }
                    count += 1;
                    thread::sleep(HOLD);
                    released.store(now(), Ordering::Relaxed);
                    drop(guard);
                }
                let mut all = all.lock().expect("nobody panics with it");
                all.0.merge(&own);
                all.1[thread] += count;
            });
        }
    });
    mgr.close()?;
    Ok(())
}

/// The same with nothing between the threads: each parks until the one before it wakes
/// it up.
fn wake(time: Duration, latencies: &mut Latencies) {
    let turn = AtomicU64::new(0);
    let woken = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let all = Mutex::new(latencies);
    let threads = Mutex::new(Vec::new());
    let start = Instant::now();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (turn, woken, over, all, threads) = (&turn, &woken, &over, &all, &threads);
            let handle = scope.spawn(move || {
                let mut own = Latencies::new();
                while !over.load(Ordering::Acquire) {
                    if turn.load(Ordering::Acquire) % THREADS as u64 != thread as u64 {
                        thread::park();
                        continue;
                    }
                    let before = woken.load(Ordering::Relaxed);
                    if before != 0 {
                        own.record(now() - before);
                    }
                    thread::sleep(HOLD);
                    if start.elapsed() > time {
                        over.store(true, Ordering::Release);
                    }
                    let threads = threads.lock().expect("nobody panics with it");
                    let next: Option<&thread::Thread> = threads.get((thread + 1) % THREADS);
                    // Not before all have started.
                    if let Some(next) = next {
                        woken.store(now(), Ordering::Relaxed);
                        turn.fetch_add(1, Ordering::Release);
                        next.unpark();
                    }
                    if over.load(Ordering::Acquire) {
                        threads.iter().for_each(thread::Thread::unpark);
                    }
                }
                all.lock().expect("nobody panics with it").merge(&own);
            });
            let mut threads = threads.lock().expect("nobody panics with it");
            threads.push(handle.thread().clone());
        }
    });
}

/// Target 4, two processes without a hold. Returns the hand-overs.
pub(crate) fn processes(setup: &mut Setup) -> Result<Latencies> {
    let url = setup.url();
    let time = u64::try_from(setup.millis(4000).as_millis())?;
    let mut two = [Peer::start(&url, KEY)?, Peer::start(&url, KEY)?];
    for peer in &mut two {
        // Both have connected before the first begins.
        peer.ask::<u64>(Order::RoundTrips)?;
    }
    for peer in &mut two {
        peer.order(Order::Turns(time))?;
    }
    let turns: Vec<Vec<u64>> = two.iter_mut().map(Peer::answer).collect::<Result<_>>()?;
    drop(two);
    // Only while both were at it.
    let both = turns
        .iter()
        .filter_map(|turns| turns.first())
        .max()
        .copied()..turns.iter().filter_map(|turns| turns.last()).min().copied();
    let mut order: Vec<(u64, usize)> = turns
        .iter()
        .enumerate()
        .flat_map(|(process, turns)| turns.iter().map(move |&at| (at, process)))
        .filter(|(at, _)| both.contains(&Some(*at)))
        .collect();
    order.sort_unstable();
    let mut latencies = Latencies::new();
    // How long each went on taking it again before the other had it.
    let mut time_of = [0; 2];
    for pair in order.windows(2) {
        let time = pair[1].0 - pair[0].0;
        if pair[0].1 == pair[1].1 {
            time_of[pair[0].1] += time;
        } else {
            latencies.record(time);
        }
    }
    let share_of_time =
        100.0 * time_of[0].min(time_of[1]) as f64 / (time_of[0] + time_of[1]) as f64;
    let first = order.iter().filter(|(_, process)| *process == 0).count();
    let share = 100.0 * first.min(order.len() - first) as f64 / order.len() as f64;

    let row = setup
        .row(4, "hand-over between two processes, no hold, median")
        .figure(format!("{:.2} ms", latencies.median() / 1e3))
        .goal("≤ 3 ms", latencies.median() <= 3e3);
    setup.rows.push(row);
    let row = setup
        .row(4, "turns of the process with fewer")
        .figure(format!("{share:.1} % ({share_of_time:.1} % of the time)"))
        .goal("≥ 30 %", share >= 30.0);
    setup.rows.push(row);
    let figures = json!({ "turns": order.len(), "share": share, "share of time": share_of_time, "hand-over": latencies.json() });
    setup.keep("two processes, one key", figures)?;
    Ok(latencies)
}

/// Target 4, after longer waits.
pub(crate) fn long_waits(setup: &mut Setup) -> Result<()> {
    let mgr = setup.manager()?;
    let mut peer = Peer::start(&setup.url(), KEY)?;
    peer.ask::<u64>(Order::RoundTrips)?;
    let mut rounds = Vec::new();
    for round in 0..setup.rounds(6) {
        for wait in [20, 60, 150, 400, 700] {
            let guard = mgr.lock(KEY)?;
            peer.order(Order::Lock)?;
            // Not always at the same distance from the next look.
            thread::sleep(Duration::from_millis(wait + 7 * round as u64));
            let released = now();
            guard.unlock()?;
            let locked: u64 = peer.answer()?;
            peer.order(Order::Unlock)?;
            let waited = Duration::from_millis(wait + 7 * round as u64);
            let late = Duration::from_nanos(locked.saturating_sub(released));
            let allowed = (waited / 10).min(RETRY_MAX);
            rounds.push((waited, late, late.as_secs_f64() / allowed.as_secs_f64()));
        }
    }
    mgr.close()?;
    let shares: Vec<f64> = rounds.iter().map(|round| round.2).collect();
    let worst = shares.iter().copied().fold(0.0, f64::max);
    let row = setup
        .row(4, "hand-over after waits of 20 to 740 ms, worst")
        .figure(format!(
            "median {:.0} % of what is allowed",
            100.0 * median(shares)
        ))
        .against("a tenth of the wait, at most 50 ms", worst)
        .ratio_at_most(1.0);
    setup.rows.push(row);
    let figures: Vec<_> = rounds
        .iter()
        .map(|(waited, late, _)| [waited.as_secs_f64() * 1e3, late.as_secs_f64() * 1e3])
        .collect();
    setup.keep("waited and late, ms", figures)
}

/// Target 4, the load on the database while very many wait.
pub(crate) fn polling(setup: &mut Setup) -> Result<()> {
    let count = if setup.quick { 10 } else { 100 };
    let mgr = setup.manager()?;
    let guard = mgr.lock(KEY)?;
    let mut peers = (0..count)
        .map(|_| Peer::start(&setup.url(), KEY))
        .collect::<Result<Vec<_>>>()?;
    for peer in &mut peers {
        peer.order(Order::Wait)?;
    }
    let mut round_trips = || -> Result<u64> {
        peers
            .iter_mut()
            .map(|peer| peer.ask::<u64>(Order::RoundTrips))
            .sum()
    };
    // The pauses have grown to their longest by then.
    round_trips()?;
    thread::sleep(setup.millis(1500));
    let (start, before) = (Instant::now(), round_trips()?);
    thread::sleep(setup.millis(3000));
    let rate = (round_trips()? - before) as f64 / start.elapsed().as_secs_f64();
    drop(guard);
    drop(peers);
    mgr.close()?;
    let row = setup
        .row(4, &format!("statements/s while {count} processes wait"))
        .figure(format!("{rate:.0} ({:.0} each)", rate / f64::from(count)))
        .stated();
    setup.rows.push(row);
    setup.keep(
        "polling, statements/s",
        json!({ "processes": count, "rate": rate }),
    )
}

/// Draws how long hand-overs take.
pub(crate) fn plot(
    setup: &Setup,
    results: &Path,
    within: &Latencies,
    between: &Latencies,
    wake_ups: &Latencies,
) -> Result<()> {
    if setup.placement != Placement::Free {
        return Ok(());
    }
    let series = [
        Series::line("bare thread wake-up", wake_ups.distribution()),
        Series::line("distlock, between threads", within.distribution()),
        Series::line("distlock, between processes", between.distribution()),
    ];
    plots::hand_over(&results.join("hand-over.svg"), &series)
}
