//! The hand-off budget: how long a process keeps a lock before other processes may take it.

use super::*;

impl Scene {
    /// Takes the lock, holds it for `length` and releases it.
    fn hold(&mut self, waiter: u32, length: Duration) {
        self.wait(A, waiter..waiter + 1);
        assert_eq!(self.plan(), [lock(A)]);
        self.settle(vec![lock(A)], true);
        self.now += length;
        assert!(self.release_last(A));
        assert_eq!(self.plan(), [unlock(A)]);
        self.settle(vec![unlock(A)], true);
    }
}

#[test]
fn a_lock_is_handed_over_without_the_server_within_the_budget() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..3);
    scene.iterate();
    scene.now += BUDGET - MS;
    scene.release_last(A);
    assert_eq!(scene.book.granted, [0, 1]);
    assert_eq!(scene.book.handed_over, 1);
    assert_eq!(scene.plan(), []);
}

#[test]
fn after_its_budget_a_process_unlocks_and_pauses() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..2);
    scene.iterate();
    scene.now += BUDGET;
    assert!(scene.release_last(A));
    assert_eq!(scene.plan(), [unlock(A)]);
    scene.settle(vec![unlock(A)], true);
    assert_eq!(scene.plan(), []);
    let pause = scene.pause();
    // Longer than that of a waiter that has waited for the whole budget.
    assert!(pause > BUDGET / 10, "{pause:?}");
    scene.now += pause;
    assert_eq!(scene.plan(), [lock(A)]);
    scene.settle(vec![lock(A)], true);
    assert_eq!(scene.book.granted, [0, 1]);
    assert_eq!(scene.book.handed_over, 0);
}

#[test]
fn a_new_budget_begins_after_the_old_one() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..3);
    scene.iterate();
    scene.now += BUDGET;
    scene.release_last(A);
    scene.iterate();
    scene.now += scene.pause();
    scene.iterate();
    scene.now += BUDGET / 2;
    assert!(scene.release_last(A));
    assert_eq!(scene.book.granted, [0, 1, 2]);
}

#[test]
fn a_lock_that_is_taken_elsewhere_ends_the_budget() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..1);
    scene.iterate();
    scene.release_last(A);
    scene.iterate();
    // Before the next plan forgets the key.
    scene.wait(A, 1..2);
    scene.refused_iteration();
    scene.now += 2 * BUDGET;
    scene.iterate();
    assert_eq!(scene.book.granted, [0, 1]);
}

#[test]
fn who_comes_only_after_the_budget_waits_for_others_too() {
    let mut scene = Scene::new(None);
    scene.hold(0, BUDGET);
    scene.wait(A, 1..2);
    assert_eq!(scene.plan(), []);
    scene.now += scene.pause();
    assert_eq!(scene.plan(), [lock(A)]);
}

#[test]
fn who_cannot_wait_does_not_wait_for_others() {
    let mut scene = Scene::new(None);
    scene.hold(0, BUDGET);
    scene.once(A, 1);
    assert_eq!(scene.plan(), [lock(A)]);
}

#[test]
fn a_key_that_nobody_wants_after_its_budget_is_forgotten() {
    let mut scene = Scene::new(None);
    scene.hold(0, BUDGET);
    scene.now += scene.pause();
    assert_eq!(scene.plan(), []);
    assert!(scene.table.entries.is_empty());
    assert_eq!(scene.table.next_retry(), None);
}

#[test]
fn holds_that_leave_others_no_time_between_them_are_one_budget() {
    let mut scene = Scene::new(None);
    for waiter in 0..3 {
        scene.hold(waiter, BUDGET / 2);
        assert_eq!(scene.plan(), []);
        assert_eq!(scene.table.next_retry().is_some(), waiter == 1);
        scene.now += match waiter {
            1 => scene.pause(),
            _ => MS / 2,
        };
    }
}

#[test]
fn holds_with_time_for_others_between_them_are_not() {
    let mut scene = Scene::new(None);
    for waiter in 0..5 {
        scene.hold(waiter, BUDGET / 2);
        assert_eq!(scene.plan(), []);
        assert_eq!(scene.table.next_retry(), None);
        scene.now += 2 * MS;
    }
}

#[test]
fn what_is_taken_again_is_held_before_others_have_their_turn() {
    let mut scene = Scene::new(None);
    scene.hold(0, BUDGET - MS / 2);
    // By now the budget would be spent, but no other process had the time to take the lock.
    scene.now += MS;
    scene.wait(A, 1..2);
    scene.iterate();
    assert_eq!(scene.book.granted, [0, 1]);
    scene.now += MS;
    scene.release_last(A);
    scene.iterate();
    assert!(scene.table.next_retry().is_some());
}

#[test]
fn who_can_wait_for_a_moment_only_is_not_kept_waiting_for_longer() {
    let mut scene = Scene::new(None);
    scene.hold(0, 20 * BUDGET);
    let cooldown = scene.pause();
    let deadline = scene.now + cooldown / 2;
    scene.ask(A, Mode::Exclusive, Wait::Until(deadline), 1);
    assert_eq!(scene.plan(), []);
    scene.now += cooldown / 4;
    assert_eq!(scene.plan(), [lock(A)]);
    // A waiter that has the time waits.
    scene.settle(vec![lock(A)], false);
    let late = scene.now + 100 * cooldown;
    let mut scene = Scene::new(None);
    scene.hold(0, 20 * BUDGET);
    scene.ask(A, Mode::Exclusive, Wait::Until(late), 1);
    assert_eq!(scene.pause(), cooldown);
}
