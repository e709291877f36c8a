//! Runs the command by its guardian, while the locks are held.

use std::fs::File;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvError, after, at, never, select};
use distlock::{Ended, Guard};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGCONT, SIGHUP};

use super::obtain::Locks;
use super::options::{OnLost, RunOptions};
use super::outcome::{Ending, Outcome};
use crate::clock::BootTime;
use crate::exit::Failure;
use crate::guardian::handle::Handle;
use crate::guardian::protocol::{Order, Report, Terms};
use crate::keys::number;
use crate::messages;
use crate::signals::Arrived;

/// How it went.
pub(super) struct Supervised {
    pub(super) outcome: Outcome,
    /// Somebody wanted it to end.
    pub(super) was_interrupted: bool,
}

/// Until none of the command's processes is left. `tell_every`: how often the guardian is told until
/// when the locks can be trusted. `inherited`: connections of whoever has started us.
pub(super) fn supervise(
    locks: &Locks,
    tell_every: Duration,
    options: &RunOptions,
    inherited: &[RawFd],
    signals: &Receiver<Arrived>,
) -> Result<Supervised, Failure> {
    let own = |error| Failure::own("the guardian cannot be started", error);
    let terms = Terms {
        grace: options.grace,
        notice: notice(locks, options),
        linger: options.linger,
        has_own_group: !has_terminal(),
    };
    let guardian = Handle::spawn(terms, &options.command(), &environment(locks));
    let guardian = guardian.map_err(own)?;
    // A job is not begun in the middle of a shutdown.
    if let Some(signal) = signals.try_iter().find(|signal| signal.is_ending()) {
        guardian.end_all(not_ours);
        return Ok(Supervised {
            outcome: Outcome::Interrupted(signal.number),
            was_interrupted: true,
        });
    }
    guardian
        .start(trusted_until(locks), inherited)
        .map_err(own)?;
    super::notify(&[NotifyState::Ready, NotifyState::Status("running")]);
    let supervisor = Supervisor {
        locks,
        options,
        guardian,
        shares_group: !terms.has_own_group,
        ending: None,
        is_gone: false,
        lost: None,
        is_warned: false,
        is_too_long: false,
        was_interrupted: false,
    };
    Ok(supervisor.run(tell_every, signals))
}

/// At a terminal the command stays in our process group, which is a job of the shell's: ^C and ^Z
/// reach it, and `fg` and pipelines work, as without us.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Short leases leave less time.
fn notice(locks: &Locks, options: &RunOptions) -> Duration {
    match locks.set.time_left() {
        Some(left) => options.grace.min(left / 3),
        None => options.grace,
    }
}

/// With several locks, their values are separated by spaces. A variable without a value is not set, also
/// if another `distlock run` has set it for us.
fn environment(locks: &Locks) -> [(&'static str, Option<String>); 3] {
    let guards = || locks.set.guards().iter();
    let numbers: Vec<_> = guards().map(|guard| number(*guard.key())).collect();
    let token = |guard: &Guard| guard.token().map(|token| token.to_string());
    let tokens: Vec<_> = guards().filter_map(token).collect();
    let tokens = (!tokens.is_empty()).then(|| tokens.join(" "));
    [
        ("DISTLOCK_KEY", Some(locks.names.join(" "))),
        ("DISTLOCK_NUMBER", Some(numbers.join(" "))),
        ("DISTLOCK_TOKEN", tokens),
    ]
}

/// The clock is read first, so that this is never too late.
fn trusted_until(locks: &Locks) -> BootTime {
    let now = BootTime::now();
    let left = locks.set.time_left();
    left.map_or(BootTime::NEVER, |left| now.after(left))
}

fn not_ours(pid: i32) {
    messages::error(&format!(
        "process {pid} belongs to another user and cannot be ended; run distlock as that user"
    ));
}

struct Supervisor<'a> {
    locks: &'a Locks,
    options: &'a RunOptions,
    guardian: Handle,
    /// The command is in our process group.
    shares_group: bool,
    ending: Option<Ending>,
    /// None of its processes is left, as the guardian has reported.
    is_gone: bool,
    /// Why the locks are not held any more.
    lost: Option<Ended>,
    /// The guardian has told the command to end, because the lease was about to run out.
    is_warned: bool,
    is_too_long: bool,
    was_interrupted: bool,
}

impl Supervisor<'_> {
    fn run(mut self, tell_every: Duration, signals: &Receiver<Arrived>) -> Supervised {
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
                    if self.is_over(report) {
                        break;
                    }
                }
                recv(signals) -> signal => {
                    if let Ok(signal) = signal {
                        self.pass_on(signal);
                    }
                }
                recv(lost) -> _ => lost = never(),
                recv(limit) -> _ => {
                    limit = never();
                    self.is_too_long = self.ending.is_none();
                    self.end(self.options.grace);
                }
                recv(after(tell_every)) -> _ => {}
            }
            // Read first: of a hold that has ended nothing is said any more.
            let until = trusted_until(self.locks);
            match (self.lost, watch.ended()) {
                (None, None) => self.guardian.trust(until),
                (None, Some(ended)) => self.on_lost(ended),
                (Some(_), _) => {
                    self.guardian.send_pending();
                }
            }
        }
        if !self.is_gone && self.lost.is_none() {
            // It may have ended because of that.
            self.lost = watch.ended();
        }
        Supervised {
            was_interrupted: self.was_interrupted,
            outcome: self.outcome(),
        }
    }

    fn outcome(self) -> Outcome {
        let (ending, lost) = (self.ending, self.lost);
        match self.is_gone {
            true => self.guardian.reap(),
            // The guardian was killed, and has left them to us.
            false => self.guardian.end_all(not_ours),
        }
        match (lost, ending) {
            (Some(Ended::LeaseExpired), _) => Outcome::Expired(ending),
            (Some(_), _) => Outcome::Lost(ending),
            // Even if the database has answered at last: the command is not done.
            (None, _) if self.is_warned => Outcome::Expired(ending),
            (None, None) => Outcome::GuardianGone,
            (None, Some(ending)) if self.is_too_long => Outcome::TooLong(ending),
            (None, Some(ending)) => Outcome::Held(ending),
        }
    }

    /// True if none of the command's processes is left, or nobody is left to tell.
    fn is_over(&mut self, report: Result<Report, RecvError>) -> bool {
        match report {
            Ok(Report::Exited(code)) => self.ending = Some(Ending::Exited(code)),
            Ok(Report::Killed(signal)) => self.ending = Some(Ending::Killed(signal)),
            Ok(Report::NotStarted(code)) => self.ending = Some(Ending::NotStarted(code)),
            Ok(Report::Warned) => self.is_warned = true,
            Ok(Report::NotOurs(pid)) => not_ours(pid),
            Ok(Report::Gone) => self.is_gone = true,
            Err(_) => return true,
        }
        self.is_gone
    }

    fn on_lost(&mut self, ended: Ended) {
        self.lost = Some(ended);
        if ended == Ended::LeaseExpired {
            // The guardian has ended it by now, by its own clock.
            return self.end(Duration::ZERO);
        }
        let grace = self.options.grace;
        let overlap = match self.options.on_lost {
            OnLost::Term => {
                self.end(grace);
                format!("is ended within {grace:?}")
            }
            OnLost::Kill => {
                self.end(Duration::ZERO);
                "is ended now".to_owned()
            }
            OnLost::Ignore => "goes on without it".to_owned(),
        };
        // The time of the lease is of no importance any more; but until the guardian knows that the
        // command is to end, it is what ends it.
        self.guardian.order(Order::Trust(BootTime::NEVER));
        // Last: nobody may read it.
        messages::error(&format!(
            "the database has ended the session, and the lock with it; the command {overlap}, and \
             somebody else may have the lock meanwhile"
        ));
    }

    fn end(&mut self, grace: Duration) {
        let kill_at = BootTime::now().after(grace);
        self.guardian.order(Order::End(kill_at));
    }

    fn pass_on(&mut self, signal: Arrived) {
        self.was_interrupted |= signal.is_ending();
        // The terminal has sent it to the command, too.
        if !(self.shares_group && signal.is_of_terminal) {
            self.guardian.order(Order::Signal(signal.number));
            if self.shares_group && signal.number == SIGHUP {
                // As the kernel does when a terminal hangs up: it may be a stopped job.
                self.guardian.order(Order::Signal(SIGCONT));
            }
        }
    }
}
