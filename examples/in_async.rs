//! Locks in an async program: calls that may block go through `spawn_blocking`, a guard is held
//! across `.await`, and the work stops if the lock is lost. `DATABASE_URL` names the database;
//! without it a throwaway server is started.
// An example prints to the terminal.
#![allow(clippy::print_stdout)]

use distlock::{Ended, Guard, Manager, Watch};
use throwaway_postgres::Server;
use tokio::task::{spawn_blocking, yield_now};

fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL").ok();
    let server = url.is_none().then(Server::start).transpose()?;
    let url = url.unwrap_or_else(|| server.as_ref().map(Server::url).unwrap_or_default());
    // One thread is enough for all tasks: none of them blocks it.
    tokio::runtime::Builder::new_current_thread()
        .build()?
        .block_on(run(url))
}

async fn run(url: String) -> anyhow::Result<()> {
    let mgr = spawn_blocking(move || Manager::connect(&url)).await??;
    let reports = ["one", "two", "three"].map(|name| tokio::spawn(report(mgr.clone(), name)));
    for report in reports {
        report.await??;
    }
    Ok(spawn_blocking(move || mgr.close()).await??)
}

/// Writes a report: one at a time, on all machines.
async fn report(mgr: Manager, name: &'static str) -> anyhow::Result<()> {
    let guard = lock(&mgr, "nightly-report").await?;
    tokio::select! {
        () = write(name) => println!("report {name} is written"),
        why = end(guard.watch()) => anyhow::bail!("report {name} stops: {why:?}"),
    }
    // This waits for the server. A drop does not, and may happen on any thread.
    Ok(spawn_blocking(move || guard.unlock()).await??)
}

async fn lock(mgr: &Manager, key: &'static str) -> anyhow::Result<Guard> {
    let mgr = mgr.clone();
    Ok(spawn_blocking(move || mgr.lock(key)).await??)
}

/// Waits for the end of a hold. Its blocking thread ends when the guard is dropped.
async fn end(watch: Watch) -> anyhow::Result<Ended> {
    Ok(spawn_blocking(move || watch.wait()).await?)
}

/// The work, which lets other tasks run.
async fn write(name: &str) {
    for page in 1..=3 {
        println!("report {name}, page {page}");
        yield_now().await;
    }
}
