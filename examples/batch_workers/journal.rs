//! The journals: what each process did, in a file of its own that survives it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context;

/// Nanoseconds on a clock that all processes of the machine share. The standard library
/// has no monotonic clock that is comparable across processes.
pub(crate) fn now() -> u128 {
    SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |elapsed| elapsed.as_nanos())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The lock is held.
    Begin,
    /// The job is done, the lock not yet released.
    Done,
    /// The lock is still held, and there was nothing to do.
    Idle,
    /// The worker has seen that the lock is lost.
    Lost,
}

/// Whose lock a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) job: u32,
    pub(crate) thread: u16,
    /// The number of the database session that has the lock: 0 is the first one.
    pub(crate) session: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) event: Event,
    pub(crate) owner: Owner,
    pub(crate) time: u128,
}

pub(crate) struct Journal(File);

impl Journal {
    pub(crate) fn open(folder: &Path, process: u16) -> io::Result<Journal> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join(format!("journal-{process}")))
            .map(Journal)
    }

    /// Writes a line in one call, so that a killed process leaves whole lines.
    pub(crate) fn write(&self, event: Event, owner: Owner) -> io::Result<()> {
        let Owner {
            job,
            thread,
            session,
        } = owner;
        let line = format!("{event:?} {job} {thread} {session} {}\n", now());
        (&self.0).write_all(line.as_bytes())
    }
}

/// A process's records, in order. Without the last line while that is still being written.
pub(crate) fn read(folder: &Path, process: u16) -> anyhow::Result<Vec<Record>> {
    let text = fs::read_to_string(folder.join(format!("journal-{process}"))).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| parse(line).with_context(|| format!("bad line in a journal: {line}")))
        .collect()
}

fn parse(line: &str) -> Option<Record> {
    let mut fields = line.split(' ');
    let event = match fields.next()? {
        "Begin" => Event::Begin,
        "Done" => Event::Done,
        "Idle" => Event::Idle,
        "Lost" => Event::Lost,
        _ => return None,
    };
    let owner = Owner {
        job: fields.next()?.parse().ok()?,
        thread: fields.next()?.parse().ok()?,
        session: fields.next()?.parse().ok()?,
    };
    Some(Record {
        event,
        owner,
        time: fields.next()?.parse().ok()?,
    })
}
