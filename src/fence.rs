//! Fenced transactions: the statement that ties a transaction to a hold.
//!
//! The transaction takes the key's companions shared, and then sees whether the hold lasts. Whoever
//! acquires the key afterwards finds the companion taken until the transaction has ended: each
//! acquire drains it, in the statement that takes the key.
//!
//! That the hold lasts is shown by two locks of its session, which are looked at after the
//! companions have been taken, so that no later holder can have drained them before:
//!
//! * one on the hold's number, which the session releases before the key;
//! * the mark of its transaction, which ends before the session's other locks do, in whatever
//!   order these are released then.
//!
//! The mark is absent for a moment each time the session's transaction is renewed, and while the
//! session recovers from an error. So it is looked for again before the fence is given up.

use std::time::Duration;

use crate::key::Key;
use crate::op::Mode;

/// The first half of the marks, which are keys of two `integer`s: `dltx` in ASCII. The second half
/// is that of the session's marker.
pub(crate) const MARK_CLASS: i32 = i32::from_be_bytes(*b"dltx");

/// What the statement answers if the transaction is fenced.
const FENCED: &str = "fenced";
/// If the hold is over, or is of another database.
const OVER: &str = "over";
/// Outside of a transaction.
const NO_TRANSACTION: &str = "no transaction";
/// If the hold's session does not show whether it lives.
const UNKNOWN: &str = "unknown";

/// The pauses before the mark is looked for again: in all about as long as a session takes to recover
/// from an error.
pub(crate) const PAUSES: [Duration; 5] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(200),
];

/// What the numbers of holds differ from the session's marker and a counter by: the first 8 bytes of
/// `sha256('distlock holds')`.
const HOLDS: i64 = 0xfc35_0c70_d1c2_6b73_u64.cast_signed();

/// The number of a hold: that of its session's marker, which no other session has, and a counter.
pub(crate) fn hold_number(marker: i32, counter: u32) -> i64 {
    HOLDS ^ (i64::from(marker) << 32 | i64::from(counter))
}

/// True if `key` is the number of a hold of the session with `marker`.
pub(crate) fn is_hold_number(key: Key, marker: i32) -> bool {
    !key.is_two() && (key.as_i64() ^ HOLDS) >> 32 == i64::from(marker)
}

/// Gives the session's transaction its mark.
pub(crate) fn mark(marker: i32) -> String {
    format!("SELECT pg_catalog.pg_advisory_xact_lock({MARK_CLASS}, {marker})")
}

/// How a statement has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fenced,
    Over,
    NoTransaction,
    Unknown,
}

impl Verdict {
    /// What does not say that the transaction is fenced is not believed.
    pub(crate) fn of(answer: Option<&str>) -> Verdict {
        match answer {
            Some(FENCED) => Verdict::Fenced,
            Some(OVER) => Verdict::Over,
            Some(NO_TRANSACTION) => Verdict::NoTransaction,
            _ => Verdict::Unknown,
        }
    }
}

/// A hold that transactions can be fenced by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fence {
    pub(crate) key: Key,
    pub(crate) mode: Mode,
    /// The hold's number, which its session has locked.
    pub(crate) hold: i64,
    /// The second half of its session's marker.
    pub(crate) marker: i32,
}

/// A simple query to be sent alone: for each of `fences` it answers with one word. If one is not
/// known, the caller pauses and asks again: a longer statement takes longer to plan.
pub(crate) fn statement(fences: &[Fence]) -> String {
    let statement = |fence: &Fence| format!("SELECT {}", fence.verdict(ALONE, &[]));
    fences.iter().map(statement).collect::<Vec<_>>().join("; ")
}

/// The statement for any client: it answers with one boolean for all of `fences`, of one session.
pub(crate) fn sql(fences: &[Fence]) -> String {
    let alone = fences.first().map_or(ALONE.to_owned(), Fence::alone);
    let refusals: String = fences
        .iter()
        .map(|fence| {
            let verdict = fence.verdict("false", &PAUSES);
            format!(" WHEN ({verdict}) OPERATOR(pg_catalog.<>) '{FENCED}' THEN false")
        })
        .collect();
    format!("SELECT CASE WHEN {alone} THEN false{refusals} ELSE true END AS fenced")
}

impl Fence {
    /// True for a statement of any client that is its own transaction. That of a prepared statement
    /// begins when it is parsed or, later, when its parameters are bound, which makes its portal. If it
    /// is parsed and bound in one go without a name, the server does not show when. Then it has to be
    /// run again, and finds a setting that lasts as long as a transaction.
    fn alone(&self) -> String {
        let hold = self.hold;
        let now_is = "pg_catalog.now() OPERATOR(pg_catalog.=)";
        let portal = "FROM pg_catalog.pg_cursors c WHERE c.name OPERATOR(pg_catalog.=) ''";
        let prepared = "FROM pg_catalog.pg_prepared_statements p";
        format!(
            "{ALONE} OR EXISTS (SELECT {portal} AND {now_is} c.creation_time) \
             OR EXISTS (SELECT {prepared} WHERE {now_is} p.prepare_time) \
             OR CASE WHEN EXISTS (SELECT {portal} AND NOT EXISTS (SELECT {prepared} \
             WHERE p.statement OPERATOR(pg_catalog.=) c.statement)) \
             THEN CASE WHEN pg_catalog.current_setting('distlock.fence', true) \
             OPERATOR(pg_catalog.=) '{hold}' THEN false \
             ELSE pg_catalog.set_config('distlock.fence', '{hold}', true) IS NOT NULL END \
             ELSE false END"
        )
    }

    /// An expression for the verdict, where the condition `alone` says that there is no transaction,
    /// and the mark is looked for again after `pauses`. `CASE` evaluates in its order
    /// ([Conditional Expressions]).
    ///
    /// [Conditional Expressions]: https://www.postgresql.org/docs/current/functions-conditional.html
    fn verdict(&self, alone: &str, pauses: &[Duration]) -> String {
        let Fence { hold, marker, .. } = self;
        // Nobody else takes the number, so this has no effect on others.
        let is_over = format!("pg_catalog.pg_try_advisory_xact_lock_shared('{hold}'::bigint)");
        let share = |key: Key| {
            let arguments = key.sql();
            format!("pg_catalog.pg_try_advisory_xact_lock_shared({arguments})")
        };
        let shares = match self.mode {
            Mode::Exclusive => {
                let fenced = share(self.key.fenced());
                format!("{fenced} AND {}", share(self.key.fenced_exclusively()))
            }
            Mode::Shared => share(self.key.fenced()),
        };
        // Given back at once, because the session takes it again.
        let lives = format!(
            "CASE WHEN pg_catalog.pg_try_advisory_lock_shared({MARK_CLASS}, {marker}) \
             THEN NOT pg_catalog.pg_advisory_unlock_shared({MARK_CLASS}, {marker}) ELSE true END"
        );
        let waits: String = pauses
            .iter()
            .map(|pause| {
                format!(
                    " WHEN pg_catalog.pg_sleep({}) IS NULL THEN '{UNKNOWN}' \
                     WHEN {lives} THEN '{FENCED}'",
                    pause.as_secs_f64()
                )
            })
            .collect();
        // Looked at twice: a transaction that is refused should not keep others out until it ends.
        format!(
            "CASE WHEN {alone} THEN '{NO_TRANSACTION}' WHEN {is_over} THEN '{OVER}' \
             WHEN NOT ({shares}) THEN '{OVER}' WHEN {is_over} THEN '{OVER}' \
             WHEN {lives} THEN '{FENCED}'{waits} ELSE '{UNKNOWN}' END"
        )
    }
}

/// True for a simple query that is its own transaction: both begin with its message.
const ALONE: &str = "pg_catalog.now() OPERATOR(pg_catalog.=) pg_catalog.statement_timestamp()";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_word_is_a_yes() {
        assert_eq!(Verdict::of(Some("fenced")), Verdict::Fenced);
        for other in [None, Some(""), Some("t"), Some("over"), Some("unknown")] {
            assert_ne!(Verdict::of(other), Verdict::Fenced, "{other:?}");
        }
    }
}
