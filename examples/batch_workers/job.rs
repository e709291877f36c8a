//! One job: count the words of a text, and which follow which.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Plan;

const WORDS: usize = 15_000;

/// After how many words the work asks whether it may go on.
const STRIDE: usize = 1_000;

pub(crate) fn write_inputs(folder: &Path, plan: &Plan) -> io::Result<()> {
    for name in ["in", "out"] {
        fs::create_dir(folder.join(name))?;
    }
    let mut state = plan.seed | 1;
    for job in 0..plan.jobs {
        let mut text = String::with_capacity(WORDS * 6);
        for _ in 0..WORDS {
            // xorshift64 (Marsaglia 2003): any spread of words will do.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            write!(text, "w{} ", state % 997).map_err(io::Error::other)?;
        }
        fs::write(input(folder, job), text)?;
    }
    Ok(())
}

fn input(folder: &Path, job: u32) -> PathBuf {
    folder.join("in").join(format!("{job}.txt"))
}

fn output(folder: &Path, job: u32) -> PathBuf {
    folder.join("out").join(format!("{job}.txt"))
}

pub(crate) fn is_done(folder: &Path, job: u32) -> bool {
    output(folder, job).exists()
}

/// Does the work; `None` if `go_on` said no.
pub(crate) fn work(
    folder: &Path,
    job: u32,
    go_on: impl Fn() -> bool,
) -> io::Result<Option<String>> {
    let text = fs::read_to_string(input(folder, job))?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for (n, pair) in words.windows(2).enumerate() {
        if n % STRIDE == 0 && !go_on() {
            return Ok(None);
        }
        *counts.entry((pair[0], pair[1])).or_default() += 1;
        *counts.entry((pair[0], "")).or_default() += 1;
    }
    let mut result = String::new();
    for ((first, second), count) in counts {
        writeln!(result, "{first} {second} {count}").map_err(io::Error::other)?;
    }
    Ok(Some(result))
}

/// Puts the result where it counts, whole or not at all.
pub(crate) fn publish(folder: &Path, job: u32, who: &str, result: &str) -> io::Result<()> {
    let draft = folder.join("out").join(format!("{job}.{who}.draft"));
    fs::write(&draft, result)?;
    fs::rename(draft, output(folder, job))
}

/// Is the published result that of the input?
pub(crate) fn is_right(folder: &Path, job: u32) -> io::Result<bool> {
    let right = work(folder, job, || true)?.unwrap_or_default();
    Ok(fs::read_to_string(output(folder, job)).is_ok_and(|found| found == right))
}
