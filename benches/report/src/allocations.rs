//! Counts allocations: of the threads that have said that they are callers, and of all
//! the others.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use anyhow::{Result, anyhow};
use tracking_allocator::{
    AllocationGroupId, AllocationGroupToken, AllocationRegistry, AllocationTracker, Allocator,
};

#[global_allocator]
static ALLOCATOR: Allocator<std::alloc::System> = Allocator::system();

static CALLER: Counter = Counter::new();
static OTHER: Counter = Counter::new();
static LIVE: AtomicI64 = AtomicI64::new(0);

struct Counter {
    calls: AtomicU64,
    bytes: AtomicU64,
}

impl Counter {
    const fn new() -> Self {
        Counter {
            calls: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    fn read(&self) -> Count {
        Count {
            calls: self.calls.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }
}

struct Tracker;

impl AllocationTracker for Tracker {
    fn allocated(&self, _: usize, size: usize, _: usize, group: AllocationGroupId) {
        let counter = if group == AllocationGroupId::ROOT {
            &OTHER
        } else {
            &CALLER
        };
        counter.calls.fetch_add(1, Relaxed);
        counter.bytes.fetch_add(size as u64, Relaxed);
        LIVE.fetch_add(size.cast_signed() as i64, Relaxed);
    }

    fn deallocated(
        &self,
        _: usize,
        size: usize,
        _: usize,
        _: AllocationGroupId,
        _: AllocationGroupId,
    ) {
        LIVE.fetch_sub(size.cast_signed() as i64, Relaxed);
    }
}

/// Allocations and their bytes.
#[derive(Clone, Copy)]
pub(crate) struct Count {
    pub(crate) calls: u64,
    pub(crate) bytes: u64,
}

impl Count {
    fn since(self, before: Count) -> Count {
        Count {
            calls: self.calls - before.calls,
            bytes: self.bytes - before.bytes,
        }
    }
}

/// What has been counted so far.
#[derive(Clone, Copy)]
pub(crate) struct Snapshot {
    pub(crate) caller: Count,
    pub(crate) other: Count,
}

impl Snapshot {
    pub(crate) fn take() -> Self {
        Snapshot {
            caller: CALLER.read(),
            other: OTHER.read(),
        }
    }

    pub(crate) fn since(self, before: Snapshot) -> Snapshot {
        Snapshot {
            caller: self.caller.since(before.caller),
            other: self.other.since(before.other),
        }
    }
}

/// Bytes that were allocated while counting and are still there.
pub(crate) fn live() -> i64 {
    LIVE.load(Relaxed)
}

/// Installs the counters, which then do nothing until [`counting`].
pub(crate) fn install() -> Result<()> {
    AllocationRegistry::set_global_tracker(Tracker).map_err(|error| anyhow!("{error}"))
}

/// Counts while `work` runs, and at no other time: what is timed is not counted.
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
