//! Replies under many thread schedules.
// Tests may panic.
#![allow(clippy::unwrap_used)]

use shuttle::thread;

use super::*;
use crate::sync::try_schedules;

fn past() -> Option<Instant> {
    Some(Instant::now())
}

#[test]
fn a_caller_that_gives_up_and_its_answer_agree_who_was_first() {
    try_schedules(|| {
        let pool = Arc::new(ReplyPool::new(Arc::default()));
        let (pending, replier) = pool.open();
        let worker = thread::spawn(move || replier.send("first").is_ok());
        let answered = match pending.wait(past(), None) {
            Waited::Answered(answer) => answer == "first",
            Waited::TimedOut { .. } => false,
            Waited::Dropped | Waited::Interrupted => panic!("it is not dropped"),
        };
        // The slot is used again, perhaps while the late answer is being sent.
        let (pending, replier) = pool.open();
        let next = thread::spawn(move || replier.send("second").is_ok());
        assert!(matches!(
            pending.wait(None, None),
            Waited::Answered("second")
        ));
        assert_eq!(worker.join().unwrap(), answered);
        assert!(next.join().unwrap());
    });
}

#[test]
fn a_request_that_is_dropped_is_told_or_was_given_up() {
    try_schedules(|| {
        let pool = Arc::new(ReplyPool::<()>::new(Arc::default()));
        let (pending, replier) = pool.open();
        let worker = thread::spawn(move || drop(replier));
        let outcome = pending.wait(past(), None);
        assert!(matches!(outcome, Waited::Dropped | Waited::TimedOut { .. }));
        worker.join().unwrap();
        assert!(
            pool.slots
                .pull(|| Slot::new(&pool.calls))
                .receiver
                .is_empty()
        );
    });
}

#[test]
fn callers_that_share_a_pool_get_their_own_answers() {
    try_schedules(|| {
        let pool = Arc::new(ReplyPool::new(Arc::default()));
        let callers: Vec<_> = (0..3)
            .map(|caller| {
                let pool = Arc::clone(&pool);
                thread::spawn(move || {
                    for round in 0..2 {
                        let (pending, replier) = pool.open();
                        let worker = thread::spawn(move || replier.send((caller, round)).is_ok());
                        let deadline = (caller == 0).then(Instant::now);
                        match pending.wait(deadline, None) {
                            Waited::Answered(answer) => assert_eq!(answer, (caller, round)),
                            Waited::TimedOut { .. } => assert!(deadline.is_some()),
                            Waited::Dropped | Waited::Interrupted => panic!("not dropped"),
                        }
                        // Not joined: the next call may overlap with it.
                        drop(worker);
                    }
                })
            })
            .collect();
        callers
            .into_iter()
            .for_each(|caller| caller.join().unwrap());
    });
}
