//! `distlock list`: the locks of all managers.

use std::io::{self, IsTerminal};
use std::thread;
use std::time::Duration;

use crate::connection::Connection;
use crate::duration;
use crate::exit::{Exit, Failure};
use crate::holder::listing;
use crate::output::print;

/// Erases the terminal, and begins at its top.
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(clap::Args, Debug)]
#[command(after_help = "\
A lock is listed once for each session that holds it or waits for it. What this role may not see of \
others' sessions is shown as -; pg_read_all_stats sees all.")]
pub(crate) struct Options {
    /// Print JSON: an array on one line.
    #[arg(long)]
    json: bool,

    /// List again and again, in this interval.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "2s", value_parser = duration::parse)]
    watch: Option<Duration>,
}

pub(crate) fn run(connection: &Connection, options: &Options) -> Result<Exit, Failure> {
    let mgr = connection.connect()?;
    let is_screen = options.watch.is_some() && io::stdout().is_terminal();
    loop {
        let mut text = listing(&mgr.list()?, options.json);
        if is_screen {
            text.insert_str(0, CLEAR);
        }
        let is_read = print(&text)?;
        match options.watch {
            Some(interval) if is_read => thread::sleep(interval),
            _ => return Ok(Exit::SUCCESS),
        }
    }
}
