//! `with_lock`, whose lock cannot be dropped too early, and the ways to drop a guard too early.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use distlock::{CancelToken, Error, ErrorKind, Manager, WithLockError};

use crate::support::*;

#[apply(isolated_test)]
fn the_value_comes_if_the_lock_lasted() {
    let (mgr, other) = (manager(), manager());
    let mut borrowed = 1;
    let sum = mgr.with_lock("sum", |guard| {
        assert!(!guard.is_lost());
        assert!(other.try_lock("sum").unwrap().is_none());
        borrowed += 1;
        borrowed
    });
    assert_eq!(sum.unwrap(), 2);
    // The lock is free when the call returns, without a wait.
    let again = other.try_with_lock("sum", |_| "free");
    assert_eq!(again.unwrap(), Some("free"));
}

#[apply(isolated_test)]
fn nothing_runs_without_the_lock() {
    let (mgr, other) = (manager(), manager());
    let _held = other.lock("taken").unwrap();
    let never = |_: &distlock::Guard| -> () { unreachable!("it has not got the lock") };
    assert!(mgr.try_with_lock("taken", never).unwrap().is_none());
    let timed = mgr.acquire("taken").timeout(Duration::from_millis(200));
    let error = timed.with_lock(never).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.value().is_none());
    let token = CancelToken::new();
    token.cancel();
    let error = mgr.acquire("free").cancel(&token).try_with_lock(never);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[apply(isolated_test)]
fn a_lost_lock_is_told_and_the_value_kept() {
    // Not even Debug, and not 'static.
    struct Value<'a>(&'a str);
    let name = String::from("kept");
    let mgr = manager();
    let lose = |_: &distlock::Guard| {
        terminate_sessions(&mut server().client());
        Value(&name)
    };
    let error = mgr.with_lock("lost", lose).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Lost);
    assert_eq!(error.value().unwrap().0, "kept");
    let shown = (error.to_string(), format!("{error:?}"));
    let (error, value) = error.into_parts();
    assert_eq!(shown.0, error.to_string());
    assert!(shown.1.contains("Lost"), "{}", shown.1);
    assert_eq!(value.unwrap().0, "kept");
}

#[apply(isolated_test)]
fn a_hold_that_was_told_to_stop_has_lasted() {
    let mgr = manager();
    let shutdown = CancelToken::new();
    let steps = mgr.acquire("steps").cancel(&shutdown).with_lock(|guard| {
        (0..10)
            .take_while(|&step| {
                if step == 3 {
                    shutdown.cancel();
                }
                !guard.is_lost()
            })
            .count()
    });
    assert_eq!(steps.unwrap(), 3);
}

#[apply(isolated_test)]
fn a_panic_gives_the_lock_back_and_goes_on() {
    let mgr = manager();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        // Without a panic message in the test's output.
        mgr.with_lock("panic", |_| resume_unwind(Box::new("in the closure")))
    }));
    assert_eq!(panic.err().unwrap().downcast_ref(), Some(&"in the closure"));
    assert!(mgr.try_lock("panic").unwrap().is_some());
    assert_eq!(mgr.stats().lost, 0);
}

/// `?` works with errors of all three types.
#[allow(dead_code)]
fn question_marks(mgr: &Manager) -> Result<(), Box<dyn std::error::Error>> {
    fn own(mgr: &Manager) -> Result<u8, Error> {
        let seven: Option<u8> = mgr.try_with_lock("key", |_| 7)?;
        Ok(seven.unwrap_or(mgr.with_lock("key", |_| 7)?))
    }
    fn any(mgr: &Manager) -> anyhow::Result<u8> {
        Ok(mgr.with_lock("key", |_| "7".parse())??)
    }
    fn itself(mgr: &Manager) -> Result<u8, WithLockError<u8>> {
        mgr.lock("key")?.unlock()?;
        mgr.with_lock("key", |_| 7)
    }
    mgr.with_lock("key", |_| own(mgr))??;
    itself(mgr).map_err(Error::from)?;
    any(mgr)?;
    Ok(())
}

/// Asserts that the lock becomes free: the unlock of a drop is asynchronous.
#[track_caller]
fn assert_free(mgr: &Manager) {
    eventually(|| mgr.try_lock("key").unwrap().is_some());
    // This manager does not hold it any more, either.
    eventually(|| mgr.stats().held == 0 && advisory_locks(&mut server().client()).is_empty());
}

/// The eight ways of the crate's documentation. No lint reports them, or this file would not pass.
#[apply(isolated_test)]
fn a_guard_that_is_dropped_at_once_holds_nothing() -> Result<(), Error> {
    let (mgr, other) = (manager(), manager());

    let _ = mgr.lock("key")?;
    assert_free(&other);

    let Some(_) = mgr.try_lock("key")? else {
        unreachable!("it is free")
    };
    assert_free(&other);

    if mgr.try_lock("key")?.is_some() {
        assert_free(&other);
    }

    if mgr.try_lock("key")?.is_none() {
        unreachable!("it is free");
    }
    assert_free(&other);

    if mgr.lock("key").is_ok() {
        assert_free(&other);
    }

    match mgr.try_lock("key")? {
        Some(_) => {}
        None => unreachable!("it is free"),
    }
    assert_free(&other);

    mgr.try_lock("key")?;
    assert_free(&other);

    let watch = mgr.lock("key")?.watch();
    assert!(watch.ended().is_some() && !watch.is_lost());
    assert_free(&other);
    Ok(())
}
