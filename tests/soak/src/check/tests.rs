//! What the checker finds.

use super::*;
use crate::history::{FencedWrite, StoreWrite};

const RULES: Rules = Rules {
    detection: Duration::from_nanos(10),
    aftermath: Duration::from_nanos(50),
    slack: Duration::from_nanos(5),
    permits: 41..44,
    is_complete: false,
};

fn hold(process: u32, token: i64, from: u64, until: u64) -> Hold {
    Hold {
        process,
        key: 1,
        how: How::One,
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

#[test]
fn each_key_of_a_set_is_held_as_if_it_were_alone() {
    let set = |process, keys: [i32; 2], token, from, until| {
        keys.map(|key| Hold {
            key,
            how: How::All,
            ..hold(process, token, from, until)
        })
    };
    let one = set(1, [1, 2], 1, 0, 10);
    assert_eq!(
        violations([one.clone(), set(2, [3, 4], 2, 5, 9)].concat(), vec![]),
        []
    );
    assert_eq!(
        violations([one.clone(), set(2, [2, 1], 2, 10, 20)].concat(), vec![]),
        []
    );
    let crossing = violations([one.clone(), set(2, [2, 3], 2, 9, 20)].concat(), vec![]);
    assert!(matches!(&crossing[..], [Violation::Together { first, .. }] if first.key == 2));
    let alone = violations([one.to_vec(), vec![hold(2, 2, 5, 6)]].concat(), vec![]);
    assert!(matches!(&alone[..], [Violation::Together { first, .. }] if first.key == 1));
    // Some of its keys may be shared.
    let [mut shared, alone] = one;
    shared.shared = true;
    let reader = Hold {
        shared: true,
        ..hold(2, 2, 5, 6)
    };
    let readers = vec![shared.clone(), alone.clone(), reader];
    assert_eq!(violations(readers, vec![]), []);
    let with_writer = vec![shared, alone, hold(2, 2, 5, 6)];
    assert_eq!(violations(with_writer, vec![]).len(), 1);
}

#[test]
fn one_of_many_that_another_has_too_is_found() {
    let some = |process, token| Hold {
        how: How::Some,
        ..hold(process, token, 0, 10)
    };
    let found = violations(vec![some(1, 1), some(2, 2)], vec![]);
    assert!(matches!(found[..], [Violation::Together { .. }]));
}

#[test]
fn more_in_use_than_there_are_permits_are_found() {
    let permits = |keys: &[i32]| {
        let permit = |(process, key): (u32, &i32)| Hold {
            how: How::Permit,
            key: *key,
            ..hold(process, i64::from(process) + 1, 0, 10)
        };
        violations((0..).zip(keys).map(permit).collect(), vec![])
    };
    assert_eq!(permits(&[41, 42, 43]), []);
    let of_another = permits(&[41, 42, 43, 44]);
    assert!(matches!(&of_another[..], [Violation::NoSuchPermit(it)] if it.key == 44));
    assert!(matches!(permits(&[40])[..], [Violation::NoSuchPermit(_)]));
    let twice = permits(&[41, 42, 43, 42]);
    assert!(matches!(&twice[..], [Violation::Together { first, .. }] if first.key == 42));
}

/// A hold that changes its mode at 10, and a token that is `later` then.
fn changing(how: How, later: i64) -> Vec<Hold> {
    let before = Hold {
        shared: how == How::Upgrade,
        ..hold(1, 5, 0, 10)
    };
    let after = Hold {
        how,
        shared: how == How::Downgrade,
        ..hold(1, 5 + later, 10, 20)
    };
    vec![before, after]
}

#[test]
fn an_upgraded_hold_lets_nobody_in_any_more() {
    let share = |token, from, until| Hold {
        shared: true,
        ..hold(2, token, from, until)
    };
    let with = |other| violations([changing(How::Upgrade, 2), vec![other]].concat(), vec![]);
    assert_eq!(with(share(6, 5, 10)), []);
    assert_eq!(with(hold(2, 8, 20, 30)), []);
    for inside in [share(6, 5, 11), share(8, 10, 30), hold(2, 8, 19, 30)] {
        let found = with(inside);
        assert!(
            matches!(found[..], [Violation::Together { .. }]),
            "{found:?}"
        );
    }
    // Nor was there a writer before.
    assert_eq!(with(hold(2, 6, 5, 6)).len(), 1);
    let found = violations(changing(How::Upgrade, 0), vec![]);
    assert!(matches!(found[..], [Violation::Order { .. }]), "{found:?}");
}

#[test]
fn a_downgraded_hold_lets_in_readers_and_no_writers() {
    let share = |token, from, until| Hold {
        shared: true,
        ..hold(2, token, from, until)
    };
    let with = |other| violations([changing(How::Downgrade, 0), vec![other]].concat(), vec![]);
    assert_eq!(with(share(6, 10, 30)), []);
    assert_eq!(with(hold(2, 6, 20, 30)), []);
    for inside in [hold(2, 6, 10, 15), hold(2, 6, 19, 30), share(6, 9, 30)] {
        let found = with(inside);
        assert!(
            matches!(found[..], [Violation::Together { .. }]),
            "{found:?}"
        );
    }
    let found = violations(changing(How::Downgrade, -1), vec![]);
    assert!(matches!(found[..], [Violation::Order { .. }]), "{found:?}");
}

#[test]
fn a_run_that_left_something_out_is_found() {
    let rules = Rules {
        is_complete: true,
        ..RULES
    };
    let mut history = History::default();
    for (token, how) in (1_i64..).zip(How::ALL) {
        let missing = check(&history, &rules).violations;
        assert!(missing.contains(&Violation::NeverDone(how)), "{missing:?}");
        let from = 10 * token.unsigned_abs();
        history.holds.push(Hold {
            how,
            key: RULES.permits.start,
            ..hold(1, token, from, from + 5)
        });
    }
    let found = check(&history, &rules);
    assert_eq!(found.violations, []);
    assert!(found.done.values().all(|it| it.holds == 1));
    assert_eq!(found.acquisitions, 4);
}
