//! A manager's metrics as Prometheus scrapes them, with a class for each kind of lock.
//!
//! A service would let the exporter listen (its feature `http-listener`), or answer a request for
//! `/metrics` with what is printed here. `DATABASE_URL` names the database; without it a throwaway
//! server is started.
// An example prints to the terminal.
#![allow(clippy::print_stdout)]

use std::sync::Arc;

use distlock::metrics::Metrics;
use distlock::{Key, Manager};
use metrics_exporter_prometheus::PrometheusBuilder;
use throwaway_postgres::Server;

fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL").ok();
    let server = url.is_none().then(Server::start).transpose()?;
    let url = url.unwrap_or_else(|| server.as_ref().map(Server::url).unwrap_or_default());

    // Before the metrics, which describe themselves to it.
    let exporter = PrometheusBuilder::new().install_recorder()?;
    let report = Key::from("nightly-report");
    let class = move |key: &Key| match *key == report {
        true => "report",
        false => "tenant",
    };
    let metrics = Arc::new(Metrics::new("main").classes(class));
    let mgr = Manager::builder(&url).observer(metrics.clone()).connect()?;

    let guard = mgr.lock(report)?;
    for tenant in 0..10 {
        mgr.with_lock(("tenant", tenant), |_guard| ())?;
    }
    anyhow::ensure!(mgr.try_lock(report)?.is_none(), "it is held");
    guard.unlock()?;

    // At each scrape.
    metrics.read(&mgr);
    println!("{}", exporter.render());
    mgr.close()?;
    Ok(())
}
