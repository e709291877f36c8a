//! The process that becomes the command.

use std::ffi::{CStr, OsString};
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use rustix::thread::set_name;

use crate::exit::{Exit, Failure};
use crate::messages;

/// What the process is called until it has become the command, by which the guardian tells that
/// it has not. No program's file has such a name.
pub(super) const NAME: &CStr = c"distlock/exec";

/// Arguments: the guardian's process id, and the command.
pub(crate) fn exec(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    set_name(NAME).ok();
    let guardian = args.next().and_then(|arg| arg.to_str()?.parse().ok());
    let Some(command) = args.next() else {
        return Exit::FAILURE.into();
    };
    // A guardian that is killed takes the command with it, if not what the command has started.
    set_parent_process_death_signal(Some(Signal::KILL)).ok();
    if getppid() != guardian.and_then(Pid::from_raw) {
        // It was killed before.
        return Exit::FAILURE.into();
    }
    let error = Command::new(&command).args(args).exec();
    let exit = match error.kind() {
        ErrorKind::NotFound => Exit::NOT_FOUND,
        _ => Exit::CANNOT_START,
    };
    let what = format!("{} cannot be started: {error}", command.display());
    messages::error(&Failure::new(exit, what));
    exit.into()
}
