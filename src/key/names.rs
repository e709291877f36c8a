//! The names that keys were made from, for the log: a key itself is only a number.
//!
//! Kept for the whole program, because a key is made without a manager; and only once a manager
//! has asked for it, as many as were made last.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

/// So many names are kept, and so many characters of each.
const MOST: usize = 4096;
const LONGEST: usize = 128;

static IS_WANTED: AtomicBool = AtomicBool::new(false);
static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Names {
    by_number: HashMap<i64, Box<str>>,
    /// From the oldest on.
    numbers: VecDeque<i64>,
}

impl Names {
    fn put(&mut self, number: i64, name: &str) {
        if self.by_number.contains_key(&number) {
            return;
        }
        if self.numbers.len() == MOST
            && let Some(oldest) = self.numbers.pop_front()
        {
            self.by_number.remove(&oldest);
        }
        let name: String = name.chars().take(LONGEST).collect();
        self.by_number.insert(number, name.into());
        self.numbers.push_back(number);
    }
}

fn names() -> std::sync::MutexGuard<'static, Names> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps names from now on.
pub(crate) fn keep() {
    IS_WANTED.store(true, Ordering::Relaxed);
}

/// Notes that the key `number` was made from `name`.
pub(super) fn note(number: i64, name: &str) {
    if IS_WANTED.load(Ordering::Relaxed) {
        names().put(number, name);
    }
}

/// The same, with a name that has to be made.
pub(super) fn note_with(number: i64, name: impl FnOnce() -> String) {
    if IS_WANTED.load(Ordering::Relaxed) {
        names().put(number, &name());
    }
}

/// Notes that the key `number` is in a namespace what `original` is without one.
pub(super) fn alias(number: i64, original: i64) {
    if IS_WANTED.load(Ordering::Relaxed) {
        let mut names = names();
        if let Some(name) = names.by_number.get(&original).cloned() {
            names.put(number, &name);
        }
    }
}

/// The name that the key `number` was made from, if it was and is kept.
pub(super) fn get(number: i64) -> Option<Box<str>> {
    names().by_number.get(&number).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_names_are_kept_and_not_too_long() {
        let mut names = Names::default();
        for number in 0..2 * MOST {
            let number = i64::try_from(number).expect("it is small");
            names.put(number, &"é".repeat(2 * LONGEST));
            names.put(number, "another");
        }
        assert_eq!((names.by_number.len(), names.numbers.len()), (MOST, MOST));
        assert_eq!(*names.by_number[&5000], *"é".repeat(LONGEST));
        assert!(!names.by_number.contains_key(&1));
    }
}
