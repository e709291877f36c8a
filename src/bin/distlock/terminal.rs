//! The terminal's foreground: which process group reads from it, and gets its ^C and ^Z.
//!
//! The command has a process group of its own, so that it can be ended whole. To it that must look
//! as without us: it gets the foreground while it runs, as a shell gives it to its jobs.

use std::fs::File;
use std::os::fd::OwnedFd;

use nix::sys::signal::{SigSet, Signal};
use rustix::process::{Pid, getpgrp};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

/// The controlling terminal.
pub(crate) struct Terminal(OwnedFd);

impl Terminal {
    /// `None`: there is none.
    pub(crate) fn open() -> Option<Terminal> {
        let tty = File::options().read(true).write(true).open("/dev/tty");
        tty.ok().map(|file| Terminal(file.into()))
    }

    /// True if our process group is in the foreground.
    pub(crate) fn is_ours(&self) -> bool {
        tcgetpgrp(&self.0) == Ok(getpgrp())
    }

    /// True if `group` is in the foreground.
    pub(crate) fn is_of(&self, group: Pid) -> bool {
        tcgetpgrp(&self.0) == Ok(group)
    }

    /// Puts `group` into the foreground. Without effect if the terminal has gone.
    pub(crate) fn give(&self, group: Pid) {
        // A group in the background is stopped by this signal for the attempt.
        let signals = SigSet::from(Signal::SIGTTOU);
        if signals.thread_block().is_ok() {
            tcsetpgrp(&self.0, group).ok();
            signals.thread_unblock().ok();
        }
    }
}
