//! Processes with several threads take and give back a few locks for as long as one likes,
//! while a seeded schedule breaks the processes, the network and the server. Each writes
//! down what it believed and when; a checker then looks whether two ever believed the same.
//!
//! Times are nanoseconds of the machine's monotonic clock, which all processes share.
// A test tool: what it cannot do ends the test, with a message.
#![allow(clippy::missing_panics_doc, missing_docs)]

pub mod check;
pub mod driver;
pub mod fault;
pub mod history;
pub mod report;
mod schedule;
mod store;
pub mod worker;
