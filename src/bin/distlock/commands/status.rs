//! `distlock status`: whether a lock is held.

use distlock::Claim;

use crate::connection::Connection;
use crate::exit::{Exit, Failure};
use crate::holder::describe;
use crate::keys::OneKey;
use crate::output;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Exit codes: 0: it is free; 1: it is held, or kept by a fenced transaction of an earlier holder; \
69, 78: the database cannot be reached, configuration.")]
pub(crate) struct Options {
    #[command(flatten)]
    key: OneKey,
}

pub(crate) fn run(connection: &Connection, options: &Options) -> Result<Exit, Failure> {
    let key = options.key.key()?;
    let holders = connection.connect()?.holders(key)?;
    let lines: String = holders
        .iter()
        .filter(|holder| holder.claim != Claim::Waits)
        .map(|holder| describe(holder) + "\n")
        .collect();
    if lines.is_empty() {
        output::print("free\n")?;
        return Ok(Exit::SUCCESS);
    }
    output::print(&lines)?;
    Ok(Exit::NEGATIVE)
}
