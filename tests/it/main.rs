//! The crate against a real server. One module for each field of behaviour.
// Tests may panic, and say what they mean with `unwrap`.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

mod basics;
mod faults;
mod source_suite;
mod stalled;
