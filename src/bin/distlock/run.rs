//! stub

pub(crate) mod options;

use self::options::RunOptions;
use crate::connection::Connection;
use crate::exit::{Exit, Failure};

pub(crate) fn run(_connection: &Connection, _options: &RunOptions) -> Result<Exit, Failure> {
    Ok(Exit::SUCCESS)
}
