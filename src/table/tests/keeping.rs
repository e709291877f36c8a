//! Locks that are kept until their time.

use super::*;

/// Releases the lock that was granted last, to be kept for `time`.
fn keep(scene: &mut Scene, key: (i32, i32), time: Duration) {
    let (id, until) = (*scene.book.ids.last().unwrap(), scene.now + time);
    let book = &mut scene.book;
    let released = scene
        .table
        .release(key.into(), id, Some(until), scene.now, book);
    assert!(released);
}

#[test]
fn a_kept_lock_is_nobodys_until_its_time() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..2);
    scene.iterate();
    keep(&mut scene, A, 10 * MS);
    // Waiters go on waiting, tries are refused, and the server is not asked.
    scene.once(A, 7);
    assert_eq!(scene.book.granted, [0]);
    assert_eq!(scene.book.refused, [(7, Refusal::Busy)]);
    assert_eq!(scene.plan(), []);
    assert_eq!((scene.table.held(), scene.book.released), (1, 0));
    assert_eq!(scene.table.next_retry(), Some(scene.now + 10 * MS));
    scene.now += 9 * MS;
    assert_eq!(scene.plan(), []);
    scene.now += MS;
    // Within the hand-off budget.
    assert_eq!(scene.plan(), []);
    assert_eq!(scene.book.granted, [0, 1]);
    assert_eq!((scene.book.released, scene.book.handed_over), (1, 1));
    assert!(!scene.table.is_keeping());
}

#[test]
fn a_kept_lock_that_nobody_waits_for_goes_back_at_its_time() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..1);
    scene.iterate();
    keep(&mut scene, A, 10 * MS);
    assert!(scene.table.is_keeping() && !scene.table.is_unlock_due(A.into()));
    scene.now += 10 * MS;
    assert_eq!(scene.plan(), [unlock(A)]);
    assert_eq!((scene.table.held(), scene.table.next_retry()), (0, None));
}

#[test]
fn a_time_that_is_over_keeps_nothing() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..1);
    scene.iterate();
    keep(&mut scene, A, Duration::ZERO);
    assert!(!scene.table.is_keeping());
    assert_eq!(scene.plan(), [unlock(A)]);
}

#[test]
fn with_the_session_go_the_kept_locks() {
    let mut scene = Scene::new(Some(1));
    scene.wait(A, 0..1);
    scene.iterate();
    keep(&mut scene, A, 10 * MS);
    // It counts towards the limit.
    scene.once(B, 1);
    assert_eq!(scene.book.refused, [(1, Refusal::LimitReached(1))]);
    assert_eq!(scene.table.disconnected(), 1);
    assert!(!scene.table.is_keeping());
    assert_eq!(scene.table.next_retry(), None);
}
