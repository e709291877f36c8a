//! A transaction that outlasts its lock, and still never overlaps with the next holder: no token,
//! no column and no condition in its statements.
//!
//! Anna takes the lock and writes in a fenced transaction; her session is ended in the middle of
//! it. The server has released her lock, but Bert gets it only once her transaction has ended, and
//! sees what she has written. A transaction that she begins afterwards is refused.
//!
//! `DATABASE_URL` names the database, whose user must be allowed to end its own sessions; without
//! it a throwaway server is started. The table is dropped at the end.
// An example prints to the terminal.
#![allow(clippy::print_stdout)]

use std::thread;

use distlock::{ErrorKind, Manager};
use postgres::{Client, NoTls};
use throwaway_postgres::Server;

fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL").ok();
    let server = url.is_none().then(Server::start).transpose()?;
    let url = url.unwrap_or_else(|| server.as_ref().map(Server::url).unwrap_or_default());
    let connect = |name| Manager::builder(&url).application_name(name).connect();
    let (anna, bert) = (connect("Anna")?, connect("Bert")?);
    let mut client = Client::connect(&url, NoTls)?;
    client.batch_execute("CREATE TABLE distlock_example (line text NOT NULL)")?;

    let guard = anna.lock("report")?;
    let mut transaction = client.transaction()?;
    guard.fence(&mut transaction)?;
    transaction.execute("INSERT INTO distlock_example VALUES ('Anna''s')", &[])?;
    println!("Anna has written, and has not committed yet");

    Client::connect(&url, NoTls)?.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'Anna'",
        &[],
    )?;
    println!("Anna's session is gone: {:?}", guard.watch().wait());
    println!("but Bert gets {:?}", bert.try_lock("report")?);

    let next = {
        let url = url.clone();
        thread::spawn(move || -> anyhow::Result<String> {
            let _guard = bert.lock("report")?;
            let mut client = Client::connect(&url, NoTls)?;
            let row = client.query_one("SELECT line FROM distlock_example", &[])?;
            Ok(row.get(0))
        })
    };
    transaction.commit()?;
    let line = next.join().expect("Bert does not panic")?;
    println!("Anna has committed; Bert has the lock and reads: {line}");

    let mut transaction = client.transaction()?;
    let late = guard.fence(&mut transaction);
    println!("Anna's next transaction: {late:?}");
    transaction.rollback()?;
    client.batch_execute("DROP TABLE distlock_example")?;
    anyhow::ensure!(
        late.is_err_and(|error| error.kind() == ErrorKind::Lost) && line == "Anna's",
        "a transaction was not tied to its lock"
    );
    Ok(())
}
