//! A clock that two processes read alike, and that runs on while the machine is suspended.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since the machine was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BootTime(pub(crate) Duration);

impl BootTime {
    /// Later than anything.
    pub(crate) const NEVER: BootTime = BootTime(Duration::from_nanos(u64::MAX));

    pub(crate) fn now() -> BootTime {
        let now = clock_gettime(ClockId::Boottime);
        // Neither is negative.
        let (seconds, nanos) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
        BootTime(Duration::from_secs(seconds) + Duration::from_nanos(nanos))
    }

    pub(crate) fn after(self, time: Duration) -> BootTime {
        BootTime(self.0.saturating_add(time)).min(BootTime::NEVER)
    }

    pub(crate) fn before(self, time: Duration) -> BootTime {
        match self {
            BootTime::NEVER => BootTime::NEVER,
            BootTime(at) => BootTime(at.saturating_sub(time)),
        }
    }

    /// Nanoseconds, for a message to another process.
    pub(crate) fn as_nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    pub(crate) fn from_nanos(nanos: u64) -> BootTime {
        BootTime(Duration::from_nanos(nanos))
    }
}
