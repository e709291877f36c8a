//! A soak test: processes with several threads acquire and release a few locks, alone, in sets, as
//! some of many and as permits of a semaphore, and change their modes, while a seeded schedule
//! injects faults into the processes, the network and the server. Each process records when a lock
//! counted as held, and in which mode; a checker then looks for holds of one lock that overlap.
//!
//! Times are nanoseconds of the machine's monotonic clock, which all processes share.
// A test tool: a failure ends the test, with a message.
#![allow(clippy::missing_panics_doc, missing_docs)]

pub mod check;
pub mod driver;
pub mod fault;
mod fenced;
pub mod history;
mod locker;
pub mod report;
mod request;
mod schedule;
mod store;
pub mod worker;
