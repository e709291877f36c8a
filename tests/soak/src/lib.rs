//! A soak test: processes with several threads acquire and release a few locks, while a seeded
//! schedule injects faults into the processes, the network and the server. Each process records
//! when a lock counted as held; a checker then looks for holds of one lock that overlap.
//!
//! Times are nanoseconds of the machine's monotonic clock, which all processes share.
// A test tool: a failure ends the test, with a message.
#![allow(clippy::missing_panics_doc, missing_docs)]

pub mod check;
pub mod driver;
pub mod fault;
mod fenced;
pub mod history;
pub mod report;
mod schedule;
mod store;
pub mod worker;
