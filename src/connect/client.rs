//! A client for the caller, by the same path as a session.

use postgres::{Client, SimpleQueryMessage};

use super::errors::refused_check;
use super::login::login;
use super::preflight::STANDBY;
use super::target::Target;
use crate::error::{Error, ErrorKind};

/// Connects to the only host of `target`, which has to be a primary.
pub(super) fn connect(target: &Target) -> Result<Client, Error> {
    let (mut client, _) = login(target)?;
    let answer = client
        .simple_query("SELECT pg_catalog.pg_is_in_recovery()")
        .map_err(refused_check)?;
    let is_primary = answer
        .iter()
        .any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("f")));
    match is_primary {
        true => Ok(client),
        false => Err(Error::new(ErrorKind::Standby, STANDBY)),
    }
}
