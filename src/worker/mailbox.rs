//! Where callers leave messages for the worker.
//!
//! Requests go through a bounded queue, in which callers wait for room. Control messages, which
//! release or withdraw something, go into a list beside it, so that posting one never waits for
//! room. A flag records that the worker has been woken for the listed ones, so that many cost one
//! wake-up.

use std::convert::Infallible;
use std::mem;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::answer::Grant;
use super::request::{Control, Message};
use crate::error::Error;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Latch, Mutex};

pub(crate) struct Mailbox {
    /// The worker's end, also drained by those who answer in its place.
    queue: Receiver<Message>,
    control: Mutex<Vec<Control>>,
    /// True if there are control messages that the worker has been woken for.
    has_control: AtomicBool,
    closed: Latch,
}

impl Mailbox {
    /// A mailbox with room for `capacity` requests, and the callers' end of the queue. The queue
    /// disconnects when the last sender is dropped.
    pub(crate) fn new(capacity: usize) -> (Mailbox, Sender<Message>) {
        let (sender, queue) = bounded(capacity);
        let mailbox = Mailbox {
            queue,
            control: Mutex::default(),
            has_control: AtomicBool::new(false),
            closed: Latch::default(),
        };
        (mailbox, sender)
    }

    pub(crate) fn queue(&self) -> &Receiver<Message> {
        &self.queue
    }

    /// True if there is anything for the worker.
    pub(crate) fn has_messages(&self) -> bool {
        !self.queue.is_empty() || self.has_control.load(Ordering::SeqCst) || self.is_closed()
    }

    /// Adds control messages. True if the worker has to be woken for them.
    #[must_use]
    pub(crate) fn post(&self, controls: impl IntoIterator<Item = Control>) -> bool {
        self.control.lock().extend(controls);
        !self.has_control.swap(true, Ordering::SeqCst)
    }

    /// Moves all control messages into `into`, which must be empty.
    pub(crate) fn take_control(&self, into: &mut Vec<Control>) {
        self.has_control.store(false, Ordering::SeqCst);
        mem::swap(&mut *self.control.lock(), into);
    }

    /// Closes the mailbox. False if it was closed already.
    pub(crate) fn close(&self) -> bool {
        self.closed.set()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_set()
    }

    /// Disconnects when the mailbox is closed, for callers that wait for room in the queue.
    pub(crate) fn closed(&self) -> &Receiver<Infallible> {
        self.closed.channel()
    }

    /// Answers all requests in the queue with `error`.
    pub(crate) fn refuse_requests(&self, error: &Error) {
        while let Ok(message) = self.queue.try_recv() {
            if let Message::Acquire(request) = message {
                request.waiter.fail(error.clone());
            }
        }
    }

    /// Answers the calls of guards whose session has ended.
    pub(crate) fn answer_lost(&self) {
        let mut control = self.control.lock();
        for control in control.iter_mut() {
            if let Control::Release { grant, reply } = control
                && let Some(ended) = grant.lease.ended()
                && let Some(reply) = reply.take()
            {
                reply.send(Err(Error::ended(ended))).ok();
            }
        }
        // Dropping it answers a call that asks for a fence, or for another mode.
        control.retain(|control| match control {
            Control::Fence { grant, .. } | Control::Change { grant, .. } => {
                grant.lease.ended().is_none()
            }
            _ => true,
        });
    }

    /// Answers messages that arrive after the close. Each sender calls this after sending, so that
    /// none stays unanswered.
    pub(crate) fn drain(&self) {
        let closed = Error::closed();
        self.refuse_requests(&closed);
        for control in mem::take(&mut *self.control.lock()) {
            if let Control::Release {
                reply: Some(reply), ..
            } = control
            {
                reply.send(Err(closed.clone())).ok();
            }
        }
    }

    /// Calls `each` for the locks of session `generation` whose guards were dropped in messages that
    /// the worker has not read yet.
    pub(crate) fn for_each_drop(
        &self,
        generation: u64,
        now: Instant,
        mut each: impl FnMut(&Grant),
    ) {
        for control in self.control.lock().iter() {
            if let Control::Release { grant, reply: None } = control
                && grant.lease.generation() == generation
                && grant.keep_until.is_none_or(|until| until <= now)
            {
                each(grant);
            }
        }
    }
}
