//! The journals of the processes, a line for each event, and the history that is read from
//! them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::time::Duration;

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

/// What one thread of a process saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A lock was acquired; the call returned at `at`.
    Taken {
        key: i32,
        shared: bool,
        token: i64,
        at: u64,
    },
    /// The hold ended. It last counted as held at `trusted`, if ever, and was found lost at
    /// `lost`, unless it was released.
    Ended {
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

/// One hold of a lock, from the end of the acquire to when it last counted as held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub process: u32,
    pub key: i32,
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
        let mut open: Option<Hold> = None;
        for line in lines.lines() {
            match serde_json::from_str(&line?) {
                Ok(Event::Taken {
                    key,
                    shared,
                    token,
                    at,
                }) => {
                    anyhow::ensure!(open.is_none(), "a hold within a hold");
                    open = Some(Hold {
                        process,
                        key,
                        shared,
                        token,
                        from: at,
                        until: at,
                        lost: None,
                        trusted: true,
                    });
                }
                Ok(Event::Ended { trusted, lost }) => {
                    let Some(hold) = open.take() else {
                        anyhow::bail!("an end without a hold");
                    };
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
        if let Some(hold) = open {
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
