//! Runs the soak test, or one of its workers.
// A command-line tool prints to the terminal.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use soak::check::check;
use soak::driver::{self, Plan};
use soak::worker::{self, Broken, Role};

/// Processes that lock while faults are injected, and a checker of their journals.
#[derive(Parser)]
struct Cli {
    /// How long to run; every kind of fault occurs at least once in any case
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Seed for the order of the faults; random by default
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..50))]
    processes: u32,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..))]
    threads: u16,
    /// Makes the workers use a broken lock
    #[arg(long)]
    broken: Option<Broken>,
    #[command(subcommand)]
    role: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// One of the processes, started by the soak test itself
    #[command(hide = true)]
    Worker(Role),
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    if let Some(Command::Worker(role)) = cli.role {
        worker::run(&role)?;
        return Ok(ExitCode::SUCCESS);
    }
    let plan = Plan {
        program: std::env::current_exe()?,
        processes: cli.processes,
        threads: cli.threads.into(),
        length: Duration::from_secs(60 * cli.minutes),
        seed: cli.seed.unwrap_or_else(|| fastrand::u64(..)),
        broken: cli.broken,
    };
    println!("seed {}", plan.seed);
    let history = driver::run(&plan, |fault| println!("{fault}"))?;
    let findings = check(&history, &driver::rules(&plan));
    println!("{findings}");
    Ok(if findings.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
