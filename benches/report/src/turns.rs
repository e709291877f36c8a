//! Target 8, who has a lock when several want it again and again. To the server each manager is a
//! process.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use distlock::{Error, Guard, Manager};
use serde_json::json;

use crate::machine::now;
use crate::measure::interleave;
use crate::setup::Setup;
use crate::stats::median;
use crate::table::grouped;

const KEY: i64 = 9;

/// The holds of two processes, in milliseconds.
const HOLDS: [u64; 5] = [0, 1, 3, 10, 25];

/// What one process may have while another waits: that many turns, or turns for that many
/// milliseconds, whichever is more.
const TURNS: f64 = 3.0;
pub(crate) const BUDGET: f64 = 20.0;

pub(crate) fn run(setup: &mut Setup) -> Result<()> {
    two_processes(setup)?;
    alone(setup)
}

/// How the second of two processes takes the lock. The first waits for it.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Lock,
    Try,
    Timeout,
}

impl Way {
    const ALL: [Way; 3] = [Way::Lock, Way::Try, Way::Timeout];

    fn name(self) -> &'static str {
        match self {
            Way::Lock => "both wait",
            Way::Try => "one tries",
            Way::Timeout => "one waits for 200 µs",
        }
    }

    fn take(self, mgr: &Manager) -> Result<Option<Guard>, Error> {
        match self {
            Way::Lock => mgr.lock(KEY).map(Some),
            Way::Try => mgr.try_lock(KEY),
            Way::Timeout => match mgr.try_lock_for(KEY, Duration::from_micros(200)) {
                // The server has not answered by then.
                Err(error) if error.is_transient() => Ok(None),
                taken => taken,
            },
        }
    }
}

/// One hold of one contender, on the clock of [`now`].
#[derive(Clone, Copy)]
struct Turn {
    taken: u64,
    released: u64,
    by: usize,
}

type Taker<'a> = &'a (dyn Fn() -> Result<Option<Guard>, Error> + Sync);

/// Each of `takers` takes the lock and holds it for `hold`, again and again for `time`, in a thread
/// of its own. Returns all turns in their order.
fn contend(takers: &[Taker<'_>], hold: Duration, time: Duration) -> Result<Vec<Turn>> {
    let together = Barrier::new(takers.len());
    let take_turns = |by: usize| -> Result<Vec<Turn>> {
        let mut turns = Vec::new();
        together.wait();
        let start = Instant::now();
        while start.elapsed() < time {
            let Some(guard) = takers[by]()? else {
                continue;
            };
            let taken = now();
            thread::sleep(hold);
            let released = now();
            guard.unlock()?;
            turns.push(Turn {
                taken,
                released,
                by,
            });
        }
        Ok(turns)
    };
    let mut turns = thread::scope(|scope| {
        let take_turns = &take_turns;
        let threads: Vec<_> = (0..takers.len())
            .map(|by| scope.spawn(move || take_turns(by)))
            .collect();
        let turns = threads.into_iter().map(|thread| thread.join());
        turns
            .map(|turns| turns.expect("it returns its errors"))
            .collect::<Result<Vec<_>>>()
    })?
    .concat();
    turns.sort_unstable_by_key(|turn| turn.taken);
    Ok(turns)
}

/// What one contender had before the other's next turn.
#[derive(Clone, Copy)]
struct Run {
    turns: f64,
    /// From its begin to the last time that it went on.
    millis: f64,
}

impl Run {
    /// Consecutive turns of one contender. It goes on when it releases a turn that is not its last.
    fn new(run: &[Turn]) -> Run {
        let went_on = run[run.len().saturating_sub(2)].released;
        Run {
            turns: run.len() as f64,
            millis: (went_on - run[0].taken) as f64 / 1e6,
        }
    }

    /// Its share of what is allowed.
    fn share(&self) -> f64 {
        (self.turns / TURNS).min(self.millis / BUDGET)
    }

    fn longest(turns: &[Turn]) -> Run {
        turns
            .chunk_by(|one, next| one.by == next.by)
            .map(Run::new)
            .max_by(|one, other| one.share().total_cmp(&other.share()))
            .expect("somebody had a turn")
    }
}

/// Two processes that take one key again and again.
fn two_processes(setup: &mut Setup) -> Result<()> {
    let (first, second) = (setup.manager()?, setup.manager()?);
    let mut cases: Vec<(Way, u64)> = Way::ALL
        .into_iter()
        .flat_map(|way| HOLDS.map(|hold| (way, hold)))
        .collect();
    let rounds = 0..setup.rounds(3);
    let figures = interleave(rounds, &mut cases, |&mut (way, hold), _| {
        let takers: [Taker<'_>; 2] = [&|| Way::Lock.take(&first), &|| way.take(&second)];
        // Some 25 turns or more.
        let time = setup.millis(400.max(25 * hold));
        let turns = contend(&takers, Duration::from_millis(hold), time)?;
        let of_first = turns.iter().filter(|turn| turn.by == 0).count();
        let percent = 100.0 * of_first as f64 / turns.len() as f64;
        Ok((percent, Run::longest(&turns)))
    })?;
    first.close()?;
    second.close()?;

    let holds = HOLDS.map(|hold| hold.to_string()).join(", ");
    for way in Way::ALL {
        let of_way = cases.iter().zip(&figures).filter(|(case, _)| case.0 == way);
        let (mut shares, mut runs) = (Vec::new(), Vec::new());
        for (_, rounds) in of_way {
            let percents: Vec<f64> = rounds.iter().map(|round| round.0).collect();
            shares.push(median(&percents));
            let mut longest: Vec<Run> = rounds.iter().map(|round| round.1).collect();
            longest.sort_by(|one, other| one.share().total_cmp(&other.share()));
            runs.push(longest[longest.len() / 2]);
        }
        let what = format!("two processes, holds of {holds} ms, {}", way.name());
        let told: Vec<String> = shares.iter().map(|share| format!("{share:.0}")).collect();
        setup
            .row(8, &format!("{what}: turns of the first"))
            .figure(format!("{} %", told.join(", ")))
            .goal(
                "45 to 55 %",
                shares.iter().all(|share| (45.0..=55.0).contains(share)),
            );
        let told = |run: &Run| format!("{} ({:.1} ms)", grouped(run.turns), run.millis);
        let worst = runs.iter().map(Run::share).fold(0.0, f64::max);
        setup
            .row(8, &format!("{what}: longest run of turns"))
            .figure(runs.iter().map(told).collect::<Vec<_>>().join(", "))
            .against("3 turns or 20 ms", worst)
            .ratio_at_most(1.0);
        let runs: Vec<[f64; 2]> = runs.iter().map(|run| [run.turns, run.millis]).collect();
        let figures = json!({
            "holds, ms": HOLDS,
            "turns of the first, %": shares,
            "longest run, turns and ms": runs,
        });
        setup.keep(&format!("two processes, {}", way.name()), figures)?;
    }
    Ok(())
}

/// The threads of one process, with no other process about.
fn alone(setup: &mut Setup) -> Result<()> {
    const THREADS: usize = 16;
    let mgr = setup.manager()?;
    let taker: Taker<'_> = &|| Way::Lock.take(&mgr);
    let (mut rates, mut allowed) = (Vec::new(), Vec::new());
    for _ in 0..setup.rounds(3) {
        let hold = Duration::from_millis(1);
        let turns = contend(&[taker; THREADS], hold, setup.millis(1000))?;
        let held: u64 = turns.iter().map(|turn| turn.released - turn.taken).sum();
        let all = turns[turns.len() - 1].released - turns[0].taken;
        let per_second = |nanos: u64| turns.len() as f64 * 1e9 / nanos as f64;
        rates.push(per_second(all));
        allowed.push(per_second(held));
    }
    mgr.close()?;
    setup
        .row(8, "turns/s of 16 threads of one process, 1 ms hold")
        .by_turns(grouped, &rates, "the holds allow", &allowed)
        .ratio_at_least(0.97);
    let figures = json!({ "turns/s": rates, "allowed": allowed });
    setup.keep("16 threads of one process alone", figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_as_long_as_it_went_on() {
        let turn = |by, taken: u64, released: u64| Turn {
            taken: taken * 1_000_000,
            released: released * 1_000_000,
            by,
        };
        let turns = [
            turn(0, 0, 90),
            turn(1, 100, 110),
            turn(1, 110, 120),
            turn(1, 121, 126),
            turn(1, 126, 200),
            turn(0, 200, 201),
        ];
        let run = Run::longest(&turns);
        assert_eq!((run.turns, run.millis), (4.0, 26.0));
        assert_eq!(run.share(), 1.3);
    }
}
