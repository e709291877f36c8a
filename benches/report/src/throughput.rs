//! Target 2: pairs a second, with more and more threads, no two on one key.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use distlock::Manager;
use peers::{DistributedLockPostgres, SqlxPool};
use serde_json::json;

use crate::allocations::{Snapshot, as_caller, counting};
use crate::pair::{PerPair, Shares};
use crate::plots::{self, Series};
use crate::setup::{Bare, Setup};
use crate::stats::{median, median_ratio};
use crate::table::grouped;

const THREADS: [u32; 6] = [1, 2, 4, 16, 64, 256];

/// Of pgbench and of the peers' pools.
const CONNECTIONS: u32 = peers::CONNECTIONS;

/// The first key of distlock's threads, and that of the bare client. An unlock may still
/// be on its way when the next subject begins: none uses another's keys.
const OWN_KEYS: i64 = 1 << 40;
const BARE_KEYS: i64 = 1 << 41;

/// The pairs a second of each round, by number of threads.
type Curve = [Vec<f64>; THREADS.len()];

pub(crate) fn run(setup: &mut Setup, results: &Path) -> Result<()> {
    let (socket, port) = (setup.socket().to_owned(), setup.port());
    let mgr = setup.manager()?;
    let url = setup.url();
    let sqlx = SqlxPool::connect(&socket, port)?;
    let other = DistributedLockPostgres::connect_pool(&socket, port)?;
    let pgbench = Pgbench::find(&socket, port)?;
    let time = setup.millis(500);
    let mut one_at_a_time = Vec::new();
    let (mut own, mut by_sqlx, mut by_other) =
        (Curve::default(), Curve::default(), Curve::default());
    let mut by_pgbench: [Vec<f64>; 2] = Default::default();
    threads(&mgr, 16, time);
    for _ in 0..setup.rounds(3) {
        one_at_a_time.push(bare_rate(&url, time)?);
        for (place, count) in THREADS.into_iter().enumerate() {
            own[place].push(threads(&mgr, count, time));
            by_sqlx[place].push(rate(time / 2, |more| sqlx.run(count, more)));
            by_other[place].push(rate(time / 2, |more| other.run(count, more)));
            if count == 64
                && let Some(pgbench) = &pgbench
            {
                // Beside the figure that it is compared with.
                for (all, pipelined) in by_pgbench.iter_mut().zip([true, false]) {
                    all.push(pgbench.rate(pipelined, time * 3)?);
                }
            }
        }
    }
    mgr.close()?;

    let medians = |curve: &Curve| curve.each_ref().map(|rates| median(rates.clone()));
    let own_medians = medians(&own);
    let at = |count| {
        THREADS
            .iter()
            .position(|&threads| threads == count)
            .unwrap_or(0)
    };
    let (one, many, most) = (at(1), at(64), at(256));
    let title = "pairs/s, 64 threads, distinct keys";
    let figure = grouped(own_medians[many]);

    let baseline = format!(
        "bare client, 1 thread {}",
        grouped(median(one_at_a_time.clone()))
    );
    let row = setup
        .row(2, title)
        .figure(&figure)
        .against(baseline, median_ratio(&own[many], &one_at_a_time))
        .ratio_at_least(10.0);
    setup.rows.push(row);
    if pgbench.is_none() {
        let row = setup.row(2, title).figure(&figure);
        setup
            .rows
            .push(row.goal("above pgbench, which is not installed", false));
    }
    for (rates, name) in by_pgbench.iter().zip(["prepared, pipelined", "prepared"]) {
        if rates.is_empty() {
            break;
        }
        let ratio = median_ratio(&own[many], rates);
        let baseline = format!(
            "pgbench, {CONNECTIONS} connections, {name} {}",
            grouped(median(rates.clone()))
        );
        let row = setup
            .row(2, title)
            .figure(&figure)
            .against(baseline, ratio)
            .goal("above", ratio > 1.0);
        setup.rows.push(row);
    }
    for (curve, name) in [(&by_sqlx, "sqlx"), (&by_other, "distributed-lock-postgres")] {
        let ratio = median_ratio(&own[many], &curve[many]);
        let baseline = format!(
            "{name}, {CONNECTIONS} connections {}",
            grouped(median(curve[many].clone()))
        );
        let row = setup
            .row(2, title)
            .figure(&figure)
            .against(baseline, ratio)
            .goal("above the peer", ratio > 1.0);
        setup.rows.push(row);
    }
    let best = own_medians.into_iter().fold(0.0, f64::max);
    let row = setup
        .row(2, "pairs/s, 256 threads")
        .figure(grouped(own_medians[most]))
        .against(
            format!("best of all numbers {}", grouped(best)),
            own_medians[most] / best,
        )
        .ratio_at_least(0.7);
    setup.rows.push(row);

    let (sqlx_medians, bare) = (medians(&by_sqlx), median(one_at_a_time.clone()));
    for (place, count) in THREADS.into_iter().enumerate() {
        if place == many || place == most {
            continue;
        }
        let (baseline, other) = match place == one {
            true => ("bare client, 1 thread".to_owned(), bare),
            false => (
                format!("sqlx, {CONNECTIONS} connections"),
                sqlx_medians[place],
            ),
        };
        let row = setup
            .row(
                2,
                &format!(
                    "pairs/s, {count} {}",
                    if count == 1 { "thread" } else { "threads" }
                ),
            )
            .figure(grouped(own_medians[place]))
            .against(
                format!("{baseline} {}", grouped(other)),
                own_medians[place] / other,
            )
            .stated();
        setup.rows.push(row);
    }

    let points = |curve: &Curve| {
        THREADS
            .into_iter()
            .zip(medians(curve))
            .map(|(threads, rate)| (f64::from(threads), rate))
            .collect::<Vec<_>>()
    };
    let mut series = vec![
        Series::line("distlock, one connection", points(&own)),
        Series::line("sqlx, 16 connections", points(&by_sqlx)),
        Series::line("distributed-lock-postgres, 16", points(&by_other)),
    ];
    if pgbench.is_some() {
        let [pipelined, prepared] = by_pgbench.each_ref().map(|rates| median(rates.clone()));
        series.push(Series::mark("pgbench, 16, pipelined", (16.0, pipelined)));
        series.push(Series::mark("pgbench, 16", (16.0, prepared)));
    }
    series.push(Series::mark(
        "bare client, 1",
        (1.0, median(one_at_a_time.clone())),
    ));
    if setup.placement == crate::machine::Placement::Free {
        plots::throughput(&results.join("throughput.svg"), &series)?;
    }
    setup.keep(
        "throughput, pairs/s",
        json!({
            "threads": THREADS,
            "bare client, 1 thread": one_at_a_time,
            "distlock": own,
            "distlock, 1 thread, ratio": median_ratio(&own[one], &one_at_a_time),
            "sqlx": by_sqlx,
            "distributed-lock-postgres": by_other,
            "pgbench, pipelined": by_pgbench[0],
            "pgbench": by_pgbench[1],
        }),
    )
}

fn bare_rate(url: &str, time: Duration) -> Result<f64> {
    let mut bare = Bare::connect(url)?;
    let (mut pairs, start) = (0_u32, Instant::now());
    while start.elapsed() < time {
        bare.pairs(BARE_KEYS..BARE_KEYS + 50)?;
        pairs += 50;
    }
    Ok(f64::from(pairs) / start.elapsed().as_secs_f64())
}

/// Pairs a second of a load that asks before each pair whether there is to be one more.
fn rate(time: Duration, load: impl FnOnce(Box<dyn Fn() -> bool + Send + Sync + 'static>)) -> f64 {
    let pairs = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    load(Box::new({
        let pairs = Arc::clone(&pairs);
        move || {
            let more = start.elapsed() < time;
            pairs.fetch_add(u64::from(more), Relaxed);
            more
        }
    }));
    pairs.load(Relaxed) as f64 / start.elapsed().as_secs_f64()
}

/// Pairs a second of `count` threads, each with another key each time: the lock of one
/// key would go from hand to hand inside the process, without the server.
fn threads(mgr: &Manager, count: u32, time: Duration) -> f64 {
    rate(time, |more| {
        thread::scope(|scope| {
            for first in OWN_KEYS..OWN_KEYS + i64::from(count) {
                let more = &more;
                scope.spawn(move || {
                    let keys = (first..).step_by(count as usize);
                    for key in keys.take_while(|_| more()) {
                        drop(mgr.lock(key).expect("nobody else wants it"));
                    }
                });
            }
        });
    })
}

/// Whose allocations a pair takes while `count` threads make pairs.
pub(crate) fn allocations_with_threads(setup: &Setup, count: u32) -> Result<Shares> {
    let mgr = setup.manager()?;
    let over = AtomicBool::new(false);
    let shares = thread::scope(|scope| {
        for key in 0..i64::from(count) {
            let (mgr, over) = (&mgr, &over);
            scope.spawn(move || {
                as_caller(|| {
                    // Another key each time, never one that another thread has.
                    let keys = (key..).step_by(count as usize);
                    for key in keys.take_while(|_| !over.load(Relaxed)) {
                        drop(mgr.lock(key).expect("nobody else wants it"));
                    }
                });
            });
        }
        let shares = counting(|| {
            // Everything that is kept has been made by then.
            thread::sleep(setup.millis(1000));
            let (before, pairs) = (Snapshot::take(), mgr.stats().acquired);
            thread::sleep(setup.millis(1000));
            let counted = Snapshot::take().since(before);
            let pairs = mgr.stats().acquired - pairs;
            Shares {
                caller: PerPair::new(counted.caller, pairs),
                worker: PerPair::new(counted.other, pairs),
            }
        });
        over.store(true, Relaxed);
        shares
    });
    mgr.close()?;
    Ok(shares)
}

/// PostgreSQL's own load generator, in C.
struct Pgbench {
    host: String,
    port: String,
    scripts: tempfile::TempDir,
}

const PREPARED: &str = "SELECT pg_try_advisory_lock(:client_id);\n\
                        SELECT pg_advisory_unlock(:client_id);\n";

impl Pgbench {
    /// None if it is not installed.
    fn find(socket: &Path, port: u16) -> Result<Option<Pgbench>> {
        let version = Command::new("pgbench").arg("--version").output();
        if !version.is_ok_and(|output| output.status.success()) {
            return Ok(None);
        }
        let scripts = tempfile::tempdir()?;
        std::fs::write(scripts.path().join("prepared.sql"), PREPARED)?;
        let pipelined = format!("\\startpipeline\n{PREPARED}\\endpipeline\n");
        std::fs::write(scripts.path().join("pipelined.sql"), pipelined)?;
        Ok(Some(Pgbench {
            host: socket.display().to_string(),
            port: port.to_string(),
            scripts,
        }))
    }

    fn rate(&self, pipelined: bool, time: Duration) -> Result<f64> {
        let script = if pipelined {
            "pipelined.sql"
        } else {
            "prepared.sql"
        };
        let seconds = time.as_secs().max(1).to_string();
        let connections = CONNECTIONS.to_string();
        let output = Command::new("pgbench")
            .args(["-n", "-M", "prepared", "-c", &connections, "-j", "2"])
            .args([
                "-T", &seconds, "-h", &self.host, "-p", &self.port, "-U", "postgres",
            ])
            .arg("-f")
            .arg(self.scripts.path().join(script))
            .arg("postgres")
            .stderr(Stdio::piped())
            .output()?;
        ensure!(
            output.status.success(),
            "pgbench failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
            .context("pgbench said no rate")
    }
}
