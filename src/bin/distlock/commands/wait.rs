//! `distlock wait`: until a lock is free.

use std::time::Duration;

use crate::connection::{Connection, answered};
use crate::duration;
use crate::exit::{Exit, Failure};
use crate::keys::OneKey;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
It takes a share of the lock and gives it back at once: it waits for a holder that has the lock \
alone, and for its turn, but not for holders that share it.

Exit codes: 0: it was free; 75: not within the time; 69, 78: the database cannot be reached, \
configuration.")]
pub(crate) struct Options {
    #[command(flatten)]
    key: OneKey,

    /// Wait for so long at most.
    #[arg(short, long, visible_alias = "timeout", value_name = "TIME", value_parser = duration::parse)]
    wait: Option<Duration>,
}

pub(crate) fn run(connection: &Connection, options: &Options) -> Result<Exit, Failure> {
    let key = options.key.key()?;
    let mgr = connection.connect()?;
    let share = match options.wait {
        Some(wait) => mgr.try_lock_shared_for(key, wait)?,
        None => Some(mgr.lock_shared(key)?),
    };
    match answered(&mgr, share)? {
        Some(_) => Ok(Exit::SUCCESS),
        None => Err(options.key.not_obtained()),
    }
}
