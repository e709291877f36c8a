//! `distlock run`: a program under a lock.

mod obtain;
pub(crate) mod options;
mod outcome;
mod status;
mod supervise;

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, after, bounded, never, select};
use sd_notify::NotifyState;
use signal_hook::consts::SIGINT;
use signal_hook::low_level::emulate_default_handler;

use self::obtain::{Locks, Obtained, obtain};
use self::options::RunOptions;
use self::outcome::{Ending, Outcome};
use self::status::Status;
use self::supervise::{Supervised, supervise};
use crate::connection::Connection;
use crate::exit::{Exit, Failure};
use crate::signals::Arrived;
use crate::{guardian, messages, signals};

pub(crate) fn run(connection: &Connection, options: &RunOptions) -> Result<Exit, Failure> {
    let mut status = Status::new(options.status_file.as_deref())?;
    let done = obtain_and_run(connection, options, &mut status);
    let exit = match &done {
        Ok(outcome) => outcome.exit(options),
        Err(failure) => failure.exit,
    };
    status.write(&done, exit);
    let outcome = done?;
    if let Some(message) = outcome.message(options) {
        messages::error(&message);
    }
    if outcome.is_of_signal(SIGINT) {
        // A shell ends its script or loop only if its command was ended by this signal.
        emulate_default_handler(SIGINT).ok();
    }
    Ok(exit)
}

fn obtain_and_run(
    connection: &Connection,
    options: &RunOptions,
    status: &mut Status,
) -> Result<Outcome, Failure> {
    let inherited = guardian::prepare();
    let inherited = inherited.map_err(|error| Failure::own("the guardian", error))?;
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
    let supervised = supervise(
        &locks,
        connection.heartbeat(),
        options,
        &inherited,
        &signals,
    )?;
    status.held_for(held.elapsed());
    notify(&[NotifyState::Stopping]);
    let Supervised {
        outcome,
        was_interrupted,
    } = supervised;
    let Outcome::Held(ending) = outcome else {
        return Ok(outcome);
    };
    if let Some(least) = options.at_least
        && !was_interrupted
        && !matches!(ending, Ending::NotStarted(_))
    {
        return Ok(keep(
            &locks,
            least.saturating_sub(held.elapsed()),
            &signals,
            ending,
        ));
    }
    Ok(give_back(locks, &signals, ending))
}

/// Keeps the locks for so long, or until a signal. What is not known to have been held to the
/// command's end counts as lost.
fn keep(locks: &Locks, time: Duration, signals: &Receiver<Arrived>, ending: Ending) -> Outcome {
    // Asked now, because what happens during the pause is of no importance any more. Any question
    // will do that the session's server has to answer.
    let answers = locks.set.guards().first().map(distlock::Guard::others_wait);
    match answers {
        Some(Err(_)) => Outcome::Unconfirmed(ending),
        _ => {
            pause(time, signals);
            Outcome::Held(ending)
        }
    }
}

/// How long the server's confirmation is waited for after a signal. The signal may be the one that the
/// command has ended for, as ^C, and arrive here a moment later.
const LAST_PATIENCE: Duration = Duration::from_millis(500);

/// Gives the locks back, which the server has to confirm. A signal ends the wait for that.
fn give_back(locks: Locks, signals: &Receiver<Arrived>, ending: Ending) -> Outcome {
    let (sender, unlocked) = bounded(1);
    let unlock = thread::Builder::new()
        .name("unlock".into())
        .spawn(move || sender.send(locks.set.unlock()).ok());
    if unlock.is_err() {
        return Outcome::Unconfirmed(ending);
    }
    let mut patience = never();
    loop {
        select! {
            recv(unlocked) -> unlocked => return match unlocked {
                Ok(Ok(())) => Outcome::Held(ending),
                _ => Outcome::Unconfirmed(ending),
            },
            recv(signals) -> signal => {
                if signal.is_ok_and(Arrived::is_ending) {
                    patience = after(LAST_PATIENCE);
                }
            }
            recv(patience) -> _ => return Outcome::Unconfirmed(ending),
        }
    }
}

/// Waits. The signal that ended it.
fn pause(time: Duration, signals: &Receiver<Arrived>) -> Option<i32> {
    let deadline = Instant::now().checked_add(time)?;
    loop {
        match signals.recv_deadline(deadline) {
            Ok(signal) if signal.is_ending() => return Some(signal.number),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// Tells systemd, if it has started us and wants to know.
fn notify(states: &[NotifyState<'_>]) {
    sd_notify::notify(states).ok();
}
