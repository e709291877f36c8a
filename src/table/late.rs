//! Waits and holds that last long, and threads that wait for each other.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::holders::Holder;
use super::{Caller, Table};
use crate::key::Key;
use crate::op::Mode;
use crate::sync::thread::{Thread, ThreadId};

/// A thread, and for how long it has been holding or waiting.
#[derive(Clone, Debug)]
pub(crate) struct Since {
    pub(crate) thread: Thread,
    pub(crate) lasted: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Matter {
    Hold,
    Wait,
}

/// A hold or a wait that has lasted long.
#[derive(Clone, Debug)]
pub(crate) struct Late {
    pub(crate) matter: Matter,
    pub(crate) key: Key,
    pub(crate) mode: Mode,
    pub(crate) who: Since,
    /// Of a wait: the holders in this process.
    pub(crate) holders: Vec<Since>,
}

/// A thread that waits for a key which the next one of its cycle holds, and the last one the first.
#[derive(Clone, Debug)]
pub(crate) struct Waits {
    pub(crate) thread: Thread,
    pub(crate) key: Key,
}

impl<W: Caller> Table<W> {
    /// The holds and waits that have lasted for `limit`, each once.
    pub(crate) fn late(&mut self, limit: Duration, now: Instant) -> Vec<Late> {
        let mut late = Vec::new();
        for (&key, entry) in &mut self.entries {
            let Some(mode) = entry.server.or(entry.first().map(|first| first.mode)) else {
                continue;
            };
            for holder in entry.holders.all_mut() {
                if !holder.is_reported && now.saturating_duration_since(holder.since) >= limit {
                    holder.is_reported = true;
                    late.push(Late {
                        matter: Matter::Hold,
                        key,
                        mode,
                        who: since(holder, now),
                        holders: Vec::new(),
                    });
                }
            }
            let holders = &entry.holders;
            for waiter in entry.queue.iter_mut().flat_map(|queue| &mut queue.waiters) {
                let lasted = now.saturating_duration_since(waiter.since);
                if !waiter.is_reported && lasted >= limit {
                    waiter.is_reported = true;
                    let thread = waiter.inner.thread();
                    late.push(Late {
                        matter: Matter::Wait,
                        key,
                        mode: waiter.mode,
                        who: Since { thread, lasted },
                        holders: holders.all().iter().map(|it| since(it, now)).collect(),
                    });
                }
            }
        }
        late
    }

    /// Threads that wait for each other's locks, found from those that have been waiting for
    /// `patience`; each of them is looked at once. A cycle is complete when its last thread begins
    /// to wait, so it is found from that one.
    pub(crate) fn cycles(&mut self, patience: Duration, now: Instant) -> Vec<Vec<Waits>> {
        let mut begin = Vec::new();
        for entry in self.entries.values_mut() {
            for waiter in entry.queue.iter_mut().flat_map(|queue| &mut queue.waiters) {
                let waited = now.saturating_duration_since(waiter.since);
                if !waiter.is_examined && waited >= patience {
                    waiter.is_examined = true;
                    begin.push(waiter.inner.thread());
                }
            }
        }
        if begin.is_empty() || self.held == 0 {
            return Vec::new();
        }
        let mut waits = HashMap::new();
        for (&key, entry) in &self.entries {
            for waiter in entry.waiters() {
                waits.insert(waiter.inner.thread().id(), key);
            }
        }
        let mut in_cycles = HashSet::new();
        let mut cycles = Vec::new();
        for thread in begin {
            if in_cycles.contains(&thread.id()) {
                continue;
            }
            let mut path = Vec::new();
            if self.closes(thread.id(), &thread, &waits, &mut path, &mut HashSet::new()) {
                in_cycles.extend(path.iter().map(|step: &Waits| step.thread.id()));
                cycles.push(path);
            }
        }
        cycles
    }

    /// Extends `path` by `thread` and those it waits for, back to `start`. False if there is no
    /// way.
    fn closes(
        &self,
        start: ThreadId,
        thread: &Thread,
        waits: &HashMap<ThreadId, Key>,
        path: &mut Vec<Waits>,
        seen: &mut HashSet<ThreadId>,
    ) -> bool {
        let Some(&key) = waits.get(&thread.id()).filter(|_| seen.insert(thread.id())) else {
            return false;
        };
        path.push(Waits {
            thread: thread.clone(),
            key,
        });
        let holders = self.entries.get(&key).map(|entry| entry.holders.all());
        for holder in holders.unwrap_or_default() {
            if holder.thread.id() == start || self.closes(start, &holder.thread, waits, path, seen)
            {
                return true;
            }
        }
        path.pop();
        false
    }
}

fn since(holder: &Holder, now: Instant) -> Since {
    Since {
        thread: holder.thread.clone(),
        lasted: now.saturating_duration_since(holder.since),
    }
}
