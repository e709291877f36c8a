//! What the files say: was every job done, and none by two at once?

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use comfy_table::Table;

use crate::Plan;
use crate::faults::{KILLED, Times};
use crate::job;
use crate::journal::{self, Event};

/// A hold as the server saw it.
struct Span {
    job: u32,
    begin: u128,
    end: u128,
}

pub(crate) struct Verdict {
    table: Table,
    jobs: u32,
    undone: usize,
    wrong: usize,
    overlaps: usize,
    unhappy: usize,
    /// From a lost session to the worker that stopped for it.
    slowest_notice: Duration,
}

impl Verdict {
    pub(crate) fn is_good(&self) -> bool {
        self.undone + self.wrong + self.overlaps + self.unhappy == 0
    }
}

pub(crate) fn reach(
    plan: &Plan,
    folder: &Path,
    ends: &[ExitStatus],
    times: &Times,
) -> anyhow::Result<Verdict> {
    let mut table = Table::new();
    table.set_header([
        "process",
        "jobs",
        "locks lost",
        "reconnects",
        "hand-overs",
        "round trips a lock",
        "end",
    ]);
    let mut spans = Vec::new();
    let mut slowest_notice = Duration::ZERO;
    let mut unhappy = 0;
    let mut total = [0; 4];
    for (process, end) in (0..plan.processes).zip(ends) {
        let killed = process == KILLED && times.killed.is_some();
        unhappy += usize::from(!killed && !end.success());
        let mut open = BTreeMap::new();
        let mut done = 0;
        for record in journal::read(folder, process)? {
            if record.event == Event::Begin {
                open.insert(record.thread, (record.job, record.time));
                continue;
            }
            let Some((job, begin)) = open.remove(&record.thread) else {
                continue;
            };
            done += u64::from(record.event == Event::Done);
            let mut end = record.time;
            if record.event == Event::Lost {
                // The lock was free from the fault on, before the worker knew.
                let fault = times.ended.iter().filter(|&&time| time <= end).max();
                let fault = fault.copied().unwrap_or(end).max(begin);
                let notice = u64::try_from(end - fault).unwrap_or(u64::MAX);
                slowest_notice = slowest_notice.max(Duration::from_nanos(notice));
                end = fault;
            }
            spans.push(Span { job, begin, end });
        }
        for (job, begin) in open.into_values() {
            let end = times.killed.unwrap_or(begin).max(begin);
            spans.push(Span { job, begin, end });
        }
        let stats: Vec<u64> = fs::read_to_string(folder.join(format!("stats-{process}")))
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        let mut row = vec![process.to_string(), done.to_string()];
        total[0] += done;
        if let [lost, reconnects, hand_overs, acquired, round_trips] = stats[..] {
            row.extend([lost, reconnects, hand_overs].map(|figure| figure.to_string()));
            row.push(format!(
                "{:.2}",
                round_trips as f64 / acquired.max(1) as f64
            ));
            for (sum, figure) in total[1..].iter_mut().zip([lost, reconnects, hand_overs]) {
                *sum += figure;
            }
        } else {
            row.extend(["", "", "", ""].map(String::from));
        }
        row.push(if killed {
            "killed".into()
        } else {
            end.to_string()
        });
        table.add_row(row);
    }
    let mut row = vec![String::from("all")];
    row.extend(total.map(|figure| figure.to_string()));
    table.add_row(row);

    let (mut undone, mut wrong) = (0, 0);
    for job in 0..plan.jobs {
        if !job::is_done(folder, job) {
            undone += 1;
        } else if !job::is_right(folder, job)? {
            wrong += 1;
        }
    }
    Ok(Verdict {
        table,
        jobs: plan.jobs,
        undone,
        wrong,
        overlaps: overlaps(spans),
        unhappy,
        slowest_notice,
    })
}

/// How many holds of a job began before an earlier one had ended.
fn overlaps(mut spans: Vec<Span>) -> usize {
    spans.sort_by_key(|span| (span.job, span.begin));
    let mut overlaps = 0;
    let mut last: Option<(u32, u128)> = None;
    for span in spans {
        match last {
            Some((job, end)) if job == span.job => {
                overlaps += usize::from(span.begin < end);
                last = Some((job, end.max(span.end)));
            }
            _ => last = Some((span.job, span.end)),
        }
    }
    overlaps
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.table)?;
        writeln!(
            f,
            "lost locks were noticed within {:.1} ms",
            self.slowest_notice.as_secs_f64() * 1e3
        )?;
        write!(
            f,
            "VERDICT: {}: of {} jobs {} undone, {} wrong, {} done by two at once; {} processes failed",
            if self.is_good() { "good" } else { "BAD" },
            self.jobs,
            self.undone,
            self.wrong,
            self.overlaps,
            self.unhappy,
        )
    }
}
