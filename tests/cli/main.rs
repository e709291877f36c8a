//! Tests of the command, by the binary itself against a real server.
// Tests may panic, and assert with `unwrap`.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

mod commands;
mod doctor;
mod guardian;
mod help;
mod run;
mod signals;
mod terminal;
