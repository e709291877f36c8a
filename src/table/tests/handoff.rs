//! How a process shares a lock with others: the hand-off budget, and how they see each other wait.

use super::*;
use crate::table::remembered::MOST_REMEMBERED;

impl Scene {
    /// Requests the lock, holds it for `length` and releases it. Returns how it was taken.
    fn hold(&mut self, waiter: u32, length: Duration) -> Action {
        self.wait(A, waiter..waiter + 1);
        let batch = self.plan();
        let [Op { action, .. }] = batch[..] else {
            panic!("{batch:?}");
        };
        self.settle(batch, true);
        self.now += length;
        assert!(self.release_last(A));
        assert_eq!(self.plan(), [unlock(A)]);
        self.settle(vec![unlock(A)], true);
        assert_eq!(self.plan(), []);
        action
    }

    /// The only step of the next batch has `outcome`.
    fn answer(&mut self, step: Op, outcome: Outcome) {
        assert_eq!(self.plan_all(10), [step]);
        let settled = self.table.settle(step, outcome, self.now, &mut self.book);
        assert!(settled.is_ok());
    }

    /// The server refuses `step`; other sessions are shown that this process waits.
    fn refuse(&mut self, step: Op) {
        self.answer(step, Outcome::Refused);
        self.answer(announce(A), Outcome::Done(None));
    }
}

fn lock_unawaited(key: (i32, i32)) -> Op {
    op(key, Mode::Exclusive, Action::LockUnawaited)
}

fn relock(key: (i32, i32)) -> Op {
    op(key, Mode::Exclusive, Action::Relock)
}

fn announce(key: (i32, i32)) -> Op {
    op(key, Mode::Shared, Action::Announce)
}

fn withdraw(key: (i32, i32)) -> Op {
    op(key, Mode::Shared, Action::Withdraw)
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
fn after_its_budget_a_process_asks_and_goes_on_if_nobody_waits() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..3);
    scene.iterate();
    scene.now += BUDGET;
    assert!(scene.release_last(A));
    assert_eq!(scene.book.granted, [0]);
    scene.answer(relock(A), Outcome::Done(None));
    assert_eq!(scene.book.granted, [0, 1]);
    assert_eq!(scene.book.handed_over, 0);
    // Another budget has begun.
    scene.now += BUDGET - MS;
    assert!(scene.release_last(A));
    assert_eq!(scene.book.granted, [0, 1, 2]);
}

#[test]
fn after_its_budget_a_process_leaves_the_lock_to_others_until_one_has_had_it() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..2);
    scene.iterate();
    scene.now += BUDGET;
    scene.release_last(A);
    scene.answer(relock(A), Outcome::Awaited);
    for _ in 0..5 {
        assert_eq!(scene.plan_all(10), []);
        scene.now += scene.pause();
        scene.answer(lock_unawaited(A), Outcome::Awaited);
    }
    scene.now += scene.pause();
    // They have it: from now on this process is one of those that wait.
    scene.refuse(lock_unawaited(A));
    scene.now += scene.pause();
    scene.answer(lock(A), Outcome::Done(None));
    assert_eq!(scene.book.granted, [0, 1]);
    scene.answer(withdraw(A), Outcome::Done(None));
}

#[test]
fn those_who_do_not_take_what_is_left_to_them_are_not_waited_for_for_ever() {
    let mut scene = Scene::new(None);
    scene.hold(0, BUDGET);
    let start = scene.now;
    scene.wait(A, 1..2);
    loop {
        let batch = scene.plan_all(10);
        if batch == [lock(A)] {
            break;
        }
        assert_eq!(batch, [lock_unawaited(A)]);
        let outcome = Outcome::Awaited;
        let settled = scene
            .table
            .settle(batch[0], outcome, scene.now, &mut scene.book);
        assert!(settled.is_ok());
        scene.now += scene.pause();
    }
    let waited = scene.now - start;
    assert!((100 * MS..150 * MS).contains(&waited), "{waited:?}");
}

#[test]
fn a_lock_that_is_taken_elsewhere_ends_the_budget() {
    let mut scene = Scene::new(None);
    scene.hold(0, BUDGET);
    scene.wait(A, 1..2);
    scene.refuse(lock_unawaited(A));
    scene.now += scene.pause();
    scene.answer(lock(A), Outcome::Done(None));
    assert_eq!(scene.book.granted, [0, 1]);
}

#[test]
fn holds_within_one_budget_need_not_ask() {
    let mut scene = Scene::new(None);
    for waiter in 0..4 {
        assert_eq!(scene.hold(waiter, BUDGET / 4), Action::Lock);
    }
    assert_eq!(scene.hold(4, BUDGET / 4), Action::LockUnawaited);
    assert_eq!(scene.hold(5, BUDGET), Action::Lock);
    assert_eq!(scene.hold(6, BUDGET), Action::LockUnawaited);
}

#[test]
fn a_lock_that_was_released_long_ago_is_taken_without_asking() {
    let mut scene = Scene::new(None);
    for waiter in 0..3 {
        assert_eq!(scene.hold(waiter, BUDGET), Action::Lock);
        scene.now += 50 * MS;
    }
}

#[test]
fn only_so_many_released_keys_are_remembered() {
    let mut scene = Scene::new(None);
    for n in 0..3 * MOST_REMEMBERED {
        let key = (9, i32::try_from(n).unwrap());
        scene.once(key, 0);
        scene.iterate();
        scene.release_last(key);
        while scene.iterate() > 0 {}
    }
    assert!(scene.table.entries.len() <= MOST_REMEMBERED + 1);
    assert!(scene.forgets_all());
}

#[test]
fn after_a_contested_hold_others_are_asked_for() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..1);
    scene.refuse(lock(A));
    scene.now += scene.pause();
    scene.answer(lock(A), Outcome::Done(None));
    scene.answer(withdraw(A), Outcome::Done(None));
    scene.release_last(A);
    scene.answer(unlock(A), Outcome::Done(None));
    scene.wait(A, 1..2);
    scene.answer(lock_unawaited(A), Outcome::Done(None));
    assert_eq!(scene.book.granted, [0, 1]);
    // Nobody else was there: as if it had never been contested.
    scene.release_last(A);
    scene.iterate();
    assert_eq!(scene.hold(3, MS), Action::Lock);
}

#[test]
fn who_asks_again_and_again_is_shown_to_wait_until_it_stops() {
    let mut scene = Scene::new(None);
    scene.once(A, 0);
    scene.answer(lock(A), Outcome::Refused);
    assert_eq!(scene.plan_all(10), []);
    scene.once(A, 1);
    scene.refuse(lock(A));
    let last = scene.now;
    assert_eq!(scene.plan_all(10), []);
    assert_eq!(scene.table.next_retry(), Some(last + BUDGET));
    scene.now += BUDGET / 2;
    scene.once(A, 2);
    scene.answer(lock(A), Outcome::Refused);
    scene.now += BUDGET;
    scene.answer(withdraw(A), Outcome::Done(None));
    assert!(scene.forgets_all());
    assert_eq!(scene.book.refused.len(), 3);
}

#[test]
fn who_asks_again_is_attempted_at_once_although_it_is_still_shown_to_wait() {
    let mut scene = Scene::new(None);
    for waiter in 0..2 {
        scene.once(A, waiter);
        scene.refused_iteration();
        scene.plan();
    }
    scene.wait(A, 2..3);
    scene.answer(lock(A), Outcome::Done(None));
    assert_eq!(scene.book.granted, [2]);
}

#[test]
fn readers_join_within_the_budget_and_later_if_nobody_else_waits() {
    let check = op(A, Mode::Shared, Action::Check);
    let mut scene = Scene::new(None);
    scene.share(A, 0);
    scene.iterate();
    scene.now += BUDGET - MS;
    scene.share(A, 1);
    assert_eq!(scene.book.granted, [0, 1]);
    scene.now += MS;
    scene.share(A, 2);
    scene.answer(check, Outcome::Done(None));
    scene.share(A, 3);
    assert_eq!(scene.book.granted, [0, 1, 2, 3]);
    // A writer of another process has come.
    scene.now += BUDGET;
    scene.share(A, 4);
    scene.ask(A, Mode::Shared, Wait::Try(None), 5);
    scene.answer(check, Outcome::Refused);
    assert_eq!(scene.book.refused, [(5, Refusal::Busy)]);
    scene.ask(A, Mode::Shared, Wait::Try(None), 6);
    assert_eq!(scene.book.refused[1..], [(6, Refusal::Busy)]);
    for id in scene.book.ids.clone() {
        assert_eq!(scene.plan_all(10), []);
        assert!(scene.release(A, id));
    }
    scene.answer(op(A, Mode::Shared, Action::Relock), Outcome::Awaited);
    scene.now += scene.pause();
    let step = op(A, Mode::Shared, Action::LockUnawaited);
    scene.answer(step, Outcome::Refused);
    assert_eq!(scene.book.granted, [0, 1, 2, 3]);
}

#[test]
fn who_can_wait_for_a_moment_only_is_attempted_before_its_deadline() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..1);
    scene.refused_iteration();
    scene.now += 500 * MS;
    scene.refused_iteration();
    let pause = scene.pause();
    let deadline = scene.now + pause / 2;
    scene.ask(A, Mode::Exclusive, Wait::Until(deadline), 1);
    assert_eq!(scene.plan(), []);
    scene.now += pause / 4;
    assert_eq!(scene.plan(), [lock(A)]);
    // A waiter that has the time waits.
    scene.settle(vec![lock(A)], false);
    let pause = scene.pause();
    let late = scene.now + 100 * pause;
    scene.ask(A, Mode::Exclusive, Wait::Until(late), 1);
    assert_eq!(scene.pause(), pause);
}

#[test]
fn readers_join_again_once_nobody_else_waits() {
    let check = op(A, Mode::Shared, Action::Check);
    let mut scene = Scene::new(None);
    scene.share(A, 0);
    scene.iterate();
    scene.now += BUDGET;
    scene.share(A, 1);
    for _ in 0..3 {
        scene.answer(check, Outcome::Refused);
        assert_eq!(scene.plan_all(10), []);
        scene.now += scene.pause();
    }
    scene.answer(check, Outcome::Done(None));
    assert_eq!(scene.book.granted, [0, 1]);
}

#[test]
fn now_and_then_a_lock_is_released_for_longer_than_a_moment() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..40);
    scene.iterate();
    let mut relocks = 0;
    loop {
        scene.now += BUDGET;
        scene.release_last(A);
        let batch = scene.plan_all(10);
        if batch == [unlock(A)] {
            scene.settle(batch, true);
            break;
        }
        assert_eq!(batch, [relock(A)]);
        scene.settle(batch, true);
        relocks += 1;
    }
    assert_eq!(relocks, 10);
    assert_eq!(scene.plan_all(10), []);
    scene.now += scene.pause();
    scene.answer(lock_unawaited(A), Outcome::Done(None));
    assert_eq!(scene.book.granted.len(), 12);
}

#[test]
fn who_asks_now_and_then_does_not_wait() {
    let mut scene = Scene::new(None);
    for waiter in 0..5 {
        scene.once(A, waiter);
        assert_eq!(scene.plan_all(10), [lock(A)]);
        scene.settle(vec![lock(A)], false);
        assert_eq!(scene.plan_all(10), []);
        scene.now += 2 * BUDGET;
    }
}

#[test]
fn those_who_never_take_the_lock_are_asked_for_less_and_less_often() {
    let mut scene = Scene::new(None);
    let mut held = Duration::ZERO;
    let start = scene.now;
    let mut waiter = 0;
    while scene.now - start < Duration::from_secs(30) {
        scene.wait(A, waiter..waiter + 1);
        waiter += 1;
        while scene.book.granted.len() < waiter as usize {
            let batch = scene.plan_all(10);
            for step in batch {
                let outcome = match step.action {
                    Action::LockUnawaited => Outcome::Awaited,
                    _ => Outcome::Done(None),
                };
                let settled = scene
                    .table
                    .settle(step, outcome, scene.now, &mut scene.book);
                assert!(settled.is_ok());
            }
            if scene.book.granted.len() < waiter as usize {
                scene.now += scene.pause();
            }
        }
        scene.now += MS;
        held += MS;
        scene.release_last(A);
        let batch = scene.plan_all(10);
        scene.settle(batch, true);
    }
    let share = held.as_secs_f64() / (scene.now - start).as_secs_f64();
    assert!(share > 0.8, "{share}");
}

#[test]
fn a_long_wait_in_the_servers_queue_leaves_no_retries() {
    let mut scene = Scene::new(None);
    scene.wait(A, 0..1);
    scene.refused_iteration();
    scene.plan();
    for _ in 0..1000 {
        let wait = scene.table.only_wait().unwrap();
        scene.table.parks();
        assert_eq!(scene.table.next_retry(), None);
        scene.now += 700 * MS;
        scene.settle(vec![wait.op], false);
    }
}

#[test]
fn a_lock_is_not_said_to_be_taken_because_others_have_just_tried_in_a_loop() {
    let mut scene = Scene::new(None);
    scene.hold(0, BUDGET);
    scene.once(A, 1);
    let end = scene.now + BUDGET;
    while scene.now < end {
        scene.answer(lock_unawaited(A), Outcome::Awaited);
        assert_eq!(scene.plan_all(10), []);
        scene.now += scene.pause();
    }
    assert_eq!(scene.book.refused, []);
    scene.answer(lock_unawaited(A), Outcome::Done(None));
    assert_eq!(scene.book.granted, [0, 1]);
    // It is, if others go on waiting.
    scene.now += BUDGET;
    scene.release_last(A);
    scene.iterate();
    scene.once(A, 2);
    let start = scene.now;
    while scene.book.refused.is_empty() {
        scene.answer(lock_unawaited(A), Outcome::Awaited);
        if scene.book.refused.is_empty() {
            scene.now += scene.pause();
        }
    }
    assert_eq!(scene.book.refused, [(2, Refusal::Busy)]);
    assert!(scene.now - start < 2 * BUDGET);
}
