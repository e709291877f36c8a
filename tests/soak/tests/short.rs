//! The soak in its short form, and what it makes of locks that are none.
// A test may panic and speak.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::path::Path;
use std::time::Duration;

use serial_test::serial;
use soak::check::{Findings, Violation, check};
use soak::driver::{self, Plan};
use soak::history::How;
use soak::worker::Broken;

fn soak(seconds: u64, seed: u64, broken: Option<Broken>) -> Findings {
    let plan = Plan {
        program: Path::new(env!("CARGO_BIN_EXE_soak")).to_owned(),
        processes: 4,
        threads: 4,
        length: Duration::from_secs(seconds),
        seed,
        broken,
    };
    println!("seed {seed}");
    let history = driver::run(&plan, |fault| println!("{fault}")).unwrap();
    let findings = check(&history, &driver::rules(&plan));
    println!("{findings}");
    findings
}

#[test]
#[serial]
fn nobody_is_inside_with_anybody_whatever_breaks() {
    let findings = soak(60, fastrand::u64(..), None);
    assert_eq!(findings.violations, []);
    assert!(findings.acquisitions > 100);
    assert!(findings.lost > 0, "no fault has hit a hold");
    assert!(findings.fenced_writes > 100);
}

#[test]
#[serial]
fn locks_that_exclude_nobody_are_found_out() {
    let findings = soak(0, 1, Some(Broken::NoExclusion));
    assert!(count_together(&findings) > 10);
    for how in How::ALL {
        let concerns = |it: &Violation| match it {
            Violation::Together { first, second, .. } => [first.how, second.how].contains(&how),
            _ => false,
        };
        assert!(findings.violations.iter().any(concerns), "{how:?}");
    }
}

#[test]
#[serial]
fn holders_that_do_not_watch_their_locks_are_found_out() {
    let findings = soak(0, 1, Some(Broken::WatchIgnored));
    assert!(count_together(&findings) > 0);
}

#[test]
#[serial]
fn transactions_that_are_not_fenced_are_found_out() {
    let findings = soak(0, 1, Some(Broken::FenceLeftOut));
    let is_late = |it: &&Violation| matches!(it, Violation::LateFencedWrite { .. });
    assert!(findings.violations.iter().filter(is_late).count() > 0);
}

fn count_together(findings: &Findings) -> usize {
    let together = |violation: &&Violation| matches!(violation, Violation::Together { .. });
    findings.violations.iter().filter(together).count()
}
