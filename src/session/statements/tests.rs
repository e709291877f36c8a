//! What the server makes of the statements.

use super::*;

#[test]
fn the_rows_of_pairs_tell_which_steps_were_done() {
    let outcomes =
        |rows| pairs_outcomes(rows, 4).map(|outcome| matches!(outcome, Outcome::Done(None)));
    assert!(outcomes(1).all(|done| done));
    assert_eq!(
        outcomes(1 + 0b0110).collect::<Vec<_>>(),
        [true, false, false, true]
    );
    assert!(!outcomes(1 + 0b1111).any(|done| done));
    // Nothing is done if the answer has no row.
    assert!(!outcomes(0).any(|done| done));
}

#[test]
fn pairs_do_at_the_server_what_their_rows_say() {
    let server = throwaway_postgres::Server::start().unwrap();
    let (mut client, mut other) = (server.client(), server.client());
    // Of the locks 4, 5 and 6 the second is taken, and the third not drained yet.
    let companion = Companions::OF_ONE.fenced;
    let taken = format!("SELECT pg_advisory_lock(5), pg_advisory_lock(6 # {companion})");
    other.batch_execute(&taken).unwrap();
    // Of 1, 2 and 3 the second is not held.
    let held = "SELECT pg_advisory_lock(1), pg_advisory_lock(3)";
    client.batch_execute(held).unwrap();
    let numbers: [&(dyn postgres::types::ToSql + Sync); 6] =
        [&1_i64, &2_i64, &3_i64, &4_i64, &5_i64, &6_i64];
    let rows = client.execute(&pairs(3), &numbers).unwrap();
    let done: Vec<bool> = pairs_outcomes(rows, 6)
        .map(|outcome| matches!(outcome, Outcome::Done(None)))
        .collect();
    assert_eq!(done, [true, false, true, true, false, false]);
    let left = "SELECT array_agg(objid::int8 ORDER BY objid) FROM pg_locks \
                WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
    let left: Vec<i64> = client.query_one(left, &[]).unwrap().get(0);
    assert_eq!(left, [4]);
}

/// A statement that the server refuses is recovered from, step by step, and so is not missed.
#[test]
fn the_server_understands_all_that_a_batch_may_be_of() {
    let server = throwaway_postgres::Server::start().unwrap();
    let mut client = server.client();
    client.batch_execute("CREATE SEQUENCE tokens").unwrap();
    let row = client.query_one("SELECT 'tokens'::regclass::oid", &[]);
    let sequence: u32 = row.unwrap().get(0);
    // A change of the mode is of an exclusive lock.
    let is_code = |code: &i16| code >> 2 < action::UPGRADE || code & 1 == 0 || *code >= DRAW;
    let single = (0..CHAIN).filter(is_code).map(|code| branches(&[code]));
    let chained = (0..DRAW)
        .filter(is_code)
        .map(|code| branches(&[CHAIN, CHAINED + code]));
    let all: Vec<Branches> = single.chain(chained).collect();
    for (n, one) in all.iter().enumerate() {
        for other in &all[n..] {
            for sequence in [None, Some(sequence)] {
                let sql = batch(one | other, sequence, None);
                if let Err(error) = client.prepare(&sql) {
                    panic!("{one:b} and {other:b}: {error:?}");
                }
            }
        }
    }
}
