//! The holds of locks, read from the journals.
//!
//! A hold lasts from its first record, written after the lock was acquired, to its last,
//! written before the lock was released.

use std::collections::BTreeMap;
use std::path::Path;

use crate::faults::{Blow, Fault};
use crate::journal::{self, Event, Owner, Record};

/// One thread's hold of a lock.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    pub(crate) process: u16,
    pub(crate) owner: Owner,
    pub(crate) begin: u128,
    pub(crate) end: u128,
    /// How the worker saw it end; `None` if it was killed.
    pub(crate) last: Option<Event>,
}

impl Hold {
    /// The fault that took the lock away before the hold ended.
    ///
    /// Each fault ends one session of every process that it hits, and the process makes the
    /// next one. So a session is ended by the fault with its number, whenever the worker wrote
    /// its first record: a lock can be granted before a fault and recorded after it.
    pub(crate) fn fault<'a>(&self, faults: &'a [Fault]) -> Option<&'a Fault> {
        faults
            .iter()
            .filter(|fault| fault.blow.hits(self.process))
            .nth(self.owner.session)
            .filter(|fault| fault.from < self.end)
            // A process that wrote a last record was not killed before it.
            .filter(|fault| self.last.is_none() || !matches!(fault.blow, Blow::Killed(_)))
    }
}

pub(crate) fn read(folder: &Path, process: u16) -> anyhow::Result<Vec<Hold>> {
    Ok(pair(process, journal::read(folder, process)?))
}

/// Pairs each `Begin` with the next record of its thread.
fn pair(process: u16, records: Vec<Record>) -> Vec<Hold> {
    let mut open = BTreeMap::new();
    let mut holds = Vec::new();
    let hold = |begin: Record, end, last| Hold {
        process,
        owner: begin.owner,
        begin: begin.time,
        end,
        last,
    };
    for record in records {
        if record.event == Event::Begin {
            open.insert(record.owner.thread, record);
        } else if let Some(begin) = open.remove(&record.owner.thread) {
            holds.push(hold(begin, record.time, Some(record.event)));
        }
    }
    holds.extend(open.into_values().map(|begin| hold(begin, u128::MAX, None)));
    holds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_begin_and_the_next_record_of_its_thread_are_a_hold() {
        let record = |event, thread, time| Record {
            event,
            owner: Owner {
                job: 7,
                thread,
                session: 0,
            },
            time,
        };
        let holds = pair(
            3,
            vec![
                record(Event::Begin, 0, 10),
                record(Event::Begin, 1, 20),
                record(Event::Done, 0, 30),
                record(Event::Begin, 0, 40),
                record(Event::Lost, 1, 50),
            ],
        );
        let seen: Vec<_> = holds
            .iter()
            .map(|hold| (hold.owner.thread, hold.begin, hold.end, hold.last))
            .collect();
        assert_eq!(
            seen,
            [
                (0, 10, 30, Some(Event::Done)),
                (1, 20, 50, Some(Event::Lost)),
                (0, 40, u128::MAX, None),
            ]
        );
    }
}
