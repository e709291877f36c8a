//! Messages to the worker.

use std::sync::Arc;

use super::answer::{ChangeReply, FenceReply, Grant, HoldersReply, UnlockReply};
use super::reply::Replier;
use super::waiter::Waiter;
use crate::holder::Question;
use crate::key::Key;
use crate::op::{Mode, Wait};
use crate::table::Choice;

/// Sent through the bounded queue, in which callers wait for room.
pub(crate) enum Message {
    Acquire(Request),
    /// There are control messages to read.
    Wake,
}

pub(crate) struct Request {
    pub(crate) wanted: Wanted,
    pub(crate) wait: Wait,
    pub(crate) waiter: Waiter,
}

/// What is to be locked.
#[derive(Clone)]
pub(crate) enum Wanted {
    One(Key, Mode),
    /// Each key once, in [`Key`]'s order.
    All(Arc<[(Key, Mode)]>),
    Some(Choice),
}

/// Sent beside the queue, because a release must not wait for room.
pub(crate) enum Control {
    Release {
        grant: Grant,
        reply: Option<Replier<UnlockReply>>,
    },
    /// A guard's transactions are to be fenced.
    Fence {
        grant: Grant,
        reply: Replier<FenceReply>,
    },
    /// A guard's hold is to get another mode.
    Change {
        grant: Grant,
        to: Mode,
        reply: Replier<ChangeReply>,
    },
    /// Something is asked about holders.
    Inquire {
        question: Question,
        reply: Replier<HoldersReply>,
    },
    /// A caller stopped waiting for this.
    GaveUp(Wanted),
}
