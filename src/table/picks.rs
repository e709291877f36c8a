//! Picks: requests for some of many keys, whichever are free.
//!
//! The server is asked for one pick at a time, because two that are tried by the same session in
//! one statement could both get a key. Each comes after a batch, in which what was released before
//! it is unlocked.

use std::sync::Arc;
use std::time::Instant;

use super::{Caller, Granted, Refusal, Respond, Table, Via};
use crate::error::Error;
use crate::key::Key;
use crate::op::{Action, Mode, Op, Pick, Picked};

/// A request for some of many keys.
#[derive(Clone)]
pub(crate) struct Choice {
    /// Each once.
    pub(crate) keys: Arc<[Key]>,
    /// So many of them, or as many as are free.
    pub(crate) most: usize,
    /// If fewer are free, none.
    pub(crate) least: usize,
    /// None either while anybody holds this key, or a thread here waits for it.
    pub(crate) gate: Option<Key>,
}

pub(super) struct Picker<W> {
    inner: W,
    choice: Choice,
    since: Instant,
    /// True once a batch was planned after its arrival.
    is_due: bool,
}

impl<W: Caller> Table<W> {
    /// A request for some of many keys: it is answered with the next pick.
    pub(crate) fn pick(&mut self, choice: Choice, inner: W, now: Instant) {
        self.waiting += 1;
        self.pickers.push_back(Picker {
            inner,
            choice,
            since: now,
            is_due: false,
        });
    }

    /// What the server is to be asked for now, if anything; the outcome must be passed to
    /// [`settle_pick`](Table::settle_pick) before anything else is planned.
    pub(crate) fn plan_pick(&mut self, responder: &mut impl Respond<W>) -> Option<Pick> {
        while self.pickers.front().is_some_and(|first| first.is_due) {
            let room = self.room(0);
            let picker = self.pickers.front()?;
            let Choice {
                most, least, gate, ..
            } = picker.choice;
            let is_free = |key: &&Key| self.entries.get(key).is_none_or(|it| it.is_idle());
            let is_open = gate.is_none_or(|gate| is_free(&&gate));
            let keys: Vec<Key> = match is_open {
                true => picker.choice.keys.iter().filter(is_free).copied().collect(),
                false => Vec::new(),
            };
            if room >= least.max(1) && keys.len() >= least.max(1) {
                let most = most.min(room);
                return Some(Pick {
                    keys,
                    most,
                    least,
                    gate,
                });
            }
            let Picker { inner, .. } = self.pickers.pop_front()?;
            self.waiting -= 1;
            let refusal = match self.full(least.saturating_sub(1)) {
                Some(max) => Refusal::LimitReached(max),
                None => Refusal::Busy,
            };
            responder.refuse(inner, refusal);
        }
        None
    }

    /// A batch was planned: the first pick is due after it.
    pub(super) fn picks_are_next(&mut self) {
        if let Some(first) = self.pickers.front_mut() {
            first.is_due = true;
        }
    }

    /// Gives what the last pick has got to its caller.
    pub(crate) fn settle_pick(
        &mut self,
        picked: Result<Picked, Error>,
        now: Instant,
        responder: &mut impl Respond<W>,
    ) {
        let Some(Picker { inner, since, .. }) = self.pickers.pop_front() else {
            return;
        };
        self.waiting -= 1;
        let picked = match picked {
            Ok(picked) => picked,
            Err(error) => return responder.fail(inner, &error),
        };
        if picked.is_empty() {
            return responder.refuse(inner, Refusal::Busy);
        }
        let (mode, action) = (Mode::Exclusive, Action::LockUnawaited);
        let mut granted = Vec::with_capacity(picked.len());
        for (key, token) in picked {
            self.locked(Op { key, mode, action }, token, now, responder);
            self.last_id += 1;
            granted.push(Granted {
                key,
                mode,
                id: self.last_id,
                token,
                waited: now.saturating_duration_since(since),
                via: Via::Server,
            });
        }
        let thread = inner.thread();
        if !responder.grant(inner, &granted) {
            // They are listed, to be unlocked.
            return;
        }
        self.held += granted.len();
        for granted in granted {
            if let Some(entry) = self.entries.get_mut(&granted.key) {
                entry.begin_hold(granted, thread.clone(), now);
            }
        }
    }

    /// Removes requests that have left.
    pub(crate) fn remove_abandoned_picks(&mut self, has_left: impl Fn(&W) -> bool) {
        let before = self.pickers.len();
        self.pickers.retain(|picker| !has_left(&picker.inner));
        self.waiting -= before - self.pickers.len();
    }

    /// Fails the requests with `error`: all of them try once.
    pub(super) fn fail_picks(&mut self, error: &Error, responder: &mut impl Respond<W>) {
        self.waiting -= self.pickers.len();
        for picker in self.pickers.drain(..) {
            responder.fail(picker.inner, error);
        }
    }
}
