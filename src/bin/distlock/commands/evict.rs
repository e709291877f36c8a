//! `distlock evict`: ends a session that holds a lock.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

use distlock::{Claim, Error, Holder, Key, Manager};

use crate::connection::Connection;
use crate::exit::{Exit, Failure};
use crate::holder::describe;
use crate::keys::{OneKey, number};
use crate::output::print;

/// A process of the server that does not end in this time hangs.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Its program is told that the lock is lost, within its heartbeat, and may go on until then. It takes the \
role of the session, or the privileges of pg_signal_backend.

Exit codes: 0: the session has ended; 1: nobody holds the lock, or not that session; 64: not without \
--yes, --any or --pid; 69, 78: the database cannot be reached, configuration; 125: not ended, or not allowed to.")]
pub(crate) struct Options {
    #[command(flatten)]
    key: OneKey,

    /// Do not ask.
    #[arg(short, long)]
    yes: bool,

    /// Also a session of another program, such as psql.
    #[arg(long)]
    any: bool,

    /// Which session, where several hold the lock.
    #[arg(long)]
    pid: Option<i32>,
}

pub(crate) fn run(connection: &Connection, options: &Options) -> Result<Exit, Failure> {
    let key = options.key.key()?;
    let mgr = connection.connect()?;
    let mut holders = holders(&mgr, key)?;
    holders.retain(|holder| options.pid.is_none_or(|pid| holder.pid == pid));
    let lines: String = holders.iter().map(|it| describe(it) + "\n").collect();
    let holder = match &holders[..] {
        [] => {
            print(match options.pid {
                Some(_) => "that session does not hold it\n",
                None => "nobody holds it\n",
            })?;
            return Ok(Exit::NEGATIVE);
        }
        [first, rest @ ..] if rest.iter().all(|other| other.pid == first.pid) => first,
        _ => {
            print(&lines)?;
            return Err(usage("several sessions hold it: name one with --pid"));
        }
    };
    let pid = holder.pid;
    print(&lines)?;
    let its = mgr.list()?;
    print(&others(&its, holder))?;
    if !holder.is_manager && !options.any {
        let what = format!("pid {pid} is of another program, and no manager: --any ends it, too");
        return Err(usage(&what));
    }
    if !options.yes && !is_confirmed(pid)? {
        return Err(Failure::new(Exit::FAILURE, "not ended"));
    }
    let Some(gone) = mgr.evict_any(holder)? else {
        print("it had ended before\n")?;
        return Ok(Exit::NEGATIVE);
    };
    if !has_ended(&mgr, holder)? {
        let message = format!("pid {pid} was told to end and has not, for {PATIENCE:?}");
        return Err(Failure::new(Exit::FAILURE, message));
    }
    print(&format!("ended pid {pid}, with {}\n", numbers(gone)))?;
    Ok(Exit::SUCCESS)
}

fn usage(message: &str) -> Failure {
    Failure::new(Exit::USAGE, message)
}

/// Those that keep others from the lock.
fn holders(mgr: &Manager, key: Key) -> Result<Vec<Holder>, Error> {
    let mut holders = mgr.holders(key)?;
    holders.retain(|holder| holder.claim != Claim::Waits);
    Ok(holders)
}

/// The other keys of that session among `all`. Nothing is known of those of other programs.
fn others(all: &[Holder], holder: &Holder) -> String {
    let keys: BTreeSet<Key> = all
        .iter()
        .filter(|other| other.pid == holder.pid && other.key != holder.key)
        .map(|other| other.key)
        .collect();
    match keys.is_empty() {
        true => String::new(),
        false => format!("it also has {}\n", numbers(keys)),
    }
}

fn numbers(keys: impl IntoIterator<Item = Key>) -> String {
    let numbers: Vec<String> = keys.into_iter().map(number).collect();
    numbers.join(" ")
}

/// Asks whoever is at the terminal.
fn is_confirmed(pid: i32) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(usage("there is no terminal to ask: --yes ends it unasked"));
    }
    let mut answer = String::new();
    let mut err = io::stderr();
    write!(err, "End the session of pid {pid}? [y/N] ")
        .and_then(|()| err.flush())
        .and_then(|()| io::stdin().read_line(&mut answer))
        .map_err(|error| Failure::own("the terminal", error))?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

/// True once the session is gone from the server.
fn has_ended(mgr: &Manager, holder: &Holder) -> Result<bool, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = holders(mgr, holder.key)?;
        if left.iter().all(|other| other.pid != holder.pid) {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(POLL_INTERVAL);
    }
}
