//! The crate in a minute. `DATABASE_URL` names the database; without it a throwaway
//! server is started.
// An example prints to the terminal.
#![allow(clippy::print_stdout)]

use distlock::Manager;
use throwaway_postgres::Server;

fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL").ok();
    let server = url.is_none().then(Server::start).transpose()?;
    let url = url.unwrap_or_else(|| server.as_ref().map(Server::url).unwrap_or_default());

    let us = Manager::connect(&url)?;
    let them = Manager::connect(&url)?; // to the server this is another program

    let guard = us.lock("nightly-report")?;
    println!("we hold {}, see pg_locks", guard.key());
    println!("they get {:?}", them.try_lock("nightly-report")?);

    let watch = guard.watch();
    println!("still ours? {}", !watch.is_lost());
    guard.unlock()?;
    println!("the hold ended: {:?}", watch.wait());
    println!("now they get {:?}", them.try_lock("nightly-report")?);
    Ok(())
}
