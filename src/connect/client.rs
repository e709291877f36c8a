//! A client for the caller, by the same path as a session.

use postgres::{Client, SimpleQueryMessage};

use super::errors::refused;
use super::login::log_in;
use super::preflight::STANDBY;
use super::target::Target;
use crate::error::{Error, ErrorKind};
use crate::session::errors::retry_if_cancelled;

/// Connects to the only host of `target`, which has to be a primary.
pub(super) fn connect(target: &Target) -> Result<Client, Error> {
    // Its notices are the caller's.
    let mut client = log_in(target, target.config.clone())?;
    let question = "SET LOCAL statement_timeout = 0; SELECT pg_catalog.pg_is_in_recovery()";
    let answer = retry_if_cancelled(|| client.simple_query(question)).map_err(refused)?;
    let is_primary = answer
        .iter()
        .any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("f")));
    match is_primary {
        true => Ok(client),
        false => Err(Error::new(ErrorKind::Standby, STANDBY)),
    }
}
