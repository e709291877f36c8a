//! An allocator that counts separately for the threads that are marked as callers, and for all
//! others.

use std::sync::{Mutex, MutexGuard};

use anyhow::{Result, anyhow};
use serde::Serialize;
use tracking_allocator::{
    AllocationGroupId, AllocationGroupToken, AllocationRegistry, AllocationTracker, Allocator,
};

#[global_allocator]
static ALLOCATOR: Allocator<std::alloc::System> = Allocator::system();

static COUNTED: Mutex<Counted> = Mutex::new(Counted {
    shares: Shares {
        callers: Count {
            calls: 0.0,
            bytes: 0.0,
        },
        others: Count {
            calls: 0.0,
            bytes: 0.0,
        },
    },
    live: 0.0,
});

struct Counted {
    shares: Shares,
    live: f64,
}

fn counted() -> MutexGuard<'static, Counted> {
    COUNTED.lock().expect("nobody panics with it")
}

struct Tracker;

impl AllocationTracker for Tracker {
    fn allocated(&self, _: usize, size: usize, _: usize, group: AllocationGroupId) {
        let (size, mut counted) = (size as f64, counted());
        let count = match group {
            AllocationGroupId::ROOT => &mut counted.shares.others,
            _ => &mut counted.shares.callers,
        };
        count.calls += 1.0;
        count.bytes += size;
        counted.live += size;
    }

    fn deallocated(
        &self,
        _: usize,
        size: usize,
        _: usize,
        _: AllocationGroupId,
        _: AllocationGroupId,
    ) {
        counted().live -= size as f64;
    }
}

/// Allocations and their bytes: in total, or on average.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Count {
    #[serde(rename = "allocations")]
    pub(crate) calls: f64,
    pub(crate) bytes: f64,
}

impl Count {
    fn with(self, other: Count, combine: impl Fn(f64, f64) -> f64) -> Count {
        Count {
            calls: combine(self.calls, other.calls),
            bytes: combine(self.bytes, other.bytes),
        }
    }
}

/// The allocations of the callers and of all other threads.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Shares {
    pub(crate) callers: Count,
    others: Count,
}

impl Shares {
    pub(crate) fn now() -> Self {
        counted().shares
    }

    /// The average for each of `count`, since `before`.
    pub(crate) fn each_since(self, before: Shares, count: u64) -> Shares {
        let each = |now, before| (now - before) / count as f64;
        Shares {
            callers: self.callers.with(before.callers, each),
            others: self.others.with(before.others, each),
        }
    }

    /// Of the whole process.
    pub(crate) fn sum(self) -> Count {
        self.callers
            .with(self.others, |callers, others| callers + others)
    }
}

/// Bytes that were allocated while counting and are not freed yet.
pub(crate) fn live() -> f64 {
    counted().live
}

/// Installs the counters, which then do nothing until [`counting`].
pub(crate) fn install() -> Result<()> {
    AllocationRegistry::set_global_tracker(Tracker).map_err(|error| anyhow!("{error}"))
}

/// Counts only while `work` runs, so that timed work is not slowed down.
pub(crate) fn counting<T>(work: impl FnOnce() -> T) -> T {
    AllocationRegistry::enable_tracking();
    let result = work();
    AllocationRegistry::disable_tracking();
    result
}

/// Runs `work` on this thread as a caller's.
pub(crate) fn as_caller<T>(work: impl FnOnce() -> T) -> T {
    let mut token = AllocationGroupToken::register().expect("there are numbers left");
    let _entered = token.enter();
    work()
}
