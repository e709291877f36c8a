//! Children that others have left to us: as the first process of a container, and as a subreaper.

use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};

/// The process id of the guardian, which its handle reaps.
static GUARDIAN: AtomicI32 = AtomicI32::new(0);

pub(crate) fn leave(guardian: i32) {
    GUARDIAN.store(guardian, Ordering::SeqCst);
}

/// Reaps those that have ended.
pub(crate) fn reap() {
    while let Ok(status) = ended()
        && let Some(pid) = status.pid()
        && pid.as_raw() != GUARDIAN.load(Ordering::SeqCst)
    {
        waitpid(pid, None).ok();
    }
}

/// How a child has ended that is not reaped yet. Without a process id: none has. An error if there are
/// no children.
pub(crate) fn ended() -> Result<WaitStatus, Errno> {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::All, peek)
}
