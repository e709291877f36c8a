//! When to look for waits and holds that last long, and for threads that wait for each other.

use std::time::{Duration, Instant};

use super::events::Event;
use super::shared::State;
use crate::config::Settings;
use crate::table::late::{Late, Matter};

/// How long a thread has been waiting before it is looked for a cycle with it in it.
const PATIENCE: Duration = Duration::from_secs(1);

/// How late a report may be, as a part of the time after which it is due.
const SLACK: u32 = 4;

pub(super) struct Reports {
    due: Instant,
}

impl Reports {
    pub(super) fn new() -> Self {
        Reports {
            due: Instant::now(),
        }
    }

    /// When to look next; `None` if there is nothing to look at.
    pub(super) fn next(&self, state: &State, settings: &Settings) -> Option<Instant> {
        let is_watched = settings.warn_after.is_some() && state.table.held() > 0;
        (is_watched || state.table.waiting() > 0).then_some(self.due)
    }

    /// If it is time, records what lasts long. Returns the waits for locks that other processes
    /// hold, which the server has to be asked about.
    pub(super) fn look(
        &mut self,
        state: &mut State,
        settings: &Settings,
        now: Instant,
    ) -> Vec<Late> {
        if self.next(state, settings).is_none_or(|due| now < due) {
            return Vec::new();
        }
        let limit = settings.warn_after;
        let interval = limit.map_or(PATIENCE, |limit| (limit / SLACK).min(PATIENCE));
        self.due = now + interval.max(Duration::from_millis(1));
        for cycle in state.table.cycles(PATIENCE, now) {
            state.events.record(Event::Cycle(cycle));
        }
        let late = limit.map(|limit| state.table.late(limit, now));
        let is_elsewhere = |late: &Late| late.matter == Matter::Wait && late.holders.is_empty();
        let (elsewhere, here): (Vec<Late>, Vec<Late>) =
            late.into_iter().flatten().partition(is_elsewhere);
        for late in here {
            let others = Vec::new();
            state.events.record(Event::Late { late, others });
        }
        elsewhere
    }
}
