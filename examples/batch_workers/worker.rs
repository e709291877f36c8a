//! What a worker process runs.

use std::io::{self, Read as _};
use std::path::Path;
use std::process;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use distlock::{Guard, Key, Manager};

use crate::Plan;
use crate::figures;
use crate::folder::run_name;
use crate::job;
use crate::journal::{Event, Journal, Owner};
use crate::summary::{self, Summary};

/// Before the summary is tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// A lock, and what identifies it in the journal.
struct Held {
    guard: Guard,
    owner: Owner,
}

struct Worker<'a> {
    plan: &'a Plan,
    folder: &'a Path,
    number: u16,
    mgr: Manager,
    journal: Journal,
    summary: Summary,
}

pub(crate) fn run(plan: &Plan, folder: &Path, number: u16) -> anyhow::Result<()> {
    end_with_the_demo();
    let url = std::env::var("DATABASE_URL").context("the demo passes DATABASE_URL on")?;
    let mgr = Manager::builder(&url)
        .namespace(&run_name(folder))
        .application_name(&application_name(folder, number))
        .wait_while_unavailable(true)
        .connect()?;
    let worker = Worker {
        plan,
        folder,
        number,
        mgr,
        journal: Journal::open(folder, number)?,
        summary: Summary::new(&url, folder),
    };
    thread::scope(|scope| {
        let worker = &worker;
        let threads: Vec<_> = (0..plan.threads)
            .map(|thread| scope.spawn(move || worker.work_off(thread)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
    })?;
    figures::leave(folder, number, &worker.mgr.stats())?;
    worker.mgr.close()?;
    Ok(())
}

/// Ends the worker when its standard input closes, as when the demo is killed. Otherwise it
/// would wait for a database that is gone as well.
fn end_with_the_demo() {
    thread::spawn(|| {
        io::stdin().read_to_end(&mut Vec::new()).ok();
        process::exit(1);
    });
}

/// The session's name in `pg_stat_activity`.
pub(crate) fn application_name(folder: &Path, number: u16) -> String {
    format!("{}-{number}", run_name(folder))
}

impl Worker<'_> {
    /// Claims the jobs that are left, until nothing is left to do.
    fn work_off(&self, thread: u16) -> anyhow::Result<()> {
        loop {
            let jobs = 0..self.plan.jobs;
            let open: Vec<u32> = jobs
                .filter(|&job| !job::is_done(self.folder, job))
                .collect();
            let Some(&first) = open.first() else {
                return Ok(());
            };
            let held = match self.claim(&open, thread)? {
                Some(held) => held,
                // Other workers hold all that is left: wait for one of them.
                None => self.lock(first, thread)?,
            };
            self.attend(held)?;
        }
    }

    /// Takes one of the `open` jobs that nobody else is at.
    fn claim(&self, open: &[u32], thread: u16) -> anyhow::Result<Option<Held>> {
        let before = self.session();
        let keys: Vec<Key> = open
            .iter()
            .map(|&job| self.mgr.key(self.key(job, thread)))
            .collect();
        let guard = match self.mgr.try_lock_some(&keys, 1) {
            Ok(mut guards) => guards.pop(),
            // The database is down or refuses connections for now: wait.
            Err(error) if error.is_transient() => None,
            Err(error) => return Err(error.into()),
        };
        let job_of = |guard: &Guard| {
            let mut jobs = keys.iter().zip(open);
            jobs.find_map(|(key, &job)| (key == guard.key()).then_some(job))
        };
        Ok(guard.and_then(|guard| {
            let job = job_of(&guard)?;
            Some(self.held(guard, before, job, thread))
        }))
    }

    fn lock(&self, job: u32, thread: u16) -> anyhow::Result<Held> {
        let before = self.session();
        let guard = self.mgr.lock(self.key(job, thread))?;
        Ok(self.held(guard, before, job, thread))
    }

    fn key(&self, job: u32, thread: u16) -> String {
        let name = if job == self.plan.summary() {
            "summary".to_owned()
        } else {
            format!("job-{job}")
        };
        if self.plan.lawless {
            format!("{name}, for {}-{thread} alone", self.number)
        } else {
            name
        }
    }

    /// The number of the current session, or of the last one while there is none.
    fn session(&self) -> usize {
        usize::try_from(self.mgr.stats().reconnects).unwrap_or(usize::MAX)
    }

    /// Determines which session has the lock. The manager counts a reconnect before the new
    /// session grants a lock, and after the old one's locks are lost. So if `guard` is not
    /// lost after the count was read, its session is the one that was read. If it is lost
    /// already, its session is the one `before` the acquire or a later one.
    fn held(&self, guard: Guard, before: usize, job: u32, thread: u16) -> Held {
        let present = self.session();
        let session = if guard.is_lost() { before } else { present };
        let owner = Owner {
            job,
            thread,
            session,
        };
        Held { guard, owner }
    }

    /// Does the job if it is not done yet. True if this call did it.
    fn attend(&self, Held { guard, owner }: Held) -> anyhow::Result<bool> {
        let job = owner.job;
        self.journal.write(Event::Begin, owner)?;
        let result = if job::is_done(self.folder, job) {
            None
        } else {
            job::work(self.folder, job, || !guard.is_lost())?
        };
        if guard.is_lost() {
            // Another worker may hold the lock: this result does not count.
            self.journal.write(Event::Lost, owner)?;
            return Ok(false);
        }
        let Some(result) = result else {
            self.journal.write(Event::Idle, owner)?;
            return Ok(false);
        };
        let who = format!("{}-{}", self.number, owner.thread);
        job::publish(self.folder, job, &who, &result)?;
        self.journal.write(Event::Done, owner)?;
        drop(guard); // does not wait: the unlock goes with the next request
        self.tell(job, owner.thread)?;
        Ok(true)
    }

    /// Adds the job's line to the summary, which all workers share.
    fn tell(&self, job: u32, thread: u16) -> anyhow::Result<()> {
        loop {
            let Held { guard, owner } = self.lock(self.plan.summary(), thread)?;
            self.journal.write(Event::Begin, owner)?;
            match self.summary.add(&guard, job, self.number) {
                Ok(()) => return Ok(self.journal.write(Event::Done, owner)?),
                Err(error) if summary::may_pass(&error) => {
                    let event = match guard.is_lost() {
                        true => Event::Lost,
                        false => Event::Idle,
                    };
                    self.journal.write(event, owner)?;
                }
                Err(error) => return Err(error),
            }
            drop(guard);
            thread::sleep(PAUSE);
        }
    }
}
