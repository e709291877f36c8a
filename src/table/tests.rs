//! Tests of the table's decisions.
// Tests may panic.
#![allow(clippy::unwrap_used)]

mod endings;
mod fencing;
mod handoff;
mod keeping;
mod scene;

use self::scene::*;
use super::*;
use crate::op::{Action, Op, Outcome};

#[test]
fn who_cannot_wait_is_not_told_of_a_holder_before_there_is_one() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..1);
    scene.once(A, 1);
    scene.share(A, 2);
    assert_eq!(scene.book.refused, []);
    // Had the server failed, both would have been failed with its error.
    scene.iterate();
    assert_eq!(scene.book.granted, [0]);
    assert_eq!(scene.book.refused, [(1, Refusal::Busy)]);
    scene.once(A, 3);
    assert_eq!(scene.book.refused[1..], [(3, Refusal::Busy)]);
    assert_eq!(scene.table.waiting(), 1);
}

#[test]
fn waiters_are_served_first_in_first_out() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..5);
    scene.iterate();
    for _ in 1..5 {
        assert!(scene.release_last(A));
    }
    assert_eq!(scene.book.granted, [0, 1, 2, 3, 4]);
    assert_eq!((scene.table.held(), scene.table.waiting()), (1, 0));
}

#[test]
fn an_exclusive_waiter_is_not_overtaken_by_later_shared_ones() {
    let mut scene = Scene::new(None);
    scene.share(A, 0);
    scene.iterate();
    let first = scene.book.ids[0];
    scene.wait(A, 1..2);
    scene.share(A, 2);
    scene.ask(A, Mode::Shared, Wait::Try(None), 3);
    assert_eq!(scene.book.refused, [(3, Refusal::Busy)]);
    assert_eq!(scene.book.granted, [0]);
    assert!(scene.release(A, first));
    scene.iterate();
    scene.iterate();
    assert_eq!(scene.book.granted, [0, 1]);
    scene.release_last(A);
    scene.iterate();
    scene.iterate();
    assert_eq!(scene.book.granted, [0, 1, 2]);
}

#[test]
fn shared_waiters_join_together_with_one_server_lock() {
    let mut scene = Scene::new(None);
    (0..4).for_each(|waiter| scene.share(A, waiter));
    assert_eq!(scene.plan(), [op(A, Mode::Shared, Action::Lock)]);
    scene.settle(vec![op(A, Mode::Shared, Action::Lock)], true);
    assert_eq!(scene.book.granted, [0, 1, 2, 3]);
    // A late one joins the holders without the server.
    scene.share(A, 4);
    assert_eq!(scene.plan(), []);
    assert_eq!(scene.table.held(), 5);
    let ids = scene.book.ids.clone();
    for id in &ids[..4] {
        assert!(scene.release(A, *id));
        assert_eq!(scene.plan(), []);
    }
    assert!(scene.release(A, ids[4]));
    assert_eq!(scene.plan(), [op(A, Mode::Shared, Action::Unlock)]);
}

#[test]
fn a_plan_has_one_step_for_each_key() {
    let mut scene = Scene::new(None);
    for key in [A, B] {
        scene.wait(key, 0..10);
        scene.share(key, 10);
        scene.once(key, 11);
    }
    assert_eq!(scene.plan(), [lock(A), lock(B)]);
    assert_eq!(scene.plan(), []);
}

#[test]
fn a_failed_try_sends_away_those_who_cannot_wait() {
    let mut scene = Scene::new(None);
    scene.ask(A, Mode::Shared, Wait::Try(None), 0);
    scene.ask(A, Mode::Shared, Wait::Forever, 1);
    scene.ask(A, Mode::Shared, Wait::Try(None), 2);
    assert_eq!(scene.refused_iteration(), 1);
    let busy = [(0, Refusal::Busy), (2, Refusal::Busy)];
    assert_eq!(scene.book.refused, busy);
    assert_eq!((scene.table.held(), scene.table.waiting()), (0, 1));
    assert_eq!(scene.book.contended, 3);
    scene.now += scene.pause();
    scene.iterate();
    assert_eq!(scene.book.granted, [1]);
}

#[test]
fn who_cannot_wait_and_finds_a_queue_is_refused_without_the_server() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..1);
    scene.refused_iteration();
    scene.once(A, 1);
    assert_eq!(scene.book.refused, [(1, Refusal::Busy)]);
    assert_eq!(scene.plan(), []);
    // One that could share with the queue is attempted before the retry is due.
    scene.share(B, 2);
    scene.refused_iteration();
    scene.ask(B, Mode::Shared, Wait::Try(None), 3);
    assert_eq!(scene.plan(), [op(B, Mode::Shared, Action::Lock)]);
}

#[test]
fn contention_is_told_once_for_each_acquire() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..2);
    for _ in 0..5 {
        scene.refused_iteration();
        scene.now += 50 * MS;
    }
    assert_eq!(scene.book.contended, 2);
}

#[test]
fn the_pause_between_two_attempts_grows_with_the_wait_up_to_its_cap() {
    let mut scene = Scene::new(None);
    let start = scene.now;
    scene.wait(A, 0..1);
    assert_eq!(scene.refused_iteration(), 1);
    assert_eq!(scene.plan(), []);
    let mut attempts = 1;
    let mut last = Duration::ZERO;
    while scene.now - start < 2000 * MS {
        let pause = scene.pause();
        let waited = scene.now - start;
        assert!(
            pause <= (waited / 10).clamp(MS, 50 * MS),
            "{pause:?} after {waited:?}"
        );
        assert!(pause >= last.mul_f64(0.7), "{pause:?} after {last:?}");
        last = pause;
        // Not a moment earlier.
        scene.now += pause - Duration::from_nanos(1);
        assert_eq!(scene.plan(), []);
        scene.now += Duration::from_nanos(1);
        assert_eq!(scene.refused_iteration(), 1);
        attempts += 1;
    }
    assert!(last >= 37 * MS, "{last:?}");
    assert!(attempts < 120, "{attempts}");
}

#[test]
fn a_batch_has_no_more_steps_than_its_cap_and_the_rest_comes_next() {
    let mut scene = Scene::new(None);
    for n in 0..10 {
        scene.once((9, n), n.unsigned_abs());
    }
    let sizes: Vec<usize> = (0..4)
        .map(|_| {
            let batch = scene.plan_up_to(4);
            let size = batch.len();
            scene.settle(batch, true);
            size
        })
        .collect();
    assert_eq!(sizes, [4, 4, 2, 0]);
    assert_eq!(scene.book.granted, (0..10).collect::<Vec<_>>());
    assert!(!scene.table.has_ready());
}

#[test]
fn what_frees_comes_first_in_a_batch() {
    let mut scene = Scene::new(None);
    for n in 0..5 {
        scene.once((8, n), 0);
    }
    scene.iterate();
    for n in 0..5 {
        scene.once((9, n), 0);
        let id = scene.book.ids[n.unsigned_abs() as usize];
        scene.release((8, n), id);
    }
    let actions: Vec<Action> = scene.plan().iter().map(|op| op.action).collect();
    assert_eq!(actions[..5], [Action::Unlock; 5]);
    assert_eq!(actions[5..], [Action::Lock; 5]);
}

#[test]
fn a_drop_and_the_next_acquire_in_one_turn_need_no_server() {
    let mut scene = Scene::new(None);
    scene.once(A, 0);
    scene.iterate();
    for waiter in 1..10 {
        scene.release_last(A);
        scene.once(A, waiter);
        assert_eq!(scene.plan(), []);
    }
    assert_eq!(scene.book.granted, (0..10).collect::<Vec<_>>());
    assert_eq!(scene.book.handed_over, 9);
    assert!(scene.book.refused.is_empty());
}

#[test]
fn a_change_of_mode_goes_through_the_server() {
    let mut scene = Scene::new(None);
    scene.once(A, 0);
    scene.iterate();
    scene.release_last(A);
    scene.ask(A, Mode::Shared, Wait::Try(None), 1);
    assert_eq!(scene.plan(), [unlock(A)]);
    scene.settle(vec![unlock(A)], true);
    assert_eq!(scene.plan(), [op(A, Mode::Shared, Action::Lock)]);
    scene.settle(vec![op(A, Mode::Shared, Action::Lock)], true);
    assert_eq!(scene.book.granted, [0, 1]);
}

#[test]
fn nothing_is_kept_of_locks_that_are_over() {
    let mut scene = Scene::new(None);
    for n in 0..100 {
        scene.wait((9, n), 0..2);
        scene.iterate();
        scene.release_last((9, n));
        scene.release_last((9, n));
        while scene.iterate() > 0 {}
    }
    assert!(scene.forgets_all());
    assert!(scene.table.next_retry().is_none());
    assert!(
        scene.table.spare.queues.len() <= 2,
        "{}",
        scene.table.spare.queues.len()
    );
}
