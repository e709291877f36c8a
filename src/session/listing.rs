//! The locks of all managers of the database, and the end of a session that has some.

use std::collections::HashSet;

use postgres::SimpleQueryRow;

use super::holders::{SESSION, not_told, once_each, read_session};
use super::marker::{MARKER_CLASS, marker_key};
use super::statements::is_of;
use super::{Lost, OnRoundTrip, Session};
use crate::error::{Error, ErrorKind};
use crate::fence::{MARK_CLASS, is_hold_number};
use crate::holder::{Claim, Holder};
use crate::key::Key;

/// All advisory locks of a database, and the keys that somebody has had to do with.
type Locks = (Vec<Holder>, HashSet<Key>);

impl Session {
    /// What managers hold and wait for.
    pub(super) fn list(
        &mut self,
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<Result<Vec<Holder>, Error>, Lost> {
        let told = self.locks_of_database(on_round_trip)?;
        Ok(told.map(of_managers))
    }

    /// Who holds any of `keys`.
    pub(super) fn holders_among(
        &mut self,
        keys: &[Key],
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<Result<Vec<Holder>, Error>, Lost> {
        let all = self.ask(&statement(), read, on_round_trip)?;
        let holds = |it: &Holder| it.claim == Claim::Holds && keys.contains(&it.key);
        let some = all.map(|all| all.into_iter().filter(holds).collect());
        Ok(some.map_err(not_told))
    }

    /// All advisory locks of the database, and the keys that somebody had to do with.
    fn locks_of_database(
        &mut self,
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<Result<Locks, Error>, Lost> {
        let first = self.ask(&statement(), read, on_round_trip)?;
        let Ok(mut locks) = first else {
            return Ok(first.map(|_| Default::default()).map_err(not_told));
        };
        let mut known: HashSet<Key> = locks.iter().map(|lock| lock.key).collect();
        // A session that waits is told from one that shares a lock by those that have the key. In one
        // moment there may be none, but hardly in another one, too.
        let is_share = |lock: &Holder| lock.marker.is_some() && lock.shared == Some(true);
        let is_wait = |lock: &Holder| lock.key.awaited_by().any(|key| known.contains(&key));
        if locks.iter().any(|lock| is_share(lock) && !is_wait(lock)) {
            on_round_trip();
            match self.ask(&statement(), read, on_round_trip)? {
                Ok(again) => locks = again,
                Err(error) => return Ok(Err(not_told(error))),
            }
            // A share that has only just come may be of one that waits.
            locks.retain(|lock| !is_share(lock) || known.contains(&lock.key));
            known.extend(locks.iter().map(|lock| lock.key));
        }
        Ok(Ok((locks, known)))
    }

    /// Ends the session of `holder`, if it still is the same one. Returns what it had.
    pub(super) fn evict(
        &mut self,
        holder: &Holder,
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<Result<Vec<Holder>, Error>, Lost> {
        if holder.marker == Some(self.marker.number()) {
            let message = "the session is this manager's own: close it to end that";
            return Ok(Err(Error::new(ErrorKind::InvalidInput, message)));
        }
        let all = self.locks_of_database(on_round_trip)?;
        on_round_trip();
        let is_done = |row: &SimpleQueryRow| Some(row.get(0) == Some("t"));
        let ended = self.ask(&terminate(holder), is_done, on_round_trip)?;
        let (all, ended) = match (all, ended) {
            (Ok(all), Ok(ended)) => (all, ended),
            (Err(error), _) => return Ok(Err(error)),
            (_, Err(error)) => return Ok(Err(not_ended(error))),
        };
        if !ended.contains(&true) {
            return Ok(Ok(Vec::new()));
        }
        let all = match holder.is_manager {
            true => of_managers(all),
            false => all.0,
        };
        let its = all.into_iter().filter(|other| other.pid == holder.pid);
        // It may have got the lock only since.
        let own = std::iter::once(holder.clone());
        Ok(Ok(its.chain(own).collect()))
    }
}

/// All advisory locks of the database, with their sessions.
fn statement() -> String {
    format!(
        "WITH l AS MATERIALIZED (SELECT * FROM pg_locks WHERE locktype = 'advisory' \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) \
         SELECT l.granted, l.mode = 'ShareLock', {SESSION}, m.objid, \
         (l.classid::int8 << 32) | l.objid::int8, l.objsubid = 2 FROM l \
         LEFT JOIN l AS m ON m.pid = l.pid AND m.granted AND m.objsubid = 2 \
         AND m.classid = {MARKER_CLASS}::oid LEFT JOIN pg_stat_activity a ON a.pid = l.pid"
    )
}

/// One lock as it is in `pg_locks`. `None` for what is not understood.
fn read(row: &SimpleQueryRow) -> Option<Holder> {
    let text = |column| row.try_get(column).ok().flatten();
    let key = Key::from_server(text(8)?.parse().ok()?, text(9)? == "t");
    let claim = match text(0)? {
        "t" => Claim::Holds,
        _ => Claim::Waits,
    };
    read_session(row, key, claim, Some(text(1)? == "t"))
}

/// What managers hold and wait for, of all `locks`: without those that only serve them, and with
/// the key that they wait for, which is a `known` one, in place of its companion.
fn of_managers((locks, known): Locks) -> Vec<Holder> {
    let of_sessions: HashSet<(Key, i32)> = locks.iter().map(|it| (it.key, it.pid)).collect();
    let read = |mut lock: Holder| {
        let (key, marker) = (lock.key, lock.marker?);
        if is_marker(key) || is_hold_number(key, marker) {
            return None;
        }
        if (lock.claim, lock.shared) == (Claim::Holds, Some(true))
            && let Some(awaited) = key.awaited_by().find(|it| known.contains(it))
        {
            lock.key = awaited;
            lock.claim = Claim::Waits;
            lock.shared = None;
        }
        // A lock that was just taken is being drained.
        let is_companion = |of: Key| of_sessions.contains(&(of, lock.pid));
        let is_drain = lock.shared == Some(false) && key.companion_of().any(is_companion);
        (!is_drain).then_some(lock)
    };
    let mut locks: Vec<Holder> = locks.into_iter().filter_map(read).collect();
    locks.sort_by_key(|lock| lock.key);
    let of_keys = locks.chunk_by(|one, other| one.key == other.key);
    of_keys
        .flat_map(|locks| once_each(locks.to_vec()))
        .collect()
}

/// True for the locks that show that a session is a manager's.
fn is_marker(key: Key) -> bool {
    let class = (key.as_i64() >> 32) as i32;
    key.is_two() && (class == MARKER_CLASS || class == MARK_CLASS)
}

/// Ends the session of `holder`, if it still is the same one and has to do with the lock.
fn terminate(holder: &Holder) -> String {
    let has = |lock: String| {
        format!(
            "EXISTS (SELECT FROM pg_locks WHERE pid = a.pid AND locktype = 'advisory' AND {lock})"
        )
    };
    let is_same = match (holder.marker, holder.started) {
        (Some(marker), _) => has(format!("granted AND {}", is_of(marker_key(marker)))),
        (None, Some(started)) => {
            format!("(extract(epoch FROM a.backend_start) * 1000000)::bigint = {started}")
        }
        // This role may not see when it began.
        (None, None) => has(is_of(holder.key)),
    };
    let key = holder.key;
    let is_of_key = [key, key.waiters(), key.fenced()].map(|key| format!("({})", is_of(key)));
    let has_to_do = has(format!("({})", is_of_key.join(" OR ")));
    let pid = holder.pid;
    format!(
        "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a \
         WHERE a.pid = {pid} AND {is_same} AND {has_to_do}"
    )
}

fn not_ended(error: postgres::Error) -> Error {
    let message = "the server did not end the session: it takes its own role, or the privileges of \
                   pg_signal_backend";
    Error::new(ErrorKind::Database, message).caused_by(error)
}
