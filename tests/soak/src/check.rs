//! Checks a history for overlapping holds, tokens out of order, stale writes and late calls.
//! Pure: it reads nothing but the history.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::fault::{Fault, Kind};
use crate::history::{Call, History, Hold, nanos};

/// The bounds that are promised.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How late a holder may detect that the server has ended its session.
    pub detection: Duration,
    /// How long after such a fault its effects may appear.
    pub aftermath: Duration,
    /// How much later than its deadline a call may return.
    pub slack: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Two holds of one lock overlapped, and no fault excuses it.
    Together {
        first: Hold,
        second: Hold,
        nanos: u64,
    },
    /// A later holder had no greater token.
    Order { first: Hold, second: Hold },
    /// The store accepted a token below one that it had accepted.
    StaleWrite { key: i32, token: i64, after: i64 },
    /// A fenced transaction wrote after one of a hold that came later.
    LateFencedWrite {
        key: i32,
        hold: String,
        within: String,
    },
    /// A call returned too late.
    Late(Call),
}

/// What the checker found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    pub violations: Vec<Violation>,
    pub acquisitions: usize,
    pub lost: usize,
    /// Overlaps within the documented bound, and the longest of them.
    pub overlaps: usize,
    pub longest_overlap: Duration,
    pub refused_writes: usize,
    pub fenced_writes: usize,
    pub longest_overrun: Duration,
    pub kinds: BTreeMap<Kind, Struck>,
}

/// One kind of fault.
#[derive(Clone, Copy, Debug, Default)]
pub struct Struck {
    pub times: usize,
    /// Holds that were lost to it.
    pub lost: usize,
    /// From the fault (for a frozen process: from its end) to the detection of the loss.
    pub slowest: Duration,
}

pub fn check(history: &History, rules: &Rules) -> Findings {
    let mut findings = Findings {
        acquisitions: history.holds.len(),
        lost: history
            .holds
            .iter()
            .filter(|hold| hold.lost.is_some())
            .count(),
        ..Findings::default()
    };
    check_holds(history, rules, &mut findings);
    check_store(history, &mut findings);
    check_fenced(history, &mut findings);
    check_calls(history, rules, &mut findings);
    measure_faults(history, rules, &mut findings);
    findings
}

fn check_holds(history: &History, rules: &Rules, findings: &mut Findings) {
    // A hold that never counted as held excludes no other.
    let trusted = history.holds.iter().filter(|hold| hold.trusted);
    let mut holds: Vec<&Hold> = trusted.collect();
    holds.sort_by_key(|hold| (hold.key, hold.from));
    for holds in holds.chunk_by(|a, b| a.key == b.key) {
        let mut inside: Vec<&Hold> = Vec::new();
        // Of the holds that have ended, the one with the greatest token, and that of the
        // exclusive ones. Shared holds at the same time may have tokens in any order.
        let mut left: Option<&Hold> = None;
        let mut left_alone: Option<&Hold> = None;
        for &hold in holds {
            inside.retain(|other| {
                let stays = other.until > hold.from;
                if !stays {
                    left = greater(left, other);
                    if !other.shared {
                        left_alone = greater(left_alone, other);
                    }
                }
                stays
            });
            let before = if hold.shared { left_alone } else { left };
            if let Some(before) = before.filter(|before| before.token >= hold.token) {
                findings.violations.push(Violation::Order {
                    first: before.clone(),
                    second: hold.clone(),
                });
            }
            for other in inside.iter().filter(|other| !(other.shared && hold.shared)) {
                let together = other.until.min(hold.until) - hold.from;
                if together == 0 {
                    continue;
                }
                if is_excused(other, hold, together, &history.faults, rules) {
                    findings.overlaps += 1;
                    let together = Duration::from_nanos(together);
                    findings.longest_overlap = findings.longest_overlap.max(together);
                } else {
                    findings.violations.push(Violation::Together {
                        first: (*other).clone(),
                        second: hold.clone(),
                        nanos: together,
                    });
                }
            }
            inside.push(hold);
        }
    }
}

fn greater<'a>(known: Option<&'a Hold>, other: &'a Hold) -> Option<&'a Hold> {
    known
        .filter(|known| known.token >= other.token)
        .or(Some(other))
}

/// True if the server had just ended the session of one of the two, which could not know it yet.
fn is_excused(a: &Hold, b: &Hold, together: u64, faults: &[Fault], rules: &Rules) -> bool {
    together <= nanos(rules.detection)
        && a.process != b.process
        && faults.iter().any(|fault| {
            fault.kind.ends_sessions()
                && (fault.concerns(a.process) || fault.concerns(b.process))
                && fault.from <= b.from
                && b.from <= fault.until + nanos(rules.aftermath)
        })
}

fn check_store(history: &History, findings: &mut Findings) {
    let mut greatest = BTreeMap::new();
    for write in &history.writes {
        if !write.accepted {
            findings.refused_writes += 1;
            continue;
        }
        let greatest = greatest.entry(write.key).or_insert(0);
        if write.token < *greatest {
            findings.violations.push(Violation::StaleWrite {
                key: write.key,
                token: write.token,
                after: *greatest,
            });
        }
        *greatest = write.token.max(*greatest);
    }
}

/// The first and the last of a hold's fenced writes.
struct Written<'a> {
    hold: &'a str,
    shared: bool,
    first: usize,
    last: usize,
}

/// Of two holds that exclude each other, all writes of one come before all of the other.
fn check_fenced(history: &History, findings: &mut Findings) {
    findings.fenced_writes = history.fenced.len();
    let mut holds: BTreeMap<(i32, &str), Written<'_>> = BTreeMap::new();
    for (n, write) in history.fenced.iter().enumerate() {
        let written = holds.entry((write.key, &write.hold)).or_insert(Written {
            hold: &write.hold,
            shared: write.shared,
            first: n,
            last: n,
        });
        written.last = n;
    }
    let mut by_key: BTreeMap<i32, Vec<Written<'_>>> = BTreeMap::new();
    for ((key, _), written) in holds {
        by_key.entry(key).or_default().push(written);
    }
    for (key, mut holds) in by_key {
        holds.sort_by_key(|written| written.first);
        for (n, later) in holds.iter().enumerate() {
            let excludes = |other: &&Written<'_>| !(other.shared && later.shared);
            let mut before = holds[..n].iter().filter(excludes);
            if let Some(other) = before.find(|other| other.last > later.first) {
                findings.violations.push(Violation::LateFencedWrite {
                    key,
                    hold: other.hold.to_owned(),
                    within: later.hold.to_owned(),
                });
            }
        }
    }
}

fn check_calls(history: &History, rules: &Rules, findings: &mut Findings) {
    for call in &history.calls {
        // A stopped process cannot return.
        let frozen = history.faults.iter().any(|fault| {
            fault.kind == Kind::FreezeProcess
                && fault.concerns(call.process)
                && fault.from <= call.until
                && call.from <= fault.until
        });
        let overrun = call.until.saturating_sub(call.deadline);
        if frozen || overrun == 0 {
            continue;
        }
        findings.longest_overrun = findings.longest_overrun.max(Duration::from_nanos(overrun));
        if overrun > nanos(rules.slack) {
            findings.violations.push(Violation::Late(call.clone()));
        }
    }
}

/// Measures how long after a fault the loss of a hold was detected.
fn measure_faults(history: &History, rules: &Rules, findings: &mut Findings) {
    for fault in &history.faults {
        let struck = findings.kinds.entry(fault.kind).or_default();
        struck.times += 1;
        // A stopped process detects nothing before it continues.
        let start = match fault.kind {
            Kind::FreezeProcess => fault.until,
            _ => fault.from,
        };
        let hit = history.holds.iter().filter_map(|hold| {
            let lost = hold.lost?;
            let during = hold.from <= fault.from
                && fault.from <= lost
                && lost <= fault.until + nanos(rules.aftermath);
            (fault.concerns(hold.process) && during).then(|| lost.saturating_sub(start))
        });
        for delay in hit {
            struck.lost += 1;
            struck.slowest = struck.slowest.max(Duration::from_nanos(delay));
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Together {
                first,
                second,
                nanos,
            } => write!(
                f,
                "two holders for {:?}: {first:?} and {second:?}",
                Duration::from_nanos(*nanos)
            ),
            Violation::Order { first, second } => {
                write!(
                    f,
                    "a later holder has no greater token: {first:?}, then {second:?}"
                )
            }
            Violation::StaleWrite { key, token, after } => {
                write!(
                    f,
                    "the store accepted token {token} for key {key} after {after}"
                )
            }
            Violation::LateFencedWrite { key, hold, within } => write!(
                f,
                "the hold {hold} of key {key} has written after the first write of {within}"
            ),
            Violation::Late(call) => write!(
                f,
                "a call returned {:?} after its deadline: {call:?}",
                Duration::from_nanos(call.until - call.deadline)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{FencedWrite, StoreWrite};

    const RULES: Rules = Rules {
        detection: Duration::from_nanos(10),
        aftermath: Duration::from_nanos(50),
        slack: Duration::from_nanos(5),
    };

    fn hold(process: u32, token: i64, from: u64, until: u64) -> Hold {
        Hold {
            process,
            key: 1,
            shared: false,
            token,
            from,
            until,
            lost: None,
            trusted: true,
        }
    }

    fn fault(kind: Kind, process: u32, from: u64, until: u64) -> Fault {
        Fault {
            kind,
            process: Some(process),
            from,
            until,
        }
    }

    fn violations(holds: Vec<Hold>, faults: Vec<Fault>) -> Vec<Violation> {
        let history = History {
            holds,
            faults,
            ..History::default()
        };
        check(&history, &RULES).violations
    }

    #[test]
    fn one_after_the_other_is_fine() {
        let holds = vec![hold(1, 1, 0, 10), hold(2, 2, 10, 20), hold(1, 3, 21, 30)];
        assert_eq!(violations(holds, vec![]), []);
    }

    #[test]
    fn two_at_once_are_not() {
        let found = violations(vec![hold(1, 1, 0, 10), hold(2, 2, 9, 20)], vec![]);
        assert!(matches!(found[..], [Violation::Together { nanos: 1, .. }]));
    }

    #[test]
    fn nor_are_two_threads_of_one_process() {
        let faults = vec![fault(Kind::Terminate, 1, 0, 1)];
        let found = violations(vec![hold(1, 1, 0, 10), hold(1, 2, 9, 20)], faults);
        assert!(matches!(found[..], [Violation::Together { .. }]));
    }

    #[test]
    fn a_long_hold_is_compared_with_all_that_come_in_meanwhile() {
        let holds = vec![hold(1, 1, 0, 100), hold(2, 2, 10, 20), hold(3, 3, 50, 60)];
        assert_eq!(violations(holds, vec![]).len(), 2);
    }

    #[test]
    fn who_learns_at_once_that_its_lock_is_lost_was_never_inside() {
        let late = Hold {
            lost: Some(16),
            trusted: false,
            ..hold(2, 1, 15, 15)
        };
        let holds = vec![hold(1, 2, 0, 10), hold(3, 3, 12, 20)];
        assert_eq!(
            violations([holds.clone(), vec![late.clone()]].concat(), vec![]),
            []
        );
        let trusted_hold = Hold {
            trusted: true,
            ..late
        };
        assert_eq!(
            violations([holds, vec![trusted_hold]].concat(), vec![]).len(),
            1
        );
    }

    #[test]
    fn shared_holders_exclude_only_exclusive_ones() {
        let share = |process, token, from, until| Hold {
            shared: true,
            ..hold(process, token, from, until)
        };
        let shares = vec![share(1, 1, 0, 10), share(2, 2, 5, 20)];
        assert_eq!(violations(shares.clone(), vec![]), []);
        let with_writer = [shares, vec![hold(3, 3, 19, 25)]].concat();
        assert_eq!(violations(with_writer, vec![]).len(), 1);
    }

    #[test]
    fn a_session_that_the_server_ended_excuses_for_the_detection_time_only() {
        let end = |kind| vec![fault(kind, 1, 90, 91)];
        let holds = |until| vec![hold(1, 1, 0, until), hold(2, 2, 95, 200)];
        assert_eq!(violations(holds(105), end(Kind::Terminate)), []);
        assert_eq!(violations(holds(106), end(Kind::Terminate)).len(), 1);
        // A lease ends before the server releases the lock.
        assert_eq!(violations(holds(105), end(Kind::Partition)).len(), 1);
        // Not if it came later, was long ago, or hit another process.
        for other in [(1, 96, 97), (1, 10, 11), (3, 90, 91)] {
            let faults = vec![fault(Kind::Terminate, other.0, other.1, other.2)];
            assert_eq!(violations(holds(105), faults).len(), 1, "{other:?}");
        }
    }

    #[test]
    fn tokens_follow_the_holds() {
        let found = violations(vec![hold(1, 5, 0, 10), hold(2, 5, 10, 20)], vec![]);
        assert!(matches!(found[..], [Violation::Order { .. }]));
        let holds = vec![hold(1, 5, 0, 10), hold(2, 6, 10, 20), hold(3, 4, 30, 40)];
        assert_eq!(violations(holds, vec![]).len(), 1);
        // Tokens of shared holds only have to exceed those of earlier exclusive ones.
        let share = |token, from, until| Hold {
            shared: true,
            ..hold(1, token, from, until)
        };
        let shares = vec![hold(1, 1, 0, 5), share(3, 6, 10), share(2, 10, 20)];
        assert_eq!(violations(shares.clone(), vec![]), []);
        for (token, from) in [(3, 30), (2, 30)] {
            let later = [shares.clone(), vec![hold(2, token, from, 40)]].concat();
            assert_eq!(violations(later, vec![]).len(), 1);
        }
        let later = [shares, vec![hold(2, 9, 30, 40), share(8, 50, 60)]].concat();
        assert_eq!(violations(later, vec![]).len(), 1);
    }

    #[test]
    fn a_store_that_takes_a_stale_write_is_found() {
        let write = |token, accepted| StoreWrite {
            key: 1,
            token,
            accepted,
        };
        let history = History {
            writes: vec![
                write(2, true),
                write(1, false),
                write(2, true),
                write(1, true),
            ],
            ..History::default()
        };
        let found = check(&history, &RULES);
        assert_eq!(found.refused_writes, 1);
        assert!(matches!(
            found.violations[..],
            [Violation::StaleWrite { token: 1, .. }]
        ));
    }

    #[test]
    fn a_fenced_write_after_a_later_holders_is_found() {
        let write = |hold: &str, shared| FencedWrite {
            key: 1,
            hold: hold.to_owned(),
            shared,
        };
        let late = |writes: &[(&str, bool)]| {
            let fenced = writes.iter().map(|&(hold, shared)| write(hold, shared));
            let history = History {
                fenced: fenced.collect(),
                ..History::default()
            };
            let found = check(&history, &RULES).violations;
            let is_late = |it: &Violation| matches!(it, Violation::LateFencedWrite { .. });
            assert!(found.iter().all(is_late));
            found.len()
        };
        assert_eq!(late(&[("a", false), ("a", false), ("b", false)]), 0);
        assert_eq!(late(&[("a", false), ("b", false), ("a", false)]), 1);
        assert_eq!(late(&[("a", true), ("b", true), ("a", true)]), 0);
        assert_eq!(late(&[("a", true), ("b", false), ("a", true)]), 1);
    }

    #[test]
    fn a_late_call_is_found_unless_its_process_was_stopped() {
        let call = |process| Call {
            process,
            from: 0,
            deadline: 10,
            until: 16,
        };
        let history = History {
            calls: vec![call(1), call(2)],
            faults: vec![fault(Kind::FreezeProcess, 2, 5, 15)],
            ..History::default()
        };
        let found = check(&history, &RULES);
        assert_eq!(found.violations, [Violation::Late(call(1))]);
    }

    #[test]
    fn the_time_to_see_a_loss_counts_from_the_fault() {
        let lost = |process, at| Hold {
            lost: Some(at),
            ..hold(process, 1, 0, at - 1)
        };
        let history = History {
            holds: vec![lost(1, 30), lost(2, 99)],
            faults: vec![
                fault(Kind::Terminate, 1, 20, 21),
                fault(Kind::FreezeProcess, 2, 40, 90),
            ],
            ..History::default()
        };
        let found = check(&history, &RULES);
        let slowest = |kind| found.kinds[&kind].slowest.as_nanos();
        assert_eq!(slowest(Kind::Terminate), 10);
        assert_eq!(slowest(Kind::FreezeProcess), 9);
    }
}
