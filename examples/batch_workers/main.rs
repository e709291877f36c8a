//! Worker processes share a list of jobs by lock, while faults are injected.
//!
//! Each job counts the word pairs of one text file. Several processes with several
//! threads go through the list; the thread that gets a job's lock and finds no result does it.
//! Meanwhile one database session is terminated, one process is killed and the server is
//! restarted. At the end the files show whether every job was done, and none by two workers
//! at once. All holds and faults are drawn as well.
//!
//! `DATABASE_URL` names the database, which is then not restarted; without it a throwaway
//! server is started.
// An example prints to the terminal.
#![allow(clippy::print_stdout)]

mod faults;
mod figures;
mod folder;
mod holds;
mod job;
mod journal;
mod picture;
mod process;
mod summary;
mod verdict;
mod worker;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use throwaway_postgres::Server;

use crate::faults::Faults;
use crate::folder::Folder;
use crate::process::Process;

/// How often to check the files.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long no job may get done before the workers are ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// Worker processes share a list of jobs by lock, while faults are injected.
///
/// DATABASE_URL names the database; without it a throwaway server is started.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    plan: Plan,
    /// Where to draw what happened
    #[arg(long, value_name = "FILE", default_value = "target/batch_workers.svg")]
    svg: PathBuf,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Args, Clone)]
struct Plan {
    /// Worker processes, each with one database connection
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..100))]
    processes: u16,
    /// Threads in each process
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..100))]
    threads: u16,
    /// Jobs on the list
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(4..100_000))]
    jobs: u32,
    /// Seed for the words of the texts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Makes the workers ignore each other's locks, to test that the verdict can be bad
    #[arg(long, hide = true)]
    lawless: bool,
}

impl Plan {
    /// The job number that stands for the lock of the summary.
    fn summary(&self) -> u32 {
        self.jobs
    }
}

#[derive(Subcommand)]
enum Role {
    /// One of the worker processes, started by the demo itself
    #[command(hide = true)]
    Worker { folder: PathBuf, number: u16 },
}

fn main() -> anyhow::Result<ExitCode> {
    let Cli { plan, svg, role } = Cli::parse();
    match role {
        Some(Role::Worker { folder, number }) => {
            worker::run(&plan, &folder, number).map(|()| ExitCode::SUCCESS)
        }
        None => demo(&plan, &svg),
    }
}

fn demo(plan: &Plan, svg: &Path) -> anyhow::Result<ExitCode> {
    let url = std::env::var("DATABASE_URL").ok();
    let server = url.is_none().then(Server::start).transpose()?;
    let url = url.unwrap_or_else(|| server.as_ref().map(Server::url).unwrap_or_default());
    let folder = Folder::new()?;
    let mut faults = Faults::new(plan, folder.path(), &url, server.as_ref())?;
    job::write_inputs(folder.path(), plan)?;
    let summary = summary::Table::make(&url, folder.path())?;

    println!(
        "{} jobs for {} processes with {} threads each",
        plan.jobs, plan.processes, plan.threads
    );
    let start = Instant::now();
    let mut workers = (0..plan.processes)
        .map(|number| Process::start(plan, folder.path(), &url, number))
        .collect::<anyhow::Result<Vec<_>>>()?;
    watch(plan, folder.path(), &mut workers, &mut faults)?;
    let elapsed = start.elapsed();

    let ends = workers
        .into_iter()
        .map(Process::end)
        .collect::<Result<Vec<_>, _>>()?;
    let mut holds = Vec::new();
    for number in 0..plan.processes {
        holds.extend(holds::read(folder.path(), number)?);
    }
    let misnumbered = summary.misnumbered()?;
    let folder = folder.path();
    let verdict = verdict::reach(plan, folder, &ends, faults.struck(), &holds, misnumbered);
    println!("{}", figures::table(plan, folder, &ends)?);
    println!("the work took {:.1} s", elapsed.as_secs_f64());
    holds.retain(|hold| hold.owner.job != plan.summary());
    picture::draw(svg, plan, &holds, faults.struck())
        .with_context(|| format!("cannot draw {}", svg.display()))?;
    println!("all holds and faults are drawn in {}", svg.display());
    println!("{verdict}");
    Ok(if verdict.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Shows the progress and injects the faults, until the workers have ended.
fn watch(
    plan: &Plan,
    folder: &Path,
    workers: &mut [Process],
    faults: &mut Faults<'_>,
) -> anyhow::Result<()> {
    let bar = ProgressBar::new(plan.jobs.into()).with_style(ProgressStyle::with_template(
        "{wide_bar} {pos}/{len} jobs, {elapsed}",
    )?);
    let mut progress = Instant::now();
    loop {
        let done = (0..plan.jobs)
            .filter(|&job| job::is_done(folder, job))
            .count();
        if done as u64 > bar.position() {
            progress = Instant::now();
        }
        bar.set_position(done as u64);
        if let Some(news) = faults.strike(done, workers)? {
            bar.suspend(|| println!("at {done:>3} jobs: {news}"));
        }
        let mut running = false;
        for worker in workers.iter_mut() {
            running |= worker.is_running()?;
        }
        if running && progress.elapsed() > PATIENCE {
            bar.suspend(|| println!("no job was done for {PATIENCE:?}: giving up"));
            running = false;
        }
        if !running {
            bar.finish_and_clear();
            return Ok(());
        }
        thread::sleep(POLL_INTERVAL);
    }
}
