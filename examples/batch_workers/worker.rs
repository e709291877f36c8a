//! A worker process.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::thread;

use distlock::{ErrorKind, Guard, Manager};

use crate::Plan;
use crate::job;
use crate::journal::{Event, Journal};

struct Worker<'a> {
    plan: &'a Plan,
    folder: &'a Path,
    number: u16,
    mgr: &'a Manager,
    journal: &'a Journal,
}

pub(crate) fn run(plan: &Plan, folder: &Path, url: &str, number: u16) -> anyhow::Result<()> {
    let mgr = Manager::builder(url)
        .namespace("batch-workers")
        .application_name(&application_name(number))
        .wait_while_unavailable(true)
        .connect()?;
    let journal = Journal::open(folder, number)?;
    let worker = Worker {
        plan,
        folder,
        number,
        mgr: &mgr,
        journal: &journal,
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.threads)
            .map(|thread| {
                scope.spawn({
                    let worker = &worker;
                    move || worker.work_off(thread)
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
    })?;
    let stats = mgr.stats();
    fs::write(
        folder.join(format!("stats-{number}")),
        format!(
            "{} {} {} {} {}",
            stats.lost, stats.reconnects, stats.hand_overs, stats.acquired, stats.round_trips
        ),
    )?;
    mgr.close()?;
    Ok(())
}

pub(crate) fn application_name(number: u16) -> String {
    format!("batch-worker-{number}")
}

impl Worker<'_> {
    /// Goes through the list until nothing is left to do.
    fn work_off(&self, thread: u16) -> anyhow::Result<()> {
        let jobs = self.plan.jobs;
        let lane = u32::from(self.number * self.plan.threads + thread);
        let lanes = u32::from(self.plan.processes * self.plan.threads);
        let start = jobs * lane / lanes; // each thread begins elsewhere
        loop {
            let open = || {
                (0..jobs)
                    .map(|n| (start + n) % jobs)
                    .filter(|&n| !job::is_done(self.folder, n))
            };
            let mut did_one = false;
            for job in open() {
                if let Some(guard) = self.try_lock(job)? {
                    did_one |= self.attend(job, thread, guard)?;
                }
            }
            let Some(job) = open().next() else {
                return Ok(());
            };
            if !did_one {
                // All that is left is in other hands: wait for one of them.
                let guard = self.mgr.lock(key(job))?;
                self.attend(job, thread, guard)?;
            }
        }
    }

    fn try_lock(&self, job: u32) -> Result<Option<Guard>, distlock::Error> {
        if self.plan.lawless {
            // A key that nobody else has.
            return self.mgr.try_lock(format!(
                "{job} {} {:?}",
                self.number,
                thread::current().id()
            ));
        }
        match self.mgr.try_lock(key(job)) {
            // The database is away: now there is time to wait.
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                self.mgr.lock(key(job)).map(Some)
            }
            other => other,
        }
    }

    /// Does the job if that is still to be done. True if it was.
    fn attend(&self, job: u32, thread: u16, guard: Guard) -> anyhow::Result<bool> {
        self.journal.write(Event::Begin, job, thread)?;
        let result = if job::is_done(self.folder, job) {
            None
        } else {
            job::work(self.folder, job, || !guard.is_lost())?
        };
        if guard.is_lost() {
            // Somebody else may be at it: what we have done does not count.
            self.journal.write(Event::Lost, job, thread)?;
            return Ok(false);
        }
        let Some(result) = result else {
            self.journal.write(Event::Idle, job, thread)?;
            return Ok(false);
        };
        job::publish(
            self.folder,
            job,
            &format!("{}-{thread}", self.number),
            &result,
        )?;
        self.journal.write(Event::Done, job, thread)?;
        drop(guard);
        self.tell(job, result.len())?;
        Ok(true)
    }

    /// Adds a line to the summary, which all share.
    fn tell(&self, job: u32, bytes: usize) -> anyhow::Result<()> {
        let _guard = self.mgr.lock("summary")?;
        let mut summary = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("summary"))?;
        writeln!(
            summary,
            "job {job}: {bytes} bytes, by process {}",
            self.number
        )?;
        Ok(())
    }
}

fn key(job: u32) -> String {
    format!("job-{job}")
}
