//! stub

use crate::connection::Connection;
use crate::exit::{Exit, Failure};

pub(crate) fn run(_connection: &Connection) -> Result<Exit, Failure> {
    Ok(Exit::SUCCESS)
}
