//! Delivers the table's decisions to the callers.

use std::sync::Arc;

use super::events::{Event, Events};
use super::reply::Replier;
use super::request::{AcquireReply, Grant};
use crate::error::Error;
use crate::key::Key;
use crate::lease::Lease;
use crate::observer::{Acquired, Released, Waited};
use crate::op::Mode;
use crate::sync::thread::Thread;
use crate::table::{Caller, Granted, Refusal, Respond, Via};

/// The table's waiter: the worker's end of a caller's reply.
pub(crate) type Waiter = Replier<AcquireReply>;

impl Caller for Waiter {
    fn thread(&self) -> Thread {
        self.caller()
    }
}

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
    fn grant(&mut self, waiter: Waiter, granted: Granted) -> bool {
        let Granted {
            key,
            mode,
            id,
            token,
            waited,
            via,
        } = granted;
        let lease = self.lease.expect("there is no grant without a session");
        let grant = Grant {
            key,
            mode,
            id,
            token,
            keep_until: None,
            lease: Arc::clone(lease),
        };
        let taken = waiter.send(Ok(Some(grant))).is_ok();
        if taken {
            // Counted in time for the caller: reading the counters takes the mutex, which is held
            // here.
            self.events.record(Event::Acquired(Acquired {
                key,
                shared: mode == Mode::Shared,
                hold: id,
                token: token.map(i64::from),
                waited,
                handed_over: via == Via::Handoff,
            }));
        }
        taken
    }

    fn refuse(&mut self, waiter: Waiter, refusal: Refusal) {
        let reply = match refusal {
            Refusal::Busy => Ok(None),
            Refusal::LimitReached(max) => Err(Error::limit_reached(max)),
        };
        waiter.send(reply).ok();
    }

    fn fail(&mut self, waiter: Waiter, error: &Error) {
        waiter.send(Err(error.clone())).ok();
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
