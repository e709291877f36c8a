//! Target 2: pairs per second with an increasing number of threads, no two on one key.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use distlock::Manager;
use distlock::observer::{Acquired, Observer};
use serde_json::json;
use subjects::{BareClient, CONNECTIONS, DistributedLockPostgres, Sqlx, Subject};

use crate::measure::{interleave, rate};
use crate::pgbench::Pgbench;
use crate::plots::{self, Series};
use crate::setup::Setup;
use crate::stats::median;
use crate::table::grouped;

const THREADS: [u32; 6] = [1, 2, 4, 16, 64, 256];

#[derive(PartialEq)]
enum Kind {
    Manager,
    /// A manager with an observer.
    Observed,
    BareClient,
    Pgbench,
    Peer,
}

/// The pairs per second of one subject.
struct Curve {
    kind: Kind,
    name: String,
    /// The manager's numbers of threads beside which it is measured.
    threads: &'static [u32],
    measure: Box<dyn FnMut(u32) -> Result<f64>>,
    /// The figures of each round, for each of `threads`.
    rounds: Vec<Vec<f64>>,
}

impl Curve {
    fn new(
        kind: Kind,
        name: &str,
        threads: &'static [u32],
        measure: impl FnMut(u32) -> Result<f64> + 'static,
    ) -> Curve {
        Curve {
            kind,
            name: name.to_owned(),
            threads,
            measure: Box::new(measure),
            rounds: Vec::new(),
        }
    }

    /// The figures beside that many threads, or the only ones.
    fn at(&self, threads: u32) -> &[f64] {
        let place = self.threads.iter().position(|&count| count == threads);
        &self.rounds[place.unwrap_or(0)]
    }

    fn median(&self, threads: u32) -> f64 {
        median(self.at(threads))
    }

    fn series(&self) -> Series {
        let points = self.threads.iter().map(|&threads| {
            let place = match self.kind {
                // For any number of threads that it is measured beside.
                Kind::Pgbench => CONNECTIONS,
                _ => threads,
            };
            (f64::from(place), self.median(threads))
        });
        Series::new(&self.name, points.collect())
    }
}

/// The least that an observer can be of use for.
#[derive(Default)]
struct Count(AtomicU64);

impl Observer for Count {
    fn acquired(&self, _: &Acquired) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) fn run(setup: &mut Setup) -> Result<()> {
    let mgr = setup.manager()?;
    let mut curves = curves(setup, &mgr)?;
    // Warm-up.
    (curves[0].measure)(16)?;
    let mut turns = Vec::new();
    for threads in THREADS {
        let with = |place: &usize| curves[*place].threads.contains(&threads);
        turns.extend((0..curves.len()).filter(with).map(|place| (place, threads)));
    }
    let rounds = 0..setup.rounds(3);
    let figures = interleave(rounds, &mut turns, |&mut (place, threads), _| {
        (curves[place].measure)(threads)
    })?;
    for ((place, _), figures) in turns.into_iter().zip(figures) {
        curves[place].rounds.push(figures);
    }
    mgr.close()?;

    rows(setup, &curves);
    if let Some(file) = setup.plot("throughput.svg") {
        let is_drawn = |curve: &&Curve| curve.kind != Kind::Observed;
        let drawn = curves.iter().filter(is_drawn);
        let series = drawn.map(Curve::series).collect::<Vec<_>>();
        plots::throughput(&file, &series)?;
    }
    let figures = curves.iter().map(|curve| {
        let (name, threads, rounds) = (&curve.name, curve.threads, &curve.rounds);
        json!({ "subject": name, "threads": threads, "rounds": rounds })
    });
    setup.keep("throughput, pairs/s", figures.collect::<Vec<_>>())
}

/// All curves, the manager's first.
fn curves(setup: &Setup, mgr: &Manager) -> Result<Vec<Curve>> {
    let (server, time) = (&setup.server, setup.millis(500));
    let (mut mgr, url) = (mgr.clone(), server.url());
    let own = move |threads| rate(&mut mgr, threads, time);
    let builder = Manager::builder(&url).observer(Arc::new(Count::default()));
    let mut observed = builder.connect()?;
    let seen = move |threads| rate(&mut observed, threads, time);
    // Each time with a new session, as with pgbench.
    let bare = move |_| rate(&mut BareClient::connect(&url)?, 1, time);
    let mut curves = vec![
        Curve::new(Kind::Manager, "distlock, one connection", &THREADS, own),
        Curve::new(Kind::BareClient, "bare client, 1 thread", &[1], bare),
        Curve::new(
            Kind::Observed,
            "distlock, an observer that counts",
            &[64],
            seen,
        ),
    ];
    if Pgbench::is_installed() {
        for (pipelined, mode) in [(true, "prepared, pipelined"), (false, "prepared")] {
            let pgbench = Pgbench::new(server, pipelined)?;
            let name = format!("pgbench, {CONNECTIONS} connections, {mode}");
            // Measured beside the figure that it is compared with.
            let measure = move |_| pgbench.rate(time * 3);
            curves.push(Curve::new(Kind::Pgbench, &name, &[64], measure));
        }
    }
    let peers: [Box<dyn Subject>; 2] = [
        Box::new(Sqlx::connect(server, CONNECTIONS)?),
        Box::new(DistributedLockPostgres::connect(server, CONNECTIONS)?),
    ];
    for mut peer in peers {
        let name = format!("{}, {CONNECTIONS} connections", peer.name());
        let measure = move |threads| rate(&mut *peer, threads, time / 2);
        curves.push(Curve::new(Kind::Peer, &name, &THREADS, measure));
    }
    Ok(curves)
}

fn rows(setup: &mut Setup, curves: &[Curve]) {
    let of = |kind| curves.iter().find(|curve| curve.kind == kind);
    let own = &curves[0];
    let what = "pairs/s, 64 threads, distinct keys";
    for other in &curves[1..] {
        let (rates, others) = (own.at(64), other.at(64));
        let row = setup.row(2, what);
        row.by_turns(grouped, rates, &other.name, others);
        match other.kind {
            Kind::BareClient => row.ratio_at_least(10.0),
            Kind::Peer => row.ratio("above the peer", |ratio| ratio > 1.0),
            // The cost of being observed.
            Kind::Observed => row.ratio_at_most(1.1),
            _ => row.ratio("above", |ratio| ratio > 1.0),
        }
    }
    if of(Kind::Pgbench).is_none() {
        setup
            .row(2, what)
            .figure(grouped(own.median(64)))
            .goal("above pgbench, which is not installed", false);
    }
    let best = THREADS.map(|threads| own.median(threads));
    let best = best.into_iter().fold(0.0, f64::max);
    setup
        .row(2, "pairs/s, 256 threads")
        .beside(grouped, own.median(256), "best of all numbers", best)
        .ratio_at_least(0.7);
    for (threads, what, kind) in [
        (1, "pairs/s, 1 thread", Kind::BareClient),
        (2, "pairs/s, 2 threads", Kind::Peer),
        (4, "pairs/s, 4 threads", Kind::Peer),
        (16, "pairs/s, 16 threads", Kind::Peer),
    ] {
        let Some(other) = of(kind) else { continue };
        let (rate, baseline) = (own.median(threads), other.median(threads));
        setup
            .row(2, what)
            .beside(grouped, rate, &other.name, baseline);
    }
}
