//! What the server cannot do at present: one known failure fails all steps of its kind.
//!
//! An exhausted sequence, a revoked privilege, a full disk: such errors last. Found out step by
//! step, they would cost every caller a round trip for each step of each batch.

use std::time::Duration;

use postgres::error::SqlState;

use super::errors::sqlstate;
use crate::backoff;
use crate::clock::BootInstant;
use crate::error::{Error, ErrorKind};
use crate::op::Mode;
use crate::op::{Action, Op};

/// How many steps of one batch are tried one by one before the rest of it fails.
const MOST_SINGLE_STEPS: u32 = 32;

/// How long a failed kind of step is not tried again: doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Steps that fail together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// All tokens come from one sequence.
    Token,
    /// All locks are in one table.
    Room,
    /// Each mode and key space has a lock function.
    Function { mode: Mode, is_two: bool },
}

impl Kind {
    pub(super) fn function(op: Op) -> Kind {
        Kind::Function {
            mode: op.mode,
            is_two: op.target().is_two(),
        }
    }

    fn of(op: Op, error: &Error) -> Kind {
        match error.kind() {
            ErrorKind::Fencing => Kind::Token,
            ErrorKind::LockTableFull => Kind::Room,
            _ => Kind::function(op),
        }
    }

    /// True if this failure affects `step`.
    fn concerns(self, step: Op, fenced: bool) -> bool {
        match self {
            Kind::Token => fenced && (step.action.is_lock() || step.action == Action::Draw),
            // A lock that is taken again is given back first.
            Kind::Room => {
                !step.action.is_unlock() && !matches!(step.action, Action::Draw | Action::Relock)
            }
            Kind::Function { .. } => step.action.is_lock() && self == Kind::function(step),
        }
    }
}

/// A known failure, and until when the steps it affects fail without a round trip.
struct Failure {
    kind: Kind,
    error: Error,
    attempt: u32,
    until: BootInstant,
}

/// The failures that are known in a session.
pub(super) struct Failures {
    fenced: bool,
    known: Vec<Failure>,
}

impl Failures {
    /// With fencing every lock needs a token.
    pub(super) fn new(fenced: bool) -> Self {
        Failures {
            fenced,
            known: Vec::new(),
        }
    }

    /// The error that `step` would fail with at the time `now`. `None` if it may be tried.
    pub(super) fn of(&self, step: Op, now: BootInstant) -> Option<Error> {
        let concerns =
            |failure: &&Failure| failure.kind.concerns(step, self.fenced) && now < failure.until;
        let known = self.known.iter().find(concerns)?;
        Some(known.error.clone())
    }

    /// The same for each step of `batch`, with the error for those that fence a hold. `None` if all
    /// may be tried.
    pub(super) fn of_batch(
        &self,
        batch: &[Op],
        unfenced: Option<&Error>,
    ) -> Option<Vec<Option<Error>>> {
        if self.known.is_empty() && unfenced.is_none() {
            return None;
        }
        let now = BootInstant::now();
        let makes_room = batch.iter().any(|op| op.action.is_unlock());
        let refusal = |&step: &Op| match step.action {
            Action::Fence(_) if unfenced.is_some() => unfenced.cloned(),
            _ => self
                .of(step, now)
                .filter(|error| !(makes_room && error.kind() == ErrorKind::LockTableFull)),
        };
        let refusals: Vec<_> = batch.iter().map(refusal).collect();
        refusals.iter().any(Option::is_some).then_some(refusals)
    }

    /// Notes that the server could not do `op`. The other steps of its kind in the batch fail with
    /// it, and, if the error is one that lasts, those that come within a pause.
    pub(super) fn add(&mut self, op: Op, error: &Error) {
        let kind = Kind::of(op, error);
        let attempt = match self.known.iter().position(|failure| failure.kind == kind) {
            Some(known) if BootInstant::now() < self.known[known].until => return,
            Some(known) => self.known.swap_remove(known).attempt + 1,
            None => 0,
        };
        let pause = match is_lasting(error) {
            true => backoff::exponential(attempt, FIRST_PAUSE, LONGEST_PAUSE),
            false => Duration::ZERO,
        };
        self.known.push(Failure {
            kind,
            error: error.clone(),
            attempt,
            until: BootInstant::now() + pause,
        });
    }

    /// Notes that the server has done `op`: its kind no longer fails.
    pub(super) fn done(&mut self, op: Op) {
        let fenced = self.fenced;
        // An unlock makes room in the lock table.
        self.known.retain(|failure| match op.action.is_unlock() {
            true => failure.kind != Kind::Room,
            false => !failure.kind.concerns(op, fenced),
        });
    }
}

/// True if the next attempt can only fail the same way.
fn is_lasting(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Fencing | ErrorKind::LockTableFull)
        || sqlstate(error) == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
}

/// Counts the steps of one batch that are tried one by one.
pub(super) struct SingleSteps(u32);

impl SingleSteps {
    pub(super) fn new() -> Self {
        SingleSteps(0)
    }

    /// Counts one more; an error if that is too many.
    pub(super) fn count(&mut self) -> Result<(), Error> {
        if self.0 >= MOST_SINGLE_STEPS {
            return Err(Error::unavailable(
                "the server could not process the batch as a whole, and it had too many steps to \
                 try them one by one",
            ));
        }
        self.0 += 1;
        Ok(())
    }
}

#[cfg(all(test, not(distlock_model)))]
mod tests {
    use super::*;
    use crate::key::Key;

    fn op(action: Action, mode: Mode) -> Op {
        let key = Key::from(1);
        Op { key, mode, action }
    }

    #[test]
    fn a_failure_answers_for_its_kind_alone() {
        let (lock, share) = (
            op(Action::Lock, Mode::Exclusive),
            op(Action::Lock, Mode::Shared),
        );
        let draw = op(Action::Draw, Mode::Exclusive);
        let error = |kind| Error::new(kind, "no");
        let fails = |kind, fenced, step| {
            let mut failures = Failures::new(fenced);
            let before = BootInstant::now();
            failures.add(lock, &error(kind));
            failures.of(step, before).is_some()
        };
        assert!(fails(ErrorKind::Fencing, true, draw) && fails(ErrorKind::Fencing, true, share));
        assert!(fails(ErrorKind::LockTableFull, true, share));
        assert!(!fails(ErrorKind::LockTableFull, true, draw));
        assert!(fails(ErrorKind::Database, false, lock));
        assert!(!fails(ErrorKind::Database, false, share));
        let unlock = op(Action::Unlock, Mode::Exclusive);
        for kind in [
            ErrorKind::Fencing,
            ErrorKind::LockTableFull,
            ErrorKind::Database,
        ] {
            assert!(!fails(kind, true, unlock));
        }
    }

    #[test]
    fn a_batch_has_an_end_although_each_step_may_be_tried() {
        let mut steps = SingleSteps::new();
        for _ in 0..MOST_SINGLE_STEPS {
            assert!(steps.count().is_ok());
        }
        assert!(steps.count().is_err());
    }

    #[test]
    fn what_fails_is_tried_again_after_a_while_and_each_time_later() {
        let lock = op(Action::Lock, Mode::Exclusive);
        let mut failures = Failures::new(false);
        assert!(failures.of_batch(&[lock], None).is_none());
        for attempt in 0..3 {
            failures.add(lock, &Error::new(ErrorKind::LockTableFull, "no"));
            assert!(failures.of_batch(&[lock], None).is_some());
            assert_eq!(failures.known[0].attempt, attempt);
            failures.known[0].until = BootInstant::now();
            assert!(failures.of_batch(&[lock], None).is_none());
        }
        failures.done(lock);
        assert!(failures.known.is_empty());
    }

    #[test]
    fn what_is_given_back_makes_room() {
        let mut failures = Failures::new(false);
        let lock = op(Action::Lock, Mode::Exclusive);
        failures.add(lock, &Error::new(ErrorKind::LockTableFull, "no"));
        assert!(failures.of(lock, BootInstant::now()).is_some());
        failures.done(op(Action::Unlock, Mode::Shared));
        assert!(failures.of(lock, BootInstant::now()).is_none());
    }
}
