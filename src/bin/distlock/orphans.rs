//! Children that others have left to us: as the first process of a container, and as a subreaper.

use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};

/// The process id of the guardian, which its handle reaps.
static GUARDIAN: AtomicI32 = AtomicI32::new(0);

pub(crate) fn leave(guardian: i32) {
    GUARDIAN.store(guardian, Ordering::SeqCst);
}

/// Reaps those that have ended.
pub(crate) fn reap() {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(status) = waitid(Id::All, peek)
        && let Some(pid) = status.pid()
        && pid.as_raw() != GUARDIAN.load(Ordering::SeqCst)
    {
        waitpid(pid, None).ok();
    }
}
