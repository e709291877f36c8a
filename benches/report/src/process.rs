//! Other processes with managers of their own: this program again, which reads its orders line
//! by line from its standard input.

use std::io::{BufRead, BufReader, Lines, Write, stdin};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use distlock::{Guard, Manager};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::machine::now;

/// What a process does with the shared key.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Locks it, and answers with the time of the grant.
    Lock,
    Unlock,
    /// Answers with the number of round trips so far.
    RoundTrips,
    /// Locks and unlocks it for that many milliseconds, and answers with the time of each grant,
    /// on the clock of [`now`].
    Turns(u64),
}

/// The other process. It ends with its standard input.
pub(crate) struct Process {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts it, and returns before it has connected.
    pub(crate) fn start(url: &str, key: i64) -> Result<Process> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--process", url, "--key", &key.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let answers = child.stdout.take().context("no pipe from the process")?;
        Ok(Process {
            orders: child.stdin.take(),
            answers: BufReader::new(answers).lines(),
            child,
        })
    }

    pub(crate) fn order(&mut self, order: Order) -> Result<()> {
        let pipe = self.orders.as_mut().context("no pipe to the process")?;
        writeln!(pipe, "{}", serde_json::to_string(&order)?)?;
        Ok(())
    }

    pub(crate) fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let line = self.answers.next().context("the process has ended")??;
        Ok(serde_json::from_str(&line)?)
    }

    pub(crate) fn ask<T: DeserializeOwned>(&mut self, order: Order) -> Result<T> {
        self.order(order)?;
        self.answer()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.orders.take());
        self.child.wait().ok();
    }
}

/// The other process's side.
pub(crate) fn serve(url: &str, key: i64) -> Result<()> {
    let mgr = Manager::connect(url)?;
    let mut guard: Option<Guard> = None;
    let result = stdin().lines().try_for_each(|line| {
        match serde_json::from_str(&line?)? {
            Order::Lock => {
                guard = Some(mgr.lock(key)?);
                answer(&now())?;
            }
            Order::Unlock => match guard.take() {
                Some(guard) => guard.unlock()?,
                None => bail!("there is nothing to unlock"),
            },
            Order::RoundTrips => answer(&mgr.stats().round_trips)?,
            Order::Turns(millis) => answer(&turns(&mgr, key, Duration::from_millis(millis))?)?,
        }
        Ok(())
    });
    mgr.close()?;
    result
}

fn turns(mgr: &Manager, key: i64, duration: Duration) -> Result<Vec<u64>> {
    let mut turns = Vec::new();
    let start = Instant::now();
    while start.elapsed() < duration {
        let guard = mgr.lock(key)?;
        turns.push(now());
        drop(guard);
    }
    Ok(turns)
}

#[expect(clippy::print_stdout, reason = "the way back to the first process")]
fn answer(answer: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(answer)?);
    Ok(())
}
