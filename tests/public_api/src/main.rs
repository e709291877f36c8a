//! Compares the crate's public API, with all features, with `docs/public-api.txt`, so that it
//! changes on purpose only. With `--write` that file is written instead.
// A tool for the terminal.
#![allow(clippy::print_stdout)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

/// The oldest of rustdoc's formats that `public_api` reads.
const OLDEST_FORMAT: u32 = 57;

/// Traits that are not stable, or that no code can name. Which of them rustdoc lists depends
/// on the toolchain.
const UNSTABLE: [&str; 3] = [
    "core::marker::Freeze",
    "core::marker::StructuralPartialEq",
    "core::marker::UnsafeUnpin",
];

/// Pages of the documentation, which exist in nothing but the documentation.
const PAGES: [&str; 2] = ["pub mod distlock::guarantees", "pub mod distlock::capacity"];

fn main() -> anyhow::Result<ExitCode> {
    let write = match &std::env::args().skip(1).collect::<Vec<_>>()[..] {
        [] => false,
        [option] if option == "--write" => true,
        _ => bail!("the only option is --write"),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let file = root.join("docs/public-api.txt");
    let json = rustdoc_json(&root)?;
    let format = format_of(&json)?;
    let readable = OLDEST_FORMAT..=rustdoc_types::FORMAT_VERSION;
    if !readable.contains(&format) {
        let why = format!(
            "this toolchain's rustdoc writes JSON in format {format}, and public-api reads {} to {}",
            readable.start(),
            readable.end()
        );
        ensure!(!write, why);
        println!("skipped: the list of the public API: {why}");
        return Ok(ExitCode::SUCCESS);
    }
    let present = list(&json)?;
    if write {
        fs::write(&file, present).context("cannot write docs/public-api.txt")?;
        return Ok(ExitCode::SUCCESS);
    }
    let listed = fs::read_to_string(&file).context("cannot read docs/public-api.txt")?;
    if present == listed {
        println!("the public API is as docs/public-api.txt has it");
        return Ok(ExitCode::SUCCESS);
    }
    println!("the public API is not as docs/public-api.txt has it (-: listed, +: present):");
    show_difference(&listed, &present);
    println!("if that is on purpose, `make api` rewrites the list: commit it with the change");
    Ok(ExitCode::FAILURE)
}

/// Has rustdoc describe the crate. Returns the file in which it did.
fn rustdoc_json(root: &Path) -> anyhow::Result<PathBuf> {
    // The folder that this program was built in, for what is built there already.
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).context("no build folder")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["rustdoc", "--quiet", "--locked", "--package", "distlock"])
        .args(["--lib", "--all-features", "--target-dir"])
        .arg(target)
        .args(["--", "-Z", "unstable-options", "--output-format", "json"])
        .env("RUSTDOC", root.join("scripts/unstable-rustdoc"))
        .current_dir(root)
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "cargo rustdoc: {status}");
    Ok(target.join("doc/distlock.json"))
}

fn format_of(json: &Path) -> anyhow::Result<u32> {
    #[derive(Deserialize)]
    struct Crate {
        format_version: u32,
    }
    let text = fs::read_to_string(json).with_context(|| format!("no {}", json.display()))?;
    let described: Crate = serde_json::from_str(&text)?;
    Ok(described.format_version)
}

/// The public API, an item on each line.
fn list(json: &Path) -> anyhow::Result<String> {
    let api = public_api::Builder::from_rustdoc_json(json)
        .omit_blanket_impls(true)
        .build()?;
    let items = api.items().map(|item| format!("{item}\n"));
    let is_listed = |item: &String| {
        !PAGES.contains(&item.trim_end()) && !UNSTABLE.iter().any(|name| item.contains(name))
    };
    Ok(items.filter(is_listed).collect())
}

fn show_difference(listed: &str, present: &str) {
    let [old, new] = [listed, present].map(|text| text.lines().collect::<BTreeSet<_>>());
    for item in old.difference(&new) {
        println!("- {item}");
    }
    for item in new.difference(&old) {
        println!("+ {item}");
    }
}
