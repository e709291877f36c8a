//! Delivers the table's decisions to the callers.

use std::sync::Arc;

use super::answer::Grant;
use super::events::{Event, Events};
use super::waiter::Waiter;
use crate::error::Error;
use crate::key::Key;
use crate::lease::Lease;
use crate::observer::{Acquired, Released, Waited};
use crate::op::Mode;
use crate::table::{Granted, Refusal, Respond, Via};

pub(crate) struct Responder<'a> {
    lease: Option<&'a Arc<Lease>>,
    events: &'a mut Events,
}

impl<'a> Responder<'a> {
    /// Grants are made on the session of `lease`, if there is one.
    pub(crate) fn new(lease: Option<&'a Arc<Lease>>, events: &'a mut Events) -> Self {
        Responder { lease, events }
    }
}

impl Respond<Waiter> for Responder<'_> {
    fn grant(&mut self, waiter: Waiter, granted: &[Granted]) -> bool {
        let lease = self.lease.expect("there is no grant without a session");
        let mut grants = granted.iter().map(|granted| Grant {
            key: granted.key,
            mode: granted.mode,
            id: granted.id,
            token: granted.token,
            keep_until: None,
            lease: Arc::clone(lease),
        });
        let taken = match waiter {
            Waiter::One(reply) => reply.send(Ok(grants.next())).is_ok(),
            Waiter::All(reply) => reply.send(Ok(Some(grants.collect()))).is_ok(),
        };
        // Counted in time for the caller: reading the counters takes the mutex, which is held here.
        for granted in granted.iter().filter(|_| taken) {
            self.events.record(Event::Acquired(Acquired {
                key: granted.key,
                shared: granted.mode == Mode::Shared,
                hold: granted.id,
                token: granted.token.map(i64::from),
                waited: granted.waited,
                handed_over: granted.via == Via::Handoff,
            }));
        }
        taken
    }

    fn refuse(&mut self, waiter: Waiter, refusal: Refusal) {
        waiter.answer(match refusal {
            Refusal::Busy => Ok(()),
            Refusal::LimitReached(max) => Err(Error::limit_reached(max)),
        });
    }

    fn fail(&mut self, waiter: Waiter, error: &Error) {
        waiter.fail(error.clone());
    }

    fn released(&mut self, key: Key, id: u64) {
        self.events
            .record(Event::Released(Released { key, hold: id }));
    }

    fn contended(&mut self, waiter: &Waiter, key: Key, mode: Mode) {
        waiter.note_refusal();
        let shared = mode == Mode::Shared;
        self.events.record(Event::Waited(Waited { key, shared }));
    }
}
