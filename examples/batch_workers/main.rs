//! Worker processes share a list of jobs by lock, while things break.
//!
//! Each job counts the words of one text file. Several processes with several threads go
//! through the list; whoever gets a job's lock and finds no result does it. Meanwhile one
//! process is killed, one database session is terminated and the server is restarted. At
//! the end the files themselves tell whether every job was done, and none by two at once.
//!
//! `DATABASE_URL` names the database, which is then not restarted; without it a throwaway
//! server is started.
// An example speaks on the terminal.
#![allow(clippy::print_stdout)]

mod faults;
mod job;
mod journal;
mod verdict;
mod worker;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use throwaway_postgres::Server;

use crate::faults::Faults;

/// Worker processes share a list of jobs by lock, while things break.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    plan: Plan,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Args, Clone)]
struct Plan {
    /// Worker processes.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..100))]
    processes: u16,
    /// Threads in each.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..100))]
    threads: u16,
    /// Jobs to do.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(4..100_000))]
    jobs: u32,
    /// For the texts.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Has the workers ignore the locks, to see that the verdict can be bad.
    #[arg(long, hide = true)]
    lawless: bool,
}

#[derive(Subcommand)]
enum Role {
    /// One of the worker processes, started by the demo itself.
    #[command(hide = true)]
    Worker {
        folder: PathBuf,
        url: String,
        number: u16,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let Cli { plan, role } = Cli::parse();
    match role {
        Some(Role::Worker {
            folder,
            url,
            number,
        }) => worker::run(&plan, &folder, &url, number).map(|()| ExitCode::SUCCESS),
        None => demo(&plan),
    }
}

fn demo(plan: &Plan) -> anyhow::Result<ExitCode> {
    let url = std::env::var("DATABASE_URL").ok();
    let server = url.is_none().then(Server::start).transpose()?;
    let url = url.unwrap_or_else(|| server.as_ref().map(Server::url).unwrap_or_default());
    let folder = tempfile::tempdir()?;
    job::write_inputs(folder.path(), plan)?;

    println!(
        "{} jobs for {} processes with {} threads each",
        plan.jobs, plan.processes, plan.threads
    );
    let mut workers = (0..plan.processes)
        .map(|number| Worker::start(plan, folder.path(), &url, number))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut faults = Faults::new(plan, &url, server.as_ref())?;
    watch(plan, folder.path(), &mut workers, &mut faults)?;

    let ends = workers
        .iter_mut()
        .map(|worker| Ok(worker.0.wait()?))
        .collect::<anyhow::Result<Vec<ExitStatus>>>()?;
    let verdict = verdict::reach(plan, folder.path(), &ends, faults.times())?;
    println!("{verdict}");
    Ok(if verdict.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Shows the progress and lets things break, until every job is done or nobody is left
/// to do it.
fn watch(
    plan: &Plan,
    folder: &Path,
    workers: &mut [Worker],
    faults: &mut Faults<'_>,
) -> anyhow::Result<()> {
    let bar = ProgressBar::with_draw_target(Some(plan.jobs.into()), ProgressDrawTarget::stderr())
        .with_style(ProgressStyle::with_template(
            "{wide_bar} {pos}/{len} jobs, {elapsed}",
        )?);
    loop {
        let done = (0..plan.jobs)
            .filter(|&job| job::is_done(folder, job))
            .count();
        bar.set_position(done as u64);
        if let Some(news) = faults.strike(done, workers)? {
            // Where there is no terminal, the bar shows nothing.
            if bar.is_hidden() {
                println!("{news}");
            } else {
                bar.println(news);
            }
        }
        let mut running = false;
        for worker in workers.iter_mut() {
            running |= worker.0.try_wait()?.is_none();
        }
        if done == plan.jobs as usize || !running {
            bar.finish();
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20)); // how often to look at the files
    }
}

/// A worker process; it does not outlive the demo.
struct Worker(Child);

impl Worker {
    fn start(plan: &Plan, folder: &Path, url: &str, number: u16) -> anyhow::Result<Worker> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["--processes", &plan.processes.to_string()])
            .args(["--threads", &plan.threads.to_string()])
            .args(["--jobs", &plan.jobs.to_string()])
            .args(plan.lawless.then_some("--lawless"))
            .arg("worker")
            .arg(folder)
            .arg(url)
            .arg(number.to_string())
            .stdin(Stdio::null());
        let child = command.spawn().context("cannot start a worker process")?;
        Ok(Worker(child))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // One that has ended is past killing, and that is well.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
