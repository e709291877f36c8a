//! What a manager's metrics show, as an exporter renders them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use distlock::metrics::Metrics;
use distlock::observer::{Acquired, Observer};
use distlock::{Key, Manager};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::support::*;

/// There is one recorder in a process; each test has the name of a manager for itself.
fn rendered() -> String {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    let handle = RECORDER.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap());
    handle.render()
}

/// The sum of all values of `name` that have `labels`, if there are any.
fn value(name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let rendered = rendered();
    let has = |line: &str| {
        let label = |(name, value): &(&str, &str)| line.contains(&format!("{name}=\"{value}\""));
        line.starts_with(&format!("{name}{{")) && labels.iter().all(label)
    };
    let values = rendered.lines().filter(|line| has(line));
    let number = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    values.map(number).reduce(|sum, next| sum + next)
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Observer for Count {
    fn acquired(&self, _: &Acquired) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn with_metrics(metrics: Metrics) -> (Manager, Arc<Metrics>) {
    let metrics = Arc::new(metrics);
    let mgr = builder().observer(metrics.clone()).connect().unwrap();
    (mgr, metrics)
}

#[apply(isolated_test)]
fn locks_are_counted_by_class_and_never_by_key() {
    rendered();
    let nightly = Key::from("nightly-report");
    let count = Arc::new(Count::default());
    let metrics = Metrics::new("classes")
        .classes(move |key| match *key == nightly {
            true => "nightly",
            false => "other",
        })
        .and(count.clone());
    let (mgr, metrics) = with_metrics(metrics);
    let ours = |labels: &[(&'static str, &'static str)]| {
        let mut all = vec![("manager", "classes")];
        all.extend_from_slice(labels);
        all
    };
    let guard = mgr.lock(nightly).unwrap();
    assert!(mgr.try_lock(nightly).unwrap().is_none());
    let shares: Vec<_> = (0..5).map(|_| mgr.lock_shared("book").unwrap()).collect();
    metrics.read(&mgr);
    assert_eq!(value("distlock_held", &ours(&[])), Some(6.0));
    assert_eq!(value("distlock_connected", &ours(&[])), Some(1.0));
    assert!(value("distlock_lease_left_seconds", &ours(&[])).is_some_and(|left| left > 0.0));
    assert!(value("distlock_round_trips_total", &ours(&[])).is_some_and(|trips| trips > 1.0));
    drop((guard, shares));
    let acquired =
        |labels: &[(&'static str, &'static str)]| value("distlock_acquired_total", &ours(labels));
    let nightly = [("class", "nightly"), ("mode", "exclusive")];
    let other = [("class", "other"), ("mode", "shared")];
    eventually(|| acquired(&other) == Some(5.0));
    assert_eq!(acquired(&nightly), Some(1.0));
    assert_eq!(acquired(&[]), Some(6.0));
    assert_eq!(
        value("distlock_contended_total", &ours(&nightly)),
        Some(1.0)
    );
    eventually(|| value("distlock_hold_seconds_count", &ours(&other)) == Some(5.0));
    assert_eq!(
        value("distlock_wait_seconds_count", &ours(&nightly)),
        Some(1.0)
    );
    assert_eq!(value("distlock_lost_total", &ours(&[])), None);
    assert_eq!(count.0.load(Ordering::SeqCst), 6, "it is told, too");
    let number = mgr.key("book").as_i64().to_string();
    assert!(!rendered().contains(&number) && !rendered().contains("book"));
    mgr.close().unwrap();
}

#[apply(isolated_test)]
fn what_breaks_is_counted_by_cause() {
    rendered();
    let (mgr, metrics) = with_metrics(Metrics::new("breaks"));
    let is = |name: &str, labels: &[(&str, &str)], count: f64| {
        let labels: Vec<_> = [&[("manager", "breaks")], labels].concat();
        value(name, &labels) == Some(count)
    };
    let guards: Vec<_> = (0..3_i64).map(|n| mgr.lock(n).unwrap()).collect();
    terminate_sessions(&mut server().client());
    let lost = [("cause", "session_lost")];
    eventually(|| is("distlock_lost_total", &lost, 3.0));
    eventually(|| is("distlock_hold_seconds_count", &[], 3.0));
    drop(guards);
    eventually(|| is("distlock_connects_total", &[], 2.0));
    assert!(is("distlock_disconnects_total", &[], 1.0));
    assert!(is("distlock_away_seconds_count", &[], 2.0));
    let guard = mgr.lock(7).unwrap();
    mgr.close().unwrap();
    assert!(guard.is_lost());
    eventually(|| is("distlock_lost_total", &[("cause", "closed")], 1.0));
    metrics.read(&mgr);
    assert!(is("distlock_connected", &[], 0.0));
    assert!(is("distlock_held", &[], 0.0));
}
