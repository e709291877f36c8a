//! `distlock run`: a program under a lock.

mod obtain;
pub(crate) mod options;
mod outcome;
mod status;
mod supervise;

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after, at, bounded, never, select};
use distlock::{Error, Guard};
use rustix::process::getpid;
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
    if outcome.is_of_signal(SIGINT) && !getpid().is_init() {
        // A shell ends its script or loop only if its command was ended by this signal, which the first
        // process of a container cannot be.
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
        let left = least.saturating_sub(held.elapsed());
        return Ok(keep(locks, left, &signals, ending));
    }
    Ok(give_back(locks, &signals, ending))
}

/// Keeps the locks for so long, or until a signal. What is not known to have been held to the
/// command's end counts as lost.
fn keep(locks: Locks, time: Duration, signals: &Receiver<Arrived>, ending: Ending) -> Outcome {
    // Asked now, because what happens during the pause is of no importance any more. Any question
    // will do that the session's server has to answer.
    let question = move || {
        let answer = locks.set.guards().first().map(Guard::others_wait);
        answer.transpose().map(|_| locks)
    };
    let Some((_locks, was_interrupted)) = confirmed(question, signals) else {
        return Outcome::Unconfirmed(ending);
    };
    if !was_interrupted {
        pause(time, signals);
    }
    Outcome::Held(ending)
}

/// Gives the locks back.
fn give_back(locks: Locks, signals: &Receiver<Arrived>, ending: Ending) -> Outcome {
    match confirmed(move || locks.set.unlock(), signals) {
        Some(_) => Outcome::Held(ending),
        None => Outcome::Unconfirmed(ending),
    }
}

/// How long the server's confirmation is waited for after a signal. The signal may be the one that the
/// command has ended for, as ^C, and arrive here a moment later.
const LAST_PATIENCE: Duration = Duration::from_millis(500);

/// What `question` has the server confirm, and whether a signal came meanwhile, which ends the wait for
/// that.
fn confirmed<T: Send + 'static>(
    question: impl FnOnce() -> Result<T, Error> + Send + 'static,
    signals: &Receiver<Arrived>,
) -> Option<(T, bool)> {
    let (sender, answer) = bounded(1);
    thread::Builder::new()
        .name("confirm".into())
        .spawn(move || sender.send(question()).ok())
        .ok()?;
    let mut patience = never();
    let mut was_interrupted = false;
    loop {
        select! {
            recv(answer) -> answer => return Some((answer.ok()?.ok()?, was_interrupted)),
            recv(signals) -> signal => {
                if signal.is_ok_and(Arrived::is_ending) {
                    was_interrupted = true;
                    patience = after(LAST_PATIENCE);
                }
            }
            recv(patience) -> _ => return None,
        }
    }
}

/// Waits. The signal that ended it.
fn pause(time: Duration, signals: &Receiver<Arrived>) -> Option<i32> {
    let end = Instant::now().checked_add(time).map_or_else(never, at);
    loop {
        select! {
            recv(end) -> _ => return None,
            recv(signals) -> signal => match signal {
                Ok(signal) if signal.is_ending() => return Some(signal.number),
                Ok(_) => {}
                Err(_) => return None,
            },
        }
    }
}

/// Tells systemd, if it has started us and wants to know.
fn notify(states: &[NotifyState<'_>]) {
    sd_notify::notify(states).ok();
}
