//! What the server cannot do at present: one failure answers for all steps of its kind.
//!
//! A sequence at its end, a right that was revoked, a full disk: such an error lasts. Found
//! out step by step it would cost everybody a round trip for each step of each batch.

use std::time::Duration;

use crate::backoff;
use crate::clock::{self, nanos};
use crate::error::{Error, ErrorKind};
use crate::request::Mode;
use crate::table::{Action, Op};

/// How many steps of one batch are tried one by one before the rest of it is given up.
const MOST_SINGLE_STEPS: u32 = 32;

/// How long no token is asked for after a draw has failed: doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What fails together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// All tokens come from one sequence.
    Token,
    /// All locks are in one table.
    Room,
    /// Each mode and key space has a lock function.
    Function { mode: Mode, is_two: bool },
}

impl Kind {
    fn of(op: Op, error: &Error) -> Kind {
        match error.kind() {
            ErrorKind::Fencing => Kind::Token,
            ErrorKind::LockTableFull => Kind::Room,
            _ => Kind::function(op),
        }
    }

    fn function(op: Op) -> Kind {
        Kind::Function {
            mode: op.mode,
            is_two: op.key.is_two(),
        }
    }

    /// True if `step` fails with what fails.
    fn concerns(self, step: Op, fenced: bool) -> bool {
        match self {
            Kind::Token => fenced,
            Kind::Room => step.action == Action::Lock,
            Kind::Function { .. } => step.action == Action::Lock && self == Kind::function(step),
        }
    }
}

/// The failures of one batch.
#[derive(Default)]
pub(super) struct Failures {
    fenced: bool,
    known: Vec<(Kind, Error)>,
    single_steps: u32,
}

impl Failures {
    pub(super) fn new(fenced: bool) -> Self {
        Failures {
            fenced,
            ..Failures::default()
        }
    }

    /// `step` is not to be tried: it would fail with this error.
    pub(super) fn of(&self, step: Op) -> Option<Error> {
        let known = self
            .known
            .iter()
            .find(|(kind, _)| kind.concerns(step, self.fenced));
        match known {
            Some((_, error)) => Some(error.clone()),
            None if self.single_steps >= MOST_SINGLE_STEPS => Some(Error::unavailable(
                "the server could not do this together with other requests, and there were too \
                 many to do them one by one",
            )),
            None => None,
        }
    }

    /// One more step is tried by itself.
    pub(super) fn count_step(&mut self) {
        self.single_steps += 1;
    }

    pub(super) fn add(&mut self, op: Op, error: &Error) {
        self.known.push((Kind::of(op, error), error.clone()));
    }

    /// Why there is no token, if that is so.
    pub(super) fn token(&self) -> Option<&Error> {
        let token = self.known.iter().find(|(kind, _)| *kind == Kind::Token);
        token.map(|(_, error)| error)
    }
}

/// Since tokens have failed: until when they are not asked for again.
#[derive(Default)]
pub(super) struct Drought {
    error: Option<Error>,
    attempt: u32,
    until: u64,
}

impl Drought {
    pub(super) fn begin(&mut self, error: Error) {
        let pause = backoff::exponential(self.attempt, FIRST_PAUSE, LONGEST_PAUSE);
        self.until = clock::now().saturating_add(nanos(pause));
        self.attempt = self.attempt.saturating_add(1);
        self.error = Some(error);
    }

    pub(super) fn end(&mut self) {
        *self = Drought::default();
    }

    /// What answers to whoever needs a token now, if the server is not to be asked.
    pub(super) fn refusal(&self) -> Option<Error> {
        self.error.clone().filter(|_| clock::now() < self.until)
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
            failures.add(lock, &error(kind));
            failures.of(step).is_some()
        };
        assert!(fails(ErrorKind::Fencing, true, draw) && fails(ErrorKind::Fencing, true, share));
        assert!(fails(ErrorKind::LockTableFull, true, share));
        assert!(!fails(ErrorKind::LockTableFull, true, draw));
        assert!(fails(ErrorKind::Database, false, lock));
        assert!(!fails(ErrorKind::Database, false, share));
    }

    #[test]
    fn a_batch_has_an_end_although_each_step_may_be_tried() {
        let mut failures = Failures::new(false);
        let lock = op(Action::Lock, Mode::Exclusive);
        for _ in 0..MOST_SINGLE_STEPS {
            assert!(failures.of(lock).is_none());
            failures.count_step();
        }
        assert_eq!(
            failures.of(lock).map(|error| error.kind()),
            Some(ErrorKind::Unavailable)
        );
    }

    #[test]
    fn tokens_are_asked_for_again_after_a_while() {
        let mut drought = Drought::default();
        assert!(drought.refusal().is_none());
        drought.begin(Error::new(ErrorKind::Fencing, "no"));
        assert!(drought.refusal().is_some());
        drought.until = clock::now();
        assert!(drought.refusal().is_none());
        drought.end();
        assert_eq!(drought.attempt, 0);
    }
}
