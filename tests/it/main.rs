//! Tests of the crate against a real server. One module for each area of behaviour.
// Tests may panic, and assert with `unwrap`.
#![allow(missing_docs, clippy::unwrap_used)]

mod psql;
mod recording;
mod support;

mod answers;
mod async_program;
mod bad_input;
mod basics;
mod cancelling;
mod closing;
mod connection_strings;
mod credentials;
mod crowds;
mod deadlock;
mod disk_full;
mod environment;
mod failover;
mod fenced_transactions;
mod fencing;
mod fencing_failures;
mod giving_up;
mod handover;
mod health;
mod holders;
mod holds;
mod keeping;
mod keys;
mod lifecycle;
mod limits;
mod logs;
#[cfg(feature = "metrics")]
mod metrics;
mod modes;
mod network;
mod observer;
mod outages;
mod ownership;
mod parked;
mod path;
mod picks;
mod pooler;
mod preflight;
mod semaphores;
mod sessions;
mod sets;
mod source_suite;
mod stalled;
mod standing_by;
mod surroundings;
#[cfg(feature = "tls")]
mod tls;
mod transient;
mod turns;
mod waiting;
mod warnings;
mod with_lock;
