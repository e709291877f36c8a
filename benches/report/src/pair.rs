//! Target 1: how long one uncontended pair takes.

use anyhow::Result;
use distlock::Manager;
use serde_json::json;
use subjects::Subject;
use throwaway_postgres::Server;

use crate::measure::{interleave, micros_each};
use crate::setup::Setup;
use crate::stats::median;
use crate::table;

/// Pairs of one subject before the next subject is measured.
const CHUNK: i64 = 400;

/// Rounds with one set of connections. The scheduler keeps a session's two ends where they are
/// for a while, and their placement makes more difference than anything else.
const TURNS: i64 = 5;

pub(crate) fn latency(setup: &mut Setup) -> Result<()> {
    let mut names = [""; 4];
    let mut micros: [Vec<f64>; 4] = Default::default();
    for _ in 0..setup.rounds(10) {
        let mgr = setup.manager()?;
        let [bare, sqlx, other] = subjects::others(&setup.server)?;
        let mut subjects: [Box<dyn Subject>; 4] = [Box::new(mgr.clone()), bare, sqlx, other];
        let turns = interleave(-1..TURNS, &mut subjects, |subject, turn| {
            let first = (turn + 1) * CHUNK;
            micros_each(CHUNK, || subject.pairs(first..first + CHUNK))
        })?;
        for (all, turns) in micros.iter_mut().zip(turns) {
            all.extend(turns);
        }
        names = subjects.map(|subject| subject.name());
        mgr.close()?;
    }

    let medians = micros.each_ref().map(|micros| median(micros));
    let [own, others @ ..] = &micros;
    for (name, other) in names[1..].iter().zip(others) {
        let row = setup.row(1, "uncontended pair, one thread");
        row.by_turns(table::micros, own, name, other);
        match *name {
            "bare client" => row.ratio_at_most(1.0),
            _ => row.ratio("below the peer", |ratio| ratio < 1.0),
        }
    }
    let figures = json!({ "subjects": names, "medians": medians, "rounds": micros });
    setup.keep("pair, µs", figures)
}

/// What tokens cost, on a server with `fsync` on: each has to wait for a flush of the WAL.
pub(crate) fn fencing(setup: &mut Setup) -> Result<()> {
    let server = Server::builder().setting("fsync", "on").start()?;
    let plain = Manager::connect(&server.url())?;
    let fenced = Manager::builder(&server.url())
        .fencing("public.distlock_token")
        .connect()?;
    for (count, threads) in [(400, 1), (100, 64)] {
        let rounds = -1..setup.rounds(8);
        let micros = interleave(rounds, &mut [&plain, &fenced], |mgr, round| {
            micros_each(i64::from(count * threads), || {
                let first = i64::from(count * threads) * (round + 1);
                let pairs = subjects::spread(threads, first, |keys| {
                    subjects::pairs(mgr, keys.take(count as usize))
                });
                pairs.into_iter().collect()
            })
        })?;
        let what = format!("a pair with a fencing token, fsync on, threads: {threads}");
        let (without, with) = (&micros[0], &micros[1]);
        let row = setup.row(1, &what);
        row.by_turns(table::micros, with, "without tokens", without);
        setup.keep(&what, json!({ "without": without, "with": with }))?;
    }
    plain.close()?;
    fenced.close()?;
    Ok(())
}
