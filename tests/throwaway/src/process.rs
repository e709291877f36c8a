//! Signals to the server's processes.

use std::io;

use rustix::process::{Pid, Signal, kill_process};

/// Stops a process, such as one server backend, until [`resume`].
pub fn pause(pid: i32) {
    signal(pid, Signal::STOP).expect("the process to pause is there");
}

/// Continues a [paused](pause) process. It is no error if it has ended.
pub fn resume(pid: i32) {
    signal(pid, Signal::CONT).ok();
}

pub(crate) fn signal(pid: i32, signal: Signal) -> io::Result<()> {
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("0 is not a process"))?;
    Ok(kill_process(pid, signal)?)
}
