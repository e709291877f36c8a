//! `distlock run`: a program under a lock.

mod obtain;
pub(crate) mod options;
mod outcome;
mod supervise;

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use sd_notify::NotifyState;

use self::obtain::{Locks, Obtained, obtain};
use self::options::RunOptions;
use self::outcome::{Outcome, Status};
use self::supervise::supervise;
use crate::connection::Connection;
use crate::exit::{Exit, Failure};
use crate::{messages, signals};

pub(crate) fn run(connection: &Connection, options: &RunOptions) -> Result<Exit, Failure> {
    let mut status = Status::new();
    let done = go(connection, options, &mut status);
    let exit = match &done {
        Ok(outcome) => outcome.exit(options),
        Err(failure) => failure.exit,
    };
    if let Some(path) = &options.status_file {
        status.write(path, &done, exit)?;
    }
    match done {
        Ok(outcome) => {
            if let Some(message) = outcome.message(options) {
                messages::error(&message);
            }
            Ok(exit)
        }
        Err(failure) => Err(failure),
    }
}

fn go(
    connection: &Connection,
    options: &RunOptions,
    status: &mut Status,
) -> Result<Outcome, Failure> {
    let signals = signals::listen().map_err(|error| Failure::own("signals", error))?;
    if let Some(longest) = options.jitter
        && let Some(signal) = pause(longest.mul_f64(fastrand::f64()), &signals)
    {
        return Ok(Outcome::Interrupted(signal));
    }
    let begin = Instant::now();
    let locks = match obtain(connection, options, &signals)? {
        Obtained::Locks(locks) => locks,
        Obtained::Busy => return Ok(Outcome::NotObtained),
        Obtained::Interrupted(signal) => return Ok(Outcome::Interrupted(signal)),
    };
    status.obtained(&locks, begin.elapsed());
    let held = Instant::now();
    let outcome = supervise(&locks, connection.heartbeat(), options, &signals)?;
    status.held_for(held.elapsed());
    notify(&[NotifyState::Stopping]);
    Ok(give_back(locks, held, options, &signals, outcome))
}

/// Gives the locks back, not before their time. What is not known to have been held to the end counts
/// as lost.
fn give_back(
    locks: Locks,
    held: Instant,
    options: &RunOptions,
    signals: &Receiver<i32>,
    outcome: Outcome,
) -> Outcome {
    let lasted = match (options.at_least, locks.set.guards()) {
        (Some(least), [first, ..]) => {
            // Asked now, because what happens during the pause is of no importance any more. Any
            // question will do that the session's server has to answer.
            let lasted = first.others_wait().map(drop);
            // A signal ends it: the command has ended anyway.
            pause(least.saturating_sub(held.elapsed()), signals);
            lasted
        }
        _ => locks.set.unlock(),
    };
    match lasted {
        Ok(()) => outcome,
        Err(_) => outcome.but_lost(),
    }
}

/// Waits. The signal that ended it.
fn pause(time: Duration, signals: &Receiver<i32>) -> Option<i32> {
    let deadline = Instant::now().checked_add(time)?;
    loop {
        match signals.recv_deadline(deadline) {
            Ok(signal) if signals::is_ending(signal) => return Some(signal),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// Tells systemd, if it has started us and wants to know.
fn notify(states: &[NotifyState<'_>]) {
    sd_notify::notify(states).ok();
}
