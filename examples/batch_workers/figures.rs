//! The table of what each process did.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use comfy_table::{CellAlignment, Table};
use distlock::Stats;

use crate::Plan;
use crate::journal::{self, Event};

fn file(folder: &Path, process: u16) -> PathBuf {
    folder.join(format!("stats-{process}"))
}

/// Called by a worker that has finished; one that was killed leaves no figures.
pub(crate) fn leave(folder: &Path, process: u16, stats: &Stats) -> io::Result<()> {
    let figures = [
        stats.lost,
        stats.reconnects,
        stats.hand_overs,
        stats.acquired,
        stats.round_trips,
    ];
    fs::write(
        file(folder, process),
        figures.map(|figure| figure.to_string()).join(" "),
    )
}

fn read(folder: &Path, process: u16) -> Option<[u64; 5]> {
    let text = fs::read_to_string(file(folder, process)).ok()?;
    let figures: Option<Vec<u64>> = text.split(' ').map(|field| field.parse().ok()).collect();
    figures?.try_into().ok()
}

pub(crate) fn table(plan: &Plan, folder: &Path, ends: &[ExitStatus]) -> anyhow::Result<Table> {
    let mut table = Table::new();
    table.set_header([
        "process",
        "jobs done",
        "locks lost",
        "reconnects",
        "hand-overs",
        "round trips per lock",
        "end",
    ]);
    let mut all_done = 0;
    let mut all = [0; 5];
    for (process, end) in (0..).zip(ends) {
        let done = journal::read(folder, process)?
            .iter()
            .filter(|record| record.event == Event::Done && record.owner.job != plan.summary())
            .count();
        let figures = read(folder, process);
        all_done += done;
        for (sum, figure) in all.iter_mut().zip(figures.unwrap_or_default()) {
            *sum += figure;
        }
        let how = match end.signal() {
            Some(9) => "killed".to_owned(),
            _ if end.success() => "finished".to_owned(),
            _ => format!("failed, {end}"),
        };
        table.add_row(row(&process.to_string(), done, figures, &how));
    }
    table.add_row(row("all", all_done, Some(all), ""));
    for column in table.column_iter_mut().skip(1).take(5) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    Ok(table)
}

fn row(process: &str, done: usize, figures: Option<[u64; 5]>, end: &str) -> Vec<String> {
    let mut row = vec![process.to_owned(), done.to_string()];
    match figures {
        Some([lost, reconnects, hand_overs, acquired, round_trips]) => {
            row.extend([lost, reconnects, hand_overs].map(|figure| figure.to_string()));
            let per_lock = round_trips as f64 / acquired.max(1) as f64;
            row.push(format!("{per_lock:.2}"));
        }
        None => row.extend([""; 4].map(String::from)),
    }
    row.push(end.to_owned());
    row
}
