//! The sequence that fencing tokens are drawn from.

use postgres::Client;

use super::errors::{refused, sequence_error};
use crate::config::SequenceName;
use crate::error::{Error, ErrorKind};

/// Its OID, which needs no quoting later on, and what must be true of it.
const LOOKUP: &str = "SELECT c.oid, c.relkind = 'S' AND c.relpersistence = 'p' \
     AND s.seqcache = 1 AND s.seqincrement > 0 AND s.seqmin > 0 AND NOT s.seqcycle, \
     pg_catalog.has_sequence_privilege(c.oid, 'USAGE') \
     OR pg_catalog.has_sequence_privilege(c.oid, 'UPDATE') \
     FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid \
     WHERE c.oid = pg_catalog.to_regclass($1)";

/// A sequence that was found: its name, and its OID, which needs no quoting.
pub(crate) struct Sequence {
    pub(super) name: SequenceName,
    pub(super) number: u32,
}

/// What to do about a sequence that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It is created, for the first time.
    Make,
    /// It has been dropped. A new one would issue tokens that were issued before.
    Refuse,
}

/// Finds or creates the sequence, and makes what is drawn from it survive a crash and a fail-over.
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
                "the sequence {name} no longer exists: create it again, with a START above all \
                 tokens that were issued"
            ),
        ));
    }
    let create = format!("CREATE SEQUENCE IF NOT EXISTS {name} AS bigint CACHE 1 NO CYCLE");
    let created = client.batch_execute(&create);
    // Another process may have created it at the same moment, which is no error then.
    match (find(client, name)?, created) {
        (Some(number), _) => Ok(found(number)),
        (None, Err(error)) => Err(sequence_error(name, error)),
        (None, Ok(())) => Err(Error::new(
            ErrorKind::Fencing,
            format!("the sequence {name} disappeared while being created"),
        )),
    }
}

fn find(client: &mut Client, name: &SequenceName) -> Result<Option<u32>, Error> {
    let found = client.query_opt(LOOKUP, &[&name.to_string()]);
    let Some(row) = found.map_err(|error| sequence_error(name, error))? else {
        return Ok(None);
    };
    let (oid, fit, allowed) = (row.try_get(0), row.try_get(1), row.try_get(2));
    let fit: Option<bool> = fit.map_err(refused)?;
    let allowed: Option<bool> = allowed.map_err(refused)?;
    if fit != Some(true) {
        return Err(Error::new(
            ErrorKind::Fencing,
            format!(
                "{name} cannot issue fencing tokens: it must be a permanent ascending sequence, \
                 with a minimum of 1 or more, without CACHE and without CYCLE"
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
