//! Signals: which are passed on to the command, and how they arrive.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use crossbeam_channel::{Receiver, unbounded};
use rustix::process::{getpid, getsid};
use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU,
    SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::Cause;

use crate::orphans;

/// Those that ask a program to end.
const ENDING: [i32; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];

/// The others that the command gets.
const OTHERS: [i32; 4] = [SIGUSR1, SIGUSR2, SIGALRM, SIGWINCH];

/// Those that a terminal sends. From the kernel comes also the one that alarm(2) has asked for.
const OF_TERMINALS: [i32; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGWINCH];

/// Those that ask a program to end and are not ignored.
pub(crate) fn ending() -> Vec<i32> {
    not_ignored(ENDING.into_iter())
}

/// A signal that has arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    pub(crate) number: i32,
    /// The terminal has sent it, to all of its foreground.
    pub(crate) is_of_terminal: bool,
}

/// True if a signal of the kernel's has come to all of the terminal's foreground. A terminal that hangs up
/// tells only the first process of its session, whose end then tells the others.
fn is_of_terminal(signal: i32) -> bool {
    let is_first = || getsid(None) == Ok(getpid());
    OF_TERMINALS.contains(&signal) && !(signal == SIGHUP && is_first())
}

impl Arrived {
    /// True if a wait ends with it.
    pub(crate) fn is_ending(self) -> bool {
        ENDING.contains(&self.number)
    }
}

/// The signals for the command that arrive from now on. Not those that are ignored, as with nohup(1)
/// or in the background of a script: the command, too, is to ignore them.
pub(crate) fn listen() -> io::Result<Receiver<Arrived>> {
    let wanted = not_ignored(ENDING.into_iter().chain(OTHERS).chain([SIGCHLD]));
    let mut signals = SignalsInfo::<WithOrigin>::new(wanted)?;
    let (sender, receiver) = unbounded();
    let spawned = thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for origin in signals.forever() {
                if origin.signal == SIGCHLD {
                    orphans::reap();
                    continue;
                }
                let arrived = Arrived {
                    number: origin.signal,
                    is_of_terminal: matches!(origin.cause, Cause::Kernel)
                        && is_of_terminal(origin.signal),
                };
                if sender.send(arrived).is_err() {
                    break;
                }
            }
        });
    spawned.map(|_| receiver)
}

/// From now on no signal does anything. A program that is started later gets the default actions
/// back.
pub(crate) fn ignore() -> io::Result<()> {
    let stopping = [SIGPIPE, SIGTSTP, SIGTTIN, SIGTTOU];
    let unused = Arc::new(AtomicBool::new(false));
    for signal in not_ignored(ENDING.into_iter().chain(OTHERS).chain(stopping)) {
        signal_hook::flag::register(signal, Arc::clone(&unused))?;
    }
    Ok(())
}

/// Without those that this process was started to ignore.
fn not_ignored(signals: impl Iterator<Item = i32>) -> Vec<i32> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = ignored(&status);
    signals
        .filter(|signal| ignored >> (signal - 1) & 1 == 0)
        .collect()
}

/// The mask of ignored signals.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status = "Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000002\n";
        assert_eq!(ignored(status), 0x1001);
        assert_eq!(ignored(""), 0);
    }
}
