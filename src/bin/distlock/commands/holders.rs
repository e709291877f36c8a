//! `distlock holders`: who has to do with a lock.

use crate::connection::Connection;
use crate::exit::{Exit, Failure};
use crate::holder::listing;
use crate::keys::OneKey;
use crate::output::print;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
CLAIM is holds, waits or fenced: the session has a fenced transaction open, which the next holder \
waits for. What this role may not see of others' sessions, and what the server does not know, is shown \
as -; pg_read_all_stats sees all.")]
pub(crate) struct Options {
    #[command(flatten)]
    key: OneKey,

    /// Print JSON: an array on one line.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(connection: &Connection, options: &Options) -> Result<Exit, Failure> {
    let key = options.key.key()?;
    let holders = connection.connect()?.holders(key)?;
    print(&listing(&holders, options.json))?;
    Ok(Exit::SUCCESS)
}
