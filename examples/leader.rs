//! Leader election: lead while the lock is held, stop when the watch reports the end, campaign
//! again.
//!
//! Two candidates run in two threads, each with a manager of its own, as two programs
//! would. To show a loss, the example ends the leader's database session a few times.
//! `DATABASE_URL` names the database, whose user must be allowed to do that; without it a
//! throwaway server is started.
//!
//! The next leader may begin before the last one knows of its loss: by a heartbeat
//! (30 ms) and a round trip. Steps that must not overlap even then need a safeguard of their
//! own, such as a transaction.
// An example prints to the terminal.
#![allow(clippy::print_stdout)]

use std::process;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, select, tick, unbounded};
use distlock::{CancelToken, ErrorKind, Manager};
use postgres::{Client, NoTls};
use throwaway_postgres::Server;

/// How many losses to show.
const LOSSES: usize = 3;

fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL").ok();
    let server = url.is_none().then(Server::start).transpose()?;
    let url = url.unwrap_or_else(|| server.as_ref().map(Server::url).unwrap_or_default());

    let retire = CancelToken::new();
    let (elected, elections) = unbounded();
    thread::scope(|scope| {
        let candidates = ["Anna", "Bert"].map(|name| {
            let (url, retire, elected) = (&url, &retire, elected.clone());
            scope.spawn(move || candidate(name, url, retire, &elected))
        });
        drop(elected); // the candidates' own are left, so `elections` ends with them
        let deposed = depose(&url, &elections);
        // After an error as well, so that the candidates do not campaign for ever.
        retire.cancel();
        for candidate in candidates {
            candidate.join().expect("a candidate does not panic")?;
        }
        deposed
    })
}

/// Campaigns, leads, and campaigns again, until it is to retire.
fn candidate(
    name: &'static str,
    url: &str,
    retire: &CancelToken,
    elected: &Sender<&'static str>,
) -> Result<(), distlock::Error> {
    let mgr = Manager::builder(url)
        .application_name(&application_name(name))
        .wait_while_unavailable(true)
        .connect()?;
    loop {
        let guard = match mgr.acquire("leader-example").cancel(retire).lock() {
            Ok(guard) => guard,
            Err(error) if error.kind() == ErrorKind::Cancelled => return mgr.close(),
            Err(error) => return Err(error),
        };
        println!("{name} leads");
        elected.send(name).ok();

        let watch = guard.watch();
        let (over, work) = (watch.channel(), tick(Duration::from_millis(20)));
        let mut steps = 0;
        while watch.ended().is_none() {
            select! {
                recv(over) -> _ => {}
                recv(work) -> _ => steps += 1, // a leader's work, in steps as short as this
            }
        }
        println!("{name} led for {steps} steps, until {:?}", watch.wait());
    }
}

/// The name of a candidate's session in `pg_stat_activity`.
fn application_name(name: &str) -> String {
    format!("leader-example-{}-{name}", process::id())
}

/// Ends the session of each leader, a few times.
fn depose(url: &str, elections: &Receiver<&str>) -> anyhow::Result<()> {
    let mut client = Client::connect(url, NoTls)?;
    for (losses, leader) in elections.iter().enumerate() {
        thread::sleep(Duration::from_millis(200)); // let it lead a little
        if losses == LOSSES {
            break; // the last one retires without a loss
        }
        let ended = client.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
            &[&application_name(leader)],
        );
        if let Err(error) = ended {
            let error = anyhow::Error::from(error); // whose `#` shows the causes
            println!("No loss to show, the session cannot be ended: {error:#}");
            break;
        }
    }
    Ok(())
}
