//! Who holds locks, waits for them, or keeps others from them.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use postgres::SimpleQueryRow;

use super::marker::MARKER_CLASS;
use super::statements::is_of;
use super::{Lost, OnRoundTrip, Session};
use crate::error::{Error, ErrorKind};
use crate::holder::{Claim, Holder, Question};
use crate::key::Key;

impl Session {
    /// The answer to `question`. The inner error: the server does not tell, or does not do it.
    pub(crate) fn inquire(
        &mut self,
        question: &Question,
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<Result<Vec<Holder>, Error>, Lost> {
        match question {
            Question::Of(key) => {
                let told = self.ask(&statement(*key), |row| read(row, *key), on_round_trip)?;
                Ok(told.map(once_each).map_err(not_told))
            }
            Question::OfManagers => self.list(on_round_trip),
            Question::Among(keys) => self.holders_among(keys, on_round_trip),
            Question::Evict(holder) => self.evict(holder, on_round_trip),
        }
    }
}

pub(super) fn not_told(error: postgres::Error) -> Error {
    let message = "the server does not tell who holds locks";
    Error::new(ErrorKind::Database, message).caused_by(error)
}

/// A parked manager waits in the queue and is shown to wait by the companion: the queue tells more.
/// One that has just got the lock is shown to wait for a moment longer.
pub(super) fn once_each(mut holders: Vec<Holder>) -> Vec<Holder> {
    let holds = |holder: &&Holder| holder.claim == Claim::Holds;
    let pids: Vec<i32> = holders
        .iter()
        .filter(holds)
        .map(|holder| holder.pid)
        .collect();
    holders.retain(|holder| holder.claim != Claim::Waits || !pids.contains(&holder.pid));
    holders.sort_by_key(|holder| (holder.claim as u8, holder.pid, holder.shared.is_none()));
    holders.dedup_by_key(|holder| (holder.claim, holder.pid));
    holders
}

/// The locks of `key` and of its companions, with their sessions.
fn statement(key: Key) -> String {
    let companion = |key| format!("mode = 'ShareLock' AND granted AND {}", is_of(key));
    format!(
        "SELECT CASE WHEN {is_key} THEN CASE WHEN l.granted THEN 'holds' ELSE 'waits' END \
         WHEN {is_waiters} THEN 'waits' ELSE 'fenced' END, \
         CASE WHEN {is_key} THEN l.mode = 'ShareLock' END, \
         {SESSION}, (SELECT m.objid FROM pg_locks m WHERE m.pid = l.pid \
         AND m.locktype = 'advisory' AND m.granted AND m.objsubid = 2 \
         AND m.classid = {MARKER_CLASS}::oid LIMIT 1) \
         FROM (SELECT * FROM pg_locks WHERE locktype = 'advisory' AND database = \
         (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND ({is_key} OR {waiters} OR {fenced})) l \
         LEFT JOIN pg_stat_activity a ON a.pid = l.pid",
        is_key = is_of(key),
        is_waiters = is_of(key.waiters()),
        waiters = companion(key.waiters()),
        fenced = companion(key.fenced()),
    )
}

/// What is shown of the session of the lock `l`, which `a` is in `pg_stat_activity`; for
/// [`read_session`].
pub(super) const SESSION: &str = "(extract(epoch FROM l.waitstart) * 1000000)::bigint, l.pid, \
     a.application_name, host(a.client_addr), (extract(epoch FROM a.backend_start) * 1000000)::bigint";

/// `None` for what is not understood.
fn read(row: &SimpleQueryRow, key: Key) -> Option<Holder> {
    let text = |column| row.try_get(column).ok().flatten();
    let claim = match text(0)? {
        "holds" => Claim::Holds,
        "waits" => Claim::Waits,
        _ => Claim::Fenced,
    };
    let shared = text(1).map(|shared| shared == "t");
    read_session(row, key, claim, shared)
}

/// Reads the session from the third column on, after which comes the number of its marker.
pub(super) fn read_session(
    row: &SimpleQueryRow,
    key: Key,
    claim: Claim,
    shared: Option<bool>,
) -> Option<Holder> {
    let text = |column| row.try_get(column).ok().flatten();
    let marker = text(7).and_then(|marker| marker.parse::<u32>().ok());
    Some(Holder {
        key,
        claim,
        shared,
        since: text(2)
            .and_then(|micros| micros.parse().ok())
            .map(|micros| SystemTime::UNIX_EPOCH + Duration::from_micros(micros)),
        pid: text(3)?.parse().ok()?,
        application_name: text(4).map(str::to_owned),
        address: text(5).and_then(|address| address.parse::<IpAddr>().ok()),
        is_manager: marker.is_some(),
        marker: marker.map(u32::cast_signed),
        started: text(6).and_then(|micros| micros.parse().ok()),
    })
}
