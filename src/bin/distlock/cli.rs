//! The command line.

use clap::{ArgAction, Args, Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;

use crate::commands::{completions, evict, hold, holders, key, list, man, status, wait};
use crate::connection::Connection;
use crate::run::options::RunOptions;

/// Locks that all machines share, in the PostgreSQL that they share already.
#[derive(Debug, Parser)]
#[command(name = "distlock", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connection: Connection,

    #[command(flatten)]
    pub(crate) verbosity: Verbosity,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Messages")]
pub(crate) struct Verbosity {
    /// Say more; twice: everything.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,

    /// Say nothing but failures.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

impl Verbosity {
    pub(crate) fn level(&self) -> LevelFilter {
        match (self.quiet, self.verbose) {
            (true, _) => LevelFilter::ERROR,
            (false, 0) => LevelFilter::WARN,
            (false, 1) => LevelFilter::INFO,
            (false, _) => LevelFilter::DEBUG,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a program under a lock.
    Run(Box<RunOptions>),
    /// Hold a lock until standard input ends.
    Hold(hold::Options),
    /// Tell whether a lock is held: exit 0 if it is free, 1 if it is held.
    Status(status::Options),
    /// Wait until a lock is free, without keeping it.
    Wait(wait::Options),
    /// List the locks of all managers in this database.
    List(list::Options),
    /// Show who holds a lock, and who waits for it.
    Holders(holders::Options),
    /// End the session that holds a lock.
    Evict(evict::Options),
    /// Show the number of a name, its SQL and its columns in `pg_locks`.
    Key(key::Options),
    /// Say whether this database, and the path to it, can carry locks.
    #[command(after_help = "\
Each line is a check: ok, note (locks work all the same) or FAIL, with what helps. The lease is proven: \
a process takes a lock and is stopped, and the server has to give the lock back.

Exit codes: 0: all is well; 1: something keeps locks from working; 69, 78: the database cannot be \
reached, configuration.")]
    Doctor,
    /// Print a shell's completions.
    Completions(completions::Options),
    /// Print the manual page.
    Man(man::Options),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
