//! Targets 5 to 7: a session that is lost, one that holds very many locks, one that holds
//! none.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use distlock::{Guard, Manager};
use serde_json::json;
use subjects::{BareClient, Subject};

use crate::allocator::{counting, live};
use crate::machine::{cpu_time, resident, wake_ups};
use crate::measure::{interleave, micros_each};
use crate::plots::{self, Series};
use crate::setup::Setup;
use crate::stats::{median, median_ratio, percentile, summary};
use crate::table::grouped;

/// The default.
const HEARTBEAT: Duration = Duration::from_millis(30);

/// Above all other keys of these scenarios.
const OTHERS: i64 = 1 << 40;

/// The session that holds a lock on a number; not every session, as each holds a marker.
const PID: &str = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1";

/// Target 5.
pub(crate) fn loss(setup: &mut Setup) -> Result<()> {
    let mut admin = setup.server.client();
    // Short, because one loss follows the other.
    let mgr = Manager::builder(&setup.server.url())
        .reconnect_backoff(Duration::from_millis(1), Duration::from_millis(10))
        .wait_while_unavailable(true)
        .connect()?;
    let mut micros = Vec::new();
    for round in 0..setup.rounds(80) {
        let guard = mgr.lock(1)?;
        let watch = guard.watch();
        let pid: i32 = admin.query_one(PID, &[])?.get(0);
        // At any distance from the next heartbeat, whatever their real interval is: the
        // waits are spread over several of them.
        thread::sleep(Duration::from_millis(30 + 37 * round.unsigned_abs() % 211));
        let start = Instant::now();
        admin.execute("SELECT pg_terminate_backend($1)", &[&pid])?;
        watch.wait();
        micros.push(start.elapsed().as_secs_f64() * 1e6);
        drop(guard);
    }
    let typical = median(&micros) / 1e3;
    let max = percentile(&micros, 100) / 1e3;
    setup
        .row(5, "lost lock noticed, median")
        .figure(format!("{typical:.1} ms of {} rounds", micros.len()))
        .goal("≤ 15 ms", typical <= 15.0);
    let most = 2e3 * HEARTBEAT.as_secs_f64();
    setup
        .row(5, "lost lock noticed, max")
        .figure(format!("{max:.1} ms"))
        .goal("≤ 2 heartbeats (60 ms)", max <= most);

    // What it costs the server.
    let guard = mgr.lock(1)?;
    let pid: i32 = admin.query_one(PID, &[])?.get(0);
    let (start, beats, used) = (Instant::now(), mgr.stats().round_trips, cpu_time(pid)?);
    thread::sleep(setup.millis(3000));
    let beats = (mgr.stats().round_trips - beats) as f64;
    let used = (cpu_time(pid)? - used).as_secs_f64();
    let elapsed = start.elapsed().as_secs_f64();
    drop(guard);
    mgr.close()?;
    let (rate, cpu) = (beats / elapsed, used * 1e6 / beats);
    let share = used / elapsed * 100.0;
    setup
        .row(5, "heartbeats, the server's side")
        .figure(format!(
            "{rate:.0}/s, {cpu:.0} µs CPU each, {share:.2} % of a core"
        ));
    let figures = json!({
        "noticed": summary(&micros),
        "heartbeats/s": rate,
        "server cpu of a heartbeat, µs": cpu,
    });
    setup.keep("loss", figures)
}

const MANY: i64 = 10_000;
const HELD: [i64; 6] = [0, 10, 100, 1_000, 4_000, MANY];

/// Pairs of one manager before the next subject is measured. The bare client, which is slower,
/// does a quarter.
const CHUNK: i64 = 100;

/// Target 6.
pub(crate) fn held(setup: &mut Setup) -> Result<()> {
    let (mut managers, mut guards) = (Vec::new(), Vec::new());
    let mut subjects: Vec<(Box<dyn Subject>, i64)> = Vec::new();
    for (place, held) in (1..).zip(HELD) {
        let mgr = setup.manager()?;
        guards.push(hold(&mgr, place * OTHERS, held, 1)?);
        subjects.push((Box::new(mgr.clone()), CHUNK));
        managers.push(mgr);
    }
    for (place, held) in (1..).zip(HELD) {
        let mut bare = BareClient::connect(&setup.server.url())?;
        let first = -place * OTHERS;
        bare.hold(first..first + held)?;
        subjects.push((Box::new(bare), CHUNK / 4));
    }
    let rounds = -1..setup.rounds(24);
    let micros = interleave(rounds, &mut subjects, |(subject, count), round| {
        let first = (round + 1) * CHUNK;
        micros_each(*count, || subject.pairs(first..first + *count))
    })?;
    drop(guards);
    for mgr in managers {
        mgr.close()?;
    }
    let (own, bare) = micros.split_at(HELD.len());
    for place in [3, 4, 5] {
        let (pair, bare, none) = (&own[place], median(&bare[place]), &own[0]);
        setup
            .row(
                6,
                &format!("a pair with {} held", grouped(HELD[place] as f64)),
            )
            .figure(format!("{:.1} µs (bare client {bare:.0})", median(pair)))
            .against(
                format!("none held {:.1} µs", median(none)),
                median_ratio(pair, none),
            )
            .ratio_at_most(1.5);
    }
    if let Some(file) = setup.plot("held.svg") {
        let points = |micros: &[Vec<f64>]| {
            let held = HELD.into_iter().map(|held| held as f64);
            held.zip(micros.iter().map(|micros| median(micros)))
                .collect()
        };
        let series = [
            Series::new("distlock", points(own)),
            Series::new("bare client, autocommit", points(bare)),
        ];
        plots::held(&file, &series)?;
    }
    let figures = json!({ "held": HELD, "distlock": own, "bare client": bare });
    setup.keep("pair by locks held, µs", figures)
}

/// Takes `count` locks from `first` on, with that many threads.
fn hold(mgr: &Manager, first: i64, count: i64, threads: u32) -> Result<Vec<Guard>> {
    let mut guards = Vec::with_capacity(usize::try_from(count)?);
    let taken = subjects::spread(threads, first, |keys| -> Result<Vec<Guard>> {
        let keys = keys.take_while(|&key| key < first + count);
        keys.map(|key| Ok(mgr.lock(key)?)).collect()
    });
    for taken in taken {
        guards.extend(taken?);
    }
    Ok(guards)
}

/// Target 6, how fast very many are acquired.
pub(crate) fn acquire_many(setup: &mut Setup) -> Result<()> {
    let mut seconds = Vec::new();
    for _ in 0..setup.rounds(5) {
        let mgr = setup.manager()?;
        let start = Instant::now();
        let guards = hold(&mgr, OTHERS, MANY, 8)?;
        seconds.push(start.elapsed().as_secs_f64());
        drop(guards);
        mgr.close()?;
    }
    let typical = median(&seconds);
    let what = "10,000 acquired by 8 threads";
    setup
        .row(6, what)
        .figure(format!("{typical:.2} s"))
        .goal("< 1 s", typical < 1.0);
    setup.keep(&format!("{what}, s"), seconds)
}

/// Target 6, the memory of a held lock.
pub(crate) fn memory(setup: &mut Setup) -> Result<()> {
    let mgr = setup.manager()?;
    // The memory that every manager needs, for any number of locks.
    drop(hold(&mgr, 0, 100, 8)?);
    let (before, pages) = (live(), resident("self")?);
    let guards = counting(|| hold(&mgr, OTHERS, MANY, 8))?;
    let each = (live() - before) / MANY as f64;
    let pages = resident("self")?.saturating_sub(pages) as f64 / MANY as f64;
    drop(guards);
    mgr.close()?;
    setup
        .row(6, "bytes per held lock, its guard included")
        .figure(format!("{each:.0} (resident {pages:.0})"))
        .goal("≤ 250", each <= 250.0);
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
    // A quarter of the lease later the lease is disarmed at the server, which checks the
    // connection once more a second after that (client_connection_check_interval).
    thread::sleep(Duration::from_secs(4));
    let look = || {
        anyhow::Ok((
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
    let (round_trips, woken) = (after.0 - before.0, after.1 - before.1);
    let server = (after.2 - before.2).as_micros();
    let figure = format!("{round_trips} round trips, {woken} wake-ups, {server} µs of the server");
    setup
        .row(
            7,
            "holding nothing, 3 s of it, from 4 s after the last unlock",
        )
        .figure(figure)
        .goal("none", round_trips == 0 && woken == 0 && server == 0);
    let figures = json!({ "round trips": round_trips, "wake-ups": woken, "server, µs": server });
    setup.keep("idle", figures)
}
