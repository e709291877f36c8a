//! The SQL of batches, transactions and recovery, and which steps each statement can do.

use crate::op::Mode;
use crate::op::{Action, Op};

// A row only if the function returned true: the caller counts rows and reads none.
pub(super) const LOCK: &str = "SELECT FROM pg_catalog.pg_try_advisory_lock($1) AS l WHERE l";
pub(super) const UNLOCK: &str = "SELECT FROM pg_catalog.pg_advisory_unlock($1) AS u WHERE u";

/// One unlock and one lock, the most common batch. The number of rows says which of the two
/// returned true: 1 both, 2 only the lock, 3 only the unlock, 4 neither. The most common answer is
/// the shortest, and no row at all is not mistaken for success.
pub(super) const UNLOCK_AND_LOCK: &str = "SELECT FROM pg_catalog.generate_series(1, 1 \
     + CASE WHEN pg_catalog.pg_advisory_unlock($1) THEN 0 ELSE 1 END \
     + CASE WHEN pg_catalog.pg_try_advisory_lock($2) THEN 0 ELSE 2 END)";

/// The branches of a general statement: one bit for each kind of step.
pub(super) type Branches = u16;

/// The branches that steps with these `codes` need.
pub(super) fn branches(codes: &[i16]) -> Branches {
    codes.iter().fold(0, |all, code| all | 1 << code)
}

/// The general statement, for batches that need no other `branches`: the server checks the
/// privilege to call every function that a statement names, and looks all of them up each time.
/// With tokens from `sequence`, if given, and with the value of the expression `verified`, if
/// given, in a second column.
pub(super) fn batch(branches: Branches, sequence: Option<u32>, verified: Option<&str>) -> String {
    let step = step(branches);
    let answers = match sequence {
        None => plain_answers(&step),
        Some(sequence) => fenced_answers(&step, sequence),
    };
    let verified = verified.map(|verified| format!(", {verified}"));
    format!(
        "SELECT {answers}{} FROM {STEPS}",
        verified.unwrap_or_default()
    )
}

/// One value for the whole batch, a character for each step, so that the driver's allocations do
/// not grow with it. Two-integer keys are passed as one number.
fn plain_answers(step: &str) -> String {
    format!("pg_catalog.string_agg(CASE WHEN {step} THEN '1' ELSE '0' END, '')")
}

/// With a fencing token from the sequence with OID `sequence` for each lock that is taken: numbers
/// separated by commas, 0 for false.
///
/// The token is drawn after the lock is taken (`CASE` evaluates in its order, [Conditional
/// Expressions]), so tokens follow the order of holds. Of 32 draws only one writes a WAL record.
/// The other tokens must not be returned before that record is durable, which another session may
/// have written without committing yet. So each draw writes to the WAL itself, a message that is
/// never read: its commit then waits until the WAL so far is durable, on the synchronous standby,
/// too. (A transaction id alone does not do this: `RecordTransactionCommit` in PostgreSQL's
/// `xact.c` waits only for a transaction that has written WAL.)
///
/// [Conditional Expressions]: https://www.postgresql.org/docs/current/functions-conditional.html
fn fenced_answers(step: &str, sequence: u32) -> String {
    let draw = format!(
        "CASE WHEN pg_catalog.pg_logical_emit_message(true, 'distlock', ''::text) IS NOT NULL \
         THEN pg_catalog.nextval({sequence}::pg_catalog.regclass) END"
    );
    format!(
        "pg_catalog.string_agg((CASE WHEN code = {DRAW} THEN {draw} WHEN {step} THEN \
         CASE WHEN code < 4 THEN {draw} ELSE 1 END ELSE 0 END)::text, ',')"
    )
}

/// The call of a step for the number `n`, indexed by its [`code`].
const CALLS: [&str; 8] = [
    "pg_try_advisory_lock(n)",
    "pg_try_advisory_lock_shared(n)",
    "pg_try_advisory_lock((n >> 32)::int4, (n << 32 >> 32)::int4)",
    "pg_try_advisory_lock_shared((n >> 32)::int4, (n << 32 >> 32)::int4)",
    "pg_advisory_unlock(n)",
    "pg_advisory_unlock_shared(n)",
    "pg_advisory_unlock((n >> 32)::int4, (n << 32 >> 32)::int4)",
    "pg_advisory_unlock_shared((n >> 32)::int4, (n << 32 >> 32)::int4)",
];

/// The code of a step that draws a token.
const DRAW: i16 = 8;

fn step(branches: Branches) -> String {
    let whens: String = CALLS
        .iter()
        .enumerate()
        .filter(|(code, _)| branches & 1 << code != 0)
        .map(|(code, call)| format!(" WHEN {code} THEN pg_catalog.{call}"))
        .collect();
    match whens.is_empty() {
        true => "false".to_owned(),
        false => format!("CASE code{whens} END"),
    }
}

const STEPS: &str = "ROWS FROM (pg_catalog.unnest($1::int2[]), pg_catalog.unnest($2::int8[])) \
     AS step(code, n)";

/// What this session holds.
pub(super) const HELD: &str = "SELECT (classid::int8 << 32) | objid::int8, objsubid = 2, \
     mode = 'ExclusiveLock' FROM pg_catalog.pg_locks \
     WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid() AND granted";

/// Begins a transaction, with the isolation that takes a new snapshot for each statement.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// Ends a transaction and begins another.
pub(super) const RENEW: &str = "COMMIT AND CHAIN";

/// Closes the portal of the last statement of a transaction, which keeps its snapshot until the
/// next one: its `backend_xmin` would hold back VACUUM and CREATE INDEX CONCURRENTLY.
pub(super) const DROP_SNAPSHOT: &str = "SELECT";

/// Ends a transaction, whether or not one is open.
pub(super) const END: &str = "COMMIT";

/// The key's number, if the scalar statements can do the step.
pub(super) fn scalar(op: Op) -> Option<i64> {
    (op.mode == Mode::Exclusive && !op.key.is_two()).then(|| op.key.as_i64())
}

/// The step's branch in a general statement.
pub(super) fn code(op: &Op) -> i16 {
    if op.action == Action::Draw {
        return DRAW;
    }
    let shared = i16::from(op.mode == Mode::Shared);
    let two = i16::from(op.key.is_two());
    let unlock = i16::from(op.action == Action::Unlock);
    shared | two << 1 | unlock << 2
}
