//! Requests that get no lock, and holders that lose it: limits, grants that are not taken, stale
//! releases, lost sessions.

use super::*;

#[test]
fn max_locks_holds_for_several_locks_in_one_batch() {
    let mut scene = Scene::new(Some(2));
    for n in 0..5 {
        scene.once((9, n), n.unsigned_abs());
    }
    // No more than fit; the others once the outcomes of these are known.
    assert_eq!(scene.plan().len(), 2);
    scene.settle(vec![lock((9, 0))], true);
    scene.settle(vec![lock((9, 1))], false);
    assert_eq!(scene.plan(), [lock((9, 2))]);
    scene.settle(vec![lock((9, 2))], true);
    assert_eq!(scene.plan(), []);
    assert_eq!(scene.book.granted, [0, 2]);
    let full = Refusal::LimitReached(2);
    assert_eq!(
        scene.book.refused,
        [(1, Refusal::Busy), (3, full), (4, full)]
    );
    scene.once((9, 7), 7);
    assert_eq!(scene.book.refused[3], (7, full));
    assert_eq!((scene.table.held(), scene.table.waiting()), (2, 0));
}

#[test]
fn max_locks_holds_for_shared_joiners() {
    let mut scene = Scene::new(Some(2));
    (0..4).for_each(|waiter| scene.share(A, waiter));
    scene.iterate();
    assert_eq!(scene.book.granted, [0, 1]);
    let full = Refusal::LimitReached(2);
    assert_eq!(scene.book.refused, [(2, full), (3, full)]);
    assert_eq!(scene.table.waiting(), 0);
}

#[test]
fn at_the_limit_a_lock_can_still_be_handed_over() {
    let mut scene = Scene::new(Some(1));
    scene.wait(A, 0..2);
    scene.iterate();
    scene.release_last(A);
    assert_eq!(scene.book.granted, [0, 1]);
}

#[test]
fn a_grant_that_nobody_takes_goes_to_the_next() {
    let mut scene = Scene::new(None);
    scene.book.gone = vec![0, 1];
    scene.wait(A, 0..3);
    scene.iterate();
    assert_eq!(scene.book.granted, [2]);
    assert_eq!((scene.table.held(), scene.table.waiting()), (1, 0));
}

#[test]
fn a_grant_that_nobody_takes_at_all_is_unlocked() {
    let mut scene = Scene::new(None);
    scene.book.gone = vec![0, 1];
    scene.wait(A, 0..2);
    scene.iterate();
    assert_eq!((scene.table.held(), scene.table.waiting()), (0, 0));
    assert_eq!(scene.plan(), [unlock(A)]);
    // The same when a guard hands over to a waiter that has left.
    scene.wait(B, 2..3);
    scene.iterate();
    scene.wait(B, 1..2);
    assert!(scene.release_last(B));
}

#[test]
fn a_release_with_an_old_number_frees_nothing() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..2);
    scene.iterate();
    let first = scene.book.ids[0];
    assert!(scene.release(A, first));
    for _ in 0..2 {
        assert!(!scene.release(A, first));
    }
    assert!(!scene.release(B, first));
    assert_eq!(scene.table.held(), 1);
    assert_eq!(scene.plan(), []);
}

#[test]
fn waiters_that_left_are_removed_and_the_others_keep_their_order() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..5);
    scene.iterate();
    let (now, key) = (scene.now, Key::from(A));
    let Scene { table, book, .. } = &mut scene;
    table.remove_abandoned(key, |waiter| waiter % 2 == 1, now, book);
    assert_eq!(scene.table.waiting(), 2);
    scene.release_last(A);
    scene.release_last(A);
    assert_eq!(scene.book.granted, [0, 2, 4]);
}

#[test]
fn shared_waiters_join_when_the_exclusive_one_before_them_has_left() {
    let mut scene = Scene::new(None);
    scene.share(A, 0);
    scene.iterate();
    scene.wait(A, 1..2);
    scene.share(A, 2);
    let (now, key) = (scene.now, Key::from(A));
    let Scene { table, book, .. } = &mut scene;
    table.remove_abandoned(key, |waiter| *waiter == 1, now, book);
    assert_eq!(scene.book.granted, [0, 2]);
}

#[test]
fn a_key_whose_waiters_have_all_left_is_forgotten() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..2);
    scene.refused_iteration();
    let (now, key) = (scene.now, Key::from(A));
    let Scene { table, book, .. } = &mut scene;
    table.remove_abandoned(key, |_| true, now, book);
    assert_eq!(scene.plan(), []);
    assert!(scene.forgets_all());
    assert_eq!(scene.table.waiting(), 0);
}

#[test]
fn a_lost_session_forgets_holds_and_keeps_waiters() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..3);
    scene.wait(B, 3..4);
    scene.iterate();
    assert_eq!(scene.table.disconnected(), 2);
    assert_eq!((scene.table.held(), scene.table.waiting()), (0, 2));
    assert_eq!(scene.plan(), [lock(A)]);
    scene.settle(vec![lock(A)], true);
    let [lost, _, current] = *scene.book.ids else {
        panic!("{:?}", scene.book.ids)
    };
    assert_eq!(scene.book.granted, [0, 3, 1]);
    assert!(!scene.release(A, lost));
    assert!(scene.release(A, current));
    assert_eq!(scene.book.granted, [0, 3, 1, 2]);
}

#[test]
fn after_a_lost_session_waiters_are_tried_for_at_once() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..1);
    scene.refused_iteration();
    assert_eq!(scene.plan(), []);
    assert_eq!(scene.table.disconnected(), 0);
    assert_eq!(scene.plan(), [lock(A)]);
}

#[test]
fn those_who_try_once_can_be_failed_apart() {
    let mut scene = Scene::new(None);
    scene.once(A, 0);
    scene.wait(A, 1..3);
    scene.once(B, 3);
    scene.fail_waiters(Whom::Tries);
    scene.book.failed.sort_unstable();
    assert_eq!(scene.book.failed, [0, 3]);
    assert_eq!(scene.table.waiting(), 2);
    scene.book.failed.clear();
    scene.fail_waiters(Whom::All);
    assert_eq!(scene.book.failed, [1, 2]);
    assert_eq!(scene.table.waiting(), 0);
    assert_eq!(scene.plan(), []);
    assert!(scene.forgets_all());
}

#[test]
fn a_failed_operation_fails_the_waiters_of_its_key_alone() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..2);
    scene.wait(B, 2..3);
    assert_eq!(scene.plan(), [lock(A), lock(B)]);
    scene.fail(lock(A));
    scene.settle(vec![lock(B)], true);
    assert_eq!(scene.book.failed, [0, 1]);
    assert_eq!(scene.book.granted, [2]);
    assert_eq!(scene.plan(), []);
    scene.wait(A, 3..4);
    assert_eq!(scene.plan(), [lock(A)]);
}

#[test]
fn a_waiter_that_has_failed_keeps_no_other_from_the_lock() {
    let mut scene = Scene::new(None);
    scene.share(A, 0);
    scene.iterate();
    scene.release_last(A);
    scene.once(A, 1);
    scene.share(A, 2);
    scene.fail_waiters(Whom::Tries);
    assert_eq!(scene.book.failed, [1]);
    // The session still holds the lock.
    assert_eq!(scene.plan(), []);
    assert_eq!(scene.book.granted, [0, 2]);
}

#[test]
fn keys_that_nobody_waits_for_do_not_pile_up_without_a_session() {
    let mut scene = Scene::new(None);
    for n in 0..1000 {
        let key = (1, n);
        scene.wait(key, 0..1);
        let (now, Scene { table, book, .. }) = (scene.now, &mut scene);
        table.remove_abandoned(key.into(), |_| n % 100 != 0, now, book);
        table.forget_idle();
    }
    assert_eq!(scene.table.waiting(), 10);
    assert!(scene.table.entries.len() < 200);
    // The waiters that stayed are served.
    assert_eq!(scene.iterate(), 10);
    assert_eq!(scene.book.granted.len(), 10);
}
