//! What the files say: was every job done, and none by two at once?
//!
//! A hold is what lies between its first record, written once the lock was there, and
//! its last, written before the lock was given back. So if two holds of a job overlap,
//! two had its lock.
//!
//! A fault ends the holds of its process for the server, which may give the locks to
//! others from then on. The worker sees that a little later, after a heartbeat at most
//! and a round trip; the manager does not promise more. Such a hold counts until the
//! fault, and what its worker did after that, unknowing, is measured.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use crate::Plan;
use crate::faults::{Blow, Fault};
use crate::job;
use crate::journal::{self, Event, Record};
use crate::worker;

/// For so long a worker may not know of its loss: the lease. It takes a machine that is
/// far too busy to come near it.
const UNKNOWING: Duration = Duration::from_secs(10);

/// One thread's hold of a job's lock.
struct Hold {
    process: u16,
    job: u32,
    begin: u128,
    end: u128,
    /// How the worker saw it end; none: it was killed.
    last: Option<Event>,
}

#[derive(Default)]
pub(crate) struct Verdict {
    jobs: u32,
    undone: usize,
    wrong: usize,
    overlaps: usize,
    /// Holds that were lost without a fault.
    unexplained: usize,
    /// From a fault to the last a worker did for its lost hold.
    unknowing: Duration,
    misnumbered: usize,
    /// Processes that ended badly and that nobody killed.
    failed: usize,
}

pub(crate) fn reach(
    plan: &Plan,
    folder: &Path,
    ends: &[ExitStatus],
    faults: &[Fault],
) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict {
        jobs: plan.jobs,
        misnumbered: worker::misnumbered(folder),
        ..Verdict::default()
    };
    let mut all = Vec::new();
    for (process, end) in (0..).zip(ends) {
        let killed = faults
            .iter()
            .any(|fault| fault.blow == Blow::Killed(process));
        verdict.failed += usize::from(!end.success() && !killed);
        all.extend(holds(process, journal::read(folder, process)?));
    }
    for hold in &mut all {
        verdict.settle(hold, faults);
    }
    verdict.overlaps = overlaps(all);
    for job in 0..plan.jobs {
        if !job::is_done(folder, job) {
            verdict.undone += 1;
        } else if !job::is_right(folder, plan, job) {
            verdict.wrong += 1;
        }
    }
    Ok(verdict)
}

/// A process's holds: of what each thread wrote, a `Begin` and the record after it.
fn holds(process: u16, records: Vec<Record>) -> Vec<Hold> {
    let mut open = BTreeMap::new();
    let mut holds = Vec::new();
    for record in records {
        if record.event == Event::Begin {
            open.insert(record.thread, record);
        } else if let Some(begin) = open.remove(&record.thread) {
            holds.push(Hold {
                process,
                job: begin.job,
                begin: begin.time,
                end: record.time,
                last: Some(record.event),
            });
        }
    }
    holds.extend(open.into_values().map(|begin| Hold {
        process,
        job: begin.job,
        begin: begin.time,
        end: u128::MAX,
        last: None,
    }));
    holds
}

impl Verdict {
    /// Cuts the hold off at the fault that ended it, if there was one.
    fn settle(&mut self, hold: &mut Hold, faults: &[Fault]) {
        let over = matches!(hold.last, None | Some(Event::Lost));
        let fault = faults.iter().find(|fault| {
            let during = if over {
                hold.begin <= fault.to && fault.from <= hold.end
            } else {
                // One that began during a restart and lasted has the new server's lock.
                hold.begin < fault.from && fault.from < hold.end
            };
            during && fault.blow.hits(hold.process)
        });
        match fault {
            Some(fault) => {
                let end = fault.from.max(hold.begin);
                if hold.last.is_some() {
                    let unknowing = u64::try_from(hold.end - end).unwrap_or(u64::MAX);
                    self.unknowing = self.unknowing.max(Duration::from_nanos(unknowing));
                }
                hold.end = end;
            }
            None => self.unexplained += usize::from(hold.last == Some(Event::Lost)),
        }
    }

    pub(crate) fn is_good(&self) -> bool {
        self.complaints().is_empty()
    }

    fn complaints(&self) -> Vec<String> {
        let late = usize::from(self.unknowing > UNKNOWING);
        [
            (self.undone, "undone"),
            (self.wrong, "with a wrong result"),
            (self.overlaps, "begun while another was at it"),
            (self.unexplained, "locks lost for no reason"),
            (late, "loss noticed too late"),
            (self.misnumbered, "summary lines misnumbered"),
            (self.failed, "processes failed"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect()
    }
}

/// How many holds of a job began before an earlier one had ended.
fn overlaps(mut holds: Vec<Hold>) -> usize {
    holds.sort_by_key(|hold| (hold.job, hold.begin));
    holds
        .chunk_by(|a, b| a.job == b.job)
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
            "a worker knew of a lost lock after {:.1} ms at the latest",
            self.unknowing.as_secs_f64() * 1e3
        )?;
        write!(f, "VERDICT: ")?;
        if self.is_good() {
            write!(
                f,
                "ok: {} jobs done, all results right, none begun while another was at it",
                self.jobs
            )
        } else {
            let complaints = self.complaints().join(", ");
            write!(f, "FAILED: of {} jobs: {complaints}", self.jobs)
        }
    }
}
