//! The journals of the processes, a line for each event, and the history that is read from
//! them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// Now, on the clock that all processes share.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let now = Duration::new(
        now.tv_sec.try_into().unwrap_or(0),
        now.tv_nsec.try_into().unwrap_or(0),
    );
    nanos(now)
}

pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// By what a lock came to be held in its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum How {
    /// A request for one lock.
    One,
    /// One for all of a set.
    All,
    /// One for some of many.
    Some,
    /// One for permits of a semaphore.
    Permit,
    /// It was shared before.
    Upgrade,
    /// It was exclusive before.
    Downgrade,
}

impl How {
    pub const ALL: [How; 6] = [
        How::One,
        How::All,
        How::Some,
        How::Permit,
        How::Upgrade,
        How::Downgrade,
    ];

    /// True if the lock was held before.
    pub fn is_change(self) -> bool {
        matches!(self, How::Upgrade | How::Downgrade)
    }
}

/// What one thread of a process saw. It holds a key once at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A lock was acquired; the call returned at `at`.
    Taken {
        key: i32,
        how: How,
        shared: bool,
        token: i64,
        at: u64,
    },
    /// The mode of a hold changed, which counted as held until then. It is exclusive once the call
    /// for that has returned, and shared as soon as the call for that begins.
    Changed {
        key: i32,
        shared: bool,
        token: i64,
        at: u64,
    },
    /// The hold ended. It last counted as held at `trusted`, if ever since it has its mode, and was
    /// found lost at `lost`, unless it was released.
    Ended {
        key: i32,
        trusted: Option<u64>,
        lost: Option<u64>,
    },
    /// A call has returned.
    Called {
        from: u64,
        deadline: u64,
        until: u64,
    },
}

/// One thread's file.
pub struct Journal(File);

impl Journal {
    pub fn new(folder: &Path, process: u32, life: u32, thread: usize) -> io::Result<Journal> {
        let name = format!("{process}-{life}-{thread}.journal");
        File::create(folder.join(name)).map(Journal)
    }

    /// One write for a line: nothing is left in a buffer of a process that is killed.
    pub fn write(&mut self, event: &Event) -> io::Result<()> {
        let line = serde_json::to_string(event)? + "\n";
        self.0.write_all(line.as_bytes())
    }
}

/// One hold of a lock in one mode, from the end of the acquire, or a change of the mode, to the next
/// change, or when it last counted as held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub process: u32,
    pub key: i32,
    pub how: How,
    pub shared: bool,
    pub token: i64,
    pub from: u64,
    pub until: u64,
    /// When its loss was first detected.
    pub lost: Option<u64>,
    /// True if it ever counted as held. If the process was stopped when it got the lock, it may
    /// have been lost at the first check.
    pub trusted: bool,
}

/// One call with a deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub process: u32,
    pub from: u64,
    pub deadline: u64,
    pub until: u64,
}

/// A write that was sent to the fenced store, which keeps their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreWrite {
    pub key: i32,
    pub token: i64,
    pub accepted: bool,
}

/// A write in a fenced transaction that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FencedWrite {
    pub key: i32,
    /// Names the hold by which it was fenced.
    pub hold: String,
    pub shared: bool,
}

/// All that is known of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub holds: Vec<Hold>,
    pub calls: Vec<Call>,
    pub writes: Vec<StoreWrite>,
    /// In their order.
    pub fenced: Vec<FencedWrite>,
    pub faults: Vec<Fault>,
    /// When each life of a process ended by SIGKILL.
    pub killed: BTreeMap<(u32, u32), u64>,
}

impl History {
    /// Adds what the journals in `folder` say.
    pub fn read(&mut self, folder: &Path) -> anyhow::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path
                .extension()
                .is_none_or(|extension| extension != "journal")
            {
                continue;
            }
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let mut numbers = name.split('-').map(str::parse);
            let (Some(Ok(process)), Some(Ok(life))) = (numbers.next(), numbers.next()) else {
                anyhow::bail!("not a journal: {name}");
            };
            let killed = self.killed.get(&(process, life)).copied();
            self.read_journal(process, killed, BufReader::new(File::open(&path)?))?;
        }
        Ok(())
    }

    fn read_journal(
        &mut self,
        process: u32,
        killed: Option<u64>,
        lines: impl BufRead,
    ) -> anyhow::Result<()> {
        let mut open: BTreeMap<i32, Hold> = BTreeMap::new();
        for line in lines.lines() {
            match serde_json::from_str(&line?) {
                Ok(Event::Taken {
                    key,
                    how,
                    shared,
                    token,
                    at,
                }) => {
                    let hold = Hold {
                        process,
                        key,
                        how,
                        shared,
                        token,
                        from: at,
                        until: at,
                        lost: None,
                        trusted: true,
                    };
                    let other = open.insert(key, hold);
                    anyhow::ensure!(other.is_none(), "a hold within a hold");
                }
                Ok(Event::Changed {
                    key,
                    shared,
                    token,
                    at,
                }) => {
                    let hold = open.remove(&key).context("a change without a hold")?;
                    let how = if shared { How::Downgrade } else { How::Upgrade };
                    let changed = Hold {
                        how,
                        shared,
                        token,
                        from: at,
                        ..hold
                    };
                    open.insert(key, changed);
                    self.holds.push(Hold { until: at, ..hold });
                }
                Ok(Event::Ended { key, trusted, lost }) => {
                    let hold = open.remove(&key).context("an end without a hold")?;
                    self.holds.push(Hold {
                        until: trusted.unwrap_or(hold.from),
                        lost,
                        trusted: trusted.is_some(),
                        ..hold
                    });
                }
                Ok(Event::Called {
                    from,
                    deadline,
                    until,
                }) => self.calls.push(Call {
                    process,
                    from,
                    deadline,
                    until,
                }),
                // The last line of a process that was killed.
                Err(_) if killed.is_some() => {}
                Err(error) => return Err(error.into()),
            }
        }
        for hold in open.into_values() {
            let Some(until) = killed else {
                anyhow::bail!("process {process} never ended a hold");
            };
            // It may have taken the lock after the signal was on its way.
            let until = until.max(hold.from);
            self.holds.push(Hold { until, ..hold });
        }
        Ok(())
    }
}

#[cfg(test)]
// Tests may panic.
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(events: &[Event], killed: Option<u64>) -> anyhow::Result<Vec<Hold>> {
        let lines = events.iter().map(|it| serde_json::to_string(it).unwrap());
        let lines: Vec<String> = lines.collect();
        let mut history = History::default();
        history.read_journal(1, killed, lines.join("\n").as_bytes())?;
        Ok(history.holds)
    }

    fn taken(key: i32, shared: bool) -> Event {
        Event::Taken {
            key,
            how: How::One,
            shared,
            token: 1,
            at: 10,
        }
    }

    fn changed(shared: bool, at: u64) -> Event {
        Event::Changed {
            key: 1,
            shared,
            token: 2,
            at,
        }
    }

    fn ended(key: i32, trusted: Option<u64>) -> Event {
        Event::Ended {
            key,
            trusted,
            lost: None,
        }
    }

    #[test]
    fn a_hold_is_one_for_each_mode_that_it_has_had() {
        let events = [
            taken(1, true),
            changed(false, 20),
            changed(true, 30),
            ended(1, Some(40)),
        ];
        let holds = read(&events, None).unwrap();
        let parts = holds
            .iter()
            .map(|it| (it.how, it.shared, it.from, it.until));
        let expected = [
            (How::One, true, 10, 20),
            (How::Upgrade, false, 20, 30),
            (How::Downgrade, true, 30, 40),
        ];
        assert_eq!(parts.collect::<Vec<_>>(), expected);
        assert!(holds.iter().all(|it| it.trusted));
        // It has never counted as held since.
        let lost = read(&[taken(1, true), changed(false, 20), ended(1, None)], None);
        let trusted: Vec<_> = lost.unwrap().iter().map(|it| it.trusted).collect();
        assert_eq!(trusted, [true, false]);
    }

    #[test]
    fn several_are_held_at_once_and_each_ends_by_itself() {
        let both = [taken(1, false), taken(2, true)];
        let ends = [ended(2, Some(20)), ended(1, Some(30))];
        let holds = read(&[both.clone(), ends].concat(), None).unwrap();
        let parts = holds.iter().map(|it| (it.key, it.shared, it.until));
        assert_eq!(parts.collect::<Vec<_>>(), [(2, true, 20), (1, false, 30)]);
        assert!(read(&both, None).is_err());
        let killed = read(&both, Some(25)).unwrap();
        assert!(killed.iter().all(|it| it.until == 25) && killed.len() == 2);
    }
}
