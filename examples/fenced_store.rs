//! A store that refuses stale writers: the last line of defence for work that must not be
//! done twice, even by a holder that does not know yet that it has lost its lock.
//!
//! One process takes the lock, loses its session and does not check. Another takes the lock
//! and writes. Then the first one writes, too late, and the store refuses it, because its
//! token is older than the one that the store has seen.
//!
//! `DATABASE_URL` names the database, whose user must be allowed to end its own sessions;
//! without it a throwaway server is started. The store's table is a temporary one.
// An example prints to the terminal.
#![allow(clippy::print_stdout)]

use distlock::{Guard, Manager};
use postgres::{Client, NoTls};
use throwaway_postgres::Server;

const SEQUENCE: &str = "public.distlock_token";

/// A report and the token of its last writer.
struct Store(Client);

impl Store {
    fn open(url: &str) -> anyhow::Result<Store> {
        let mut client = Client::connect(url, NoTls)?;
        client.batch_execute(
            "CREATE TEMPORARY TABLE report (text text NOT NULL, token bigint NOT NULL); \
             INSERT INTO report VALUES ('', 0)",
        )?;
        Ok(Store(client))
    }

    /// True if the write was accepted. The condition suffices: the row's lock serializes the
    /// writers, and a token that is older than the row's is refused.
    fn write(&mut self, text: &str, guard: &Guard) -> anyhow::Result<bool> {
        let token = guard.token().expect("with fencing every guard has a token");
        let rows = self.0.execute(
            "UPDATE report SET text = $1, token = $2 WHERE token <= $2",
            &[&text, &token],
        )?;
        Ok(rows == 1)
    }

    fn text(&mut self) -> anyhow::Result<String> {
        Ok(self.0.query_one("SELECT text FROM report", &[])?.get(0))
    }
}

fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL").ok();
    let server = url.is_none().then(Server::start).transpose()?;
    let url = url.unwrap_or_else(|| server.as_ref().map(Server::url).unwrap_or_default());
    let mut store = Store::open(&url)?;
    let connect = |name| {
        Manager::builder(&url)
            .application_name(name)
            .fencing(SEQUENCE)
            .connect()
    };
    let (anna, bert) = (connect("Anna")?, connect("Bert")?);

    let annas = anna.lock("report")?;
    println!("Anna has the lock, token {:?}", annas.token());
    println!("Anna writes: {}", store.write("Anna's draft", &annas)?);

    store.0.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'Anna'",
        &[],
    )?;
    let berts = bert.lock("report")?;
    println!("Bert has the lock, token {:?}", berts.token());
    println!("Bert writes: {}", store.write("Bert's report", &berts)?);

    // Anna never called `annas.is_lost()`.
    println!("Anna writes: {}", store.write("Anna's report", &annas)?);
    println!("the report is: {}", store.text()?);
    anyhow::ensure!(
        store.text()? == "Bert's report",
        "a stale write got through"
    );
    Ok(())
}
