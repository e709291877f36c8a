//! Targets 3 and 4: one contended key, in one process and in several.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::machine::now;
use crate::measure::interleave;
use crate::plots::{self, Series};
use crate::process::{Order, Process};
use crate::setup::Setup;
use crate::stats::{distribution, median, percentile, summary};
use crate::table;

const KEY: i64 = 7;
const THREADS: usize = 16;
const HOLD: Duration = Duration::from_millis(1);

/// A hand-over costs a wake-up and the synchronization of two threads.
const SMALL_MULTIPLE: f64 = 4.0;

/// The default of the longest pause between two attempts at a lock.
const RETRY_MAX: Duration = Duration::from_millis(50);

pub(crate) fn run(setup: &mut Setup) -> Result<()> {
    let [within, wake_ups] = threads(setup)?;
    let between = processes(setup)?;
    if let Some(file) = setup.plot("hand-over.svg") {
        let series = [
            Series::new("bare thread wake-up", distribution(&wake_ups)),
            Series::new("distlock, between threads", distribution(&within)),
            Series::new("distlock, between processes", distribution(&between)),
        ];
        plots::hand_over(&file, &series)?;
    }
    long_waits(setup)
}

/// Target 3. Returns the hand-overs and the bare wake-ups, in microseconds.
fn threads(setup: &mut Setup) -> Result<[Vec<f64>; 2]> {
    let managed = || {
        let mgr = setup.manager()?;
        let lock = |_| mgr.lock(KEY).expect("everybody drops it");
        let turns = contend(setup.millis(1000), lock);
        mgr.close()?;
        Ok(turns)
    };
    let bare = || {
        let ring = Ring::default();
        Ok(contend(setup.millis(500), |thread| ring.lock(thread)))
    };
    let mut subjects: [&dyn Fn() -> Result<Vec<Vec<f64>>>; 2] = [&managed, &bare];
    let parts = interleave(0..4, &mut subjects, |subject, _| subject())?;
    let turns_of = |thread: usize| parts[0].iter().map(|part| part[thread].len() as f64).sum();
    let turns: Vec<f64> = (0..THREADS).map(turns_of).collect();
    let latencies = [0, 1].map(|subject: usize| parts[subject].concat().concat());

    let fair = turns.iter().sum::<f64>() / THREADS as f64;
    let off = turns.iter().map(|turns| (turns / fair - 1.0).abs());
    let off = off.fold(0.0, f64::max) * 100.0;
    setup
        .row(3, "16 threads, one key, 1 ms hold: worst share")
        .figure(format!("{off:.1} % off"))
        .against(format!("fair share {fair:.0} turns"), 1.0 + off / 100.0)
        .goal("± 20 %", off <= 20.0);
    let [own, bare] = latencies.each_ref().map(|latencies| median(latencies));
    setup
        .row(3, "hand-over between threads, median")
        .beside(table::micros, own, "bare thread wake-up", bare)
        .ratio_at_most(SMALL_MULTIPLE);
    let figures = json!({
        "turns": turns,
        "hand-over": summary(&latencies[0]),
        "wake-up": summary(&latencies[1]),
    });
    setup.keep("16 threads, one key", figures)?;
    Ok(latencies)
}

/// All threads take `lock`, hold it and drop it, again and again for `time`. Returns for each
/// thread the times from the previous release, or from the start, to each of its acquisitions.
fn contend<G>(time: Duration, lock: impl Fn(usize) -> G + Sync) -> Vec<Vec<f64>> {
    let start = Instant::now();
    let released = AtomicU64::new(now());
    let take_turns = |thread| {
        let mut latencies = Vec::new();
        while start.elapsed() < time {
            let guard = lock(thread);
            // No other thread writes it while the lock is held.
            latencies.push(micros(now() - released.load(Ordering::Relaxed)));
            thread::sleep(HOLD);
            released.store(now(), Ordering::Relaxed);
            drop(guard);
        }
        latencies
    };
    thread::scope(|scope| {
        let start = |thread| scope.spawn(move || take_turns(thread));
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        let latencies = threads.into_iter().map(|thread| thread.join());
        latencies
            .map(|latencies| latencies.expect("it only takes turns"))
            .collect()
    })
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

/// A lock that each thread passes to the next: the bare wake-up.
#[derive(Default)]
struct Ring {
    turn: AtomicUsize,
    threads: Mutex<[Option<Thread>; THREADS]>,
}

impl Ring {
    fn lock(&self, thread: usize) -> Turn<'_> {
        self.threads.lock().expect("nobody panics with it")[thread] = Some(thread::current());
        while self.turn.load(Ordering::Acquire) != thread {
            thread::park();
        }
        Turn(self)
    }
}

struct Turn<'a>(&'a Ring);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let next = (self.0.turn.load(Ordering::Relaxed) + 1) % THREADS;
        self.0.turn.store(next, Ordering::Release);
        // A thread that is not registered yet will see that it holds the lock.
        if let Some(next) = &self.0.threads.lock().expect("nobody panics with it")[next] {
            next.unpark();
        }
    }
}

/// Target 4, two processes without a hold. Returns the hand-overs, in microseconds.
fn processes(setup: &mut Setup) -> Result<Vec<f64>> {
    let url = setup.server.url();
    let time = u64::try_from(setup.millis(4000).as_millis())?;
    let mut two = [Process::start(&url, KEY)?, Process::start(&url, KEY)?];
    for process in &mut two {
        // Both have connected before the first begins.
        process.ask::<u64>(Order::RoundTrips)?;
    }
    for process in &mut two {
        process.order(Order::Turns(time))?;
    }
    let mut turns: Vec<(u64, usize)> = Vec::new();
    // Only the time in which both were running.
    let (mut start, mut end) = (0, u64::MAX);
    for (process, one) in two.iter_mut().enumerate() {
        let own: Vec<u64> = one.answer()?;
        start = start.max(*own.first().context("it had no turn")?);
        end = end.min(*own.last().context("it had no turn")?);
        turns.extend(own.into_iter().map(|at| (at, process)));
    }
    turns.retain(|(at, _)| (start..end).contains(at));
    turns.sort_unstable();
    let mut latencies = Vec::new();
    // How long each kept taking it again before the other got it.
    let mut time_of = [0; 2];
    for pair in turns.windows(2) {
        let time = pair[1].0 - pair[0].0;
        if pair[0].1 == pair[1].1 {
            time_of[pair[0].1] += time;
        } else {
            latencies.push(micros(time));
        }
    }
    let fewer = |[one, other]: [u64; 2]| 100.0 * one.min(other) as f64 / (one + other) as f64;
    let first = turns.iter().filter(|(_, process)| *process == 0).count() as u64;
    let share = fewer([first, turns.len() as u64 - first]);
    let share_of_time = fewer(time_of);

    let millis = median(&latencies) / 1e3;
    setup
        .row(4, "hand-over between two processes, no hold, median")
        .figure(format!("{millis:.2} ms"))
        .goal("≤ 3 ms", millis <= 3.0);
    setup
        .row(4, "turns of the process with fewer")
        .figure(format!("{share:.1} % ({share_of_time:.1} % of the time)"))
        .goal("≥ 30 %", share >= 30.0);
    let figures = json!({
        "turns": turns.len(),
        "share": share,
        "share of time": share_of_time,
        "hand-over": summary(&latencies),
    });
    setup.keep("two processes, one key", figures)?;
    Ok(latencies)
}

/// Target 4, after longer waits.
fn long_waits(setup: &mut Setup) -> Result<()> {
    let mgr = setup.manager()?;
    let mut process = Process::start(&setup.server.url(), KEY)?;
    process.ask::<u64>(Order::RoundTrips)?;
    let (mut figures, mut shares) = (Vec::new(), Vec::new());
    for round in 0..setup.rounds(6) {
        for wait in [20, 60, 150, 400, 700] {
            let guard = mgr.lock(KEY)?;
            process.order(Order::Lock)?;
            // Not always at the same distance from the next attempt.
            let waited = Duration::from_millis(wait + 7 * round.unsigned_abs());
            thread::sleep(waited);
            let released = now();
            guard.unlock()?;
            let locked: u64 = process.answer()?;
            process.order(Order::Unlock)?;
            let late = Duration::from_nanos(locked.saturating_sub(released)).as_secs_f64();
            shares.push(late / (waited / 10).min(RETRY_MAX).as_secs_f64());
            figures.push([waited.as_secs_f64() * 1e3, late * 1e3]);
        }
    }
    mgr.close()?;
    let typical = 100.0 * median(&shares);
    let worst = percentile(&shares, 100);
    setup
        .row(4, "hand-over after waits of 20 to 740 ms, worst")
        .figure(format!("median {typical:.0} % of what is allowed"))
        .against("a tenth of the wait, at most 50 ms", worst)
        .ratio_at_most(1.0);
    setup.keep("waited and late, ms", figures)
}
