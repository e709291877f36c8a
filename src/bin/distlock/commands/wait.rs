//! stub

use crate::connection::Connection;
use crate::exit::{Exit, Failure};

#[derive(clap::Args, Debug)]
pub(crate) struct Options {}

pub(crate) fn run(_connection: &Connection, _options: &Options) -> Result<Exit, Failure> {
    Ok(Exit::SUCCESS)
}
