//! Checks by the files that every job was done, and none by two workers at once.
//!
//! If two holds of a lock overlap, two workers held it at once.
//!
//! A fault ends the holds of its process at the server, which may grant the locks to others
//! from then on. The worker detects that a little later, after at most a heartbeat and a round
//! trip; the manager does not promise more. Such a hold counts until the fault, and the time
//! for which its worker went on is measured.
//!
//! The lines of the summary are written in fenced transactions: they are numbered one after the
//! other, without any exception.

use std::fmt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use crate::Plan;
use crate::faults::{Blow, Fault};
use crate::holds::Hold;
use crate::job;
use crate::journal::Event;

/// The longest time for which a worker may not know of its loss: the lease. Only an overloaded
/// machine comes near it.
const UNKNOWING: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(crate) struct Verdict {
    jobs: u32,
    undone: usize,
    wrong: usize,
    overlaps: usize,
    /// Holds that were lost without a fault.
    unexplained: usize,
    /// The longest time from a fault to the last record of a hold that it ended.
    unknowing: Duration,
    misnumbered: usize,
    /// Processes that failed without having been killed.
    failed: usize,
}

pub(crate) fn reach(
    plan: &Plan,
    folder: &Path,
    ends: &[ExitStatus],
    faults: &[Fault],
    holds: &[Hold],
    misnumbered: usize,
) -> Verdict {
    let mut verdict = Verdict {
        jobs: plan.jobs,
        misnumbered,
        ..Verdict::default()
    };
    verdict.judge(holds.to_vec(), faults);
    for (process, end) in (0..).zip(ends) {
        let killed = faults
            .iter()
            .any(|fault| fault.blow == Blow::Killed(process));
        verdict.failed += usize::from(!end.success() && !killed);
    }
    for job in 0..plan.jobs {
        if !job::is_done(folder, job) {
            verdict.undone += 1;
        } else if !job::is_right(folder, plan, job) {
            verdict.wrong += 1;
        }
    }
    verdict
}

impl Verdict {
    /// Compares the holds with the faults and with each other.
    fn judge(&mut self, mut holds: Vec<Hold>, faults: &[Fault]) {
        for hold in &mut holds {
            self.settle(hold, faults);
        }
        self.overlaps = overlaps(holds);
    }

    /// Cuts the hold off at the fault that ended it, if there was one.
    fn settle(&mut self, hold: &mut Hold, faults: &[Fault]) {
        let Some(fault) = hold.fault(faults) else {
            self.unexplained += usize::from(hold.last == Some(Event::Lost));
            return;
        };
        if hold.last.is_some() {
            let unknowing = u64::try_from(hold.end - fault.from).unwrap_or(u64::MAX);
            self.unknowing = self.unknowing.max(Duration::from_nanos(unknowing));
        }
        hold.end = fault.from;
    }

    pub(crate) fn is_good(&self) -> bool {
        self.complaints().is_empty()
    }

    fn complaints(&self) -> Vec<String> {
        let late = usize::from(self.unknowing > UNKNOWING);
        [
            (self.undone, "undone"),
            (self.wrong, "with a wrong result"),
            (self.overlaps, "begun while another worker held the lock"),
            (self.unexplained, "locks lost without a fault"),
            (late, "loss detected too late"),
            (self.misnumbered, "summary lines misnumbered"),
            (self.failed, "processes failed"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect()
    }
}

/// How many holds of a lock began before an earlier one had ended.
fn overlaps(mut holds: Vec<Hold>) -> usize {
    // If the lock was lost before the first record, there was no hold.
    holds.retain(|hold| hold.begin < hold.end);
    holds.sort_by_key(|hold| (hold.owner.job, hold.begin));
    holds
        .chunk_by(|a, b| a.owner.job == b.owner.job)
        .map(|holds| {
            let mut free = 0;
            let mut overlaps = 0;
            for hold in holds {
                overlaps += usize::from(hold.begin < free);
                free = free.max(hold.end);
            }
            overlaps
        })
        .sum()
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "a lost lock was detected after {:.1} ms at the latest",
            self.unknowing.as_secs_f64() * 1e3
        )?;
        write!(f, "VERDICT: ")?;
        if self.is_good() {
            write!(
                f,
                "ok: {} jobs done, all results right, no two workers on one at once",
                self.jobs
            )
        } else {
            let complaints = self.complaints().join(", ");
            write!(f, "FAILED: of {} jobs: {complaints}", self.jobs)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Owner;

    const TERMINATED: Fault = Fault {
        blow: Blow::Terminated(1),
        from: 100,
        to: 110,
    };

    const RESTARTED: Fault = Fault {
        blow: Blow::Restarted,
        from: 500,
        to: 600,
    };

    fn hold(process: u16, session: usize, begin: u128, end: u128, last: Event) -> Hold {
        Hold {
            process,
            owner: Owner {
                job: 7,
                thread: 0,
                session,
            },
            begin,
            end,
            last: Some(last),
        }
    }

    fn judge(holds: &[Hold]) -> Verdict {
        let mut verdict = Verdict::default();
        verdict.judge(holds.to_vec(), &[TERMINATED, RESTARTED]);
        verdict
    }

    #[test]
    fn a_lock_that_is_granted_before_a_fault_and_recorded_after_it_is_explained() {
        let verdict = judge(&[hold(1, 0, 120, 150, Event::Lost)]);
        assert!(verdict.is_good(), "{verdict}");
        assert_eq!(verdict.unknowing, Duration::from_nanos(50));
    }

    #[test]
    fn a_loss_before_its_fault_or_without_one_is_found() {
        for lost in [
            hold(1, 0, 80, 99, Event::Lost),
            // The session that was made after the fault.
            hold(1, 1, 120, 150, Event::Lost),
            hold(1, 2, 650, 700, Event::Lost),
            // Only another process was hit.
            hold(2, 0, 90, 150, Event::Lost),
            hold(2, 1, 520, 620, Event::Lost),
        ] {
            assert_eq!(
                judge(std::slice::from_ref(&lost)).unexplained,
                1,
                "{lost:?}"
            );
        }
    }

    #[test]
    fn a_lost_hold_counts_until_the_fault_that_ended_its_session() {
        let next = hold(2, 0, 105, 140, Event::Done);
        for (process, session, begin, last, overlaps) in [
            (1, 0, 90, Event::Done, 0),
            (1, 0, 106, Event::Done, 0),
            (1, 0, 106, Event::Lost, 0),
            // The new session's locks count in full.
            (1, 1, 106, Event::Done, 1),
            (3, 0, 90, Event::Done, 1),
        ] {
            let hold = hold(process, session, begin, 130, last);
            let verdict = judge(&[hold.clone(), next.clone()]);
            assert_eq!(verdict.overlaps, overlaps, "{hold:?}");
        }
    }

    #[test]
    fn a_hold_of_the_time_before_a_fault_overlaps_for_all_that() {
        let verdict = judge(&[
            hold(1, 0, 50, 130, Event::Lost),
            hold(2, 0, 90, 95, Event::Done),
        ]);
        assert_eq!(verdict.overlaps, 1);
    }

    #[test]
    fn a_process_that_is_killed_holds_its_locks_until_then() {
        let killed = Fault {
            blow: Blow::Killed(0),
            from: 100,
            to: 110,
        };
        let mut verdict = Verdict::default();
        let mut open = hold(0, 0, 50, u128::MAX, Event::Done);
        open.last = None;
        let early = hold(2, 0, 99, 140, Event::Done);
        verdict.judge(vec![open.clone(), early], &[killed]);
        assert_eq!(verdict.overlaps, 1);
        let next = hold(2, 0, 105, 140, Event::Done);
        verdict.judge(vec![open, next], &[killed]);
        assert_eq!(verdict.overlaps, 0);
    }
}
