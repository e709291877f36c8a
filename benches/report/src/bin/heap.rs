//! A heap profile of a lock + unlock pair that shows what is allocated, and where: the
//! bare client reading a row, the bare client counting rows, and the manager.
//!
//! The worker's allocations are the driver's: none is made by a line of distlock's own.
#![expect(clippy::cast_precision_loss, reason = "figures are rounded to be read")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Parser;
use comfy_table::Table;
use distlock::Manager;
use serde::Deserialize;
use subjects::{BareClient, Subject};
use throwaway_postgres::Server;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const PAIRS: i64 = 5_000;

/// Shows what a lock + unlock pair allocates.
#[derive(Parser)]
struct Args {
    /// Where the tables are written.
    #[arg(long, default_value = "benches/results")]
    results: PathBuf,

    /// A folder to keep the profiles in, for dhat's viewer. Default: they are not kept.
    #[arg(long)]
    profiles: Option<PathBuf>,
}

/// The parts of dhat's file format that are read here: program points, and the frames that
/// they refer to.
#[derive(Deserialize)]
struct Profile {
    pps: Vec<Point>,
    ftbl: Vec<String>,
}

#[derive(Deserialize)]
struct Point {
    /// Bytes and blocks in all.
    tb: u64,
    tbk: u64,
    fs: Vec<usize>,
}

#[expect(
    clippy::print_stdout,
    reason = "the tables are what the program is for"
)]
fn main() -> Result<()> {
    let args = Args::parse();
    fs::create_dir_all(&args.results)?;
    let passing = tempfile::tempdir()?;
    let folder = args.profiles.as_deref().unwrap_or(passing.path());
    fs::create_dir_all(folder)?;
    let server = Server::start()?;
    let url = server.url();

    let mut reading = BareClient::reading_rows(&url)?;
    let mut text = profile(folder, "bare client, reading a row", &mut reading)?;
    let mut counting = BareClient::connect(&url)?;
    text += &profile(folder, "bare client, counting rows", &mut counting)?;
    let mut mgr = Manager::connect(&url)?;
    text += &profile(folder, "distlock", &mut mgr)?;
    mgr.close()?;
    print!("{text}");
    fs::write(args.results.join("heap.md"), text)?;
    Ok(())
}

/// Profiles pairs after warm-up.
fn profile(folder: &Path, name: &str, subject: &mut dyn Subject) -> Result<String> {
    subject.pairs(0..1000)?;
    let file = folder.join(format!("{}.json", name.replace([',', ' '], "-")));
    let profiler = dhat::Profiler::builder()
        .file_name(&file)
        .trim_backtraces(Some(24))
        .build();
    subject.pairs(1000..1000 + PAIRS)?;
    drop(profiler);
    Ok(describe(name, &serde_json::from_slice(&fs::read(&file)?)?))
}

fn describe(name: &str, profile: &Profile) -> String {
    let mut sites: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for point in &profile.pps {
        let frames = point.fs.iter().map(|&frame| profile.ftbl[frame].as_str());
        let sum = sites.entry(site(frames)).or_default();
        sum.0 += point.tbk;
        sum.1 += point.tb;
    }
    let mut sites: Vec<_> = sites.into_iter().collect();
    sites.sort_by_key(|(_, (blocks, _))| std::cmp::Reverse(*blocks));
    let each = |sum: u64| sum as f64 / PAIRS as f64;
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::ASCII_MARKDOWN)
        .set_header(["allocations a pair", "bytes a pair", "where"]);
    let (mut blocks, mut bytes) = (0, 0);
    for (site, sum) in &sites {
        (blocks, bytes) = (blocks + sum.0, bytes + sum.1);
        if each(sum.1) >= 0.5 {
            table.add_row([
                format!("{:.2}", each(sum.0)),
                format!("{:.0}", each(sum.1)),
                site.clone(),
            ]);
        }
    }
    let mut text = format!(
        "## {name}: {:.2} allocations, {:.0} bytes a pair\n\n",
        each(blocks),
        each(bytes)
    );
    writeln!(text, "{table}\n").expect("a String takes everything");
    text
}

/// What is allocated, and the line of the crate that allocates it. A frame reads
/// `0x55d1: new<Node<Request>> (tokio-postgres-0.7.18/src/client.rs:97:34)`; the paths of
/// the standard library and of deeply inlined code have no version in them.
fn site<'a>(frames: impl Iterator<Item = &'a str>) -> String {
    let frames: Vec<(&str, &str)> = frames
        .filter_map(|frame| frame.split_once(": ")?.1.rsplit_once(" ("))
        .filter(|(_, place)| !place.starts_with("dhat-"))
        .collect();
    let made = frames
        .iter()
        .filter_map(|(name, _)| name.split_once('<'))
        .map(|(_, types)| types.replace(", alloc::alloc::Global", ""))
        .find(|types| !types.starts_with("alloc::alloc::Global") && !types.starts_with("dhat"))
        .unwrap_or_else(|| "?>".to_owned());
    let made = made.strip_suffix('>').unwrap_or(&made);
    let versioned = |place: &str| {
        let name = place.split('/').next().unwrap_or_default();
        name.rsplit_once('-')
            .is_some_and(|(_, version)| version.starts_with(|c: char| c.is_ascii_digit()))
    };
    let place = frames
        .iter()
        .map(|(_, place)| place.rsplit_once(':').map_or(*place, |(line, _)| line))
        .find(|place| versioned(place))
        .unwrap_or("?");
    format!("`{}`, {place}", shorter(made))
}

/// Types without their module paths.
fn shorter(types: &str) -> String {
    let mut text = String::new();
    for word in types.split_inclusive(|c: char| !c.is_alphanumeric() && c != '_' && c != ':') {
        text += word.rsplit_once("::").map_or(word, |(_, name)| name);
    }
    text
}
