//! Targets 3 and 4: one key that many want, in one process and in several.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::machine::now;
use crate::measure::interleave;
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

pub(crate) fn run(setup: &mut Setup) -> Result<()> {
    let (within, wake_ups) = threads(setup)?;
    let between = processes(setup)?;
    if let Some(file) = setup.plot("hand-over.svg") {
        let series = [
            Series::new("bare thread wake-up", wake_ups.distribution()),
            Series::new("distlock, between threads", within.distribution()),
            Series::new("distlock, between processes", between.distribution()),
        ];
        plots::hand_over(&file, &series)?;
    }
    long_waits(setup)
}

/// Target 3. Returns the hand-overs and the bare wake-ups.
fn threads(setup: &mut Setup) -> Result<(Latencies, Latencies)> {
    let mut subjects: [&dyn Fn() -> Result<Contention>; 2] = [
        &|| {
            let mgr = setup.manager()?;
            let lock = |_| mgr.lock(KEY).expect("everybody drops it");
            let contention = contend(setup.millis(1000), lock);
            mgr.close()?;
            Ok(contention)
        },
        &|| {
            let ring = Ring::default();
            Ok(contend(setup.millis(500), |thread| ring.lock(thread)))
        },
    ];
    let parts = interleave(0..4, &mut subjects, |subject, _| subject())?;
    let mut sums = parts.into_iter().map(|parts| {
        let mut sum = Contention::new();
        parts.iter().for_each(|part| sum.add(part));
        sum
    });
    let mut next = || sums.next().expect("there are two");
    let (
        Contention {
            turns,
            latencies: hand_overs,
        },
        wake_ups,
    ) = (next(), next().latencies);

    let fair = turns.iter().sum::<u64>() as f64 / THREADS as f64;
    let off = turns
        .iter()
        .map(|&turns| (turns as f64 / fair - 1.0).abs() * 100.0)
        .fold(0.0, f64::max);
    let what = "16 threads, one key, 1 ms hold: worst share";
    setup
        .row(3, what, format!("{off:.1} % off"))
        .against(format!("fair share {fair:.0} turns"), 1.0 + off / 100.0)
        .goal("± 20 %", off <= 20.0);
    let (own, bare) = (hand_overs.median(), wake_ups.median());
    setup
        .row(
            3,
            "hand-over between threads, median",
            format!("{own:.1} µs"),
        )
        .against(format!("bare thread wake-up {bare:.1} µs"), own / bare)
        .ratio_at_most(SMALL_MULTIPLE);
    let figures = json!({
        "turns": turns,
        "hand-over": hand_overs.json(),
        "wake-up": wake_ups.json(),
    });
    setup.keep("16 threads, one key", figures)?;
    Ok((hand_overs, wake_ups))
}

/// How often each thread had the lock, and how long it took from a release to the next
/// holder.
struct Contention {
    turns: [u64; THREADS],
    latencies: Latencies,
}

impl Contention {
    fn new() -> Self {
        Contention {
            turns: [0; THREADS],
            latencies: Latencies::new(),
        }
    }

    fn add(&mut self, other: &Contention) {
        for (turns, more) in self.turns.iter_mut().zip(other.turns) {
            *turns += more;
        }
        self.latencies.merge(&other.latencies);
    }
}

/// All threads take `lock`, hold it and drop it again for so long.
fn contend<G>(time: Duration, lock: impl Fn(usize) -> G + Sync) -> Contention {
    let released = AtomicU64::new(0);
    let start = Instant::now();
    let take_turns = |thread| {
        let mut own = Contention::new();
        while start.elapsed() < time {
            let guard = lock(thread);
            let locked = now();
            // Nobody else writes it while the lock is held.
            let before = released.load(Ordering::Relaxed);
            if before != 0 {
                own.latencies.record(locked - before);
            }
            own.turns[thread] += 1;
            thread::sleep(HOLD);
            released.store(now(), Ordering::Relaxed);
            drop(guard);
        }
        own
    };
    let mut all = Contention::new();
    thread::scope(|scope| {
        let start = |thread| scope.spawn(move || take_turns(thread));
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        for thread in threads {
            all.add(&thread.join().expect("it only takes turns"));
        }
    });
    all
}

/// A lock that goes from each thread to the next: nothing between them but the wake-up.
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
        // One that has yet to come sees its turn then.
        if let Some(next) = &self.0.threads.lock().expect("nobody panics with it")[next] {
            next.unpark();
        }
    }
}

/// Target 4, two processes without a hold. Returns the hand-overs.
fn processes(setup: &mut Setup) -> Result<Latencies> {
    let url = setup.server.url();
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

    let millis = latencies.median() / 1e3;
    let what = "hand-over between two processes, no hold, median";
    setup
        .row(4, what, format!("{millis:.2} ms"))
        .goal("≤ 3 ms", millis <= 3.0);
    let figure = format!("{share:.1} % ({share_of_time:.1} % of the time)");
    setup
        .row(4, "turns of the process with fewer", figure)
        .goal("≥ 30 %", share >= 30.0);
    let figures = json!({ "turns": order.len(), "share": share, "share of time": share_of_time, "hand-over": latencies.json() });
    setup.keep("two processes, one key", figures)?;
    Ok(latencies)
}

/// Target 4, after longer waits.
fn long_waits(setup: &mut Setup) -> Result<()> {
    let mgr = setup.manager()?;
    let mut peer = Peer::start(&setup.server.url(), KEY)?;
    peer.ask::<u64>(Order::RoundTrips)?;
    let mut rounds = Vec::new();
    for round in 0..setup.rounds(6) {
        for wait in [20, 60, 150, 400, 700] {
            let guard = mgr.lock(KEY)?;
            peer.order(Order::Lock)?;
            // Not always at the same distance from the next look.
            let waited = Duration::from_millis(wait + 7 * round.unsigned_abs());
            thread::sleep(waited);
            let released = now();
            guard.unlock()?;
            let locked: u64 = peer.answer()?;
            peer.order(Order::Unlock)?;
            let late = Duration::from_nanos(locked.saturating_sub(released));
            let allowed = (waited / 10).min(RETRY_MAX);
            rounds.push((waited, late, late.as_secs_f64() / allowed.as_secs_f64()));
        }
    }
    mgr.close()?;
    let shares: Vec<f64> = rounds.iter().map(|round| round.2).collect();
    let worst = shares.iter().copied().fold(0.0, f64::max);
    let typical = 100.0 * median(&shares);
    setup
        .row(
            4,
            "hand-over after waits of 20 to 740 ms, worst",
            format!("median {typical:.0} % of what is allowed"),
        )
        .against("a tenth of the wait, at most 50 ms", worst)
        .ratio_at_most(1.0);
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
        .map(|_| Peer::start(&setup.server.url(), KEY))
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
    setup.row(
        4,
        format!("statements/s while {count} processes wait"),
        format!("{rate:.0} ({:.0} each)", rate / f64::from(count)),
    );
    let figures = json!({ "processes": count, "rate": rate });
    setup.keep("polling, statements/s", figures)
}
