//! A thread that acquires locks, holds them for a while, and records when they counted as held.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use distlock::{Error, ErrorKind, Guard, GuardSet, Manager};

use crate::history::{Event, How, Journal, nanos, now};
use crate::request::{Held, Record, Request, Wait, token};
use crate::store;
use crate::worker::{Broken, LEASE, Role, SPACE, store_path};

/// How often a holder checks whether it has lost its locks.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// What a thread locks, in which ways, and for how many milliseconds.
pub(crate) struct Work {
    pub(crate) keys: Range<i32>,
    /// Each as likely as another.
    pub(crate) hows: &'static [How],
    pub(crate) millis: Range<u64>,
    /// For one hold of many, so that faults meet all kinds.
    pub(crate) rare_millis: Range<u64>,
}

pub(crate) struct Locker<'a> {
    role: &'a Role,
    mgr: &'a Manager,
    work: Work,
    space: i32,
    rng: fastrand::Rng,
    journal: Journal,
    store: store::Client,
}

impl<'a> Locker<'a> {
    /// The thread with this `number` of the process.
    pub(crate) fn new(
        role: &'a Role,
        number: usize,
        mgr: &'a Manager,
        work: Work,
    ) -> io::Result<Locker<'a>> {
        let seed = u64::from(role.process) << 32 | u64::from(role.life) << 16 | number as u64;
        Ok(Locker {
            role,
            mgr,
            work,
            space: match role.broken {
                Some(Broken::NoExclusion) => SPACE + role.process.cast_signed(),
                _ => SPACE,
            },
            rng: fastrand::Rng::with_seed(role.seed ^ seed),
            journal: Journal::new(&role.folder, role.process, role.life, number)?,
            store: store::Client::connect(&store_path(&role.folder))?,
        })
    }

    pub(crate) fn work(&mut self, over: &AtomicBool) -> anyhow::Result<()> {
        while !over.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(self.rng.u64(0..10)));
            let Work { hows, keys, .. } = &self.work;
            let request = Request::random(&mut self.rng, hows, keys.clone(), self.space);
            let from = now();
            let outcome = request.send(self.mgr);
            let until = now();
            if let Wait::For(timeout) = request.wait {
                self.called(from, from + nanos(timeout), until)?;
            }
            match outcome {
                Ok(Some(held)) => self.hold(&request, held, until)?,
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Holds what a request got at `at`, and releases it.
    fn hold(&mut self, request: &Request, mut held: Held, at: u64) -> anyhow::Result<()> {
        let mut records = request.records(&held, at)?;
        for &Record { key, shared, token } in &records {
            self.journal.write(&Event::Taken {
                key,
                how: request.how,
                shared,
                token,
                at,
            })?;
        }
        let changes = request.how == How::One && self.rng.u8(0..3) == 0;
        let (trusted, lost) = self.keep(&mut held, &mut records, changes)?;
        for &Record { key, .. } in &records {
            self.journal.write(&Event::Ended { key, trusted, lost })?;
        }
        self.release(held)?;
        if lost.is_some() {
            // Too late: the store refuses it if a later holder has written.
            self.write(&records)?;
        }
        Ok(())
    }

    /// Keeps the locks for a while. Returns when they last counted as held, if ever in the mode that
    /// they have at the end, and when they were found lost.
    fn keep(
        &mut self,
        held: &mut Held,
        records: &mut [Record],
        changes: bool,
    ) -> anyhow::Result<(Option<u64>, Option<u64>)> {
        let millis = match self.rng.u8(0..64) {
            0 => &self.work.rare_millis,
            _ => &self.work.millis,
        };
        let length = self.rng.u64(millis.clone());
        let start = Instant::now();
        let end = start + Duration::from_millis(length);
        let mut change = changes.then(|| self.moment(start, end));
        let mut trusted = None;
        loop {
            let before = now();
            if self.sees_loss(|| held.is_lost()) {
                return Ok((trusted, Some(now())));
            }
            if trusted.is_none() {
                self.write(records)?;
            }
            trusted = Some(before);
            if Instant::now() >= end {
                return Ok((trusted, None));
            }
            if change.is_some_and(|at| Instant::now() >= at)
                && let Held::Guards(guards) = &mut *held
                && let ([guard], [record]) = (&mut guards[..], &mut *records)
            {
                change = None;
                if self.change(guard, record, before)? {
                    trusted = None;
                    change = Some(self.moment(Instant::now(), end));
                }
                continue;
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Any time between the two.
    fn moment(&mut self, start: Instant, end: Instant) -> Instant {
        start + end.saturating_duration_since(start).mul_f64(self.rng.f64())
    }

    /// Changes the mode of a hold that counted as held at `seen`. False if it has not changed.
    fn change(
        &mut self,
        guard: &mut Guard,
        record: &mut Record,
        seen: u64,
    ) -> anyhow::Result<bool> {
        if !record.shared {
            // Before the call: readers may be inside when it returns.
            self.changed(record, true, seen)?;
            return is_changed(guard, |guard| guard.downgrade().map(|()| true));
        }
        let is_upgraded = is_changed(guard, Guard::try_upgrade)?;
        let at = now();
        // If the process was stopped meanwhile, it was not held until then.
        if !is_upgraded || self.sees_loss(|| guard.is_lost()) {
            return Ok(false);
        }
        record.token = token(guard, at)?;
        self.changed(record, false, at)?;
        Ok(true)
    }

    fn changed(&mut self, record: &mut Record, shared: bool, at: u64) -> io::Result<()> {
        record.shared = shared;
        let Record { key, token, .. } = *record;
        self.journal.write(&Event::Changed {
            key,
            shared,
            token,
            at,
        })
    }

    fn sees_loss(&self, is_lost: impl FnOnce() -> bool) -> bool {
        self.role.broken != Some(Broken::WatchIgnored) && is_lost()
    }

    fn write(&mut self, records: &[Record]) -> io::Result<()> {
        for &Record { key, token, .. } in records {
            self.store.write(key, token)?;
        }
        Ok(())
    }

    /// Releases a set as a whole, or lock by lock.
    fn release(&mut self, held: Held) -> anyhow::Result<()> {
        let (waits, is_whole) = (self.rng.bool(), self.rng.bool());
        match held {
            Held::Set(set) if is_whole => self.end(waits, set, GuardSet::unlock),
            held => held
                .into_guards()
                .into_iter()
                .try_for_each(|guard| self.end(waits, guard, Guard::unlock)),
        }
    }

    /// An unlock returns within the time of the lease; a drop never waits.
    fn end<T>(
        &mut self,
        waits: bool,
        held: T,
        unlock: impl FnOnce(T) -> Result<(), Error>,
    ) -> anyhow::Result<()> {
        let from = now();
        let limit = if waits { nanos(LEASE) } else { 0 };
        if waits {
            // The lock may have been lost meanwhile.
            unlock(held).ok();
        } else {
            drop(held);
        }
        self.called(from, from + limit, now())
    }

    /// Records a call only if it was late.
    fn called(&mut self, from: u64, deadline: u64, until: u64) -> anyhow::Result<()> {
        if until <= deadline {
            return Ok(());
        }
        Ok(self.journal.write(&Event::Called {
            from,
            deadline,
            until,
        })?)
    }
}

/// What came of `change`. After an error the hold is as it was, or over.
fn is_changed(
    guard: &mut Guard,
    change: impl FnOnce(&mut Guard) -> Result<bool, Error>,
) -> anyhow::Result<bool> {
    change(guard).or_else(|error| {
        let is_lost = guard.is_lost();
        ensure!(is_lost || error.is_transient(), "no change: {error:?}");
        Ok(false)
    })
}
