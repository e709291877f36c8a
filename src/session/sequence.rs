//! The sequence that fencing tokens are drawn from.

use postgres::Client;
use postgres::error::SqlState;

use super::errors::refused;
use crate::config::SequenceName;
use crate::error::{Error, ErrorKind};

/// What must be true of it. Its number comes back, which needs no quoting later on.
const LOOK: &str = "SELECT c.oid, c.relkind = 'S' AND c.relpersistence = 'p' \
     AND s.seqcache = 1 AND s.seqincrement > 0 AND s.seqmin > 0 AND NOT s.seqcycle, \
     pg_catalog.has_sequence_privilege(c.oid, 'USAGE') \
     OR pg_catalog.has_sequence_privilege(c.oid, 'UPDATE') \
     FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid \
     WHERE c.oid = pg_catalog.to_regclass($1)";

/// One that was found: its name, and its object identifier, which needs no quoting.
pub(crate) struct Sequence {
    pub(super) name: SequenceName,
    pub(super) number: u32,
}

/// What to do about a sequence that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It is made, for the first time.
    Make,
    /// Somebody has dropped it. Made anew it would give tokens that were given before.
    Refuse,
}

/// Finds the sequence, and has what is drawn from it outlive a crash and a fail-over.
pub(crate) fn find_or_make(
    client: &mut Client,
    name: &SequenceName,
    missing: Missing,
) -> Result<Sequence, Error> {
    client
        .batch_execute(
            "SELECT pg_catalog.set_config('synchronous_commit', CASE \
             pg_catalog.current_setting('synchronous_commit') \
             WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false)",
        )
        .map_err(refused)?;
    let found = |number| Sequence {
        name: name.clone(),
        number,
    };
    if let Some(number) = find(client, name)? {
        return Ok(found(number));
    }
    if missing == Missing::Refuse {
        return Err(Error::new(
            ErrorKind::Fencing,
            format!(
                "the sequence {name} is not there any more: whoever dropped it has to make it \
                 anew, and to have it START above all tokens that were given"
            ),
        ));
    }
    let create = format!("CREATE SEQUENCE IF NOT EXISTS {name} AS bigint CACHE 1 NO CYCLE");
    let created = client.batch_execute(&create);
    // Somebody else may have made it at the same moment, which is no error then.
    match (find(client, name)?, created) {
        (Some(number), _) => Ok(found(number)),
        (None, Err(error)) => Err(cannot_be_used(name, error)),
        (None, Ok(())) => Err(Error::new(
            ErrorKind::Fencing,
            format!("the sequence {name} has gone while it was made"),
        )),
    }
}

fn find(client: &mut Client, name: &SequenceName) -> Result<Option<u32>, Error> {
    let found = client.query_opt(LOOK, &[&name.to_string()]);
    let Some(row) = found.map_err(|error| cannot_be_used(name, error))? else {
        return Ok(None);
    };
    let (oid, fit, allowed) = (row.try_get(0), row.try_get(1), row.try_get(2));
    let fit: Option<bool> = fit.map_err(refused)?;
    let allowed: Option<bool> = allowed.map_err(refused)?;
    if fit != Some(true) {
        return Err(Error::new(
            ErrorKind::Fencing,
            format!(
                "{name} cannot give fencing tokens: it must be a permanent sequence that \
                 grows, with a minimum of 1 or more, without CACHE and without CYCLE"
            ),
        ));
    }
    if allowed != Some(true) {
        return Err(Error::new(
            ErrorKind::Fencing,
            format!(
                "this role may not draw from the sequence {name}: have an administrator run \
                 GRANT USAGE ON SEQUENCE {name} TO <role>"
            ),
        ));
    }
    oid.map(Some).map_err(refused)
}

fn cannot_be_used(name: &SequenceName, error: postgres::Error) -> Error {
    if error
        .code()
        .is_none_or(|code| code.code().starts_with("57P"))
    {
        return refused(error);
    }
    if error.code() == Some(&SqlState::WRONG_OBJECT_TYPE) {
        let message = format!("{name} is there, but it is not a sequence");
        return Error::new(ErrorKind::Fencing, message).caused_by(error);
    }
    let schema = name.schema();
    Error::new(
        ErrorKind::Fencing,
        format!(
            "the sequence {name} is not there and this role cannot make it: have an \
             administrator run CREATE SCHEMA IF NOT EXISTS {schema}; CREATE SEQUENCE {name}; \
             GRANT USAGE ON SCHEMA {schema} TO <role>; GRANT USAGE ON SEQUENCE {name} TO <role>"
        ),
    )
    .caused_by(error)
}
