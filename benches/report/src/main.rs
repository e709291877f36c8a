//! Measures distlock against its targets, each beside its baseline in the same run, and
//! prints one table of ratios. The table, the raw figures and the plots go to
//! `benches/results`.
//!
//! Every target is measured twice where that makes sense: with server and clients wherever the
//! scheduler puts them, and with all of them on one processor, which removes most of the
//! variance from a comparison.
#![expect(clippy::cast_precision_loss, reason = "figures are rounded to be read")]

mod allocations;
mod allocator;
mod command;
mod fenced;
mod machine;
mod measure;
mod pair;
mod pgbench;
mod plots;
mod process;
mod readers;
mod session;
mod setup;
mod several;
mod standby;
mod stats;
mod table;
mod throughput;
mod turns;
mod waiting;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use comfy_table::presets::{ASCII_MARKDOWN, UTF8_FULL_CONDENSED};
use serde_json::json;

use crate::machine::Placement;
use crate::setup::Setup;

/// Measures distlock against its targets.
#[derive(Parser)]
struct Args {
    /// A smoke run of about a minute: every scenario, but with imprecise figures.
    #[arg(long)]
    quick: bool,

    /// Only some of the targets. Nothing is written.
    #[arg(long)]
    only: Option<Only>,

    /// Where the table, the raw figures and the plots are written.
    #[arg(long, default_value = "benches/results")]
    results: PathBuf,

    /// Run as another process, on this server.
    #[arg(long, hide = true, requires = "key")]
    process: Option<String>,

    /// The lock that the other process takes.
    #[arg(long, hide = true)]
    key: Option<i64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    /// Target 8, how processes wait for each other: in two minutes.
    Turns,
    /// Target 9, fenced transactions: in some seconds.
    Fenced,
    /// Target 10, several locks at once: in a minute.
    Several,
    /// Target 11, the command `distlock`: in some seconds.
    Command,
}

fn main() -> Result<()> {
    let args = Args::parse();
    match (&args.process, args.key) {
        (Some(url), Some(key)) => process::serve(url, key),
        _ => report(&args),
    }
}

#[expect(clippy::print_stdout, reason = "the table is what the program is for")]
fn report(args: &Args) -> Result<()> {
    let start = Instant::now();
    let mut setup = Setup::start(args.quick, args.results.clone())?;
    if args.only.is_none() {
        allocator::install()?;
        fs::create_dir_all(&args.results)?;
        allocations::run(&mut setup)?;
        pair::fencing(&mut setup)?;
        session::memory(&mut setup)?;
        session::idle(&mut setup)?;
    }
    for placement in Placement::ALL {
        setup.placement = placement;
        let placed = placement.apply(&setup.server)?;
        if args.only.is_none() {
            pair::latency(&mut setup)?;
            throughput::run(&mut setup)?;
            waiting::run(&mut setup)?;
            session::loss(&mut setup)?;
            session::held(&mut setup)?;
            session::acquire_many(&mut setup)?;
        }
        if matches!(args.only, None | Some(Only::Turns)) {
            standby::run(&mut setup)?;
            turns::run(&mut setup)?;
            readers::run(&mut setup)?;
        }
        drop(placed);
    }
    setup.placement = Placement::Free;
    if matches!(args.only, None | Some(Only::Fenced)) {
        fenced::run(&mut setup)?;
    }
    if matches!(args.only, None | Some(Only::Several)) {
        several::run(&mut setup)?;
    }
    if matches!(args.only, None | Some(Only::Command)) {
        command::run(&mut setup)?;
    }

    table::sort(&mut setup.rows);
    let version: String = setup
        .server
        .client()
        .query_one("SHOW server_version", &[])?
        .get(0);
    let processors = std::thread::available_parallelism()?;
    let about = format!(
        "PostgreSQL {version}, unix socket, {processors} processors. CPU: server and clients \
         on any, or all on one."
    );
    let missed = setup.rows.iter().filter(|row| row.is_missed()).count();
    let sum = format!(
        "{} figures, {missed} missed, in {} s{}",
        setup.rows.len(),
        start.elapsed().as_secs(),
        if args.quick { " (a smoke run)" } else { "" }
    );
    let table = table::draw(&setup.rows, UTF8_FULL_CONDENSED);
    println!("{table}\n{about}\n{sum}");
    if args.only.is_some() {
        return Ok(());
    }
    let mut table = table::draw(&setup.rows, ASCII_MARKDOWN);
    let text = format!("{about}\n\n{}\n\n{sum}\n", table.force_no_tty());
    fs::write(args.results.join("table.md"), text)?;
    let raw =
        json!({ "about": about, "quick": args.quick, "figures": setup.raw, "table": setup.rows });
    fs::write(
        args.results.join("raw.json"),
        serde_json::to_string_pretty(&raw)?,
    )?;
    Ok(())
}
