//! The crate against a real server. One module for each field of behaviour.
// Tests may panic, and say what they mean with `unwrap`.
#![allow(missing_docs, clippy::unwrap_used)]

mod recording;
mod support;

mod answers;
mod bad_input;
mod basics;
mod disk_full;
mod failover;
mod faults;
mod fencing;
mod giving_up;
mod keys;
mod lifecycle;
mod limits;
mod logs;
mod network;
mod outages;
mod pooler;
mod preflight;
mod source_suite;
mod stalled;
#[cfg(feature = "tls")]
mod tls;
mod waiting;
