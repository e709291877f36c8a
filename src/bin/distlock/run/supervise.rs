//! Runs the command by its guardian, while the locks are held.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvError, after, at, never, select};
use distlock::{Ended, Guard};
use rustix::process::{Pid, Signal, getpgrp, kill_current_process_group};
use sd_notify::NotifyState;

use super::obtain::Locks;
use super::options::{OnLost, RunOptions};
use super::outcome::{Ending, Outcome};
use crate::clock::BootTime;
use crate::exit::Failure;
use crate::guardian::handle::Handle;
use crate::guardian::protocol::{Order, Report, Terms};
use crate::keys::number;
use crate::signals;
use crate::terminal::Terminal;

/// Until none of the command's processes is left. `tell_every`: how often the guardian is told until
/// when the locks can be trusted.
pub(super) fn supervise(
    locks: &Locks,
    tell_every: Duration,
    options: &RunOptions,
    signals: &Receiver<i32>,
) -> Result<Outcome, Failure> {
    let own = |error| Failure::own("the guardian cannot be started", error);
    let terminal = Terminal::open();
    let is_foreground = terminal.as_ref().is_some_and(Terminal::is_ours);
    let terms = Terms {
        grace: grace(locks, options),
        linger: options.linger,
        is_foreground,
    };
    let guardian = Handle::spawn(terms, &options.command(), &environment(locks));
    let guardian = guardian.map_err(own)?;
    // A job is not begun in the middle of a shutdown.
    if let Some(signal) = signals
        .try_iter()
        .find(|&signal| signals::is_ending(signal))
    {
        guardian.kill();
        return Ok(Outcome::Interrupted(signal));
    }
    guardian.start(trusted_until(locks)).map_err(own)?;
    super::notify(&[NotifyState::Ready, NotifyState::Status("running")]);
    let supervisor = Supervisor {
        locks,
        options,
        guardian,
        terminal,
        command: None,
        ending: None,
        is_gone: false,
        lost: None,
        is_warned: false,
        is_too_long: false,
    };
    Ok(supervisor.run(tell_every, signals))
}

/// Short leases leave less time.
fn grace(locks: &Locks, options: &RunOptions) -> Duration {
    match locks.set.time_left() {
        Some(left) => options.grace.min(left / 3),
        None => options.grace,
    }
}

/// With several locks, their values are separated by spaces.
fn environment(locks: &Locks) -> Vec<(&'static str, String)> {
    let guards = || locks.set.guards().iter();
    let numbers: Vec<_> = guards().map(|guard| number(*guard.key())).collect();
    let token = |guard: &Guard| guard.token().map(|token| token.to_string());
    let tokens: Vec<_> = guards().filter_map(token).collect();
    let mut environment = vec![
        ("DISTLOCK_KEY", locks.names.join(" ")),
        ("DISTLOCK_NUMBER", numbers.join(" ")),
    ];
    if !tokens.is_empty() {
        environment.push(("DISTLOCK_TOKEN", tokens.join(" ")));
    }
    environment
}

/// The clock is read first, so that this is never too late.
fn trusted_until(locks: &Locks) -> BootTime {
    let now = BootTime::now();
    locks
        .set
        .time_left()
        .map_or(BootTime::NEVER, |left| now.after(left))
}

/// How soon SIGCONT arrives after it has continued us.
const CONTINUED: Duration = Duration::from_millis(500);

struct Supervisor<'a> {
    locks: &'a Locks,
    options: &'a RunOptions,
    guardian: Handle,
    terminal: Option<Terminal>,
    /// Its process, which leads its group.
    command: Option<Pid>,
    ending: Option<Ending>,
    /// None of its processes is left, as the guardian has reported.
    is_gone: bool,
    /// Why the locks are not held any more.
    lost: Option<Ended>,
    /// The guardian has told the command to end, because the lease was about to run out.
    is_warned: bool,
    is_too_long: bool,
}

impl Supervisor<'_> {
    fn run(mut self, tell_every: Duration, signals: &Receiver<i32>) -> Outcome {
        let watch = self.locks.set.watch();
        let reports = self.guardian.reports().clone();
        let mut lost = watch.channel();
        let mut limit = match self.options.max_time {
            Some(time) => Instant::now().checked_add(time).map_or_else(never, at),
            None => never(),
        };
        loop {
            select! {
                recv(reports) -> report => {
                    if self.is_over(report, signals) {
                        break;
                    }
                }
                recv(signals) -> signal => {
                    if let Ok(signal) = signal {
                        self.pass_on(signal);
                    }
                }
                recv(lost) -> _ => {
                    lost = never();
                    self.on_lost(watch.ended().unwrap_or(Ended::SessionLost));
                }
                recv(limit) -> _ => {
                    limit = never();
                    self.is_too_long = self.ending.is_none();
                    self.end(self.options.grace);
                }
                recv(after(tell_every)) -> _ => {}
            }
            if self.lost.is_none() {
                self.guardian.order(Order::Trust(trusted_until(self.locks)));
            }
        }
        self.take_terminal();
        self.outcome()
    }

    fn outcome(self) -> Outcome {
        let (ending, lost) = (self.ending, self.lost);
        match self.is_gone {
            true => self.guardian.wait(),
            // The guardian was killed, and has left them to us.
            false => self.guardian.kill(),
        }
        match (lost, ending) {
            (Some(Ended::LeaseExpired), _) => Outcome::Expired(ending),
            (Some(_), _) => Outcome::Lost(ending),
            // Even if the database has answered at last: the command is not done.
            (None, Some(_)) if self.is_warned => Outcome::Expired(ending),
            (None, None) => Outcome::GuardianGone,
            (None, Some(ending)) if self.is_too_long => Outcome::TooLong(ending),
            (None, Some(ending)) => Outcome::Held(ending),
        }
    }

    /// True if none of the command's processes is left, or nobody is left to tell.
    fn is_over(&mut self, report: Result<Report, RecvError>, signals: &Receiver<i32>) -> bool {
        match report {
            Ok(Report::Started(pid)) => self.command = Pid::from_raw(pid),
            Ok(Report::Stopped(_)) => self.on_stopped(signals),
            Ok(Report::Exited(code)) => self.on_ended(Ending::Exited(code)),
            Ok(Report::Killed(signal)) => self.on_ended(Ending::Killed(signal)),
            Ok(Report::NotStarted(code)) => self.on_ended(Ending::NotStarted(code)),
            Ok(Report::Warned) => self.is_warned = true,
            Ok(Report::Gone) => {
                self.is_gone = true;
                return true;
            }
            Err(_) => return true,
        }
        false
    }

    fn on_ended(&mut self, ending: Ending) {
        self.ending = Some(ending);
        self.take_terminal();
    }

    fn on_lost(&mut self, ended: Ended) {
        self.lost = Some(ended);
        match self.options.on_lost {
            // The guardian has ended it by then, or does so now.
            _ if ended == Ended::LeaseExpired => self.end(Duration::ZERO),
            OnLost::Term => self.end(self.options.grace),
            OnLost::Kill => self.end(Duration::ZERO),
            OnLost::Ignore => self.guardian.order(Order::Trust(BootTime::NEVER)),
        }
    }

    fn end(&self, grace: Duration) {
        let kill_at = BootTime::now().after(grace);
        // A guardian that is told so late must not act sooner.
        self.guardian.order(Order::End(kill_at));
    }

    fn pass_on(&self, signal: i32) {
        if signal == Signal::CONT.as_raw() {
            self.go_on();
        } else {
            self.guardian.order(Order::Signal(signal));
        }
    }

    /// The command was stopped, as by ^Z: so are we, for the shell that started us. Without the
    /// heartbeats the lock's time runs on, and at its end the guardian ends the command.
    fn on_stopped(&self, signals: &Receiver<i32>) {
        let Some(terminal) = &self.terminal else {
            return;
        };
        self.take_terminal();
        // Returns once we are continued, or at once if no shell would do that.
        kill_current_process_group(Signal::TSTP).ok();
        match signals.recv_timeout(CONTINUED) {
            Ok(signal) => self.pass_on(signal),
            Err(_) if terminal.is_ours() => self.go_on(),
            // In the background it must not go on to read from the terminal.
            Err(_) => {}
        }
    }

    /// We were continued, by `fg` or `bg`.
    fn go_on(&self) {
        if let (Some(terminal), Some(command)) = (&self.terminal, self.command)
            && self.ending.is_none()
            && terminal.is_ours()
        {
            terminal.give(command);
        }
        self.guardian.order(Order::Signal(Signal::CONT.as_raw()));
    }

    /// What runs after us in a script reads from it, too.
    fn take_terminal(&self) {
        if let (Some(terminal), Some(command)) = (&self.terminal, self.command)
            && terminal.is_of(command)
        {
            terminal.give(getpgrp());
        }
    }
}
