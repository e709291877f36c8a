//! The faults that are injected, and when.

use std::fmt;
use std::path::Path;

use anyhow::Context;
use postgres::{Client, NoTls};
use throwaway_postgres::{Server, Shutdown};

use crate::Plan;
use crate::journal;
use crate::process::Process;
use crate::worker::application_name;

/// The process whose session is terminated, and the process that is killed.
const TERMINATED: u16 = 1;
const KILLED: u16 = 0;

const FAULTS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    /// The session of this process was terminated.
    Terminated(u16),
    /// This process was killed.
    Killed(u16),
    /// The server was restarted.
    Restarted,
}

impl Blow {
    /// True if it ended the session of `process`.
    pub(crate) fn hits(self, process: u16) -> bool {
        match self {
            Blow::Terminated(victim) | Blow::Killed(victim) => victim == process,
            Blow::Restarted => true,
        }
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blow::Terminated(process) => write!(f, "session of process {process} terminated"),
            Blow::Killed(process) => write!(f, "process {process} killed"),
            Blow::Restarted => f.write_str("server restarted"),
        }
    }
}

/// A fault, and the times between which it happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) blow: Blow,
    pub(crate) from: u128,
    pub(crate) to: u128,
}

pub(crate) struct Faults<'a> {
    jobs: usize,
    folder: &'a Path,
    /// `None` while the server is down.
    client: Option<Client>,
    /// `None` for a server that the demo did not start and does not restart.
    server: Option<&'a Server>,
    next: usize,
    struck: Vec<Fault>,
}

impl<'a> Faults<'a> {
    pub(crate) fn new(
        plan: &Plan,
        folder: &'a Path,
        url: &str,
        server: Option<&'a Server>,
    ) -> anyhow::Result<Self> {
        Ok(Faults {
            jobs: plan.jobs as usize,
            folder,
            client: Some(Client::connect(url, NoTls).context("the demo needs a database")?),
            server,
            next: 1,
            struck: Vec::new(),
        })
    }

    pub(crate) fn struck(&self) -> &[Fault] {
        &self.struck
    }

    /// Injects the next fault when the next quarter of the jobs is done, and describes it.
    pub(crate) fn strike(
        &mut self,
        done: usize,
        workers: &mut [Process],
    ) -> anyhow::Result<Option<String>> {
        let is_due = self.next <= FAULTS && done * 4 >= self.jobs * self.next;
        if !is_due || !self.all_at_work(workers)? {
            return Ok(None);
        }
        self.next += 1;
        let from = journal::now();
        let (blow, news) = match self.next - 1 {
            1 => self.terminate()?,
            2 => Faults::kill(workers)?,
            _ => self.restart()?,
        };
        let to = journal::now();
        self.struck
            .extend(blow.map(|blow| Fault { blow, from, to }));
        Ok(Some(news))
    }

    /// True if each running process has taken a lock in the session that it made after the last
    /// fault that hit it. A fault waits for that, so that it ends exactly one session of each
    /// process that it hits: a session that is still being made has no number.
    fn all_at_work(&self, workers: &mut [Process]) -> anyhow::Result<bool> {
        for (number, worker) in (0..).zip(workers) {
            let hits = self
                .struck
                .iter()
                .filter(|fault| fault.blow.hits(number))
                .count();
            let last = journal::read(self.folder, number)?.pop();
            let is_at_work = last.is_some_and(|record| record.owner.session >= hits);
            if !is_at_work && worker.is_running()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn terminate(&mut self) -> anyhow::Result<(Option<Blow>, String)> {
        let client = self.client.as_mut().context("it is connected")?;
        let ended = client.execute(
            "SELECT FROM (SELECT pg_terminate_backend(pid) AS yes FROM pg_stat_activity \
             WHERE application_name = $1) AS ended WHERE yes",
            &[&application_name(self.folder, TERMINATED)],
        );
        let whose = format!("session of process {TERMINATED}");
        Ok(match ended {
            Ok(0) => (None, format!("found no {whose} to terminate")),
            Ok(_) => (
                Some(Blow::Terminated(TERMINATED)),
                format!("terminated the {whose}"),
            ),
            // With `DATABASE_URL` the user may lack the privilege.
            Err(error) => {
                let error = anyhow::Error::from(error); // whose `#` shows the causes
                (None, format!("could not terminate the {whose}: {error:#}"))
            }
        })
    }

    fn kill(workers: &mut [Process]) -> anyhow::Result<(Option<Blow>, String)> {
        let victim = workers
            .get_mut(usize::from(KILLED))
            .context("it is there")?;
        if !victim.is_running()? {
            return Ok((None, format!("process {KILLED} has ended already")));
        }
        victim.kill()?;
        Ok((
            Some(Blow::Killed(KILLED)),
            format!("killed process {KILLED}"),
        ))
    }

    fn restart(&mut self) -> anyhow::Result<(Option<Blow>, String)> {
        let Some(server) = self.server else {
            return Ok((None, "did not restart the external server".to_owned()));
        };
        self.client = None; // it would not survive
        server.restart(Shutdown::Fast)?;
        Ok((Some(Blow::Restarted), "restarted the server".to_owned()))
    }
}
