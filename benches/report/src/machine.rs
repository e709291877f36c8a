//! What is controlled and measured on the machine: which processors are used, a clock that all
//! processes share, CPU time, wake-ups and memory.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use throwaway_postgres::Server;

/// Where server and clients may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Placement {
    /// Wherever the scheduler puts them.
    Free,
    /// All on one processor, as `taskset` would have it.
    OneCpu,
}

impl Placement {
    pub(crate) const ALL: [Placement; 2] = [Placement::Free, Placement::OneCpu];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Placement::Free => "any",
            Placement::OneCpu => "one",
        }
    }

    /// Restricts this thread, every thread and process that it starts from now on, and the
    /// server's future sessions to this placement. Undone when the result is dropped.
    pub(crate) fn apply(self, server: &Server) -> Result<Placed> {
        let all = sched_getaffinity(None)?;
        let postmaster = server.pid().and_then(Pid::from_raw);
        if self == Placement::OneCpu {
            let last = (0..CpuSet::MAX_CPU).rev().find(|&cpu| all.is_set(cpu));
            let mut one = CpuSet::new();
            one.set(last.context("no processor to run on")?);
            sched_setaffinity(None, &one)?;
            sched_setaffinity(postmaster, &one)?;
        }
        Ok(Placed { all, postmaster })
    }
}

/// See [`Placement::apply`].
pub(crate) struct Placed {
    all: CpuSet,
    postmaster: Option<Pid>,
}

impl Drop for Placed {
    fn drop(&mut self) {
        sched_setaffinity(None, &self.all).ok();
        sched_setaffinity(self.postmaster, &self.all).ok();
    }
}

/// Nanoseconds on the clock that all processes of the machine share.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// The CPU time that the process has used.
pub(crate) fn cpu_time(pid: i32) -> Result<Duration> {
    let schedstat = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let nanos = schedstat.split(' ').next().unwrap_or_default().parse()?;
    Ok(Duration::from_nanos(nanos))
}

/// How often the threads of this process whose name starts with `name` were woken, in total.
pub(crate) fn wake_ups(name: &str) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        if field(&status, "Name").starts_with(name) {
            sum += field(&status, "voluntary_ctxt_switches").parse::<u64>()?;
        }
    }
    Ok(sum)
}

/// The resident memory of the process `pid`, or of this one (`self`), in bytes.
pub(crate) fn resident(pid: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes = field(&status, "VmRSS").trim_end_matches(" kB");
    Ok(kilobytes.parse::<u64>()? * 1024)
}

/// The value of a line in a `status` file.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_default()
        .trim()
}
