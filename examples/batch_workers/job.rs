//! One job: count which word follows which in a text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::iter;
use std::path::{Path, PathBuf};

use crate::Plan;

/// Words in a text.
const LENGTH: usize = 80_000;

/// How many words are distinct.
const VOCABULARY: usize = 97;

/// After how many words the work checks whether it may continue.
const STRIDE: usize = 1_000;

pub(crate) fn write_inputs(folder: &Path, plan: &Plan) -> io::Result<()> {
    for name in ["in", "out"] {
        fs::create_dir(folder.join(name))?;
    }
    for job in 0..plan.jobs {
        let mut text = String::with_capacity(LENGTH * 4);
        for word in words(plan.seed, job) {
            write!(text, "w{word} ").map_err(io::Error::other)?;
        }
        fs::write(input(folder, job), text)?;
    }
    Ok(())
}

/// The words of a job's text, as numbers.
fn words(seed: u64, job: u32) -> impl Iterator<Item = usize> {
    // xorshift64 (Marsaglia 2003) with a seed other than 0: any distribution of words will do.
    let begin = (seed ^ u64::from(job) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |state: &u64| {
        let mut state = *state;
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some(state)
    };
    iter::successors(Some(begin), step)
        .skip(1)
        .map(|state| (state >> 32) as usize % VOCABULARY)
        .take(LENGTH)
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

/// Does the work; `None` if `go_on` returned false.
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
    }
    let mut result = String::new();
    for ((first, second), count) in counts {
        writeln!(result, "{first} {second} {count}").map_err(io::Error::other)?;
    }
    Ok(Some(result))
}

/// Publishes the result atomically.
pub(crate) fn publish(folder: &Path, job: u32, who: &str, result: &str) -> io::Result<()> {
    let draft = folder.join("out").join(format!("{job}.{who}.draft"));
    fs::write(&draft, result)?;
    fs::rename(draft, output(folder, job))
}

/// True if the published result is right. It is counted again in another way: from the seed
/// and not from the text, in a matrix and not in a tree.
pub(crate) fn is_right(folder: &Path, plan: &Plan, job: u32) -> bool {
    let words: Vec<usize> = words(plan.seed, job).collect();
    let mut counts = vec![0; VOCABULARY * VOCABULARY];
    for pair in words.windows(2) {
        counts[pair[0] * VOCABULARY + pair[1]] += 1;
    }
    let result = fs::read_to_string(output(folder, job)).unwrap_or_default();
    let all_true = result.lines().all(|line| {
        parse(line).is_some_and(|(first, second, claim)| {
            // Removed, so that a second line for the same pair is wrong.
            let count = counts.get_mut(first * VOCABULARY + second);
            count.is_some_and(|count| std::mem::take(count) == claim)
        })
    });
    all_true && result.lines().is_sorted() && counts.iter().all(|&count| count == 0)
}

fn parse(line: &str) -> Option<(usize, usize, u32)> {
    let mut fields = line.split(' ');
    let mut word = || fields.next()?.strip_prefix('w')?.parse().ok();
    let (first, second) = (word()?, word()?);
    Some((first, second, fields.next()?.parse().ok()?))
}
