//! The manager under test.

use std::iter::StepBy;
use std::ops::{Range, RangeFrom};
use std::thread;

use anyhow::Result;
use distlock::Manager;

use crate::subject::{More, Subject};

/// The first key of a load. No other subject uses it: the last unlock may still be pending when
/// the next subject begins.
const KEYS: i64 = 1 << 40;

impl Subject for Manager {
    fn name(&self) -> &'static str {
        "distlock"
    }

    fn pairs(&mut self, keys: Range<i64>) -> Result<()> {
        pairs(self, keys)
    }

    fn load(&mut self, tasks: u32, more: &More) -> Result<()> {
        let results = spread(tasks, KEYS, |keys| pairs(self, keys.take_while(|_| more())));
        results.into_iter().collect()
    }
}

/// Locks and unlocks each key, and does not wait for the last unlock. With one key in
/// place of many the lock would be handed on inside the process, without the server.
pub fn pairs(mgr: &Manager, keys: impl IntoIterator<Item = i64>) -> Result<()> {
    for key in keys {
        drop(mgr.lock(key)?);
    }
    Ok(())
}

/// Runs `work` in that many threads, and gives each keys from `first` on that no other thread
/// has.
pub fn spread<T: Send>(
    threads: u32,
    first: i64,
    work: impl Fn(StepBy<RangeFrom<i64>>) -> T + Sync,
) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (first..first + i64::from(threads))
            .map(|key| (key..).step_by(threads as usize))
            .map(|keys| scope.spawn(move || work(keys)))
            .collect();
        let results = threads.into_iter().map(|thread| thread.join());
        results
            .map(|result| result.expect("it returns its errors"))
            .collect()
    })
}
