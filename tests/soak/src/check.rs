//! Checks a history for overlapping holds, tokens out of order, permits that there are not, stale
//! writes and late calls.
//! Pure: it reads nothing but the history.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use crate::fault::{Fault, Kind};
use crate::history::{Call, History, Hold, How, nanos};

/// The bounds that are promised.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How late a holder may detect that the server has ended its session.
    pub detection: Duration,
    /// How long after such a fault its effects may appear.
    pub aftermath: Duration,
    /// How much later than its deadline a call may return.
    pub slack: Duration,
    /// The keys of the semaphore's permits. That each excludes all others bounds their number.
    pub permits: Range<i32>,
    /// Whether locks have to be acquired and changed in all ways: else it may be too short for that.
    pub is_complete: bool,
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
    /// A permit that the semaphore does not have.
    NoSuchPermit(Hold),
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
    /// No lock was held by this, so that the run tells nothing of it.
    NeverDone(How),
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
    pub done: BTreeMap<How, Done>,
    pub kinds: BTreeMap<Kind, Struck>,
}

/// What came of one way to hold a lock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub holds: usize,
    pub lost: usize,
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
    let mut findings = Findings::default();
    count_holds(history, rules, &mut findings);
    check_holds(history, rules, &mut findings);
    check_permits(history, rules, &mut findings);
    check_store(history, &mut findings);
    check_fenced(history, &mut findings);
    check_calls(history, rules, &mut findings);
    measure_faults(history, rules, &mut findings);
    findings
}

fn count_holds(history: &History, rules: &Rules, findings: &mut Findings) {
    for hold in &history.holds {
        let lost = usize::from(hold.lost.is_some());
        let done = findings.done.entry(hold.how).or_default();
        done.holds += 1;
        done.lost += lost;
        findings.lost += lost;
        findings.acquisitions += usize::from(!hold.how.is_change());
    }
    if rules.is_complete {
        let missing = How::ALL.iter().filter(|it| !findings.done.contains_key(it));
        findings
            .violations
            .extend(missing.copied().map(Violation::NeverDone));
    }
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
            let is_newer = |before: &&Hold| match hold.how {
                // It goes on with the token that it has.
                How::Downgrade => before.token > hold.token,
                _ => before.token >= hold.token,
            };
            if let Some(before) = before.filter(is_newer) {
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

fn check_permits(history: &History, rules: &Rules, findings: &mut Findings) {
    let permits = history.holds.iter().filter(|it| it.how == How::Permit);
    let others = permits.filter(|it| !rules.permits.contains(&it.key));
    findings
        .violations
        .extend(others.cloned().map(Violation::NoSuchPermit));
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
            Violation::NoSuchPermit(hold) => {
                write!(f, "the semaphore has no such permit: {hold:?}")
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
            Violation::NeverDone(how) => {
                write!(
                    f,
                    "no lock was held by this, so nothing is known of it: {how:?}"
                )
            }
        }
    }
}
