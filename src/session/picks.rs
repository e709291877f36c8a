//! Takes some of many locks, whichever are free, in one statement.

use std::collections::hash_map::Entry;

use postgres::types::ToSql;

use super::errors::{ATTEMPTS, is_cancelled, lock_error, lost};
use super::statements::{Answers, Branches, DRAW};
use super::statements::{branch, branches, code, draw, functions, was_free};
use super::{Lost, OnRoundTrip, Session};
use crate::clock::BootInstant;
use crate::error::Error;
use crate::key::{Companions, Key};
use crate::op::{Action, Mode, Op, Pick, Picked, Token};

impl Session {
    /// The locks that `pick` has got. The inner error: the server could not do it, and nothing is
    /// taken.
    pub(crate) fn pick(
        &mut self,
        pick: &Pick,
        on_round_trip: OnRoundTrip<'_>,
    ) -> Result<Result<Picked, Error>, Lost> {
        self.arm_lease(on_round_trip)?;
        let mut attempt = 1;
        let picked = loop {
            let (step, now) = (take(pick.keys[0]), BootInstant::now());
            if let Some(error) = self.failures.of(step, now) {
                return Ok(Err(error));
            }
            match self.run_pick(pick) {
                Ok((picked, is_open)) => {
                    self.marker.check().map_err(Lost)?;
                    self.lease.renew(now);
                    if is_open {
                        self.failures.done(step);
                        break picked;
                    }
                    // Another session may just be looking at the gate.
                    if attempt > 1 {
                        break picked;
                    }
                    attempt += 1;
                    on_round_trip();
                }
                Err(error) if self.is_over(&error) => return Err(lost(error)),
                Err(error) => {
                    let keys = pick.keys.iter().chain(&pick.gate);
                    let steps: Vec<Op> = keys.map(|&key| take(key)).collect();
                    self.held_before(&steps, on_round_trip)?;
                    if !is_cancelled(&error) || attempt == ATTEMPTS {
                        let error = lock_error(error);
                        self.failures.add(step, &error);
                        self.update_transaction(&[], on_round_trip)?;
                        return Ok(Err(error));
                    }
                    attempt += 1;
                    on_round_trip();
                }
            }
        };
        self.locks += picked.len();
        let taken: Vec<Op> = picked.iter().map(|&(key, _)| take(key)).collect();
        self.update_transaction(&taken, on_round_trip)?;
        Ok(Ok(picked))
    }

    /// What it has got, and whether its gate was open.
    fn run_pick(&mut self, pick: &Pick) -> Result<(Picked, bool), postgres::Error> {
        self.codes.clear();
        self.codes
            .extend(pick.keys.iter().map(|&key| code(&take(key))));
        self.numbers.clear();
        self.numbers
            .extend(pick.keys.iter().map(|key| key.as_i64()));
        let branches = branches(&self.codes);
        let gate = pick.gate.map(|gate| gate.as_i64());
        let statement = match self.picks.entry((branches, gate.is_some())) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let sequence = self.sequence.as_ref().map(|sequence| sequence.number);
                let verified = self.marker.expression();
                let sql = statement(branches, gate.is_some(), sequence, verified);
                new.insert(self.client.prepare(&sql)?)
            }
        };
        let (most, least) = (pick.most as i64, pick.least as i64);
        let mut params: Vec<&(dyn ToSql + Sync)> = vec![&self.numbers, &most, &least];
        if branches.count_ones() > 1 {
            params.push(&self.codes);
        }
        if let Some(gate) = &gate {
            params.push(gate);
        }
        let row = self.client.query_one(statement, &params)?;
        let is_the_one: Option<bool> = row.try_get(1)?;
        let is_open: Option<bool> = row.try_get(2)?;
        let answers: Option<&str> = row.try_get(0)?;
        let mut picked = Vec::with_capacity(pick.most.min(pick.keys.len()));
        let mut is_understood = true;
        for answer in answers.unwrap_or_default().split_terminator(',') {
            let place = answer.split_once(' ').and_then(|(place, answer)| {
                let place = place.parse::<usize>().ok()?.checked_sub(1)?;
                Some((*pick.keys.get(place)?, answer.parse::<i64>().ok()?))
            });
            match place {
                Some((_, 0)) => {}
                Some((key, token)) => {
                    let token = Token::new(token).filter(|_| self.sequence.is_some());
                    picked.push((key, token));
                }
                // A lock that was taken and could not be given back.
                None => is_understood = false,
            }
        }
        self.marker
            .answered(is_the_one == Some(true) && is_understood);
        Ok((picked, is_open == Some(true)))
    }
}

fn take(key: Key) -> Op {
    let (mode, action) = (Mode::Exclusive, Action::LockUnawaited);
    Op { key, mode, action }
}

/// Takes some of the locks with the numbers `$1`, at most `$2`, in their order: those that are free,
/// and that nobody else waits for. If they are fewer than `$3`, they are given back. The codes of
/// their steps are `$4`, if there are several in `branches`. With a gate, which is the last parameter,
/// none if another session has that or waits for it. The first column has the place of each, and its
/// token or one; zero if it was given back. The third one says whether the gate was open.
fn statement(branches: Branches, has_gate: bool, sequence: Option<u32>, verified: &str) -> String {
    let answers = Answers {
        refused: "0",
        done: "1",
        locked: "1",
        awaited: "0",
        not_held: "0",
        undrained: "0",
        chain: "",
    };
    let codes: Vec<i16> = (0..DRAW).filter(|code| branches & 1 << code != 0).collect();
    let by_code = |of: &dyn Fn(i16) -> String| match codes[..] {
        [code] => of(code),
        _ => {
            let whens = codes
                .iter()
                .map(|&code| format!(" WHEN {code} THEN {}", of(code)));
            format!("CASE ($4::int2[])[i]{} END", whens.collect::<String>())
        }
    };
    let take = by_code(&|code| branch(code, &answers));
    let unlock = by_code(&|code| functions(code).unlock.to_owned());
    let gate = match has_gate {
        true => {
            let gate = if codes.len() > 1 { "$5" } else { "$4" };
            let gate = format!("{gate}::int8");
            let unawaited = was_free(&gate, Companions::OF_ONE.waiters);
            // Several may look at it at the same time.
            format!(
                "CASE WHEN pg_catalog.pg_try_advisory_lock_shared({gate}) \
                 THEN CASE WHEN pg_catalog.pg_advisory_unlock_shared({gate}) THEN {unawaited} END \
                 ELSE false END"
            )
        }
        false => "true".to_owned(),
    };
    let locked = sequence.map_or("1".to_owned(), draw);
    // The series is made as far as it is needed, and all locks are taken before the first token is
    // drawn.
    format!(
        "WITH gate AS MATERIALIZED (SELECT {gate} AS open) \
         SELECT (SELECT pg_catalog.string_agg(i || ' ' || CASE WHEN answer IS NULL THEN '?' \
         ELSE (CASE WHEN total >= $3::int8 THEN {locked} ELSE CASE WHEN {unlock} THEN 0 END END)::text \
         END, ',') FROM (SELECT i, n, answer, pg_catalog.count(*) OVER () AS total FROM \
         (SELECT i, n, answer FROM (SELECT i, n, {take} AS answer FROM (SELECT i, ($1::int8[])[i] AS n \
         FROM (SELECT pg_catalog.generate_series(1, pg_catalog.cardinality($1::int8[])) AS i) AS place \
         ) AS number) AS lock WHERE (SELECT open FROM gate) AND answer IS DISTINCT FROM 0 \
         LIMIT $2::int8) AS taken) AS counted), {verified}, (SELECT open FROM gate)"
    )
}
