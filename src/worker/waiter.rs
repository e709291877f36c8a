//! [`Waiter`]: the worker's end of the reply to an acquire, of one lock or of several.

use super::answer::{AcquireAllReply, AcquireReply};
use super::reply::Replier;
use crate::error::Error;
use crate::sync::thread::Thread;
use crate::table::Caller;

/// The table's waiter: the worker's end of a caller's reply.
pub(crate) enum Waiter {
    One(Replier<AcquireReply>),
    All(Replier<AcquireAllReply>),
}

impl Waiter {
    /// True if the caller has left.
    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            Waiter::One(reply) => reply.is_abandoned(),
            Waiter::All(reply) => reply.is_abandoned(),
        }
    }

    pub(super) fn fail(self, error: Error) {
        self.answer(Err(error));
    }

    /// Notes that the lock was found taken, for a caller that times out later.
    pub(super) fn note_refusal(&self) {
        match self {
            Waiter::One(reply) => reply.note_refusal(),
            Waiter::All(reply) => reply.note_refusal(),
        }
    }

    /// Gives an answer without a lock.
    pub(super) fn answer(self, answer: Result<(), Error>) {
        match self {
            Waiter::One(reply) => drop(reply.send(answer.map(|()| None))),
            Waiter::All(reply) => drop(reply.send(answer.map(|()| None))),
        }
    }
}

impl Caller for Waiter {
    fn thread(&self) -> Thread {
        match self {
            Waiter::One(reply) => reply.caller(),
            Waiter::All(reply) => reply.caller(),
        }
    }
}
