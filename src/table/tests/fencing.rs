//! With fencing: no holder without a token of its own.

use super::*;

fn draw(key: (i32, i32), mode: Mode) -> Op {
    op(key, mode, Action::Draw)
}

#[test]
fn a_hand_over_draws_a_token_and_keeps_the_lock() {
    let mut scene = Scene::fenced();
    scene.wait(A, 0..2);
    scene.iterate();
    assert_eq!(scene.book.granted, [0]);
    scene.release_last(A);
    assert_eq!(scene.book.granted, [0], "there is no token yet");
    assert_eq!(scene.plan(), [draw(A, Mode::Exclusive)]);
    scene.settle(vec![draw(A, Mode::Exclusive)], true);
    assert_eq!(scene.book.granted, [0, 1]);
    assert_eq!(scene.book.tokens, [Some(1), Some(2)]);
    assert_eq!(scene.book.handed_over, 1);
    assert!(scene.release_last(A));
    assert_eq!(scene.plan(), [unlock(A)]);
}

#[test]
fn holders_of_a_share_have_tokens_of_their_own() {
    let mut scene = Scene::fenced();
    (0..3).for_each(|waiter| scene.share(A, waiter));
    scene.iterate();
    assert_eq!(scene.book.granted, [0]);
    assert_eq!(scene.plan(), [draw(A, Mode::Shared)]);
    scene.settle(vec![draw(A, Mode::Shared)], true);
    scene.iterate();
    assert_eq!(scene.book.granted, [0, 1, 2]);
    assert_eq!(scene.book.tokens, [Some(1), Some(2), Some(3)]);
    assert_eq!(scene.plan(), []);
}

#[test]
fn a_token_that_nobody_takes_is_not_kept() {
    let mut scene = Scene::fenced();
    scene.wait(A, 0..2);
    scene.iterate();
    scene.release_last(A);
    let batch = scene.plan();
    scene.book.gone.push(1);
    scene.settle(batch, true);
    assert_eq!(scene.plan(), [unlock(A)]);
    scene.settle(vec![unlock(A)], true);
    scene.wait(A, 2..3);
    scene.iterate();
    assert_eq!(scene.book.granted, [0, 2]);
    assert_eq!(scene.book.tokens, [Some(1), Some(3)]);
}

#[test]
fn without_a_token_the_lock_goes_back() {
    let mut scene = Scene::fenced();
    scene.wait(A, 0..2);
    scene.iterate();
    scene.release_last(A);
    scene.plan();
    scene.fail(draw(A, Mode::Exclusive));
    assert_eq!(scene.book.failed, [1]);
    assert_eq!(scene.plan(), [unlock(A)]);
}

#[test]
fn a_draw_that_comes_after_the_budget_ends_it() {
    let mut scene = Scene::fenced();
    scene.wait(A, 0..2);
    scene.iterate();
    scene.release_last(A);
    let batch = scene.plan();
    scene.now += BUDGET;
    scene.settle(batch, true);
    assert_eq!(scene.book.granted, [0]);
    assert_eq!(scene.plan(), [unlock(A)]);
}
