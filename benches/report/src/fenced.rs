//! Target 9: what a fenced transaction costs beside the same one without a fence.

use anyhow::Result;
use distlock::{Guard, Manager};
use postgres::Client;
use serde_json::json;
use throwaway_postgres::Server;

use crate::measure::{interleave, micros_each};
use crate::setup::Setup;
use crate::table;

/// Transactions before the other kind has its turn.
const COUNT: i64 = 100;

pub(crate) fn run(setup: &mut Setup) -> Result<()> {
    for fsync in ["on", "off"] {
        let server = Server::builder().setting("fsync", fsync).start()?;
        let mgr = Manager::connect(&server.url())?;
        let mut client = server.client();
        client.batch_execute(
            "CREATE TABLE stock (id int PRIMARY KEY, left_over int NOT NULL); \
             INSERT INTO stock VALUES (1, 0)",
        )?;
        let rounds = -1..setup.rounds(24);
        let guard = mgr.lock("stock")?;
        let of_one_hold = interleave(rounds.clone(), &mut [false, true], |is_fenced, _| {
            micros_each(COUNT, || {
                let fence = is_fenced.then_some(&guard);
                (0..COUNT).try_for_each(|_| transact(&mut client, fence))
            })
        })?;
        drop(guard);
        let with_a_lock = interleave(rounds, &mut [false, true], |is_fenced, _| {
            micros_each(COUNT, || {
                (0..COUNT).try_for_each(|_| {
                    let guard = mgr.lock("stock")?;
                    transact(&mut client, is_fenced.then_some(&guard))
                })
            })
        })?;
        mgr.close()?;
        for (what, micros) in [
            ("a fenced transaction", of_one_hold),
            ("a lock and a fenced transaction", with_a_lock),
        ] {
            let (without, with) = (&micros[0], &micros[1]);
            let what = format!("{what}, fsync {fsync}");
            let row = setup.row(9, &what);
            row.by_turns(table::micros, with, "not fenced", without);
            if what == "a fenced transaction, fsync on" {
                row.ratio_at_most(1.3);
            }
            setup.keep(&what, json!({ "without": without, "with": with }))?;
        }
    }
    Ok(())
}

/// A transaction with one write, fenced by `fence` if there is one.
fn transact(client: &mut Client, fence: Option<&Guard>) -> Result<()> {
    let mut transaction = client.transaction()?;
    if let Some(guard) = fence {
        guard.fence(&mut transaction)?;
    }
    transaction.execute("UPDATE stock SET left_over = left_over + 1", &[])?;
    Ok(transaction.commit()?)
}
