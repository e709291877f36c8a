//! What breaks, and when.

use anyhow::Context;
use postgres::{Client, NoTls};
use throwaway_postgres::{Server, Shutdown};

use crate::journal;
use crate::worker::application_name;
use crate::{Plan, Worker};

/// The process that is killed, and the one whose session is terminated.
pub(crate) const KILLED: u16 = 0;
const TERMINATED: u16 = 1;

/// When the faults struck: from then on the locks were free.
#[derive(Clone, Default)]
pub(crate) struct Times {
    pub(crate) killed: Option<u128>,
    /// Sessions ended: by terminating one, by restarting the server.
    pub(crate) ended: Vec<u128>,
}

pub(crate) struct Faults<'a> {
    jobs: usize,
    client: Option<Client>,
    server: Option<&'a Server>,
    next: usize,
    times: Times,
}

impl<'a> Faults<'a> {
    pub(crate) fn new(plan: &Plan, url: &str, server: Option<&'a Server>) -> anyhow::Result<Self> {
        Ok(Faults {
            jobs: plan.jobs as usize,
            client: Some(Client::connect(url, NoTls)?),
            server,
            next: 0,
            times: Times::default(),
        })
    }

    pub(crate) fn times(&self) -> &Times {
        &self.times
    }

    /// Lets the next fault happen if enough jobs are done; says what it was.
    pub(crate) fn strike(
        &mut self,
        done: usize,
        workers: &mut [Worker],
    ) -> anyhow::Result<Option<String>> {
        let quarters = done * 4 / self.jobs.max(1);
        if quarters <= self.next || self.next > 2 {
            return Ok(None);
        }
        self.next += 1;
        let news = match self.next {
            1 => self.terminate()?,
            2 => {
                self.times.killed = Some(journal::now());
                let victim = workers.get_mut(usize::from(KILLED));
                victim.context("there is a worker")?.0.kill()?;
                format!("killed process {KILLED}")
            }
            _ => self.restart()?,
        };
        Ok(Some(format!("at {done} jobs: {news}")))
    }

    fn terminate(&mut self) -> anyhow::Result<String> {
        let client = self.client.as_mut().context("it is connected")?;
        self.times.ended.push(journal::now());
        let ended = client.execute(
            "SELECT FROM (SELECT pg_terminate_backend(pid) AS yes FROM pg_stat_activity \
             WHERE application_name = $1) AS ended WHERE yes",
            &[&application_name(TERMINATED)],
        )?;
        Ok(format!(
            "terminated {ended} session, of process {TERMINATED}"
        ))
    }

    fn restart(&mut self) -> anyhow::Result<String> {
        let Some(server) = self.server else {
            return Ok("a server that is not ours is not restarted".into());
        };
        self.client = None;
        self.times.ended.push(journal::now());
        server.restart(Shutdown::Fast)?;
        Ok("restarted the server".into())
    }
}
