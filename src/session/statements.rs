//! The SQL of batches, transactions and recovery, and which steps each statement can do.

use crate::key::{Companions, Key};
use crate::op::{Action, Mode, Op, Outcome, Token};

// A row only if the function returned true: the caller counts rows and reads none.
pub(super) fn lock() -> String {
    format!("SELECT WHERE {}", drained_lock("$1"))
}
pub(super) const UNLOCK: &str = "SELECT FROM pg_catalog.pg_advisory_unlock($1) AS u WHERE u";

/// The most pairs of an unlock and a lock that [`pairs`] does: beyond them the general statement
/// takes the server no longer.
pub(super) const MOST_PAIRS: usize = 4;

/// So many unlocks and as many locks, the most common batches. One row more than the number whose
/// bits say which of them returned false: the most common answer is the shortest, and no row at all
/// is not mistaken for success.
pub(super) fn pairs(pairs: usize) -> String {
    let unlocks = (1..=pairs).map(|n| format!("pg_catalog.pg_advisory_unlock(${n})"));
    let locks = (1..=pairs).map(|n| drained_lock(&format!("${}", pairs + n)));
    let misses = unlocks.chain(locks).enumerate().map(|(place, step)| {
        let bit = 1 << place;
        format!(" + CASE WHEN {step} THEN 0 ELSE {bit} END")
    });
    let misses: String = misses.collect();
    format!("SELECT FROM pg_catalog.generate_series(1, 1{misses})")
}

/// The outcomes of the steps of [`pairs`] that answered with so many rows.
pub(super) fn pairs_outcomes(rows: u64, steps: usize) -> impl Iterator<Item = Outcome> {
    let misses = rows.wrapping_sub(1);
    (0..steps).map(move |place| outcome_of(misses >> place & 1 == 0))
}

pub(super) fn outcome_of(yes: bool) -> Outcome {
    match yes {
        true => Outcome::Done(None),
        false => Outcome::Refused,
    }
}

/// True if the exclusive lock `n` of one `bigint` was taken.
fn drained_lock(n: &str) -> String {
    let Functions { lock, unlock, .. } = &FUNCTIONS[0];
    let drained = was_free(n, Companions::OF_ONE.fenced);
    let [lock, unlock] = [lock, unlock].map(|call| call.replace("(n)", &format!("({n})")));
    format!("CASE WHEN NOT {lock} THEN false WHEN {drained} THEN true WHEN {unlock} THEN false END")
}

/// True if nobody holds the companion of `n` that differs by `companion`: takes it for a moment.
pub(super) fn was_free(n: &str, companion: i64) -> String {
    format!(
        "CASE WHEN pg_catalog.pg_try_advisory_lock({n} # {companion}) \
         THEN pg_catalog.pg_advisory_unlock({n} # {companion}) ELSE false END"
    )
}

/// The branches of a general statement: one bit for each kind of step.
pub(super) type Branches = u64;

/// The branches that steps with these `codes` need.
pub(super) fn branches(codes: &[i16]) -> Branches {
    codes.iter().fold(0, |all, code| all | 1 << code)
}

/// The general statement, for batches that need no other `branches`: the server checks the
/// privilege to call every function that a statement names, and looks all of them up each time.
/// With tokens from `sequence`, if given, and with the value of the expression `verified`, if
/// given, in a second column.
pub(super) fn batch(branches: Branches, sequence: Option<u32>, verified: Option<&str>) -> String {
    let answers = match sequence {
        None => plain_answers(branches),
        Some(sequence) => fenced_answers(branches, sequence),
    };
    let verified = verified.map(|verified| format!(", {verified}"));
    let (ordinality, i) = match branches & 1 << CHAIN {
        0 => ("", ""),
        _ => (" WITH ORDINALITY", ", i"),
    };
    format!(
        "SELECT {answers}{} FROM ROWS FROM (pg_catalog.unnest($1::int2[]), \
         pg_catalog.unnest($2::int8[])){ordinality} AS step(code, n{i})",
        verified.unwrap_or_default()
    )
}

/// What the steps of a statement answer, in SQL.
pub(super) struct Answers<'a> {
    pub(super) refused: &'a str,
    pub(super) done: &'a str,
    /// A lock was taken.
    pub(super) locked: &'a str,
    pub(super) awaited: &'a str,
    pub(super) not_held: &'a str,
    pub(super) undrained: &'a str,
    /// Of a chain: the steps that were done, the first that was not, and the rest.
    pub(super) chain: &'a str,
}

/// One value for the whole batch, a character for each step, so that the driver's allocations do
/// not grow with it. Two-integer keys are passed as one number.
fn plain_answers(branches: Branches) -> String {
    let answers = Answers {
        refused: "'0'",
        done: "'1'",
        locked: "'1'",
        awaited: "'2'",
        not_held: "'3'",
        undrained: "'4'",
        chain: "pg_catalog.repeat('1', taken) || COALESCE(answer, '') || \
                pg_catalog.repeat('5', rest)",
    };
    format!("pg_catalog.string_agg({}, '')", step(branches, &answers))
}

/// The outcome of a step that answered with `character`.
pub(super) fn plain_outcome(character: u8) -> Outcome {
    match character {
        b'1' => Outcome::Done(None),
        b'2' => Outcome::Awaited,
        b'3' => Outcome::NotHeld,
        b'4' => Outcome::Undrained,
        b'5' => Outcome::Skipped,
        _ => Outcome::Refused,
    }
}

/// With a fencing token from the sequence with OID `sequence` for each lock that is taken: numbers
/// separated by commas, the positive ones of which mean success.
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
fn fenced_answers(branches: Branches, sequence: u32) -> String {
    let draw = draw(sequence);
    let answers = Answers {
        refused: "0",
        done: "1",
        locked: &draw,
        awaited: "-1",
        not_held: "-2",
        undrained: "-3",
        // Tokens are drawn once all of its locks are taken.
        chain: &format!(
            "pg_catalog.concat_ws(',', (SELECT pg_catalog.string_agg(({draw})::text, ',') \
             FROM pg_catalog.generate_series(1, taken)), answer, \
             NULLIF(pg_catalog.ltrim(pg_catalog.repeat(',-4', rest), ','), ''))"
        ),
    };
    format!(
        "pg_catalog.string_agg(({})::text, ',')",
        step(branches, &answers)
    )
}

/// A token of the sequence with OID `sequence`.
pub(super) fn draw(sequence: u32) -> String {
    format!(
        "CASE WHEN pg_catalog.pg_logical_emit_message(true, 'distlock', ''::text) IS NOT NULL \
         THEN pg_catalog.nextval({sequence}::pg_catalog.regclass) END"
    )
}

/// The outcome of a step that answered with `number`, with fencing.
pub(super) fn fenced_outcome(number: &str) -> Outcome {
    match number.parse() {
        Ok(-1) => Outcome::Awaited,
        Ok(-2) => Outcome::NotHeld,
        Ok(-3) => Outcome::Undrained,
        Ok(-4) => Outcome::Skipped,
        Ok(0) | Err(_) => Outcome::Refused,
        Ok(number) => Outcome::Done(Token::new(number)),
    }
}

/// The functions for the number `n` of one mode and key space, and what its companions differ by.
pub(super) struct Functions {
    lock: &'static str,
    pub(super) unlock: &'static str,
    waiters: i64,
    drained: i64,
}

/// Indexed by the lowest two bits of a step's [`code`].
const FUNCTIONS: [Functions; 4] = [
    Functions {
        lock: "pg_catalog.pg_try_advisory_lock(n)",
        unlock: "pg_catalog.pg_advisory_unlock(n)",
        waiters: Companions::OF_ONE.waiters,
        drained: Companions::OF_ONE.fenced,
    },
    Functions {
        lock: "pg_catalog.pg_try_advisory_lock_shared(n)",
        unlock: "pg_catalog.pg_advisory_unlock_shared(n)",
        waiters: Companions::OF_ONE.waiters,
        drained: Companions::OF_ONE.fenced_exclusively,
    },
    Functions {
        lock: "pg_catalog.pg_try_advisory_lock((n >> 32)::int4, (n << 32 >> 32)::int4)",
        unlock: "pg_catalog.pg_advisory_unlock((n >> 32)::int4, (n << 32 >> 32)::int4)",
        waiters: Companions::OF_TWO.waiters,
        drained: Companions::OF_TWO.fenced,
    },
    Functions {
        lock: "pg_catalog.pg_try_advisory_lock_shared((n >> 32)::int4, (n << 32 >> 32)::int4)",
        unlock: "pg_catalog.pg_advisory_unlock_shared((n >> 32)::int4, (n << 32 >> 32)::int4)",
        waiters: Companions::OF_TWO.waiters,
        drained: Companions::OF_TWO.fenced_exclusively,
    },
];

pub(super) fn functions(code: i16) -> &'static Functions {
    &FUNCTIONS[usize::from(code.cast_unsigned() & 3)]
}

/// The bits of a step's [`code`] above those of its functions.
mod action {
    pub(super) const LOCK: i16 = 0;
    pub(super) const UNLOCK: i16 = 1;
    pub(super) const LOCK_UNAWAITED: i16 = 2;
    pub(super) const RELOCK: i16 = 3;
    pub(super) const CHECK: i16 = 4;
    pub(super) const UPGRADE: i16 = 5;
    pub(super) const DOWNGRADE: i16 = 6;
}
/// The code of a step that draws a token.
pub(super) const DRAW: i16 = 28;
/// The code of a step that announces a waiter: a shared lock without a token.
const ANNOUNCE: i16 = 29;
/// The code of a step that takes the lock of a hold's number: it needs neither a token nor a drain.
const FENCE: i16 = 30;
/// The code of a row before those of a chain, which has their number.
pub(super) const CHAIN: i16 = 31;
/// What the code of a step has added in a chain.
pub(super) const CHAINED: i16 = 32;

/// What a step with `code` does and answers.
pub(super) fn branch(code: i16, answers: &Answers<'_>) -> String {
    let Answers {
        refused,
        done,
        locked,
        awaited,
        not_held,
        undrained,
        ..
    } = answers;
    let Functions {
        lock,
        unlock,
        waiters,
        drained,
    } = functions(code);
    let unawaited = was_free("n", *waiters);
    let drained = was_free("n", *drained);
    // Once the lock is taken, no transaction can be fenced by an earlier holder any more. If one
    // was before, and is still open, the lock is given back; so it is if others wait.
    let undrained = format!(
        "WHEN NOT {lock} THEN {refused} \
         WHEN NOT {drained} THEN CASE WHEN {unlock} THEN {undrained} END"
    );
    let lock_unawaited =
        format!("CASE {undrained} WHEN {unawaited} THEN {locked} WHEN {unlock} THEN {awaited} END");
    match (code, code >> 2) {
        (DRAW, _) => locked.to_string(),
        (ANNOUNCE, _) => format!(
            "CASE WHEN pg_catalog.pg_try_advisory_lock_shared(n) THEN {done} ELSE {refused} END"
        ),
        (FENCE, _) => {
            format!("CASE WHEN pg_catalog.pg_try_advisory_lock(n) THEN {done} ELSE {refused} END")
        }
        (_, action::LOCK) => format!("CASE {undrained} ELSE {locked} END"),
        (_, action::UNLOCK) => format!("CASE WHEN {unlock} THEN {done} ELSE {refused} END"),
        (_, action::LOCK_UNAWAITED) => lock_unawaited,
        (_, action::RELOCK) => {
            format!("CASE WHEN {unlock} THEN {lock_unawaited} ELSE {not_held} END")
        }
        (_, action::UPGRADE) => {
            let unlock_shared = functions(code | 1).unlock;
            format!("CASE {undrained} WHEN {unlock_shared} THEN {locked} END")
        }
        (_, action::DOWNGRADE) => {
            // It is granted at once, before those who wait for the lock: a try would be refused
            // because of them.
            let lock_shared = functions(code | 1).lock.replace("_try_", "_");
            format!(
                "CASE WHEN {lock_shared} IS NOT NULL THEN CASE WHEN {unlock} THEN {done} END END"
            )
        }
        (_, action::CHECK) => format!("CASE WHEN {unawaited} THEN {done} ELSE {refused} END"),
        _ => unreachable!("there is no such code"),
    }
}

/// What a step does and answers. The rows of a chain's steps answer nothing themselves.
fn step(branches: Branches, answers: &Answers<'_>) -> String {
    let has = |code: &i16| branches & 1 << code != 0;
    let single = whens((0..CHAIN).filter(has), answers);
    if !has(&CHAIN) {
        return format!("CASE code{single} END");
    }
    // A chain has answers of its own kind: its steps draw no tokens.
    let steps = Answers {
        locked: answers.done,
        ..*answers
    };
    let steps = whens((0..CHAIN).filter(|code| has(&(code + CHAINED))), &steps);
    let chain = chain(&steps, answers);
    // It is a text, and the answers of single steps may be numbers.
    let single = match single.is_empty() {
        true => String::new(),
        false => format!(" ELSE (CASE code{single} END)::text"),
    };
    format!("CASE code WHEN {CHAIN} THEN {chain}{single} END")
}

fn whens(codes: impl Iterator<Item = i16>, answers: &Answers<'_>) -> String {
    codes
        .map(|code| format!(" WHEN {code} THEN {}", branch(code, answers)))
        .collect()
}

/// Does the steps of the next `n` rows, one of `whens` each, up to the first that is not done: the
/// rows before a `LIMIT` are made one by one.
fn chain(whens: &str, answers: &Answers<'_>) -> String {
    let Answers { done, chain, .. } = answers;
    format!(
        "(SELECT {chain} FROM (SELECT pg_catalog.min(answer) AS answer, \
         COALESCE(pg_catalog.min(nth) - 1, n)::int4 AS taken, \
         COALESCE(n - pg_catalog.min(nth), 0)::int4 AS rest FROM (SELECT nth, answer::text FROM (SELECT nth, CASE code{whens} END AS answer FROM \
         (SELECT nth, ($1::int2[])[i + nth] - {CHAINED} AS code, ($2::int8[])[i + nth] AS n \
         FROM pg_catalog.generate_series(1, n) AS nth) AS row) AS step \
         WHERE answer IS DISTINCT FROM {done} LIMIT 1) AS first) AS chain)"
    )
}

/// The condition for rows of `pg_locks` to be of `key`. It does not rely on the `search_path`.
pub(crate) fn is_of(key: Key) -> String {
    let number = key.as_i64().cast_unsigned();
    let (class, object) = (number >> 32, number & 0xFFFF_FFFF);
    let subid = if key.is_two() { 2 } else { 1 };
    format!(
        "classid OPERATOR(pg_catalog.=) {class}::pg_catalog.oid \
         AND objid OPERATOR(pg_catalog.=) {object}::pg_catalog.oid \
         AND objsubid OPERATOR(pg_catalog.=) {subid}"
    )
}

/// What this session holds.
pub(super) const HELD: &str = "SELECT (classid::int8 << 32) | objid::int8, objsubid = 2, \
     mode = 'ExclusiveLock' FROM pg_catalog.pg_locks \
     WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid() AND granted";

/// Begins a transaction, with the isolation that takes a new snapshot for each statement.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// Ends a transaction and begins another, which has its isolation.
pub(super) const RENEW: &str = "COMMIT AND CHAIN";

/// Has its commit wait until the WAL so far is durable.
pub(super) const LOG: &str =
    "SELECT pg_catalog.pg_logical_emit_message(true, 'distlock', ''::text)";

/// Closes the portal of the last statement of a transaction, which keeps its snapshot until the
/// next one: its `backend_xmin` would hold back VACUUM and CREATE INDEX CONCURRENTLY.
pub(super) const DROP_SNAPSHOT: &str = "SELECT";

/// Ends a transaction, whether or not one is open.
pub(super) const END: &str = "COMMIT";

/// The key's number, if the scalar statements can do the step.
pub(super) fn scalar(op: Op) -> Option<i64> {
    let has_scalar = matches!(op.action, Action::Lock | Action::Unlock);
    (has_scalar && op.mode == Mode::Exclusive && !op.key.is_two()).then(|| op.key.as_i64())
}

/// The step's branch in a general statement, without regard to a chain.
pub(super) fn code(op: &Op) -> i16 {
    let high = match op.action.alone() {
        Action::Lock => action::LOCK,
        Action::Unlock => action::UNLOCK,
        Action::LockUnawaited => action::LOCK_UNAWAITED,
        Action::Relock => action::RELOCK,
        Action::Check => action::CHECK,
        // Both begin with the functions of the exclusive lock.
        Action::Upgrade(_) => return action::UPGRADE << 2 | i16::from(op.key.is_two()) << 1,
        Action::Downgrade(_) => return action::DOWNGRADE << 2 | i16::from(op.key.is_two()) << 1,
        Action::Draw => return DRAW,
        Action::Announce => return ANNOUNCE,
        Action::Fence(_) => return FENCE,
        // It ends an exclusive lock of the hold's number.
        Action::Unfence(_) => return action::UNLOCK << 2,
        // It ends a shared lock of the companion, which is one number.
        Action::Withdraw => return action::UNLOCK << 2 | 1,
        Action::LockNext | Action::LockNextUnawaited => unreachable!("it is not alone"),
    };
    high << 2 | i16::from(op.key.is_two()) << 1 | i16::from(op.mode == Mode::Shared)
}

#[cfg(test)]
mod tests;
